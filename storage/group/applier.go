package group

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// applier applies committed entries on a goroutine of its own: a store that
// waits for its disk must not hold up raft.
type applier struct {
	g      *Group
	flight flight
	// index is the last applied.
	index atomic.Uint64
	// headers is scratch.
	headers []entryHeader

	mu      sync.Mutex // guards the fields below; nothing is taken after it
	queue   []*raftpb.Message
	closed  bool
	wake    chan struct{}
	stopped chan struct{}
}

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

func (a *applier) submit(m *raftpb.Message) {
	a.mu.Lock()
	a.queue = append(a.queue, m)
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
	var work []*raftpb.Message
	for range a.wake {
		a.mu.Lock()
		work, a.queue = a.queue, work[:0]
		closed := a.closed
		a.mu.Unlock()
		for _, m := range work {
			if err := a.apply(m); err != nil {
				if !errors.Is(err, ErrStopped) {
					a.g.cfg.Fatal(fmt.Errorf("group: apply: %w", err))
				}
				return
			}
		}
		clear(work)
		if closed {
			return
		}
	}
}

// apply applies the entries of one raft message in one batch, and answers.
func (a *applier) apply(m *raftpb.Message) error {
	entries := m.GetEntries()
	last := entries[len(entries)-1]
	batch := a.g.cfg.Store.NewBatch()
	a.headers = a.headers[:0]
	for _, e := range entries {
		if err := a.add(batch, e); err != nil {
			batch.Drop()
			return err
		}
	}
	began := a.g.cfg.Clock.Now()
	out, err := batch.Commit()
	if err != nil {
		return err
	}
	if a.g.cfg.ApplySeconds != nil {
		a.g.cfg.ApplySeconds.Observe(a.g.cfg.Clock.Since(began).Seconds())
	}
	a.index.Store(last.GetIndex())
	a.g.cfg.Log.setApplied(last.GetIndex())
	a.g.cfg.Observer.Applied(out)
	// An entry leaves the flight only now that the store shows it: a request
	// that saw it and changed nothing itself waits for it until then.
	note := appliedNote{response: m.GetResponses()[0], term: last.GetTerm()}
	for _, h := range a.headers {
		waiting, own := a.flight.applied(h)
		for _, p := range waiting {
			close(p.done)
		}
		if own {
			note.own++
		}
	}
	// Terms never go back in a log: what was proposed in one before and is not
	// applied yet was replaced by another leader's entries.
	a.flight.fail(last.GetTerm(), ErrLeaderChanged)
	_ = a.g.inbox.apply(note)
	return nil
}

// add adds an entry's effects, if it has any and they hold.
func (a *applier) add(batch *mvcc.Batch, e *raftpb.Entry) error {
	var effects []byte
	switch e.GetType() {
	case raftpb.EntryNormal:
		if len(e.GetData()) == 0 {
			break // the first entry of a leader's term
		}
		h, data, err := splitEntry(e.GetData())
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		if h.term != e.GetTerm() {
			break // evaluated against a state that was not the one here
		}
		effects = data
		a.headers = append(a.headers, h)
	case raftpb.EntryConfChange, raftpb.EntryConfChangeV2:
		if err := a.conf(batch, e); err != nil {
			return err
		}
	}
	return batch.Add(e.GetIndex(), e.GetTerm(), effects)
}

// conf has the loop apply a change of the configuration, which only it may.
func (a *applier) conf(batch *mvcc.Batch, e *raftpb.Entry) error {
	var cc raftpb.ConfChangeI
	if e.GetType() == raftpb.EntryConfChange {
		c := &raftpb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), c); err != nil {
			return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		cc = c
	} else {
		c := &raftpb.ConfChangeV2{}
		if err := proto.Unmarshal(e.GetData(), c); err != nil {
			return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		cc = c
	}
	done := make(chan []byte, 1)
	if err := a.g.inbox.call(func() { done <- a.g.applyConfChange(cc) }); err != nil {
		return err
	}
	select {
	case row := <-done:
		return batch.SetConfState(row)
	case <-a.g.stopped:
		return ErrStopped
	}
}
