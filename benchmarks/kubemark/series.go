//go:build linux

package main

import (
	"context"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// moment is one second of a run.
type moment struct {
	at time.Duration // since the load began
	// storeCores and apiCores are CPU time by time.
	storeCores, apiCores float64
	storeMiB             float64
	pods                 float64 // running
	callsPerSecond       float64 // of the load
}

// sampleInterval is how far moments lie apart.
const sampleInterval = time.Second

// sampleUntil takes moments until ctx ends. What cannot be read, as while a member is
// restarted, is left out.
func (t *turn) sampleUntil(ctx context.Context) (series []moment) {
	began := time.Now()
	last, lastStore, lastAPI, lastCalls := began, process.Usage{}, process.Usage{}, 0
	for first := true; ; first = false {
		store, err := t.cluster.store.usage()
		api, err2 := t.cluster.apiserver.use.Usage()
		resident, err3 := t.cluster.store.residentBytes()
		answered, _ := t.ledger.counts()
		now := time.Now()
		if err == nil && err2 == nil && err3 == nil {
			if api.CPU < lastAPI.CPU {
				lastAPI.CPU = 0 // it has started again
			}
			if by := now.Sub(last).Seconds(); !first && by > 0 {
				series = append(series, moment{
					at:             now.Sub(began),
					storeCores:     (store.CPU - lastStore.CPU).Seconds() / by,
					apiCores:       (api.CPU - lastAPI.CPU).Seconds() / by,
					storeMiB:       mib(resident),
					pods:           float64(t.load.watch.running.Load()),
					callsPerSecond: float64(answered-lastCalls) / by,
				})
			}
			last, lastStore, lastAPI, lastCalls = now, store, api, answered
		}
		if !pause(ctx, sampleInterval) {
			return series
		}
	}
}
