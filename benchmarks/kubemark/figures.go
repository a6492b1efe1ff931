//go:build linux

package main

import (
	"math"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

// figures are what one turn comes to, in the order of the table.
var figures = []struct {
	title string
	of    func(*result) float64
}{
	{"API calls/s, of all clients", func(r *result) float64 { return together(r.requests).Count() / r.took.Seconds() }},
	{"calls/s of the load", func(r *result) float64 { return float64(r.answered) / r.took.Seconds() }},
	{"calls of the load that failed", func(r *result) float64 { return float64(r.failed) }},
	{"pod start p50 s", func(r *result) float64 { return seconds(r.startup, 0.5) }},
	{"pod start p99 s", func(r *result) float64 { return seconds(r.startup, 0.99) }},
	{"watch lag p50 ms", func(r *result) float64 { return 1000 * seconds(r.lag, 0.5) }},
	{"watch lag p99 ms", func(r *result) float64 { return 1000 * seconds(r.lag, 0.99) }},
	{"store requests/s", func(r *result) float64 { return together(r.storage).Count() / r.took.Seconds() }},
	{"store request p50 ms", func(r *result) float64 { return 1000 * together(r.storage).Quantile(0.5) }},
	{"store request p99 ms", func(r *result) float64 { return 1000 * together(r.storage).Quantile(0.99) }},
	{"store CPU s/s", func(r *result) float64 { return r.storeUsed.CPU.Seconds() / r.took.Seconds() }},
	{"store CPU µs/request", func(r *result) float64 { return perCall(r.storeUsed.CPU, together(r.storage).Count()) }},
	{"store peak RSS MiB", func(r *result) float64 { return mib(r.peakBytes) }},
	{"store written MiB", func(r *result) float64 { return mib(r.storeUsed.WrittenBytes) }},
	{"store disk MiB", func(r *result) float64 { return mib(r.diskBytes) }},
	{"kube-apiserver CPU s/s", func(r *result) float64 { return r.apiUsed.CPU.Seconds() / r.took.Seconds() }},
	{"cluster start s", func(r *result) float64 { return r.start.Seconds() }},
	{"all pods run s", func(r *result) float64 { return r.fill.Seconds() }},
	{"namespaces removed s", func(r *result) float64 { return r.removal.Seconds() }},
}

// seconds is a quantile, NaN of none.
func seconds(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return stats.Quantile(sorted, q).Seconds()
}

// perCall divides a time by a number of calls, in microseconds. Of none, it is NaN.
func perCall(cpu time.Duration, n float64) float64 {
	if n == 0 {
		return math.NaN()
	}
	return cpu.Seconds() * 1e6 / n
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
