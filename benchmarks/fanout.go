//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pebbledash/pebbledash/benchmarks/fanout"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

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

var fanoutSheet = sheet{
	"fanout", fmt.Sprintf("watchers of one prefix, one stream each, and one writer of 256 B that aims at %d puts a second", fanoutRate),
	"watchers", fanoutColumns,
}

// runFanouts starts a server for each number of watchers, so that each begins with the
// same memory.
func runFanouts(ctx context.Context, t *turn) error {
	for _, n := range fanoutWatchers {
		if err := runFanout(ctx, t, n); err != nil {
			return fmt.Errorf("%d watchers: %w", n, err)
		}
	}
	return nil
}

func runFanout(ctx context.Context, t *turn, watchers int) (err error) {
	p := t.plan
	servers, stop, err := t.start(ctx)
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
	profile := t.profileName(fmt.Sprintf("fanout-%d", watchers))
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
	delivered := float64(max(report.Delivered, 1))
	seconds := p.measure.Seconds()
	t.add(fanoutSheet, fmt.Sprint(watchers), sample{
		perEvent: per(after.CPU-before.CPU, int(report.Delivered)),
		p50:      milliseconds(report.Latencies, 0.5), p99: milliseconds(report.Latencies, 0.99),
		putRate: float64(report.Puts) / seconds, deliveryRate: delivered / seconds,
		perResponse: delivered / float64(max(report.Responses, 1)),
		perWatcher:  float64(watching-idle) / (1 << 10) / float64(watchers),
		memory:      mib(peak),
	})
	return nil
}
