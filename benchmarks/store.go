//go:build linux

package main

import (
	"context"
	"fmt"
	"math/bits"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/fill"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// families are resources of all groups, in equal parts.
var families = []string{"/registry/pods/", "/registry/events/", "/registry/leases/", "/registry/configmaps/"}

// filling says what the store is filled with.
func (p *plan) filling() string {
	order := "about as they sort"
	if p.scatter {
		order = "in no order"
	}
	return fmt.Sprintf("%d MiB of values of %d B, put %s", p.fill>>20, p.value, order)
}

// fillStore puts all keys of the store, or of every so many one.
func (t *turn) fillStore(ctx context.Context, server process.Cluster, every int) error {
	return fill.Run(ctx, fill.Config{
		Address: server[0].Address, To: int(t.fill/t.value) / every, Stride: len(families),
		Key:        func(i int) []byte { return storeKey(i*every, t.scatter) },
		ValueBytes: int(t.value), Seed: byte(every), Progress: t.progress,
	})
}

// storeKey is key i of the store. In their order keys are put about as they sort, unless
// they are scattered.
func storeKey(i int, scatter bool) []byte {
	name := uint64(i)
	if scatter {
		name = bits.Reverse64(name * 0x9E3779B97F4A7C15) // The golden ratio's: no two are alike.
	}
	return fmt.Appendf(nil, "%snamespace-%d/%020d", families[i%len(families)], i%50, name)
}

// storeSettle bounds the wait until flushes and compactions of a filled store are done.
const storeSettle = 2 * time.Minute

// cost is what a server needs for something: time, and bytes resident before it and, at
// most, above that.
type cost struct {
	took, cpu     time.Duration
	before, above int64
}

// atRest calls do when the server has done what it has put off, and says what it costs.
func atRest(server process.Cluster, do func() error) (cost, error) {
	before, err := settled(server, storeSettle)
	if err != nil {
		return cost{}, err
	}
	usage, took, err := used(server, do)
	if err != nil {
		return cost{}, err
	}
	peak, err := server.PeakBytes()
	return cost{took: took, cpu: usage.CPU, before: before, above: peak - before}, err
}
