package manifests

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
)

// labels are those that a metric, or what an expression says, may have.
type labels map[string]bool

func newLabels(names ...string) labels {
	set := labels{}
	for _, n := range names {
		set[n] = true
	}
	return set
}

// foreign are metrics that others show, and those of ours that are there only once
// something has happened, so that gateway/conformance/metrics does not list them.
// TestSeldomMetrics makes the latter happen; they are in seldom.
var foreign = map[string]labels{
	"up":                                   {},
	"node_filesystem_avail_bytes":          newLabels("device", "fstype", "mountpoint"), // node_exporter's
	"node_filesystem_size_bytes":           newLabels("device", "fstype", "mountpoint"),
	"kubelet_volume_stats_available_bytes": newLabels("namespace", "persistentvolumeclaim"), // the kubelet's
	"kubelet_volume_stats_capacity_bytes":  newLabels("namespace", "persistentvolumeclaim"),
}

var seldom = map[string]labels{
	"etcd_debugging_server_alarms":                   newLabels("server_id", "alarm_type"),
	"pebbledash_flowcontrol_rejected_requests_total": newLabels("priority_level", "resource", "reason"),
	"etcd_network_peer_round_trip_time_seconds":      newLabels("To"),
	"etcd_network_peer_sent_failures_total":          newLabels("To"),
}

// knownMetrics reads what gateway/conformance/metrics has found at members: the table of
// our own metrics, and etcd's without those that are left out.
func knownMetrics(t *testing.T) map[string]labels {
	t.Helper()
	known := map[string]labels{}
	add := func(name, kind, list string) {
		set := newLabels("job", "instance")
		for _, l := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
			set[l] = true
		}
		if kind == "histogram" {
			known[name+"_sum"], known[name+"_count"] = set, set
			name += "_bucket"
			set = maps.Clone(set)
			set["le"] = true
		}
		known[name] = set
	}
	page := read(t, root+"/monitoring/METRICS.md")
	for _, row := range regexp.MustCompile(`(?m)^\| (pebbledash_\w+) \| (\w+) \| ([\w, ]*) \|`).FindAllStringSubmatch(page, -1) {
		add(row[1], row[2], row[3])
	}
	require.Greater(t, len(known), 80)
	for _, row := range regexp.MustCompile(`(?m)^(\w+) (\w+) \{([\w,]*)\}`).FindAllStringSubmatch(read(t, "../metrics/testdata/etcd-3.7.3.txt"), -1) {
		if !strings.Contains(page, "\n| "+row[1]+" | ") {
			add(row[1], row[2], row[3])
		}
	}
	require.Greater(t, len(known), 140)
	for name, set := range seldom {
		kind := "counter"
		if strings.HasSuffix(name, "_seconds") {
			kind = "histogram"
		}
		add(name, kind, strings.Join(slices.Collect(maps.Keys(set)), ","))
	}
	for name, set := range foreign {
		add(name, "gauge", strings.Join(slices.Collect(maps.Keys(set)), ","))
	}
	return known
}

var language = parser.NewParser(parser.Options{})

// checkQuery parses an expression of PromQL, looks whether its metrics and their labels
// exist, and returns the labels of what it says.
func checkQuery(known map[string]labels, query string) (labels, error) {
	expr, err := language.ParseExpr(query)
	if err != nil {
		return nil, err
	}
	return say(known, expr)
}

// say returns the labels that an expression's outcome may have. It is an error if it asks
// for one that is not there.
func say(known map[string]labels, node parser.Node) (labels, error) {
	switch n := node.(type) {
	case *parser.VectorSelector:
		set := known[n.Name]
		if set == nil {
			return nil, fmt.Errorf("there is no metric %q", n.Name)
		}
		for _, m := range n.LabelMatchers {
			if m.Name != "__name__" && !set[m.Name] {
				return nil, fmt.Errorf("%s has no label %q", n.Name, m.Name)
			}
		}
		return set, nil
	case *parser.MatrixSelector:
		return say(known, n.VectorSelector)
	case *parser.AggregateExpr:
		of, err := say(known, n.Expr)
		if err != nil {
			return nil, err
		}
		if err := has(of, n.Grouping); err != nil {
			return nil, err
		}
		switch {
		case n.Op == parser.TOPK || n.Op == parser.BOTTOMK:
			return of, nil
		case n.Without:
			return nil, fmt.Errorf("%s: say by, not without", n)
		}
		return newLabels(n.Grouping...), nil
	case *parser.BinaryExpr:
		left, err := say(known, n.LHS)
		if err != nil {
			return nil, err
		}
		right, err := say(known, n.RHS)
		if err != nil {
			return nil, err
		}
		if m := n.VectorMatching; m != nil {
			for _, side := range []labels{left, right} {
				if err := has(side, m.MatchingLabels); err != nil {
					return nil, err
				}
			}
			switch {
			case m.Card == parser.CardOneToMany:
				return right, nil
			case m.Card == parser.CardOneToOne && m.On && n.Op != parser.LAND && n.Op != parser.LOR:
				return newLabels(m.MatchingLabels...), nil
			case m.Card == parser.CardOneToOne && !m.On && len(m.MatchingLabels) == 0 && n.Op != parser.LOR && !maps.Equal(left, right):
				return nil, fmt.Errorf("%s: the labels on both sides, %v and %v, never match", n, left, right)
			}
		}
		if len(left) == 0 {
			return right, nil
		}
		return left, nil
	case *parser.Call:
		out := labels{}
		for _, arg := range n.Args {
			set, err := say(known, arg)
			if err != nil {
				return nil, err
			}
			for l := range set {
				out[l] = true
			}
		}
		if n.Func.Name == "histogram_quantile" {
			if !out["le"] {
				return nil, fmt.Errorf("%s: the label le is lost", n)
			}
			delete(out, "le")
		}
		return out, nil
	case *parser.ParenExpr:
		return say(known, n.Expr)
	case *parser.UnaryExpr:
		return say(known, n.Expr)
	case *parser.NumberLiteral, *parser.StringLiteral:
		return labels{}, nil
	}
	return nil, fmt.Errorf("%T is not known here", node)
}

func has(set labels, names []string) error {
	for _, n := range names {
		if !set[n] {
			return fmt.Errorf("there is no label %q among %v", n, slices.Sorted(maps.Keys(set)))
		}
	}
	return nil
}
