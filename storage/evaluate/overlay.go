package evaluate

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// version is the newest version of a key that is not applied yet.
type version struct {
	head    mvcc.Head
	value   []byte
	deleted bool
	// entry is the number of the entry that brings it.
	entry uint64
}

// overlay is what lies over the applied state: the newest version of each key
// that is in flight. It always covers everything that is not applied; it may
// hold a version that has just been, which is the same as the store's.
type overlay struct {
	keys map[string]*version
	// leases in flight: granted (true) or revoked (false).
	leases map[int64]leaseInFlight
	// records are the versions of the tables that are changed in flight.
	records map[string]recordsInFlight
}

type leaseInFlight struct {
	exists bool
	entry  uint64
}

type recordsInFlight struct {
	version int64
	entry   uint64
}

func newOverlay() overlay {
	return overlay{
		keys: map[string]*version{}, leases: map[int64]leaseInFlight{}, records: map[string]recordsInFlight{},
	}
}

func (o *overlay) reset() {
	clear(o.keys)
	clear(o.leases)
	clear(o.records)
}

// working is the state in the middle of a request: what is applied, what is in
// flight over it, and the request's own changes over that.
type working struct {
	state    State
	heads    heads
	inFlight map[string]*version
	own      map[string]*version
}

// unapplied returns the key's newest version over the store, nil for none.
func (w *working) unapplied(key []byte) *version {
	if v, ok := w.own[string(key)]; ok {
		return v
	}
	return w.inFlight[string(key)]
}

// head returns the key's newest version without its value.
func (w *working) head(key []byte) (mvcc.Head, bool, error) {
	if v := w.unapplied(key); v != nil {
		return v.head, !v.deleted, nil
	}
	if h, ok := w.heads.get(key); ok {
		return h.head, h.ok, nil
	}
	h, ok, err := w.state.Head(key)
	if err == nil {
		w.heads.put(string(key), headOrNone{h, ok})
	}
	return h, ok, err
}

func (w *working) get(key []byte) (*mvccpb.KeyValue, error) {
	if v := w.unapplied(key); v != nil {
		return v.show(bytes.Clone(key)), nil
	}
	return w.state.Latest(key)
}

// show returns what a reader sees of the version; key is kept.
func (v *version) show(key []byte) *mvccpb.KeyValue {
	if v.deleted {
		return nil
	}
	return &mvccpb.KeyValue{
		Key: key, Value: v.value,
		CreateRevision: v.head.Create, ModRevision: v.head.Mod, Version: v.head.Version, Lease: v.head.Lease,
	}
}

func (w *working) scan(ctx context.Context, span mvcc.Span) (mvcc.Cursor, error) {
	// The keys over the store are collected before the store is looked at: a
	// key can leave inFlight only on this goroutine, after it was applied.
	over := w.keysIn(span)
	base, err := w.state.ScanLatest(ctx, span)
	if err != nil {
		return nil, err
	}
	return &merged{w: w, base: base, over: over}, nil
}

// knownCount and noteCount: counts are kept for settled revisions only.
func (w *working) knownCount(mvcc.Span) (int64, bool) { return 0, false }
func (w *working) noteCount(mvcc.Span, int64)         {}

// keysIn returns the keys of span that have an unapplied version, sorted. It
// looks at all of them: they are few.
func (w *working) keysIn(span mvcc.Span) []string {
	var keys []string
	for k := range w.inFlight {
		if span.Contains([]byte(k)) {
			keys = append(keys, k)
		}
	}
	for k := range w.own {
		if _, both := w.inFlight[k]; !both && span.Contains([]byte(k)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// merged walks the store's keys and those over it in one order.
type merged struct {
	w    *working
	base *mvcc.Scanner
	over []string

	baseKey  []byte
	baseOK   bool
	baseRead bool
	// current is the unapplied version that the cursor stands on, nil when it
	// stands on base.
	current    *version
	currentKey []byte
}

// Next moves to the next key that is there.
func (m *merged) Next() bool {
	for {
		if !m.baseRead {
			m.baseRead = true
			if m.baseOK = m.base.Next(); m.baseOK {
				m.baseKey = m.base.Key()
			}
		}
		if m.base.Err() != nil {
			return false
		}
		if len(m.over) == 0 {
			m.current = nil
			m.currentKey, m.baseRead = m.baseKey, false
			return m.baseOK
		}
		order := -1
		if m.baseOK {
			order = strings.Compare(m.over[0], string(m.baseKey))
		}
		if order > 0 {
			m.current = nil
			m.currentKey, m.baseRead = m.baseKey, false
			return true
		}
		if order == 0 {
			m.baseRead = false // the store's version is hidden
		}
		key := m.over[0]
		m.over = m.over[1:]
		v := m.w.unapplied([]byte(key))
		if v.deleted {
			continue
		}
		m.current, m.currentKey = v, []byte(key)
		return true
	}
}

// Key returns the current key, valid until the next move.
func (m *merged) Key() []byte { return m.currentKey }

// KV returns the current key and value.
func (m *merged) KV(keysOnly bool) (*mvccpb.KeyValue, error) {
	if m.current == nil {
		return m.base.KV(keysOnly)
	}
	kv := m.current.show(m.currentKey)
	if keysOnly {
		kv.Value = nil
	}
	return kv, nil
}

// CountRest counts the keys from the next one on and ends the walk.
func (m *merged) CountRest() (int64, error) {
	var n int64
	for m.Next() {
		n++
	}
	return n, m.Err()
}

// Err returns what ended the walk early.
func (m *merged) Err() error { return m.base.Err() }

// Close gives the view back.
func (m *merged) Close() error { return m.base.Close() }
