package app

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	// restInterval is for how long the collector has not run where there is little to do.
	restInterval = 10 * time.Second
	// worthReturning is how much memory is worth a collection.
	worthReturning = 64 << 20
)

// heapUse is what is known of the heap.
type heapUse struct {
	// collections is how often the collector has run.
	collections uint64
	// returnable are the bytes that a collection would free at most, and those that are
	// free and were not returned to the operating system.
	returnable uint64
}

func readHeap() heapUse {
	s := []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(s)
	cycles, objects, free, live := s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64(), s[3].Value.Uint64()
	return heapUse{cycles, objects + free - min(live, objects)}
}

// returnMemory returns what a busy time has left in the heap to the operating system once
// there is little to do: the collector runs when the heap has grown enough, which may not
// be for hours then, and keeps what it has freed.
func returnMemory(ctx context.Context, c clock.Clock, read func() heapUse, free func()) {
	ticker := c.NewTicker(restInterval)
	defer ticker.Stop()
	before := read()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		now := read()
		if now.collections == before.collections && now.returnable >= worthReturning {
			free()
			now = read()
		}
		before = now
	}
}

// keepHeap is returnMemory of this process.
func (j *joined) keepHeap() {
	j.background.Go(func() { returnMemory(j.lifetime, j.env.Clock, readHeap, debug.FreeOSMemory) })
}
