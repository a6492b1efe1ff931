package sim

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Semantic returns the failure that err is, if it is part of etcd's semantics
// and not of the world, and else nil.
func Semantic(err error) error {
	for _, e := range []error{
		mvcc.ErrCompacted, mvcc.ErrFutureRevision, evaluate.ErrKeyNotFound,
		lease.ErrNotFound, lease.ErrExists, lease.ErrTTLTooLarge,
	} {
		if errors.Is(err, e) {
			return e
		}
	}
	return nil
}

// A change is one put or deletion of one key. It is never modified.
type change struct {
	// kv is the key's new state; for a deletion it holds the key and the
	// revision of the deletion, as etcd's events do.
	kv      *mvccpb.KeyValue
	deleted bool
	// sub is the place among the changes of one revision.
	sub int64
}

// Model is a store with etcd's semantics, in memory.
type Model struct {
	// MinTTL is the least time to live that a lease is granted, in seconds.
	MinTTL int64
	// Quirks makes two answers those of etcd 3.7, against etcd's own API
	// documentation: keys-only answers leave out leases, and a limit without a
	// sort order is applied before the sort, by key.
	Quirks bool

	// revision is that of the last change, 1 on a fresh store.
	revision int64
	// compacted is the last compaction's revision, -1 if there was none.
	compacted int64
	// history is every change in order, and keys is the same by key. A change
	// of the txn that runs now has the mod revision revision+1.
	history []change
	keys    map[string][]change
	// leases maps a lease to its time to live in seconds.
	leases map[int64]int64
}

// NewModel returns a fresh store.
func NewModel() *Model {
	return &Model{
		MinTTL:    2,
		revision:  1,
		compacted: -1,
		keys:      map[string][]change{},
		leases:    map[int64]int64{},
	}
}

// Clone returns a model of its own with the same history.
func (m *Model) Clone() *Model {
	c := *m
	c.history, c.leases, c.keys = slices.Clone(m.history), maps.Clone(m.leases), map[string][]change{}
	for k, changes := range m.keys {
		c.keys[k] = slices.Clone(changes)
	}
	return &c
}

// Revision is the revision of the last change, 1 on a fresh store.
func (m *Model) Revision() int64 { return m.revision }

// Compacted is the revision of the last compaction, -1 if there was none.
func (m *Model) Compacted() int64 { return m.compacted }

// Leases lists the leases there are, in ascending order.
func (m *Model) Leases() []int64 { return slices.Sorted(maps.Keys(m.leases)) }

// Get returns the key's present state, nil if it does not exist.
func (m *Model) Get(key []byte) *mvccpb.KeyValue { return m.at(string(key), m.revision) }

// Do runs one request.
func (m *Model) Do(op evaluate.Op) (evaluate.Result, error) {
	switch op := op.(type) {
	case *evaluate.Txn:
		return m.run(op)
	case *evaluate.Range, *evaluate.Put, *evaluate.DeleteRange:
		// One step alone behaves as in a txn of its own, but that a negative
		// revision is the head.
		if r, ok := op.(*evaluate.Range); ok && r.Revision < 0 {
			head := *r
			head.Revision = 0
			op = &head
		}
		res, err := m.run(&evaluate.Txn{Success: []evaluate.Op{op}})
		if err != nil {
			return evaluate.Result{}, err
		}
		return res.Responses[0], nil
	case *evaluate.Compact:
		return m.compact(op)
	case *evaluate.LeaseGrant:
		return m.grant(op)
	case *evaluate.LeaseRevoke:
		return m.revoke(op)
	case *evaluate.LeaseCheckpoint:
		return evaluate.Result{Revision: m.revision}, nil
	default:
		panic(fmt.Sprintf("sim: unknown op %T", op))
	}
}

// at returns the key's state at a revision, nil if it did not exist then.
func (m *Model) at(key string, revision int64) *mvccpb.KeyValue {
	for _, c := range slices.Backward(m.keys[key]) {
		if c.kv.ModRevision <= revision {
			if c.deleted {
				return nil
			}
			return c.kv
		}
	}
	return nil
}

// within says whether key lies in the span of key and end as requests give it.
func within(k string, key, end []byte) bool {
	switch {
	case len(end) == 0:
		return k == string(key)
	case string(end) == "\x00":
		return k >= string(key)
	default:
		return k >= string(key) && k < string(end)
	}
}

// live returns what is in a span at a revision, in key order.
func (m *Model) live(key, end []byte, revision int64) []*mvccpb.KeyValue {
	var kvs []*mvccpb.KeyValue
	for _, k := range slices.Sorted(maps.Keys(m.keys)) {
		if kv := m.at(k, revision); kv != nil && within(k, key, end) {
			kvs = append(kvs, kv)
		}
	}
	return kvs
}

// now is the revision that a step of a running txn sees: the txn's own, from
// its first change on.
func (m *Model) now() int64 {
	if n := len(m.history); n > 0 {
		return max(m.revision, m.history[n-1].kv.ModRevision)
	}
	return m.revision
}

// A step is an op whose compares have been decided.
type step struct {
	op        evaluate.Op
	succeeded bool
	steps     []step
}

// run is a txn: first every compare of it, nested ones too, against the state
// before it; then every check, against the same; then its steps.
func (m *Model) run(t *evaluate.Txn) (evaluate.Result, error) {
	s := m.decide(t)
	if err := m.check(s); err != nil {
		return evaluate.Result{}, err
	}
	before := len(m.history)
	res, err := m.execute(s)
	if err != nil {
		m.undo(before)
		return evaluate.Result{}, err
	}
	m.revision = m.now()
	return res, nil
}

// undo takes back every change from number n on.
func (m *Model) undo(n int) {
	for _, c := range m.history[n:] {
		k := string(c.kv.Key)
		m.keys[k] = m.keys[k][:len(m.keys[k])-1]
	}
	m.history = m.history[:n]
}

func (m *Model) decide(op evaluate.Op) step {
	t, ok := op.(*evaluate.Txn)
	if !ok {
		return step{op: op}
	}
	s := step{op: op, succeeded: true}
	for _, c := range t.Compare {
		s.succeeded = s.succeeded && m.holds(c)
	}
	branch := t.Success
	if !s.succeeded {
		branch = t.Failure
	}
	for _, o := range branch {
		s.steps = append(s.steps, m.decide(o))
	}
	return s
}

// holds says whether a compare holds for every key in its span. Where there is
// none, it is made with a key of version 0, revisions 0 and lease 0, and fails
// if it is about the value.
func (m *Model) holds(c evaluate.Compare) bool {
	kvs := m.live(c.Key, c.End, m.revision)
	if len(kvs) == 0 {
		if c.Target == evaluate.CompareValue {
			return false
		}
		kvs = []*mvccpb.KeyValue{{}}
	}
	for _, kv := range kvs {
		var order int
		switch c.Target {
		case evaluate.CompareVersion:
			order = cmp.Compare(kv.Version, c.Number)
		case evaluate.CompareCreate:
			order = cmp.Compare(kv.CreateRevision, c.Number)
		case evaluate.CompareMod:
			order = cmp.Compare(kv.ModRevision, c.Number)
		case evaluate.CompareLease:
			order = cmp.Compare(kv.Lease, c.Number)
		case evaluate.CompareValue:
			order = bytes.Compare(kv.Value, c.Value)
		}
		var ok bool
		switch c.Result {
		case evaluate.CompareEqual:
			ok = order == 0
		case evaluate.CompareGreater:
			ok = order > 0
		case evaluate.CompareLess:
			ok = order < 0
		case evaluate.CompareNotEqual:
			ok = order != 0
		}
		if !ok {
			return false
		}
	}
	return true
}

// check finds what makes a request fail, before any of it is done.
func (m *Model) check(s step) error {
	switch op := s.op.(type) {
	case *evaluate.Range:
		return m.checkRevision(op.Revision)
	case *evaluate.Put:
		if _, ok := m.leases[op.Lease]; op.Lease != 0 && !ok {
			return lease.ErrNotFound
		}
		if (op.IgnoreValue || op.IgnoreLease) && m.Get(op.Key) == nil {
			return evaluate.ErrKeyNotFound
		}
	case *evaluate.Txn:
		for _, s := range s.steps {
			if err := m.check(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Model) checkRevision(revision int64) error {
	switch {
	case revision == 0:
		return nil
	case revision > m.revision:
		return mvcc.ErrFutureRevision
	case revision < m.compacted:
		return mvcc.ErrCompacted
	default:
		return nil
	}
}

func (m *Model) execute(s step) (evaluate.Result, error) {
	switch op := s.op.(type) {
	case *evaluate.Range:
		return m.read(op), nil
	case *evaluate.Put:
		return m.put(op)
	case *evaluate.DeleteRange:
		return m.deleteRange(op), nil
	case *evaluate.Txn:
		res := evaluate.Result{Succeeded: s.succeeded}
		for _, s := range s.steps {
			r, err := m.execute(s)
			if err != nil {
				return evaluate.Result{}, err
			}
			res.Responses = append(res.Responses, r)
		}
		res.Revision = m.now()
		return res, nil
	default:
		panic(fmt.Sprintf("sim: %T in a txn", op))
	}
}

// write adds a change to the running txn.
func (m *Model) write(c change) {
	c.kv.ModRevision = m.revision + 1
	if n := len(m.history); n > 0 && m.history[n-1].kv.ModRevision == c.kv.ModRevision {
		c.sub = m.history[n-1].sub + 1
	}
	k := string(c.kv.Key)
	m.history = append(m.history, c)
	m.keys[k] = append(m.keys[k], c)
}

func (m *Model) put(op *evaluate.Put) (evaluate.Result, error) {
	kv := &mvccpb.KeyValue{
		Key: op.Key, Value: op.Value, Lease: op.Lease,
		CreateRevision: m.revision + 1, Version: 1,
	}
	var res evaluate.Result
	switch old := m.at(string(op.Key), m.now()); {
	case old != nil:
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		if op.IgnoreValue {
			kv.Value = old.Value
		}
		if op.IgnoreLease {
			kv.Lease = old.Lease
		}
		if op.PrevKV {
			res.PrevKVs = []*mvccpb.KeyValue{old}
		}
	case op.IgnoreValue || op.IgnoreLease:
		// An earlier step deleted the key.
		return evaluate.Result{}, evaluate.ErrKeyNotFound
	}
	m.write(change{kv: kv})
	res.Revision = m.now()
	return res, nil
}

func (m *Model) deleteRange(op *evaluate.DeleteRange) evaluate.Result {
	var res evaluate.Result
	for _, kv := range m.live(op.Key, op.End, m.now()) {
		m.write(change{kv: &mvccpb.KeyValue{Key: kv.Key}, deleted: true})
		res.Deleted++
		if op.PrevKV {
			res.PrevKVs = append(res.PrevKVs, kv)
		}
	}
	res.Revision = m.now()
	return res
}

// read answers a Range whose revision has been checked.
func (m *Model) read(r *evaluate.Range) evaluate.Result {
	revision := r.Revision
	if revision <= 0 {
		revision = m.now()
	}
	kvs := m.live(r.Key, r.End, revision)
	// The count is that of the span: no filter and no limit lessens it.
	res := evaluate.Result{Revision: m.now(), Count: int64(len(kvs))}
	if r.CountOnly {
		return res
	}
	filtered := r.MinMod != 0 || r.MaxMod != 0 || r.MinCreate != 0 || r.MaxCreate != 0
	if m.Quirks && r.SortOrder == evaluate.SortNone && !filtered && r.Limit > 0 && r.Limit < int64(len(kvs)) {
		kvs = kvs[:r.Limit+1]
	}
	for _, kv := range kvs {
		if (r.MinMod == 0 || kv.ModRevision >= r.MinMod) &&
			(r.MaxMod == 0 || kv.ModRevision <= r.MaxMod) &&
			(r.MinCreate == 0 || kv.CreateRevision >= r.MinCreate) &&
			(r.MaxCreate == 0 || kv.CreateRevision <= r.MaxCreate) {
			res.KVs = append(res.KVs, kv)
		}
	}
	sortBy(res.KVs, r.SortTarget, r.SortOrder)
	if r.Limit > 0 && r.Limit < int64(len(res.KVs)) {
		res.KVs, res.More = res.KVs[:r.Limit], true
	}
	for i, kv := range res.KVs {
		if r.KeysOnly {
			res.KVs[i] = &mvccpb.KeyValue{
				Key: kv.Key, Lease: kv.Lease, Version: kv.Version,
				CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
			}
			if m.Quirks && r.SortTarget != evaluate.SortByValue {
				res.KVs[i].Lease = 0
			}
		}
	}
	return res
}

// sortBy sorts what is in key order; equal ones stay in key order.
func sortBy(kvs []*mvccpb.KeyValue, target evaluate.SortTarget, order evaluate.SortOrder) {
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		var c int
		switch target {
		case evaluate.SortByKey:
			c = bytes.Compare(a.Key, b.Key)
		case evaluate.SortByVersion:
			c = cmp.Compare(a.Version, b.Version)
		case evaluate.SortByCreate:
			c = cmp.Compare(a.CreateRevision, b.CreateRevision)
		case evaluate.SortByMod:
			c = cmp.Compare(a.ModRevision, b.ModRevision)
		case evaluate.SortByValue:
			c = bytes.Compare(a.Value, b.Value)
		}
		if order == evaluate.SortDescend {
			return -c
		}
		return c
	})
}

func (m *Model) compact(op *evaluate.Compact) (evaluate.Result, error) {
	switch {
	case op.Revision <= m.compacted:
		return evaluate.Result{}, mvcc.ErrCompacted
	case op.Revision > m.revision:
		return evaluate.Result{}, mvcc.ErrFutureRevision
	}
	m.compacted = op.Revision
	return evaluate.Result{Revision: m.revision}, nil
}

func (m *Model) grant(op *evaluate.LeaseGrant) (evaluate.Result, error) {
	if op.TTL > lease.MaxTTL {
		return evaluate.Result{}, lease.ErrTTLTooLarge
	}
	if _, ok := m.leases[op.ID]; ok {
		return evaluate.Result{}, lease.ErrExists
	}
	ttl := max(op.TTL, m.MinTTL)
	m.leases[op.ID] = ttl
	return evaluate.Result{Revision: m.revision, TTL: ttl}, nil
}

func (m *Model) revoke(op *evaluate.LeaseRevoke) (evaluate.Result, error) {
	if _, ok := m.leases[op.ID]; !ok {
		return evaluate.Result{}, lease.ErrNotFound
	}
	delete(m.leases, op.ID)
	for _, key := range m.attached(op.ID) {
		m.write(change{kv: &mvccpb.KeyValue{Key: key}, deleted: true})
	}
	m.revision = m.now()
	return evaluate.Result{Revision: m.revision}, nil
}

// attached returns the keys of a lease in ascending order.
func (m *Model) attached(id int64) [][]byte {
	var keys [][]byte
	for _, kv := range m.live([]byte{0}, []byte{0}, m.revision) {
		if kv.Lease == id {
			keys = append(keys, kv.Key)
		}
	}
	return keys
}

// Lease returns the time to live that a lease was granted, in seconds, and its
// keys in ascending order.
func (m *Model) Lease(id int64) (ttl int64, keys [][]byte, err error) {
	ttl, ok := m.leases[id]
	if !ok {
		return 0, nil, lease.ErrNotFound
	}
	return ttl, m.attached(id), nil
}

// Changes returns the events in a span with from <= mod revision <= to, in
// order. They may begin at the compaction's revision: what a key became there
// is kept, even if it is a deletion. PrevKv is the state before the event's
// revision, where that was not compacted.
func (m *Model) Changes(key, end []byte, from, to int64) ([]*mvccpb.Event, error) {
	if from < m.compacted {
		return nil, mvcc.ErrCompacted
	}
	var events []*mvccpb.Event
	for i, c := range m.history {
		k, revision := string(c.kv.Key), c.kv.ModRevision
		if !within(k, key, end) || revision < from || revision > to {
			continue
		}
		if revision == m.compacted && m.supersededAt(i) {
			continue
		}
		e := &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: c.kv, PrevKv: m.Previous(c.kv.Key, revision)}
		if c.deleted {
			e.Type = mvccpb.Event_DELETE
		}
		events = append(events, e)
	}
	return events, nil
}

// History returns every event there ever was, compacted or not, without PrevKv.
func (m *Model) History() []*mvccpb.Event {
	var events []*mvccpb.Event
	for _, c := range m.history {
		e := &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: c.kv}
		if c.deleted {
			e.Type = mvccpb.Event_DELETE
		}
		events = append(events, e)
	}
	return events
}

// Kept counts the changes that the last compaction has left: those after it,
// and what each key was or became at it.
func (m *Model) Kept() int {
	n := 0
	for _, changes := range m.keys {
		last := -1
		for i, c := range changes {
			if c.kv.ModRevision <= m.compacted {
				last = i
			} else {
				n++
			}
		}
		if last >= 0 && (!changes[last].deleted || changes[last].kv.ModRevision == m.compacted) {
			n++
		}
	}
	return n
}

// supersededAt says whether a later change of the same revision is about the
// same key as change number i.
func (m *Model) supersededAt(i int) bool {
	c := m.history[i]
	for _, d := range m.history[i+1:] {
		if d.kv.ModRevision != c.kv.ModRevision {
			return false
		}
		if bytes.Equal(d.kv.Key, c.kv.Key) {
			return true
		}
	}
	return false
}

// Previous returns the key's state just before a revision, nil if it did not
// exist or that has been compacted.
func (m *Model) Previous(key []byte, revision int64) *mvccpb.KeyValue {
	if revision-1 < m.compacted {
		return nil
	}
	return m.at(string(key), revision-1)
}
