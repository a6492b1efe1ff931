package metrics

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const page = "../../../manifests/monitoring/METRICS.md"

const pageHead = `# Metrics

Every member serves them at /metrics of its client URLs, and of those of
--listen-metrics-urls, in Prometheus' format. This page is written, and checked, by
` + "`go test ./gateway/conformance/metrics -rewrite`" + `.

Where etcd has a metric, it is here under etcd's name, type, labels and buckets, so that
etcd-mixin's alerts and dashboards work as they are; one alert, etcdGRPCRequestsSlow,
reads what only --metrics=extensive adds, as with etcd. What etcd says of its one log
is the sum over the raft groups, and what it says of its leader is core's.

| ours | type | labels | what it is |
| --- | --- | --- | --- |
`

const pageLeftOut = `
Metrics of etcd 3.7 that are left out:

| etcd's | why |
| --- | --- |
`

// testPage compares the page with what there is.
func testPage(t *testing.T, scrapes []scrape) {
	t.Helper()
	var b strings.Builder
	b.WriteString(pageHead)
	help := map[string]string{}
	for _, s := range scrapes {
		for name, f := range s.families {
			help[name] = f.GetHelp()
		}
	}
	all := describe(scrapes)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasPrefix(name, "pebbledash_") {
			continue
		}
		kind, rest, _ := strings.Cut(all[name], " {")
		labels, _, _ := strings.Cut(rest, "}")
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, kind, strings.ReplaceAll(labels, ",", ", "), help[name])
	}
	b.WriteString(pageLeftOut)
	for _, name := range slices.Sorted(maps.Keys(leftOut)) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, leftOut[name])
	}
	if *rewrite {
		require.NoError(t, os.WriteFile(page, []byte(b.String()), 0o644))
	}
	is, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(is), "go test ./gateway/conformance/metrics -rewrite writes the page anew")
}
