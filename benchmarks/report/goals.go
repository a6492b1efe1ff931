// Package report makes of results that were kept what one wants to know of them: which
// goals are met, and plots.
package report

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"github.com/pebbledash/pebbledash/benchmarks/record"
	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

// Goal is a figure to reach.
type Goal struct {
	What string
	// Modes are where it is measured; the latest result of any of them counts.
	Modes []string
	// Sheet, Row and Metric are where it stands, of the server Peer.
	Sheet, Row, Peer, Metric string
	// Bound is how it may compare with that of the server that comes last, or, if it is
	// Absolute, the figure itself. It is the greatest, or the least if AtLeast.
	Bound             float64
	AtLeast, Absolute bool
}

const (
	ours = "pebbledash"
	// ourCluster is what we are called in a cluster.
	ourCluster = "four-groups"
)

// The modes that measure loads on one member.
var single = []string{"full", "quick"}

// Goals are all there are. Columns and rows are named as the tables name them.
var Goals = []Goal{
	{"CPU of a put of 256 B, 64 clients", single, "put256", "8/64", ours, "CPU µs/op", 0.5, false, false},
	{"CPU of a put of 256 B, 512 clients", single, "put256", "32/512", ours, "CPU µs/op", 0.5, false, false},
	{"CPU of a put of 1 KiB, 64 clients", single, "put1k", "8/64", ours, "CPU µs/op", 0.5, false, false},
	{"CPU of a put of 1 KiB, 512 clients", single, "put1k", "32/512", ours, "CPU µs/op", 0.5, false, false},
	{"CPU of a Kubernetes txn, 64 clients", single, "txn1k", "8/64", ours, "CPU µs/op", 0.5, false, false},
	{"CPU of a Kubernetes txn, 512 clients", single, "txn1k", "32/512", ours, "CPU µs/op", 0.5, false, false},
	{"puts of 256 B a second, 512 clients", single, "put256", "32/512", ours, "ops/s", 1.7, true, false},
	{"the same, three members", []string{"cluster"}, "put256-groups", "33/512", ourCluster, "ops/s", 1.7, true, false},
	{"p50 of a put of 256 B, 64 clients", single, "put256", "8/64", ours, "p50 ms", 0.7, false, false},
	{"p99 of a put of 256 B, 64 clients", single, "put256", "8/64", ours, "p99 ms", 0.5, false, false},
	{"p50 of a put of 256 B, one client", single, "put256", "1/1", ours, "p50 ms", 0.9, false, false},
	{"CPU of a linearizable get, 64 clients", single, "get1k", "8/64", ours, "CPU µs/op", 0.6, false, false},
	{"CPU of a linearizable get, 512 clients", single, "get1k", "32/512", ours, "CPU µs/op", 0.6, false, false},
	{"list of 100k × 1 KiB, time", []string{"lists"}, "lists", "100k × 1 KiB, whole", ours, "list ms", 0.5, false, false},
	{"list of 100k × 1 KiB, memory above idle", []string{"lists"}, "lists", "100k × 1 KiB, whole", ours, "above idle MiB", 0.1, false, false},
	{"the same in pages of 500, time", []string{"lists"}, "lists", "100k × 1 KiB, pages", ours, "list ms", 0.3, false, false},
	{"CPU of a delivered event, 1,000 watchers", []string{"fanout"}, "fanout", "1000", ours, "CPU µs/event", 0.3, false, false},
	{"worst put beside a compaction of 1M versions", []string{"compaction"}, "compaction", "1M versions", ours, "worst ms", 0.1, false, false},
	{"bytes written per byte put, compacting, random values", []string{"compaction"}, "steady", "random", ours, "written B/B", 0.5, false, false},
	{"the same, values like Kubernetes'", []string{"compaction"}, "steady", "like Kubernetes'", ours, "written B/B", 0.5, false, false},
	{"memory with 1M × 1 KiB", []string{"large"}, "large", "1M", ours, "idle RSS MiB", 0.3, false, false},
	{"restart to first answer, 1M × 1 KiB", []string{"large"}, "large", "1M", ours, "restart s", 0.1, false, false},
	{"memory with 10M × 1 KiB, MiB", []string{"large"}, "large", "10M", ours, "idle RSS MiB", 1024, false, true},
	{"restart to first answer, 10M × 1 KiB, s", []string{"large"}, "large", "10M", ours, "restart s", 2, false, true},
	{"next write after kill -9 of the leader, median", []string{"failover"}, "failover", "20", ours, "next write ms", 1, false, false},
	{"the same, worst of 20", []string{"failover"}, "failover", "20", ours, "worst ms", 1, false, false},
}

// Verdict is what became of a goal.
type Verdict struct {
	Goal
	// Measured is the figure, or the ratio, NaN if there is none.
	Measured stats.Summary
	// File is the result that it is from.
	File string
}

// Met says that the goal is met; of what was not measured it is not.
func (v Verdict) Met() bool {
	if v.AtLeast {
		return v.Measured.Median >= v.Bound
	}
	return v.Measured.Median <= v.Bound
}

// Unknown says that nothing was measured.
func (v Verdict) Unknown() bool { return math.IsNaN(v.Measured.Median) }

// Word is the verdict in a word.
func (v Verdict) Word() string {
	switch {
	case v.Unknown():
		return "not measured"
	case v.Met():
		return "met"
	}
	return "NOT MET"
}

// Wanted is the bound in words.
func (v Verdict) Wanted() string {
	sign := "≤"
	if v.AtLeast {
		sign = "≥"
	}
	text := fmt.Sprintf("%s %v", sign, v.Bound)
	if !v.Absolute {
		text += " × etcd's"
	}
	return text
}

// Judge judges all goals by the latest result that has each.
func Judge(goals []Goal, files []*record.File) []Verdict {
	verdicts := make([]Verdict, len(goals))
	for i, g := range goals {
		verdicts[i] = Verdict{Goal: g, Measured: stats.Summarize(nil)}
		for _, f := range files { // The oldest first.
			measured := g.measure(f)
			if len(measured) > 0 {
				verdicts[i].Measured, verdicts[i].File = stats.Summarize(measured), f.Name
			}
		}
	}
	return verdicts
}

// measure is the goal's figure in a result, a turn each; empty if it is not there.
func (g Goal) measure(f *record.File) []float64 {
	if !g.of(f.Mode) {
		return nil
	}
	var mine, theirs []float64
	for _, r := range f.Rows {
		if r.Sheet != g.Sheet || r.Row != g.Row {
			continue
		}
		switch r.Peer {
		case g.Peer:
			mine = r.Values[g.Metric]
		case f.Last:
			theirs = r.Values[g.Metric]
		}
	}
	if g.Absolute {
		return finite(mine)
	}
	return finite(stats.Ratios(mine, theirs))
}

func (g Goal) of(mode string) bool {
	for _, m := range g.Modes {
		if m == mode {
			return true
		}
	}
	return false
}

func finite(xs []float64) []float64 {
	var kept []float64
	for _, x := range xs {
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			kept = append(kept, x)
		}
	}
	return kept
}

// WriteGoals prints verdicts, and how many goals are met.
func WriteGoals(w io.Writer, verdicts []Verdict) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "figure to reach\twanted\tmeasured\t\tfrom")
	met, known := 0, 0
	for _, v := range verdicts {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", v.What, v.Wanted(), v.Measured, v.Word(), v.File)
		if !v.Unknown() {
			known++
			if v.Met() {
				met++
			}
		}
	}
	fmt.Fprintf(table, "%d of %d met, %d not measured\n", met, len(verdicts), len(verdicts)-known)
	return table.Flush()
}
