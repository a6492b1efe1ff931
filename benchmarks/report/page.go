package report

import (
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pebbledash/pebbledash/benchmarks/record"
	"github.com/pebbledash/pebbledash/benchmarks/stats"
	"github.com/pebbledash/pebbledash/benchmarks/svg"
)

// section is a part of the page: sheets whose rows go into the same charts, one chart a
// metric.
type section struct {
	title, text string
	sheets      []string
	metrics     []string
}

// sections are the page, in order. Sheets that have no section come at the end.
var sections = []section{
	{
		"Puts, transactions, gets", "One member; rows are load and connections/clients. Point: median of all turns; line: least to greatest.",
		[]string{"put256", "put1k", "put16k", "txn1k", "get1k", "get1k-serializable"},
		[]string{"CPU µs/op", "ops/s", "p50 ms", "p99 ms", "RSS MiB", "written B/op"},
	},
	{"Whole turns, one member", "", []string{"whole"}, wholeMetrics},
	{
		"Three members", "CPU, memory and bytes are sums over the members.",
		[]string{"put256-groups", "put1k-groups", "txn1k-groups"},
		[]string{"CPU µs/op", "ops/s", "p50 ms", "p99 ms", "RSS MiB", "written B/op"},
	},
	{"Whole turns, three members", "", []string{"whole-members"}, wholeMetrics},
	{
		"What kube-apiserver sends", "Open loop, from when each request was due.",
		[]string{"mix"},
		[]string{"p50 ms", "p99 ms", "worst ms", "server cores", "RSS MiB", "requests/s"},
	},
	{"The same by kind of request", "", []string{"mix-kinds"}, []string{"p50 ms", "p99 ms"}},
	{"The most nodes in time", "", []string{"mix-most"}, []string{"nodes"}},
	{
		"Lists", "",
		[]string{"lists"},
		[]string{"list ms", "CPU µs/key", "above idle MiB", "first answer ms", "put p99 ms"},
	},
	{
		"Watchers", "One event to so many watchers, at 1000 puts a second if the server can.",
		[]string{"fanout"},
		[]string{"CPU µs/event", "p50 ms", "p99 ms", "events/s", "puts/s", "RSS MiB"},
	},
	{
		"Overload", "Node leases under a storm of events and unbounded lists.",
		[]string{"overload", "overload-around"},
		[]string{"quiet p99 ms", "loaded p50 ms", "loaded p99 ms", "loaded max ms", "events/s", "lists/s"},
	},
	{"Leases", "", []string{"lease-grant", "lease-alive"}, []string{"CPU µs/op", "p50 ms", "p99 ms", "RSS MiB"}},
	{
		"A large store", "",
		[]string{"large"},
		[]string{"idle RSS MiB", "restart s", "restarted RSS MiB", "disk MiB", "load s", "written B/B"},
	},
	{"A writer beside a compaction", "", []string{"compaction"}, []string{"p50 ms", "p99 ms", "worst ms", "compaction s"}},
	{"Bytes written in the long run", "", []string{"steady"}, []string{"written B/B", "CPU µs/op", "ops/s"}},
	{"The leader's end", "", []string{"failover"}, []string{"next write ms", "worst ms", "member back ms"}},
	{"A snapshot of a large store", "", []string{"snapshot"}, []string{"snapshot s", "first byte s", "above idle MiB", "CPU s"}},
	{"Our own backups of one", "", []string{"backup"}, []string{"took s", "server CPU s", "above idle MiB", "written MiB"}},
	{"Growth: keys", "Level is good.", []string{"growth-keys"}, growthMetrics},
	{"Growth: watchers of other keys", "Level is good.", []string{"growth-watchers"}, growthMetrics},
	{"Growth: raft groups", "Level is good; etcd has one.", []string{"growth-groups"}, growthMetrics},
	{"Growth: bytes of a value", "", []string{"growth-bytes"}, growthMetrics},
}

// Metrics are what is drawn of a sheet.
func Metrics(sheet string) []string {
	var metrics []string
	for _, s := range sections {
		if slices.Contains(s.sheets, sheet) {
			metrics = append(metrics, s.metrics...)
		}
	}
	return metrics
}

var wholeMetrics = []string{"start ms", "CPU s", "written B/write", "disk MiB"}

var growthMetrics = []string{"put CPU µs/op", "put p50 ms", "get CPU µs/op", "get p50 ms"}

// Page writes a page about all results of a folder: it needs nothing but itself.
func Page(w io.Writer, dir string, files []*record.File) error {
	out := &strings.Builder{}
	out.WriteString(head)
	verdicts := Judge(Goals, files)
	fmt.Fprintf(out, "<h2>Figures to reach</h2><p>By the latest result that has each.</p><figure>%s</figure>\n", goalDots(verdicts))
	for _, s := range withRest(files) {
		writeSection(out, s, files)
	}
	if err := writeTexts(out, dir); err != nil {
		return err
	}
	out.WriteString("</main></body></html>\n")
	_, err := io.WriteString(w, out.String())
	return err
}

// withRest adds sections for sheets that have none.
func withRest(files []*record.File) []section {
	all := slices.Clone(sections)
	has := func(sheet string) bool {
		return slices.ContainsFunc(all, func(s section) bool { return slices.Contains(s.sheets, sheet) })
	}
	for _, f := range files {
		for _, r := range f.Rows {
			if has(r.Sheet) {
				continue
			}
			var metrics []string
			for m := range r.Values {
				metrics = append(metrics, m)
			}
			slices.Sort(metrics)
			all = append(all, section{r.Title, "", []string{r.Sheet}, metrics})
		}
	}
	return all
}

// rowsOf are the rows of a sheet. Of each row the latest result counts, with all servers:
// what was measured at another time is not compared.
func rowsOf(files []*record.File, sheet string) (rows []record.Row, from []string) {
	byRow := map[string]*record.File{}
	for _, f := range files { // The oldest first.
		for _, r := range f.Rows {
			if r.Sheet != sheet {
				continue
			}
			byRow[r.Row] = f
		}
	}
	for _, f := range files {
		for _, r := range f.Rows {
			if r.Sheet == sheet && byRow[r.Row] == f {
				rows = append(rows, r)
				if !slices.Contains(from, f.Name) {
					from = append(from, f.Name)
				}
			}
		}
	}
	return rows, from
}

// charts are those of a section, and the results that they are from.
func (s section) charts(files []*record.File) (charts []*chart, below string, from []string) {
	for _, metric := range s.metrics {
		c := &chart{title: metric}
		for _, sheet := range s.sheets {
			rows, names := rowsOf(files, sheet)
			from = append(from, names...)
			for _, r := range rows {
				below = r.First
				summary := stats.Summarize(finite(r.Values[metric]))
				if math.IsNaN(summary.Median) {
					continue
				}
				name := r.Row
				if len(s.sheets) > 1 {
					name = strings.TrimSpace(sheet + " " + r.Row)
				}
				c.add(name, point{r.Peer, summary})
			}
		}
		if len(c.lines) > 0 {
			charts = append(charts, c)
		}
	}
	slices.Sort(from)
	return charts, below, slices.Compact(from)
}

func (c *chart) add(row string, p point) {
	i := slices.IndexFunc(c.lines, func(l line) bool { return l.name == row })
	if i < 0 {
		i = len(c.lines)
		c.lines = append(c.lines, line{name: row})
	}
	c.lines[i].points = append(c.lines[i].points, p)
}

func writeSection(out *strings.Builder, s section, files []*record.File) {
	charts, below, from := s.charts(files)
	if len(charts) == 0 {
		return
	}
	fmt.Fprintf(out, "<h2>%s</h2>\n", html.EscapeString(s.title))
	if s.text != "" {
		fmt.Fprintf(out, "<p>%s</p>\n", html.EscapeString(s.text))
	}
	out.WriteString(`<p class="legend">`)
	var peers []string
	for _, c := range charts {
		peers = append(peers, c.peers()...)
	}
	slices.SortStableFunc(peers, func(a, b string) int { return svg.Rank(a) - svg.Rank(b) })
	for _, p := range slices.Compact(peers) {
		fmt.Fprintf(out, `<span><i style="background:%s"></i>%s</span>`, svg.ColorOf(p), html.EscapeString(p))
	}
	out.WriteString("</p>\n<div class=\"charts\">\n")
	for _, c := range charts {
		drawing := ""
		if c.numeric() && len(s.sheets) == 1 {
			c.sortNumeric()
			drawing = c.curves(below)
		} else {
			c.nameNumbers(below)
			drawing = c.dots()
		}
		fmt.Fprintf(out, "<figure><figcaption>%s</figcaption>%s</figure>\n", html.EscapeString(c.title), drawing)
	}
	fmt.Fprintf(out, "</div>\n<p class=\"from\">from %s</p>\n", html.EscapeString(strings.Join(from, ", ")))
}

// writeTexts adds all results as they were printed, the newest first.
func writeTexts(out *strings.Builder, dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	slices.Reverse(names)
	out.WriteString("<h2>All results, as they were printed</h2>\n")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "<details><summary>%s</summary><pre>%s</pre></details>\n",
			html.EscapeString(strings.TrimSuffix(filepath.Base(name), ".txt")), html.EscapeString(string(text)))
	}
	return nil
}

const head = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Pebbledash: benchmarks</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:15px/1.45 system-ui,"DejaVu Sans",sans-serif;color:#222;background:#fff;margin:0}
main{max-width:1240px;margin:0 auto;padding:16px 24px}
h1{font-size:26px}h2{font-size:19px;margin:34px 0 6px;border-bottom:1px solid #ddd;padding-bottom:4px}
p{margin:4px 0 8px}
.charts{display:flex;flex-wrap:wrap;gap:14px 26px;align-items:flex-start}
figure{margin:0;max-width:100%;overflow-x:auto}figcaption{font-weight:600;font-size:13px;margin:6px 0 2px}
.legend span{margin-right:18px;font-size:13px;white-space:nowrap}
.legend i{display:inline-block;width:11px;height:11px;border-radius:6px;margin-right:6px}
.from{color:#777;font-size:12px}
details{margin:4px 0}pre{font-size:12px;overflow-x:auto;background:#f6f6f6;padding:8px}
svg{display:block}svg text{font-family:system-ui,"DejaVu Sans",sans-serif;fill:#333}
.tick{font-size:11px}.name{font-size:11.5px}.value{font-size:10px}svg .tick,svg .value{fill:#666}
.grid{stroke:#e3e3e3;stroke-width:1}.axis{stroke:#888;stroke-width:1}.spread{stroke-width:2;stroke-opacity:.45}
.curve{stroke-width:2}.band{fill:#f7f8fa}.good{fill:#eef6ee}
</style></head><body><main>
<h1>Pebbledash beside etcd</h1>
<p>Made by <code>make bench-report</code> of what <code>benchmarks/run.sh -save</code> has kept. What the columns mean is in benchmarks/README.md.</p>
`
