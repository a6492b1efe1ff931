//go:build linux

package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/svg"
)

// plot is a figure in time.
type plot struct {
	title string
	of    func(moment) float64
}

var plots = []plot{
	{"store CPU, cores", func(m moment) float64 { return m.storeCores }},
	{"store RSS, MiB", func(m moment) float64 { return m.storeMiB }},
	{"kube-apiserver CPU, cores", func(m moment) float64 { return m.apiCores }},
	{"pods running", func(m moment) float64 { return m.pods }},
	{"calls/s of the load", func(m moment) float64 { return m.callsPerSecond }},
}

func (p plot) values(series []moment) []float64 {
	var all []float64
	for _, m := range series {
		all = append(all, p.of(m))
	}
	return all
}

const style = `body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1180px;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}pre{overflow-x:auto;font-size:12px;line-height:1.35;background:#f6f6f4;padding:1em}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(520px,1fr));gap:1.2em}svg{width:100%;height:auto}
.grid{stroke:#e4e4e0}.bound{stroke:#b3261e;stroke-dasharray:5 4}.curve{stroke-width:1.6}circle{fill-opacity:.8}.tick{font-size:11px;fill:#666}.title{font-size:13px;font-weight:600}
.key{display:inline-block;width:.9em;height:.9em;margin:0 .3em 0 1em;vertical-align:-1px}`

// page writes plots, and the report below them, as one file that needs no other.
func (r *report) page(w io.Writer, report string) error {
	fmt.Fprintf(w, `<!doctype html><html lang="en"><meta charset="utf-8"><title>%[1]s</title><style>%[2]s</style><h1>%[1]s</h1>`,
		html.EscapeString(fmt.Sprintf("Kubernetes on %d hollow nodes with %d pods", r.plan.nodes, r.plan.pods)), style)
	fmt.Fprint(w, `<p>`)
	for _, store := range r.plan.stores {
		fmt.Fprintf(w, `<span class="key" style="background:%s"></span>%s`, svg.ColorOf(store), store)
	}
	fmt.Fprint(w, `</p><h2>p99 beside what Kubernetes promises</h2><div class="plots">`)
	for _, promise := range promises {
		if promise.name != podStartup {
			fmt.Fprint(w, r.promisePlot(promise.name, promise.bound))
		}
	}
	fmt.Fprint(w, `</div><h2>Pods' start, watch lag</h2><div class="plots">`)
	fmt.Fprint(w, r.distribution("pod start, seconds", 5, func(t *result) []time.Duration { return t.startup }))
	fmt.Fprint(w, r.distribution("watch lag, seconds", math.NaN(), func(t *result) []time.Duration { return t.lag }))
	fmt.Fprint(w, `</div><h2>In time, seconds since the first pod (all turns)</h2><div class="plots">`)
	for _, p := range plots {
		fmt.Fprint(w, r.timePlot(p))
	}
	_, err := fmt.Fprintf(w, "</div><h2>Figures</h2><pre>%s</pre></html>\n", html.EscapeString(report))
	return err
}

func (r *report) timePlot(p plot) string {
	var curves []curve
	for _, store := range r.plan.stores {
		for _, turn := range r.results[store] {
			c := curve{color: svg.ColorOf(store)}
			for _, m := range turn.series {
				c.points = append(c.points, [2]float64{m.at.Seconds(), p.of(m)})
			}
			curves = append(curves, c)
		}
	}
	return lines(p.title, curves, svg.Linear, math.NaN())
}

// distribution draws which share of durations is not longer.
func (r *report) distribution(title string, bound float64, of func(*result) []time.Duration) string {
	const steps = 200
	var curves []curve
	for _, store := range r.plan.stores {
		sorted := r.durations(store, of)
		c := curve{color: svg.ColorOf(store)}
		for i := range steps + 1 {
			share := float64(i) / steps
			if len(sorted) > 0 {
				c.points = append(c.points, [2]float64{seconds(sorted, share), share})
			}
		}
		curves = append(curves, c)
	}
	return lines(title+" (share of all that took no longer)", curves, svg.Log, bound)
}

// promisePlot has a dot a store for each of the kinds of request that took longest.
func (r *report) promisePlot(promise string, bound float64) string {
	const most = 10
	rows := map[string]map[string]float64{}
	var order []string
	for _, store := range r.plan.stores {
		n := 0
		for _, l := range r.latencies(store, requestsOf) {
			if l.Request.promise() != promise || l.Count < minCount || n >= most {
				continue
			}
			n++
			name := l.Request.String()
			if rows[name] == nil {
				rows[name] = map[string]float64{}
				order = append(order, name)
			}
			rows[name][store] = l.P99
		}
	}
	return dots(promise+": p99, seconds", r.plan.stores, order, rows, bound)
}
