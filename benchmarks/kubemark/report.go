//go:build linux

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/about"
	"github.com/pebbledash/pebbledash/benchmarks/kubemark/exposition"
	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

// report is the results of a run, in words and plots.
type report struct {
	plan    *plan
	about   *about.About
	results map[string][]*result // by store
}

// maxRows bounds the tables by request: the rest is rare.
const maxRows = 30

func (r *report) write(w io.Writer) error {
	parts := []func(io.Writer) error{
		r.about.Write, r.writeFigures, r.writePromises, r.writeRequests, r.writeOwn, r.writeStorage, r.writeGroups,
		r.writeSteps, r.writeFailures, r.writeSparks,
	}
	for _, part := range parts {
		if err := part(w); err != nil {
			return err
		}
	}
	return nil
}

// table writes rows below a head of titles.
func table(w io.Writer, title string, head []string, rows [][]string) error {
	fmt.Fprintf(w, "\n%s\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		fmt.Fprintf(t, "  %s\n", strings.Join(row, "\t"))
	}
	return t.Flush()
}

// perStore is a head with a few columns for each store.
func (r *report) perStore(first []string, columns ...string) []string {
	head := first
	for _, store := range r.plan.stores {
		for _, column := range columns {
			head = append(head, strings.TrimSpace(store+" "+column))
		}
	}
	return head
}

func (r *report) values(store string, figure func(*result) float64) []float64 {
	var all []float64
	for _, turn := range r.results[store] {
		all = append(all, figure(turn))
	}
	return all
}

func (r *report) writeFigures(w io.Writer) error {
	head := r.perStore([]string{""}, "")
	if len(r.plan.stores) == 2 {
		head = append(head, strings.Join(r.plan.stores, " : "))
	}
	var rows [][]string
	for _, figure := range figures {
		row := []string{figure.title}
		for _, store := range r.plan.stores {
			row = append(row, stats.Summarize(r.values(store, figure.of)).String())
		}
		if len(r.plan.stores) == 2 {
			// Of the same turn each.
			ratios := stats.Ratios(r.values(r.plan.stores[0], figure.of), r.values(r.plan.stores[1], figure.of))
			row = append(row, stats.Summarize(ratios).String())
		}
		rows = append(rows, row)
	}
	return table(w, "the whole load, from the first pod to the last namespace's end", head, rows)
}

// merged are histograms of all turns together, by their key.
func (r *report) merged(store string, of func(*result) map[string]exposition.Histogram) map[string]exposition.Histogram {
	all := map[string]exposition.Histogram{}
	for _, turn := range r.results[store] {
		for key, h := range of(turn) {
			all[key] = all[key].Plus(h)
		}
	}
	return all
}

func requestsOf(t *result) map[string]exposition.Histogram { return t.requests }
func promisedOf(t *result) map[string]exposition.Histogram { return t.promised }
func storageIn(t *result) map[string]exposition.Histogram  { return t.storage }

// latencies are kube-apiserver's requests of all turns, the most frequent first.
func (r *report) latencies(store string, of func(*result) map[string]exposition.Histogram) []latency {
	var all []latency
	for key, h := range r.merged(store, of) {
		all = append(all, latency{parseRequest(key), h.Count(), h.Quantile(0.5), h.Quantile(0.99)})
	}
	slices.SortFunc(all, func(a, b latency) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Request.String(), b.Request.String()))
	})
	return all
}

func (r *report) writePromises(w io.Writer) error {
	head := r.perStore([]string{"", "promised p99"}, "p99", "", "worst")
	var rows [][]string
	for _, promise := range promises {
		row := []string{promise.name, fmt.Sprintf("%g s", promise.bound)}
		for _, store := range r.plan.stores {
			p99, of := r.kept(store, promise.name)
			row = append(row, secondsText(p99), verdict(p99, promise.bound), of)
		}
		rows = append(rows, row)
	}
	return table(w, "what Kubernetes promises, of the worst kind of request, by "+promiseHistogram, head, rows)
}

// kept is the p99 that a promise is held to, and what had it.
func (r *report) kept(store, promise string) (p99 float64, of string) {
	if promise == podStartup {
		if all := r.durations(store, func(t *result) []time.Duration { return t.startup }); len(all) > 0 {
			return seconds(all, 0.99), fmt.Sprintf("of %d pods", len(all))
		}
		return math.NaN(), "-"
	}
	l, ok := worst(r.latencies(store, promisedOf), promise)
	if !ok {
		return math.NaN(), "-"
	}
	return l.P99, l.Request.String()
}

// durations of all turns, sorted.
func (r *report) durations(store string, of func(*result) []time.Duration) []time.Duration {
	var all []time.Duration
	for _, turn := range r.results[store] {
		all = append(all, of(turn)...)
	}
	slices.Sort(all)
	return all
}

func (r *report) writeRequests(w io.Writer) error {
	byKind := map[string]map[request]latency{}
	var kinds []request
	for _, store := range r.plan.stores {
		byKind[store] = map[request]latency{}
		for i, l := range r.latencies(store, requestsOf) {
			byKind[store][l.Request] = l
			if i < maxRows && !slices.Contains(kinds, l.Request) {
				kinds = append(kinds, l.Request)
			}
		}
	}
	var rows [][]string
	for _, kind := range kinds {
		row := []string{kind.String()}
		for _, store := range r.plan.stores {
			l, ok := byKind[store][kind]
			if !ok {
				l.P50, l.P99 = math.NaN(), math.NaN()
			}
			row = append(row, fmt.Sprintf("%.0f", l.Count), millis(l.P50), millis(l.P99))
		}
		rows = append(rows, row)
	}
	return table(w, "kube-apiserver: requests, by its "+requestHistogram, r.perStore([]string{""}, "n", "p50 ms", "p99 ms"), rows)
}

func (r *report) writeOwn(w io.Writer) error {
	own := map[string]map[string][]time.Duration{}
	kinds := map[string]bool{}
	for _, store := range r.plan.stores {
		own[store] = map[string][]time.Duration{}
		for _, turn := range r.results[store] {
			for kind, took := range turn.own {
				own[store][kind] = append(own[store][kind], took...)
				kinds[kind] = true
			}
		}
		for _, took := range own[store] {
			slices.Sort(took)
		}
	}
	var rows [][]string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		row := []string{kind}
		for _, store := range r.plan.stores {
			took := own[store][kind]
			row = append(row, fmt.Sprint(len(took)), millis(seconds(took, 0.5)), millis(seconds(took, 0.99)))
		}
		rows = append(rows, row)
	}
	return table(w, "the load's own calls, as its clients see them", r.perStore([]string{""}, "n", "p50 ms", "p99 ms"), rows)
}

func (r *report) writeStorage(w io.Writer) error {
	all := map[string]map[string]exposition.Histogram{}
	counts := map[string]float64{}
	for _, store := range r.plan.stores {
		all[store] = r.merged(store, storageIn)
		for kind, h := range all[store] {
			counts[kind] += h.Count()
		}
	}
	kinds := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	var rows [][]string
	for _, kind := range kinds[:min(len(kinds), maxRows)] {
		row := []string{kind}
		for _, store := range r.plan.stores {
			h := all[store][kind]
			row = append(row, fmt.Sprintf("%.0f", h.Count()), millis(h.Quantile(0.5)), millis(h.Quantile(0.99)))
		}
		rows = append(rows, row)
	}
	return table(w, "the store: requests as kube-apiserver sees them, by its "+storeHistogram,
		r.perStore([]string{""}, "n", "p50 ms", "p99 ms"), rows)
}

func (r *report) writeGroups(w io.Writer) error {
	byGroup := map[string][]float64{}
	for _, turns := range r.results {
		for _, turn := range turns {
			for group, rate := range turn.groups {
				byGroup[group] = append(byGroup[group], rate)
			}
		}
	}
	if len(byGroup) == 0 {
		return nil
	}
	var rows [][]string
	for _, group := range slices.Sorted(maps.Keys(byGroup)) {
		rows = append(rows, []string{group, stats.Summarize(byGroup[group]).String()})
	}
	return table(w, "changes by raft group, by pebbledash's own count", []string{"", "a second"}, rows)
}

func (r *report) writeSteps(w io.Writer) error {
	if r.plan.during == "" {
		return nil
	}
	var rows [][]string
	for _, store := range r.plan.stores {
		for n, turn := range r.results[store] {
			for _, s := range turn.steps {
				rows = append(rows, []string{store, fmt.Sprintf("turn %d", n+1), s.name, number(s.took.Seconds()), fmt.Sprint(s.failed)})
			}
		}
	}
	return table(w, r.plan.during+" under load (failed: calls of the load until the next step)",
		[]string{"", "", "", "took s", "failed"}, rows)
}

func (r *report) writeFailures(w io.Writer) error {
	var rows [][]string
	for _, store := range r.plan.stores {
		all := map[string]int{}
		for _, turn := range r.results[store] {
			for text, n := range turn.failures {
				all[text] += n
			}
		}
		for _, text := range slices.Sorted(maps.Keys(all)) {
			rows = append(rows, []string{store, fmt.Sprint(all[text]), text})
		}
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "\nno call of the load failed")
		return err
	}
	return table(w, "calls of the load that failed", []string{"", "n", ""}, rows)
}

// sparkWidth is in characters.
const sparkWidth = 80

func (r *report) writeSparks(w io.Writer) error {
	var rows [][]string
	for _, plot := range plots {
		for _, store := range r.plan.stores {
			values := plot.values(r.results[store][0].series)
			if len(values) == 0 {
				continue
			}
			rows = append(rows, []string{plot.title, store, spark(values, sparkWidth), number(slices.Max(values)) + " at most"})
		}
	}
	return table(w, "the first turn in time", []string{"", "", "", ""}, rows)
}

// spark draws values as a line of blocks, of a width at most.
func spark(values []float64, width int) string {
	const blocks = "▁▂▃▄▅▆▇█"
	if len(values) == 0 {
		return ""
	}
	levels := []rune(blocks)
	width = min(width, len(values))
	most := 0.0
	means := make([]float64, width)
	for i := range width {
		part := values[i*len(values)/width : (i+1)*len(values)/width]
		for _, v := range part {
			means[i] += v / float64(len(part))
		}
		most = max(most, means[i])
	}
	var line strings.Builder
	for _, v := range means {
		level := 0
		if most > 0 {
			level = int(v / most * float64(len(levels)-1))
		}
		line.WriteRune(levels[level])
	}
	return line.String()
}

func number(v float64) string { return fmt.Sprintf("%.3g", v) }

func secondsText(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.3g s", v)
}

// millis is a time in seconds as milliseconds.
func millis(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	if v >= 1 {
		return fmt.Sprintf("%.0f", v*1000)
	}
	return fmt.Sprintf("%.3g", v*1000)
}
