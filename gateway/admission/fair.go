package admission

import (
	"math/bits"
	"time"

	"google.golang.org/grpc/peer"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	// queues and handSize are those of kube-apiserver's busier priority levels:
	// two flows have all their queues in common once in some billions.
	queues   = 64
	handSize = 8
	// queueLength bounds the requests that wait in one queue. One flow has
	// handSize*queueLength of them.
	queueLength = 128
	// firstGuess is how long a request is expected to take before any has come
	// back.
	firstGuess = time.Millisecond
)

var dealer = func() *shufflesharding.Dealer {
	d, err := shufflesharding.NewDealer(queues, handSize)
	if err != nil {
		panic(err) // Only the constants could be wrong.
	}
	return d
}()

// waiter is a request that stands in a queue.
type waiter struct {
	next, prev *waiter
	queue      *queue // nil when it stands in none
	seats      int64
	// ready gets one message when the request has its seats, by turn.
	ready chan struct{}
	turn  turn
	// patience ends its wait.
	patience clock.Timer
	// arrived is its number, by which those are ordered who would have their turn
	// at the same time.
	arrived uint64
	// resource and client show it to people.
	resource string
	client   *peer.Peer
}

// queue is first come, first served.
type queue struct {
	first, last *waiter
	length      int
	// number is which of all it is; start is the virtual time at which its first
	// has its turn.
	number int
	start  time.Duration
	// executing and seats are of the requests that came from it.
	executing, seats int64
}

// fairQueues say whose turn it is. It is start-time fair queueing (P. Goyal,
// H. Vin, H. Cheng: Start-Time Fair Queueing, SIGCOMM 1996, section 2) with seats
// times time as what is shared, which is guessed when a request gets its turn and
// set right when it leaves, as k8s.io/apiserver does it; and with its shuffle
// sharding, which deals each flow a hand of queues, of which it takes the shortest.
//
// k8s.io/apiserver's own queues cost 25 µs of CPU for each request that waits, half
// of what a put costs altogether: hence these. They are guarded by their gate.
type fairQueues struct {
	all [queues]queue
	// busy has a bit for each queue in which somebody stands.
	busy uint64
	// now is the virtual time: that at which the last turn began.
	now time.Duration
	// latest is no less than the start of any queue.
	latest time.Duration
	// guess is how long a request is expected to have its seats.
	guess    time.Duration
	arrivals uint64
}

// turn is what a request that came from a queue was charged.
type turn struct {
	queue   *queue // nil for a request that came in directly
	charged time.Duration
	began   time.Time
}

// push puts w at the end of a queue of its flow's hand. It returns false if all are
// full.
func (f *fairQueues) push(w *waiter, flow uint64) bool {
	var q *queue
	dealer.Deal(flow, func(i int) {
		other := &f.all[i]
		other.number = i
		if q == nil || other.length < q.length || other.length == q.length && other.start < q.start {
			q = other
		}
	})
	if q.length >= queueLength {
		return false
	}
	if q.length == 0 {
		f.busy |= 1 << q.number
		q.start = max(q.start, f.now)
	}
	f.arrivals++
	w.arrived, w.queue, w.prev, w.next = f.arrivals, q, q.last, nil
	if q.last != nil {
		q.last.next = w
	} else {
		q.first = w
	}
	q.last = w
	q.length++
	return true
}

// first is whose turn it is; nil if nobody waits.
func (f *fairQueues) first() *waiter {
	var first *waiter
	for left := f.busy; left != 0; left &= left - 1 {
		w := f.all[bits.TrailingZeros64(left)].first
		if first == nil || w.queue.start < first.queue.start ||
			w.queue.start == first.queue.start && w.arrived < first.arrived {
			first = w
		}
	}
	return first
}

// dispatch takes w, which is the first, out of its queue, and charges that for it.
func (f *fairQueues) dispatch(w *waiter, at time.Time) {
	q := w.queue
	f.now = max(f.now, q.start)
	f.remove(w)
	w.turn = turn{queue: q, charged: time.Duration(w.seats) * f.guess, began: at}
	q.executing++
	q.seats += w.seats
	f.charge(q, w.turn.charged)
	if f.busy == 0 {
		f.now = f.latest // Nobody waits: what is owed is forgotten.
	}
}

func (f *fairQueues) charge(q *queue, d time.Duration) {
	q.start += d
	f.latest = max(f.latest, q.start)
}

// remove takes w out of its queue.
func (f *fairQueues) remove(w *waiter) {
	q := w.queue
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.last = w.prev
	}
	w.queue, w.next, w.prev = nil, nil, nil
	if q.length--; q.length == 0 {
		f.busy &^= 1 << q.number
	}
}

// settle sets right what a request was charged that has its seats until now.
func (f *fairQueues) settle(t turn, seats int64, now time.Time) {
	const weight = 16 // of what was before, in the guess
	took := now.Sub(t.began)
	t.queue.executing--
	t.queue.seats -= seats
	f.charge(t.queue, time.Duration(seats)*took-t.charged)
	f.guess += (took - f.guess) / weight
}
