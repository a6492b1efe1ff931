package peer

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// outbox is what waits for one stream's writer: records in their order, and the
// newest notice, which has a place among them.
type outbox struct {
	// The bounds do not hold for the only record in the queue, nor for cancels, and
	// that of bytes not for failures: those are few and small.
	maxMessages, maxBytes int
	lazyDelay             time.Duration
	// timer fires when records that may wait have waited enough. The writer alone
	// receives from it.
	timer clock.Timer
	// wake has room for one: whoever finds the writer idle, wakes it.
	wake chan struct{}

	// bytes and messages are what is queued. They are written under mu.
	bytes, messages atomic.Int64

	// mu guards the fields below, and sent and withdrawn of the calls in the
	// queue. Nothing but a manual clock's lock is taken after it.
	mu sync.Mutex
	// queue[head:] is what waits.
	queue []record
	head  int
	// pushed and taken count the records that ever came and went.
	pushed, taken uint64
	// first is the notice that goes out next. It keeps its place once a frame was
	// filled before its turn came, so that a stream of newer ones does not put it
	// off for ever; they replace second then.
	first, second notice
	passedOver    bool
	// urgent says that there is something that does not wait for company, armed
	// that timer runs for what does.
	urgent, armed bool
	idle, closed  bool
}

// notice is a notice that has not been sent, and behind how many records it goes.
type notice struct {
	payload []byte
	after   uint64
	there   bool
}

func newOutbox(maxMessages, maxBytes int, lazyDelay time.Duration, c clock.Clock) *outbox {
	o := &outbox{
		maxMessages: maxMessages,
		maxBytes:    maxBytes,
		lazyDelay:   lazyDelay,
		timer:       c.NewTimer(time.Hour),
		wake:        make(chan struct{}, 1),
	}
	o.timer.Stop()
	return o
}

// push queues r, if there is room. With lazy it may wait for company. It returns
// errFull or errClosed, and then has not kept r.
func (o *outbox) push(r record, lazy bool) error {
	size := int64(r.size())
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return errClosed
	}
	if !o.hasRoomLocked(&r, size) {
		o.mu.Unlock()
		return errFull
	}
	o.pushLocked(r, size)
	if lazy {
		if !o.urgent && !o.armed {
			o.armed = true
			o.timer.Reset(o.lazyDelay)
		}
		o.mu.Unlock()
		return nil
	}
	o.unlockAndWake()
	return nil
}

func (o *outbox) hasRoomLocked(r *record, size int64) bool {
	n := o.messages.Load()
	if n == 0 || r.kind == recordCancel {
		return true
	}
	return n < int64(o.maxMessages) && (r.kind == recordFailure || o.bytes.Load()+size <= int64(o.maxBytes))
}

// pushLocked queues r. If half of the array is behind head, what waits is moved to
// its beginning instead of into a larger one.
func (o *outbox) pushLocked(r record, size int64) {
	if len(o.queue) == cap(o.queue) && o.head > len(o.queue)/2 {
		n := copy(o.queue, o.queue[o.head:])
		clear(o.queue[n:])
		o.queue, o.head = o.queue[:n], 0
	}
	o.queue = append(o.queue, r)
	o.pushed++
	o.messages.Add(1)
	o.bytes.Add(size)
}

// unlockAndWake releases mu and lets the writer take what is there.
func (o *outbox) unlockAndWake() {
	wake := o.idle
	o.urgent, o.idle = true, false
	o.mu.Unlock()
	if wake {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// notify queues a notice behind everything that is queued now, in place of one that
// has not been sent.
func (o *outbox) notify(payload []byte) error {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return errClosed
	}
	n := notice{payload, o.pushed, true}
	if o.first.there && o.passedOver {
		o.second = n
	} else {
		o.first = n
	}
	o.unlockAndWake()
	return nil
}

// withdraw takes a call back that its caller has given up, and says whether it was
// still in the queue.
func (o *outbox) withdraw(c *pendingCall) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.sent {
		return false
	}
	c.withdrawn = true
	return true
}

// wait blocks until there is something to take, and returns false when the outbox
// is closed.
func (o *outbox) wait() bool {
	for {
		o.mu.Lock()
		if o.closed {
			o.mu.Unlock()
			return false
		}
		if o.urgent {
			o.mu.Unlock()
			return true
		}
		o.idle = true
		o.mu.Unlock()
		select {
		case <-o.wake:
		case <-o.timer.C():
			o.mu.Lock()
			o.idle, o.armed = false, false
			o.urgent = o.urgent || o.head < len(o.queue)
			o.mu.Unlock()
		}
	}
}

// take appends the records of the next frame to batch. There may be none.
func (o *outbox) take(batch []record) []record {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return batch
	}
	var bytes, count int64
	for ; o.head < len(o.queue); o.head++ {
		r := &o.queue[o.head]
		size := int64(r.size())
		if len(batch) > 0 && bytes+size > maxFrameBytes {
			break
		}
		bytes += size
		count++
		if c := r.call; c != nil {
			r.call = nil
			if c.withdrawn {
				*r = record{}
				continue
			}
			c.sent = true
		}
		batch = append(batch, *r)
		*r = record{}
	}
	o.taken += uint64(count)
	o.messages.Add(-count)
	o.bytes.Add(-bytes)
	if n, ok := o.takeNoticeLocked(); ok {
		batch = append(batch, record{kind: recordNotice, payload: n})
	}
	if o.head == len(o.queue) {
		// With no record left there is no notice left.
		o.queue, o.head = o.queue[:0], 0
		o.urgent, o.armed = false, false
	}
	return batch
}

// takeNoticeLocked returns the notice whose turn has come.
func (o *outbox) takeNoticeLocked() ([]byte, bool) {
	switch {
	case o.second.there && o.second.after <= o.taken:
		n := o.second.payload
		o.first, o.second, o.passedOver = notice{}, notice{}, false
		return n, true
	case o.first.there && o.first.after <= o.taken:
		n := o.first.payload
		o.first, o.second, o.passedOver = o.second, notice{}, false
		return n, true
	default:
		o.passedOver = o.first.there
		return nil, false
	}
}

// close ends the writer. It returns how many raft messages are lost, and the newest
// notice that was not sent.
func (o *outbox) close() (lost int, unsent notice) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return 0, notice{}
	}
	o.closed = true
	for i := range o.queue[o.head:] {
		if o.queue[o.head+i].kind == recordRaft {
			lost++
		}
	}
	unsent = o.first
	if o.second.there {
		unsent = o.second
	}
	o.queue, o.head, o.first, o.second = nil, 0, notice{}, notice{}
	o.messages.Store(0)
	o.bytes.Store(0)
	o.timer.Stop()
	o.unlockAndWake()
	return lost, unsent
}
