package app

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// TestPacer has a store get busy, grow, and get calm again.
func TestPacer(t *testing.T) {
	const mib = 1 << 20
	p := pacer{headroom: firstHeadroom}
	look := func(times int, collections, live uint64) (percent int) {
		for range times {
			percent = p.look(paceInterval, collections, live)
		}
		return percent
	}
	require.Equal(t, 800, look(1, 1, mib), "nothing is known of one collection")
	look(2, 1, 20*mib)
	require.EqualValues(t, 128*mib, p.headroom, "three within a second")
	look(3, 1, 20*mib)
	require.EqualValues(t, 148*mib, p.headroom, "no more than the extra and what is live")
	look(3, 1, 400*mib)
	require.EqualValues(t, 296*mib, p.headroom)
	look(190, 0, 400*mib)
	require.EqualValues(t, 296*mib, p.headroom, "two of so much in 50 s would not be calm")
	look(10, 0, 400*mib)
	require.EqualValues(t, 148*mib, p.headroom)
	look(101, 0, 400*mib)
	require.EqualValues(t, 74*mib, p.headroom)
	look(101, 0, 400*mib)
	require.EqualValues(t, 50*mib, p.headroom, "an eighth of what is live")
	require.Equal(t, 12, look(1, 0, 400*mib))
	require.Equal(t, 12, look(1, 0, 8000*mib), "also before it has changed")

	// Few collections of much that is live are busy, too.
	for range 6 {
		look(1, 1, 400*mib)
		look(7, 0, 400*mib)
	}
	require.EqualValues(t, 400*mib, p.headroom)
	for range 10 {
		look(20, 0, 10*mib)
	}
	require.EqualValues(t, minHeadroom, p.headroom)
	require.Equal(t, 320, look(1, 0, 10*mib))
}

// TestPaceHeap sets only what differs.
func TestPaceHeap(t *testing.T) {
	clk := clock.NewManual(time.Unix(0, 0))
	ctx, cancel := context.WithCancel(t.Context())
	type reading struct{ collections, live uint64 }
	readings, set := make(chan reading), make(chan int, 1)
	var worker sync.WaitGroup
	worker.Go(func() {
		paceHeap(ctx, clk, func() (uint64, uint64) {
			r := <-readings
			return r.collections, r.live
		}, func(percent int) { set <- percent })
	})
	readings <- reading{7, 64 << 20}
	require.Equal(t, 100, <-set)
	clk.WaitForTimers(1)
	clk.Advance(paceInterval)
	readings <- reading{7, 68 << 20}
	clk.Advance(paceInterval)
	readings <- reading{8, 32 << 20}
	require.Equal(t, 200, <-set)
	cancel()
	worker.Wait()
	require.Empty(t, set)
}

func TestReadCollector(t *testing.T) {
	collections, live := readCollector()
	require.Less(t, collections, uint64(1<<40))
	require.Less(t, live, uint64(1<<40))
}
