package group

import (
	"context"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/pebbledash/pebbledash/pkg/tracing"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// proposal is one request on its way through the group.
type proposal struct {
	ctx  context.Context
	op   evaluate.Op
	size int
	// done is closed when res and err are set.
	done chan struct{}
	res  evaluate.Result
	err  error
	// trace is nil if the request is not traced.
	trace *tracing.Request
}

func (p *proposal) fail(err error) {
	p.res, p.err = evaluate.Result{}, err
	close(p.done)
}

// letters is what can arrive for the loop.
type letters struct {
	proposals []*proposal
	reads     []*read
	steps     []*raftpb.Message
	applied   []appliedNote
	// calls are run by the loop.
	calls []func()
}

func (l *letters) reset() {
	clear(l.proposals)
	clear(l.reads)
	clear(l.steps)
	clear(l.applied)
	clear(l.calls)
	l.calls = l.calls[:0]
	l.proposals, l.reads = l.proposals[:0], l.reads[:0]
	l.steps, l.applied = l.steps[:0], l.applied[:0]
}

// appliedNote tells the loop of one applied raft message.
type appliedNote struct {
	// response is for raft; nil if there is none.
	response *raftpb.Message
	// own counts the entries that were in flight here, evaluated those of them
	// that the evaluator has made, in the reign of epoch; calls are due for them.
	epoch          uint64
	own, evaluated int
	calls          []appliedCall
	// fence is the last epoch that the group was fenced with by it, 0 for none, and
	// part the id of the group's last part.
	fence, part uint64
	// term is that of the last entry.
	term uint64
}

type appliedCall struct {
	fn    func(index uint64)
	index uint64
}

// inbox is where the other goroutines leave things for the loop.
type inbox struct {
	wake chan struct{}
	// queued and reading count the requests that wait for their evaluation and
	// the reads that wait for their confirmation, here or in the loop.
	queued, reading atomic.Int64

	mu     sync.Mutex // guards the fields below; nothing is taken after it
	box    letters
	closed bool
}

func (in *inbox) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *inbox) put(add func(*letters) error) error {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return ErrStopped
	}
	err := add(&in.box)
	in.mu.Unlock()
	if err == nil {
		in.signal()
	}
	return err
}

func (in *inbox) propose(p *proposal) error {
	return in.put(func(l *letters) error {
		if in.queued.Load() >= maxQueued {
			return ErrTooManyRequests
		}
		in.queued.Add(1)
		l.proposals = append(l.proposals, p)
		return nil
	})
}

func (in *inbox) read(r *read) error {
	return in.put(func(l *letters) error {
		if in.reading.Load() >= maxQueued {
			return ErrTooManyRequests
		}
		in.reading.Add(1)
		l.reads = append(l.reads, r)
		return nil
	})
}

// step takes a raft message. One that comes after the end is dropped.
func (in *inbox) step(m *raftpb.Message) {
	_ = in.put(func(l *letters) error { l.steps = append(l.steps, m); return nil })
}

func (in *inbox) apply(a appliedNote) error {
	return in.put(func(l *letters) error { l.applied = append(l.applied, a); return nil })
}

func (in *inbox) call(f func()) error {
	return in.put(func(l *letters) error { l.calls = append(l.calls, f); return nil })
}

// take swaps what has arrived for the emptied box.
func (in *inbox) take(box *letters) {
	in.mu.Lock()
	in.box, *box = *box, in.box
	in.mu.Unlock()
}

func (in *inbox) close() letters {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	box := in.box
	in.box = letters{}
	return box
}
