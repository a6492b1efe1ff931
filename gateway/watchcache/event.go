package watchcache

import (
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/gateway/wire"
)

// eventOverhead is what an event costs in memory besides its key and value.
const eventOverhead = 200

// Event is one change of one key, shared by all watchers. It is immutable but
// for what is filled in lazily.
type Event struct {
	plain    *mvccpb.Event
	revision int64
	// wire is the event as it is sent, without PrevKv; plain lies in it.
	wire []byte
	// bytes is what the event costs in memory, roughly.
	bytes int

	// prev is the key before the event once somebody knows it; noPrevious if
	// there was none.
	prev atomic.Pointer[mvccpb.KeyValue]
	// full is the variant with PrevKv, as it is sent, once somebody wanted it.
	full atomic.Pointer[[]byte]
}

// noPrevious stands for a key that did not exist.
var noPrevious = &mvccpb.KeyValue{}

// newEvent encodes an event, once for all who get it. Key and value are copied: what
// they came in, an entry of many changes, need not live as long as they do.
func newEvent(ev *mvccpb.Event) *Event {
	encoded, kv := wire.EncodeEvent(ev)
	e := &Event{
		plain:    &mvccpb.Event{Type: ev.Type, Kv: kv},
		revision: kv.ModRevision,
		wire:     encoded,
	}
	e.bytes = len(kv.Key) + len(kv.Value) + eventOverhead
	return e
}

// Wire returns the event without PrevKv as it is sent: an encoded mvccpb.Event,
// without tag and length. It must not be changed.
func (e *Event) Wire() []byte { return e.wire }

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

// WithPrevious returns the event as Wire does, and with PrevKv if the key existed
// before and its previous value has not been compacted. The previous value is read
// from the store once for all watchers, if the hub does not remember it.
func (h *Hub) WithPrevious(e *Event) ([]byte, error) {
	// NB: also if we still know it: what a client is told must not depend on
	// what happens to be in memory.
	if e.creates() || e.revision-1 < h.source.Compacted() {
		return e.wire, nil
	}
	if full := e.full.Load(); full != nil {
		return *full, nil
	}
	prev := e.prev.Load()
	if prev == nil {
		mu := &h.previousMu[e.revision%previousLocks]
		mu.Lock()
		defer mu.Unlock()
		if full := e.full.Load(); full != nil {
			return *full, nil
		}
		var err error
		if prev, err = h.readPrevious(e); err != nil {
			return nil, err
		}
		e.prev.Store(prev)
	}
	full := e.wire
	if prev != noPrevious {
		full = wire.WithPrevious(e.wire, prev)
	}
	e.full.Store(&full)
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
