package openloop

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

func TestArrivals(t *testing.T) {
	const rate, n = 50, 20_000
	a, again, other := NewArrivals(rate, 1), NewArrivals(rate, 1), NewArrivals(rate, 2)
	var last time.Duration
	differ := false
	for range n {
		due := a.Next()
		require.Equal(t, due, again.Next())
		differ = differ || due != other.Next()
		require.GreaterOrEqual(t, due, last)
		last = due
	}
	require.True(t, differ)
	require.InDelta(t, float64(n)/rate, last.Seconds(), 0.03*n/rate, "as many as were asked for")
}

// A server that stands still is charged with what was due meanwhile.
func TestNoCoordinatedOmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		stall := begin.Add(5 * time.Second)
		end := begin.Add(10 * time.Second)
		r := NewRecorder(begin.Add(time.Second), end)
		var n atomic.Int64
		Run(t.Context(), 100, 1, begin, end, func(_ int, due time.Time) {
			n.Add(1)
			if now := time.Now(); now.After(stall) && now.Before(stall.Add(time.Second)) {
				time.Sleep(time.Until(stall.Add(time.Second)))
			}
			time.Sleep(time.Millisecond)
			r.Done(due)
		})
		latencies := r.Latencies()
		require.InDelta(t, 1000, n.Load(), 150)
		require.InDelta(t, 900, len(latencies), 150, "warm-up does not count")
		require.Equal(t, time.Millisecond, stats.Quantile(latencies, 0.5))
		// A tenth of the time is waited for half a second on average.
		require.InDelta(t, 0.5, stats.Quantile(latencies, 0.945).Seconds(), 0.2)
		require.Greater(t, stats.Quantile(latencies, 1), 950*time.Millisecond)
	})
}

// What can't be sent is measured from when it was due.
func TestOutstanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		end := begin.Add(time.Second)
		r := NewRecorder(begin, end)
		Run(t.Context(), 2*maxOutstanding, 1, begin, end, func(_ int, due time.Time) {
			time.Sleep(10 * time.Second)
			r.Done(due)
		})
		require.Greater(t, stats.Quantile(r.Latencies(), 0.99), 19*time.Second)
	})
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		Run(ctx, 10, 1, begin, begin.Add(time.Hour), func(i int, _ time.Time) {
			if i == 5 {
				cancel()
			}
		})
		require.Less(t, time.Since(begin), time.Minute)
		Run(t.Context(), 0, 1, begin, begin.Add(time.Hour), func(int, time.Time) { t.Error("a rate of nothing") })
	})
}

// What was due before or after the measurement is not in it, whenever it was answered.
func TestRecorder(t *testing.T) {
	from := time.Now()
	r := NewRecorder(from, from.Add(time.Minute))
	for due, took := range map[time.Duration]time.Duration{-1: 2, 0: 7, time.Minute - 1: 5, time.Minute: 3} {
		r.Took(from.Add(due), took)
	}
	require.Equal(t, []time.Duration{5, 7}, r.Latencies())
}
