//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"github.com/pebbledash/pebbledash/benchmarks/fanout"
	"github.com/pebbledash/pebbledash/benchmarks/process"
	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

const fanoutMode = "fanout"

// fanoutRate is how many puts a second the watchers follow, if the server can.
const fanoutRate = 1000

// fanoutWatchers are how many watchers there are, in turn.
var fanoutWatchers = []int{1, 100, 1000, 10_000}

// The columns of the fan-out.
var (
	perEvent     = &metric{"CPU µs/event"}
	putRate      = &metric{"puts/s"}
	deliveryRate = &metric{"events/s"}
	perResponse  = &metric{"events/response"}
	perWatcher   = &metric{"KiB/watcher"}

	fanoutColumns = []*metric{perEvent, p50, p99, putRate, deliveryRate, perResponse, perWatcher, memory}
)

// fanouts are the samples of the fan-out, by number of watchers and peer.
type fanouts struct {
	p       *plan
	samples [][][]sample
}

func newFanouts(p *plan) *fanouts {
	f := &fanouts{p: p}
	for range fanoutWatchers {
		f.samples = append(f.samples, make([][]sample, len(p.peers)))
	}
	return f
}

// runTurn starts a server for each number of watchers, so that each begins with the
// same memory.
func (f *fanouts) runTurn(ctx context.Context, _, who int, dir string) error {
	for i, n := range fanoutWatchers {
		if err := f.runOne(ctx, i, n, who, fmt.Sprintf("%s-%d", dir, n)); err != nil {
			return fmt.Errorf("%d watchers: %w", n, err)
		}
	}
	return nil
}

func (f *fanouts) runOne(ctx context.Context, i, watchers, who int, dir string) (err error) {
	p := f.p
	servers, stop, err := p.start(ctx, p.peers[who], dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	server := servers[0]
	if err := server.ResetPeak(); err != nil {
		return err
	}
	idle, err := server.PeakBytes()
	if err != nil {
		return err
	}
	var before, after process.Usage
	var watching, peak int64
	profiled := make(chan error, 1)
	profile := ""
	if p.profiles != "" {
		profile = fmt.Sprintf("%s/%s-fanout-%d", p.profiles, p.peers[who].name, watchers)
	}
	report, err := fanout.Run(ctx, fanout.Config{
		Address: server.Address, Watchers: watchers, Rate: fanoutRate, Warmup: p.warmup, Measure: p.measure,
		Watching: func() (err error) {
			watching, err = server.PeakBytes()
			return err
		},
		Begin: func() (err error) {
			go func() { profiled <- takeProfile(ctx, server.Address, profile, p.measure) }()
			before, err = server.Usage()
			return err
		},
		End: func() (err error) {
			after, err = server.Usage()
			if err == nil {
				peak, err = server.PeakBytes()
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	if err := <-profiled; err != nil {
		return err
	}
	ms := func(q float64) float64 {
		if len(report.Latencies) == 0 {
			return math.NaN()
		}
		return stats.Quantile(report.Latencies, q).Seconds() * 1000
	}
	delivered := float64(max(report.Delivered, 1))
	seconds := p.measure.Seconds()
	f.samples[i][who] = append(f.samples[i][who], sample{
		perEvent: (after.CPU - before.CPU).Seconds() * 1e6 / delivered,
		p50:      ms(0.5), p99: ms(0.99),
		putRate: float64(report.Puts) / seconds, deliveryRate: delivered / seconds,
		perResponse: delivered / float64(max(report.Responses, 1)),
		perWatcher:  float64(watching-idle) / (1 << 10) / float64(watchers),
		memory:      float64(peak) / (1 << 20),
	})
	return nil
}

// write prints a table.
func (f *fanouts) write(w io.Writer) error {
	r := &results{p: f.p}
	fmt.Fprintf(w, "\nwatchers of one prefix, one stream each, and one writer of 256 B that aims at %d puts a second\n", fanoutRate)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head(table, "watchers", fanoutColumns)
	for i, n := range fanoutWatchers {
		r.rows(table, fmt.Sprint(n), fanoutColumns, f.samples[i])
	}
	return table.Flush()
}
