package admission

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	fq "k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing"
	"k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing/eventclock"
	"k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing/queueset"
	"k8s.io/apiserver/pkg/util/flowcontrol/metrics"
	"k8s.io/apiserver/pkg/util/flowcontrol/request"
)

const (
	// queues and handSize are those of kube-apiserver's busier priority levels:
	// two flows have all their queues in common once in some billions.
	queues   = 64
	handSize = 8
	// queueLength bounds the requests that wait in one queue. One flow has
	// handSize*queueLength of them.
	queueLength = 128
	// maxWaitingBytes bounds what the requests that wait at one gate hold.
	maxWaitingBytes = 64 << 20
)

// gate has a number of seats and fair queues for them.
//
// As long as seats are free and nobody waits, requests come in by an atomic
// operation on state, and the queues do not hear of them. Otherwise a request
// goes to the queues, and who leaves them, in their order, takes seats as they
// become free. state alone decides how many seats there are:
//
//  1. Whoever counts as waiting in state closes the direct way for all.
//  2. The queues let go of as many requests as there are seats, for they do
//     not know of requests that came in directly. Those that find no seat
//     stand in a row, first come, first served. There is a row only until the
//     requests that came in directly have left.
//  3. To take seats and to wait no more is one step.
type gate struct {
	name  string
	limit int64
	set   fq.QueueSet

	// state is waiting<<32 | seats in use.
	// Invariant: seats in use <= limit.
	state atomic.Uint64
	// waitingBytes are held by the requests that wait.
	waitingBytes atomic.Int64

	// mu guards row; nothing is taken after it.
	mu  sync.Mutex
	row []*waiter
}

// waiter stands in a gate's row.
type waiter struct {
	seats int64
	ready chan struct{} // closed when it has its seats
}

const oneWaiting = 1 << 32

func waitingIn(state uint64) int64 { return int64(state >> 32) }
func seatsIn(state uint64) int64   { return int64(state & (oneWaiting - 1)) }

// newGate makes a gate of limit seats.
// REQUIRES: 0 < limit.
func newGate(name string, limit int) *gate {
	g := &gate{name: name, limit: int64(limit)}
	noted := metrics.RatioedGaugePair{RequestsWaiting: ignored{}, RequestsExecuting: ignored{}}
	made, err := queueset.NewQueueSetFactory(eventclock.Real{}).BeginConstruction(fq.QueuingConfig{
		Name: name, DesiredNumQueues: queues, QueueLengthLimit: queueLength, HandSize: handSize,
	}, noted, ignored{}, ignored{})
	if err != nil {
		panic(fmt.Sprintf("admission: %v", err)) // Only the constants could be wrong.
	}
	g.set = made.Complete(fq.DispatchingConfig{ConcurrencyLimit: limit, ConcurrencyDenominator: limit})
	return g
}

// ignored is a gauge that nobody reads: we count for ourselves.
type ignored struct{}

func (ignored) Set(float64)            {}
func (ignored) Inc()                   {}
func (ignored) Dec()                   {}
func (ignored) Add(float64)            {}
func (ignored) SetToCurrentTime()      {}
func (ignored) SetDenominator(float64) {}

// seats is how many seats a request takes that asks for wanted.
func (g *gate) seats(wanted int) int64 { return min(int64(wanted), g.limit) }

// tryEnter takes seats, if they are free and nobody waits.
func (g *gate) tryEnter(seats int64) bool {
	for {
		old := g.state.Load()
		if waitingIn(old) != 0 || seatsIn(old)+seats > g.limit {
			return false
		}
		if g.state.CompareAndSwap(old, old+uint64(seats)) {
			return true
		}
	}
}

// leave gives seats back.
func (g *gate) leave(seats int64) {
	if waitingIn(g.state.Add(^uint64(seats-1))) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seatLocked()
}

// take makes one that waits one that has seats, if they are free.
func (g *gate) take(seats int64) bool {
	for {
		old := g.state.Load()
		if seatsIn(old)+seats > g.limit {
			return false
		}
		if g.state.CompareAndSwap(old, old+uint64(seats)-oneWaiting) {
			return true
		}
	}
}

// seatLocked gives seats to the first in the row.
func (g *gate) seatLocked() {
	for len(g.row) > 0 && g.take(g.row[0].seats) {
		close(g.row[0].ready)
		g.row = slices.Delete(g.row, 0, 1)
	}
}

// arrival is a request that has to wait.
type arrival struct {
	seats int64
	// bytes are what it holds while it waits.
	bytes int64
	// hash says which queues it may wait in; resource and client show it to
	// people.
	hash             uint64
	resource, client string
}

// wait calls run when it is the request's turn, with its seats taken; run gives
// them back. If ctx ends before, or there is no room to wait, run is not called,
// and wait says why not.
func (g *gate) wait(ctx context.Context, a *arrival, run func()) reason {
	if g.waitingBytes.Add(a.bytes) > maxWaitingBytes && a.bytes > 0 {
		g.waitingBytes.Add(-a.bytes)
		return bytesFull
	}
	g.state.Add(oneWaiting)
	ran := false
	defer func() {
		if !ran {
			g.state.Add(^uint64(oneWaiting - 1))
			g.waitingBytes.Add(-a.bytes)
		}
	}()
	turn, _ := g.set.StartRequest(ctx, &request.WorkEstimate{InitialSeats: uint64(a.seats)},
		a.hash, a.client, a.resource, nil, nil, nil)
	if turn == nil {
		return queueFull
	}
	// NB: a panic of run passes through here; the queues hear of the end then, too.
	turn.Finish(func() {
		if g.stand(ctx, a.seats) {
			ran = true
			g.waitingBytes.Add(-a.bytes)
			run()
		}
	})
	if !ran {
		return timeout
	}
	return admitted
}

// stand returns when the request has its seats and waits no more, or false when
// ctx has ended before.
func (g *gate) stand(ctx context.Context, seats int64) bool {
	g.mu.Lock()
	if len(g.row) == 0 && g.take(seats) {
		g.mu.Unlock()
		return true
	}
	w := &waiter{seats: seats, ready: make(chan struct{})}
	g.row = append(g.row, w)
	g.mu.Unlock()
	select {
	case <-w.ready:
		return true
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.row, w)
	if i < 0 {
		return true // It got its seats at the same time.
	}
	g.row = slices.Delete(g.row, i, i+1)
	g.seatLocked() // There may be enough for those behind it.
	return false
}
