// Package openloop sends requests when they are due, whether or not earlier ones have
// been answered, and measures each from when it was due: a server that stands still for
// a second is charged with every request of that second (no coordinated omission).
package openloop

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Arrivals are the times at which requests are due: a Poisson process, as of many who
// do not know of each other.
type Arrivals struct {
	mean   float64 // seconds
	random *rand.Rand
	last   float64 // seconds
}

// NewArrivals makes so many arrivals a second on average, the same for a seed each time.
func NewArrivals(rate float64, seed uint64) *Arrivals {
	return &Arrivals{mean: 1 / rate, random: rand.New(rand.NewPCG(seed, 0))}
}

// Next is when the next is due, since the beginning.
func (a *Arrivals) Next() time.Duration {
	a.last += a.random.ExpFloat64() * a.mean
	return time.Duration(a.last * float64(time.Second))
}

// maxOutstanding bounds the requests of a kind that wait for their answers. What is due
// while so many wait is sent later, and still measured from when it was due.
const maxOutstanding = 4096

// Run calls do for each request that is due before the end, in a goroutine of its own,
// and returns when all are done. Numbers count from 0. It ends early when ctx ends.
func Run(ctx context.Context, rate float64, seed uint64, begin, end time.Time, do func(i int, due time.Time)) {
	if rate <= 0 {
		return
	}
	arrivals := NewArrivals(rate, seed)
	room := make(chan struct{}, maxOutstanding)
	var all sync.WaitGroup
	defer all.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		due := begin.Add(arrivals.Next())
		if !due.Before(end) {
			return
		}
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		all.Go(func() {
			defer func() { <-room }()
			do(i, due)
		})
	}
}

// Recorder keeps the latencies of what was due between two times.
type Recorder struct {
	from, to time.Time
	mu       sync.Mutex // guards latencies
	// latencies are from when a request was due until its answer was there.
	latencies []time.Duration
}

// NewRecorder makes a recorder.
func NewRecorder(from, to time.Time) *Recorder { return &Recorder{from: from, to: to} }

// Done notes an answer that is there now.
func (r *Recorder) Done(due time.Time) { r.Took(due, time.Since(due)) }

// Took notes how long something took that was due.
func (r *Recorder) Took(due time.Time, took time.Duration) {
	if due.Before(r.from) || !due.Before(r.to) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latencies = append(r.latencies, took)
}

// Latencies are all that were noted, sorted.
func (r *Recorder) Latencies() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.latencies))
}
