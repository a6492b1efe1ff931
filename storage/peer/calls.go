package peer

import (
	"context"
	"fmt"
	"sync"
)

// pendingCall is a call at its caller.
type pendingCall struct {
	// done has room for one, and gets one when reply and err are set.
	done  chan struct{}
	reply []byte
	err   error

	// sent says that the writer has taken the call, withdrawn that it shall not.
	// The outbox's lock guards them.
	sent, withdrawn bool
}

// callTable gives the calls of a connection their ids. An id is the number of a slot
// and how often that was used, so that a reply that comes too late finds nobody.
type callTable struct {
	// max bounds the calls at once; it is not greater than 1 << slotBits.
	max int

	// mu guards the fields below. Nothing is taken after it.
	mu    sync.Mutex
	slots []callSlot
	// free are the slots without a call. The last one is used first, so that there
	// are no more slots than there ever were calls at once.
	free   []uint32
	closed bool
}

const slotBits = 16

type callSlot struct {
	call *pendingCall
	uses uint64
}

func (t *callTable) add(c *pendingCall) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, errClosed
	}
	var slot uint32
	switch n := len(t.free); {
	case n > 0:
		slot = t.free[n-1]
		t.free = t.free[:n-1]
	case len(t.slots) < t.max:
		slot = uint32(len(t.slots))
		t.slots = append(t.slots, callSlot{})
	default:
		return 0, errFull
	}
	s := &t.slots[slot]
	s.call = c
	return s.uses<<slotBits | uint64(slot), nil
}

// remove returns the call with the id, and nil if it is not there any more. Whoever
// has removed a call has to answer it.
func (t *callTable) remove(id uint64) *pendingCall {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := uint32(id & (1<<slotBits - 1))
	if int(slot) >= len(t.slots) {
		return nil
	}
	s := &t.slots[slot]
	if s.call == nil || s.uses != id>>slotBits {
		return nil
	}
	c := s.call
	s.call = nil
	s.uses++
	t.free = append(t.free, slot)
	return c
}

// close answers all calls. REQUIRES: the outbox is closed, so that what is sent does
// not change any more.
func (t *callTable) close(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for i := range t.slots {
		c := t.slots[i].call
		if c == nil {
			continue
		}
		t.slots[i].call = nil
		t.slots[i].uses++
		c.err = ErrNotSent
		if c.sent {
			c.err = ErrUnknown
		}
		if cause != nil {
			c.err = fmt.Errorf("%w: %w", c.err, cause)
		}
		c.done <- struct{}{}
	}
}

func (t *callTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.slots) - len(t.free)
}

// callPool has the calls that nothing refers to any more.
type callPool struct{ pool sync.Pool }

func (p *callPool) get() *pendingCall {
	if c, ok := p.pool.Get().(*pendingCall); ok {
		return c
	}
	return &pendingCall{done: make(chan struct{}, 1)}
}

// put takes a call back. REQUIRES: it is neither in the table nor in the queue.
func (p *callPool) put(c *pendingCall) {
	*c = pendingCall{done: c.done}
	p.pool.Put(c)
}

// call calls the other side, and waits for its answer or the end of ctx.
func (s *outbound) call(ctx context.Context, method byte, payload []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, notSent(err)
	}
	c := s.t.calls.get()
	id, err := s.calls.add(c)
	if err != nil {
		return nil, notSent(err)
	}
	if err := s.out.push(record{kind: recordCall, method: method, id: id, payload: payload, call: c}, false); err != nil {
		if s.calls.remove(id) == nil {
			<-c.done // The connection was lost, and answers it.
		}
		s.t.calls.put(c)
		return nil, notSent(err)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if s.calls.remove(id) != nil {
			if s.out.withdraw(c) {
				return nil, fmt.Errorf("%w: %w", ErrNotSent, ctx.Err())
			}
			_ = s.out.push(record{kind: recordCancel, id: id}, false)
			s.t.calls.put(c)
			return nil, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
		}
		<-c.done // The answer is there, or as good as.
	}
	reply, err := c.reply, c.err
	s.t.calls.put(c)
	return reply, err
}

// notSent says to a caller why its call was not queued.
func notSent(err error) error {
	if err == errFull { //nolint:errorlint // It is ours, and never wrapped.
		return ErrBusy
	}
	return fmt.Errorf("%w: %w", ErrNotSent, err)
}

// answered gives a call its answer. One that was given up has none to give to.
func (s *outbound) answered(r *record) {
	c := s.calls.remove(r.id)
	if c == nil {
		return
	}
	if r.kind == recordReply {
		c.reply = r.payload
	} else {
		c.err = failure{class: r.method, code: r.code, message: string(r.payload)}.err()
	}
	c.done <- struct{}{}
}
