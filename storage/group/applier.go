package group

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/pebbledash/pebbledash/pkg/tracing"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// applier applies committed entries, on a goroutine of its own: a store that waits for
// its disk must not hold up raft. Where there is nobody whom that would hold up, the loop
// may do it (applyNow).
type applier struct {
	g      *Group
	flight flight
	// index is the last applied.
	index atomic.Uint64
	// applying is held while something is applied. It comes before mu, and guards the
	// fields up to that.
	applying sync.Mutex
	// entries is scratch: those of the batch that take effect.
	entries []appliedEntry
	// failed says that something was not applied, and nothing may be behind it.
	failed bool

	mu      sync.Mutex // guards the fields below; nothing is taken after it
	queue   []task
	closed  bool
	wake    chan struct{}
	stopped chan struct{}
}

// task is a raft message to apply, or a snapshot to restore.
type task struct {
	m        *raftpb.Message
	snapshot *Incoming
}

// appliedEntry is an entry that took effect.
type appliedEntry struct{ epoch, number, index uint64 }

func (a *applier) init(g *Group) {
	a.g = g
	a.index.Store(g.cfg.Store.Applied().Index)
	a.wake = make(chan struct{}, 1)
	a.stopped = make(chan struct{})
}

func (a *applier) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *applier) submit(t task) {
	a.mu.Lock()
	a.queue = append(a.queue, t)
	a.mu.Unlock()
	a.signal()
}

func (a *applier) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.signal()
	<-a.stopped
}

func (a *applier) run() {
	defer close(a.stopped)
	var work []task
	for range a.wake {
		var closed bool
		if work, closed = a.applyQueued(work); closed {
			return
		}
	}
}

// applyQueued applies what is queued by now. It returns the memory of it, to be used again.
func (a *applier) applyQueued(free []task) (work []task, closed bool) {
	a.applying.Lock()
	defer a.applying.Unlock()
	a.mu.Lock()
	work, a.queue = a.queue, free[:0]
	closed = a.closed
	a.mu.Unlock()
	for _, t := range work {
		a.doLocked(t)
	}
	clear(work)
	return work, closed
}

// applyNow applies a raft message on the caller's goroutine, the loop, and says whether it
// could: what came before it must be applied, and a change of the configuration needs the
// loop.
func (a *applier) applyNow(m *raftpb.Message) bool {
	for _, e := range m.GetEntries() {
		if e.GetType() != raftpb.EntryNormal {
			return false
		}
	}
	if !a.applying.TryLock() {
		return false
	}
	defer a.applying.Unlock()
	a.mu.Lock()
	waiting := len(a.queue) > 0
	a.mu.Unlock()
	if waiting {
		return false
	}
	a.doLocked(task{m: m})
	return true
}

// doLocked does one task, unless one before it has failed.
func (a *applier) doLocked(t task) {
	if a.failed {
		return
	}
	a.failed = true // as it stays where a failed commit ends this goroutine
	err := a.do(t)
	if a.failed = err != nil; a.failed && !errors.Is(err, ErrStopped) {
		a.g.cfg.Fatal(fmt.Errorf("group: apply: %w", err))
	}
}

func (a *applier) do(t task) error {
	if t.snapshot != nil {
		return a.restore(t.m, t.snapshot)
	}
	return a.apply(t.m)
}

// maxBatchBytes is how large a batch may get before what follows goes into another. Raft
// bounds what it hands out by the size that entries have in the log, where they are
// compressed.
const maxBatchBytes = 16 << 20

// apply applies the entries of one raft message, in one batch if they are not too large.
func (a *applier) apply(m *raftpb.Message) error {
	for entries := m.GetEntries(); len(entries) > 0; {
		n, err := a.applySome(entries, m.GetResponses()[0])
		if err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// applySome applies the first of the entries in one batch, answers, and returns how many
// they were. Raft is given its response with the last.
func (a *applier) applySome(entries []*raftpb.Entry, response *raftpb.Message) (n int, err error) {
	batch := a.g.cfg.Store.NewBatch()
	a.entries = a.entries[:0]
	var note appliedNote
	configured := false
	for n < len(entries) && batch.Len() < maxBatchBytes {
		if err := a.add(batch, entries[n], &note, &configured); err != nil {
			batch.Drop()
			return 0, err
		}
		n++
	}
	last := entries[n-1]
	note.term = last.GetTerm()
	if n == len(entries) {
		note.response = response
	}
	if err := batch.SetClosed(a.g.cfg.Line.Closed()); err != nil {
		return 0, err
	}
	began := a.g.cfg.Clock.Now()
	out, err := batch.Commit()
	if err != nil {
		return 0, err
	}
	if a.g.cfg.ApplySeconds != nil {
		a.g.cfg.ApplySeconds.Observe(a.g.cfg.Clock.Since(began).Seconds())
	}
	a.index.Store(last.GetIndex())
	a.g.cfg.Log.setApplied(last.GetIndex())
	// The line wakes those who wait for this index: last.
	a.g.cfg.Observer.Applied(last.GetIndex(), &out)
	a.g.cfg.Line.Applied(a.g.cfg.ID, a.g.cfg.Store.Applied(), &out)
	answered := 0
	// An entry leaves the flight only now that the store shows it: a request
	// that saw it and changed nothing itself waits for it until then.
	for _, e := range a.entries {
		f, own := a.flight.take(e.epoch, e.number)
		if !own {
			continue
		}
		for _, p := range f.waiting {
			p.trace.MarkAt(tracing.Committed, began)
			p.trace.Mark(tracing.Applied)
			close(p.done)
		}
		answered += len(f.waiting)
		note.epoch = e.epoch
		note.own++
		if f.evaluated {
			note.evaluated++
		}
		if f.applied != nil {
			note.calls = append(note.calls, appliedCall{f.applied, e.index})
		}
	}
	if answered > 0 {
		a.g.counts.committed.Add(int64(answered))
	}
	_ = a.g.inbox.apply(note)
	if configured {
		a.g.cfg.Observer.Configured()
	}
	return n, nil
}

// add adds an entry's effects, if it has any and its place is the next
// (storage/PROTOCOL.md, 2).
func (a *applier) add(batch *mvcc.Batch, re *raftpb.Entry, note *appliedNote, configured *bool) error {
	index, term := re.GetIndex(), re.GetTerm()
	if re.GetType() != raftpb.EntryNormal {
		*configured = true
		if err := a.conf(batch, re); err != nil {
			return err
		}
		return batch.Add(index, term, nil)
	}
	if len(re.GetData()) == 0 {
		return batch.Add(index, term, nil) // the first entry of a leader's term
	}
	e, err := decodeEntry(re.GetData())
	if err != nil {
		return fmt.Errorf("entry %d: %w", index, err)
	}
	epoch, number, part := batch.Place()
	if e.kind == KindFence {
		if e.epoch > epoch {
			batch.SetPlace(e.epoch, 0)
			note.fence, note.part = e.epoch, part
		}
		return batch.Add(index, term, nil)
	}
	if e.epoch != epoch || e.number != number+1 {
		return batch.Add(index, term, nil) // of an epoch that has ended, or here before
	}
	batch.SetPlace(e.epoch, e.number)
	a.entries = append(a.entries, appliedEntry{e.epoch, e.number, index})
	switch e.kind {
	case KindPart:
		if e.id <= part {
			e.effects = nil
			break
		}
		batch.SetPart(e.id)
	case KindDecision:
		if err := batch.SetDecision(index, e.parts); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
	case KindEffects, KindFence:
	}
	return batch.Add(index, term, e.effects)
}
