package admission

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// maxWaitingBytes bounds what the requests that wait at one gate hold.
const maxWaitingBytes = 64 << 20

// gate has a number of seats and fair queues for them.
//
// As long as seats are free and nobody waits, requests come in by an atomic
// operation on state, and the queues do not hear of them. Otherwise a request
// stands in a queue, and those who leave give their seats to whose turn it is.
// state alone decides how many seats there are:
//
//  1. Whoever counts as waiting in state closes the direct way for all.
//  2. To take seats and to wait no more is one step.
//  3. Who leaves after somebody counts as waiting looks into the queues; who has
//     begun to wait looks, too. So no seat stays empty while its turn has come.
type gate struct {
	name  string
	limit int64
	clock clock.Clock

	// state is waiting<<32 | seats in use.
	// Invariant: seats in use <= limit.
	state atomic.Uint64
	// waitingBytes are held by the requests that wait.
	waitingBytes atomic.Int64

	// mu guards fair; nothing is taken after it.
	mu   sync.Mutex
	fair fairQueues

	// waiters are those that nobody uses.
	waiters sync.Pool

	rejected, cancelled atomic.Int64
}

const oneWaiting = 1 << 32

func waitingIn(state uint64) int64 { return int64(state >> 32) }
func seatsIn(state uint64) int64   { return int64(state & (oneWaiting - 1)) }

// newGate makes a gate of limit seats.
// REQUIRES: 0 < limit.
func newGate(name string, limit int, clock clock.Clock) *gate {
	return &gate{name: name, limit: int64(limit), clock: clock, fair: fairQueues{guess: firstGuess}}
}

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

// leave gives seats back, which were taken by t.
func (g *gate) leave(seats int64, t turn) {
	waiting := waitingIn(g.state.Add(^uint64(seats-1))) != 0
	if !waiting && t.queue == nil {
		return
	}
	now := g.clock.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.queue != nil {
		g.fair.settle(t, seats, now)
	}
	g.seatLocked(now)
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

// seatLocked gives free seats to those whose turn it is.
func (g *gate) seatLocked(now time.Time) {
	for w := g.fair.first(); w != nil && g.take(w.seats); w = g.fair.first() {
		g.fair.dispatch(w, now)
		w.ready <- struct{}{}
	}
}

// arrival is a request that has to wait.
type arrival struct {
	// bytes are what it holds while it waits.
	bytes int64
	// flow says which queues it may wait in; resource and client show it to
	// people.
	flow     uint64
	resource string
	client   *peer.Peer
}

// wait returns admitted when the request has its seats, or why it has not got
// them. Then turn is for leave.
func (g *gate) wait(ctx context.Context, a *arrival, seats int64, patience time.Duration) (turn, reason) {
	defer g.waitingBytes.Add(-a.bytes)
	if g.waitingBytes.Add(a.bytes) > maxWaitingBytes && a.bytes > 0 {
		g.rejected.Add(1)
		return turn{}, bytesFull
	}
	w := g.newWaiter(patience)
	defer g.waiters.Put(w)
	w.seats, w.resource, w.client = seats, a.resource, a.client

	g.state.Add(oneWaiting)
	g.mu.Lock()
	if !g.fair.push(w, a.flow) {
		g.giveUpLocked()
		g.mu.Unlock()
		g.rejected.Add(1)
		w.patience.Stop()
		return turn{}, queueFull
	}
	g.seatLocked(g.clock.Now())
	g.mu.Unlock()

	why := admitted
	select {
	case <-w.ready:
	case <-w.patience.C():
		why = timeout
	case <-ctx.Done():
		why = cancelled
	}
	w.patience.Stop()
	if why == admitted {
		return w.turn, admitted
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.queue == nil {
		<-w.ready // It got its seats at the same time.
		return w.turn, admitted
	}
	g.fair.remove(w)
	g.giveUpLocked()
	if why == timeout {
		g.rejected.Add(1)
	} else {
		g.cancelled.Add(1)
	}
	return turn{}, why
}

// giveUpLocked makes one wait no more that has no seats. There may be enough for
// those behind it.
func (g *gate) giveUpLocked() {
	g.state.Add(^uint64(oneWaiting - 1))
	g.seatLocked(g.clock.Now())
}

func (g *gate) newWaiter(patience time.Duration) *waiter {
	w, ok := g.waiters.Get().(*waiter)
	if !ok {
		return &waiter{ready: make(chan struct{}, 1), patience: g.clock.NewTimer(patience)}
	}
	w.patience.Reset(patience)
	return w
}
