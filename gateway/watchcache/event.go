package watchcache

import (
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// eventOverhead is what an event costs in memory besides its key and value.
const eventOverhead = 200

// Event is one change of one key, shared by all watchers. It is immutable but
// for what is filled in lazily.
type Event struct {
	plain    *mvccpb.Event
	revision int64
	// bytes is what the event costs in memory, roughly.
	bytes int

	// prev is the key before the event once somebody knows it; noPrevious if
	// there was none.
	prev atomic.Pointer[mvccpb.KeyValue]
	// full is the variant with PrevKv, once somebody wanted it.
	full atomic.Pointer[mvccpb.Event]
}

// noPrevious stands for a key that did not exist.
var noPrevious = &mvccpb.KeyValue{}

func (e *Event) init(ev *mvccpb.Event) {
	e.plain = ev
	e.revision = ev.Kv.ModRevision
	e.bytes = len(ev.Kv.Key) + len(ev.Kv.Value) + eventOverhead
}

// Revision returns the event's main revision.
func (e *Event) Revision() int64 { return e.revision }

// Plain returns the event without PrevKv. It must not be changed.
func (e *Event) Plain() *mvccpb.Event { return e.plain }

// creates says whether the key did not exist before.
func (e *Event) creates() bool {
	return e.plain.Type == mvccpb.Event_PUT && e.plain.Kv.CreateRevision == e.plain.Kv.ModRevision
}

// previousLocks bounds how many previous values are read at the same time, and
// lets those who want the same one wait for it.
const previousLocks = 64

// WithPrevious returns the event with PrevKv, if the key existed before and its
// previous value has not been compacted. It must not be changed. The previous
// value is read from the store once for all watchers, if the hub does not
// remember it.
func (h *Hub) WithPrevious(e *Event) (*mvccpb.Event, error) {
	// NB: also if we still know it: what a client is told must not depend on
	// what happens to be in memory.
	if e.creates() || e.revision-1 < h.source.Compacted() {
		return e.plain, nil
	}
	if full := e.full.Load(); full != nil {
		return full, nil
	}
	prev := e.prev.Load()
	if prev == nil {
		mu := &h.previousMu[e.revision%previousLocks]
		mu.Lock()
		defer mu.Unlock()
		if full := e.full.Load(); full != nil {
			return full, nil
		}
		var err error
		if prev, err = h.readPrevious(e); err != nil {
			return nil, err
		}
		e.prev.Store(prev)
	}
	full := e.plain
	if prev != noPrevious {
		full = &mvccpb.Event{Type: e.plain.Type, Kv: e.plain.Kv, PrevKv: prev}
	}
	e.full.Store(full)
	return full, nil
}

// readPrevious asks the store. As in etcd, a value that has been compacted in
// the meantime is as good as none.
func (h *Hub) readPrevious(e *Event) (*mvccpb.KeyValue, error) {
	h.previousRead.Add(1)
	prev, err := h.source.Previous(e.plain.Kv.Key, e.revision)
	switch {
	case err != nil && e.revision-1 < h.source.Compacted():
		return noPrevious, nil
	case err != nil:
		return nil, fmt.Errorf("watchcache: previous value at revision %d: %w", e.revision, err)
	case prev == nil:
		return noPrevious, nil
	}
	return prev, nil
}
