package evaluate

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Reader is a state in which nothing changes any more at the revisions that are
// asked for. *mvcc.Store and *keyspace.Space are Readers. The KeyValues that it and
// its cursors return must not be changed.
type Reader interface {
	// Get returns the key at revision rev, nil if it is not there.
	Get(key []byte, rev int64) (*mvccpb.KeyValue, error)
	Scan(ctx context.Context, span mvcc.Span, rev int64) (mvcc.Cursor, error)
	// KnownCount and NoteCount keep the counts that one page of a list finds for
	// the next.
	KnownCount(span mvcc.Span, rev int64) (int64, bool)
	NoteCount(span mvcc.Span, rev, n int64)
	Compacted() int64
}

// State is an applied state that evaluation stands on.
type State interface {
	Reader
	// Revision is the greatest revision that is applied.
	Revision() int64
	// Head, Latest and ScanLatest are of everything applied so far.
	Head(key []byte) (mvcc.Head, bool, error)
	Latest(key []byte) (*mvccpb.KeyValue, error)
	ScanLatest(ctx context.Context, span mvcc.Span) (*mvcc.Scanner, error)
	LeaseKeys(id int64) ([][]byte, error)
}

// scope is what differs between the requests of one group and those of several:
// which leases they may touch, and where their effects go.
type scope interface {
	// mayAttach says whether key may be attached to the lease.
	mayAttach(lease int64, key []byte) error
	// mayRevoke says whether the lease, which exists, may be revoked.
	mayRevoke(lease int64) error
	// change takes the effect of a change. The order of calls is that of revisions.
	change(c *change)
	// jump has the revision be main, at which nothing is changed.
	jump(main int64)
	// core returns where the effects go that are not about keys.
	core() *mvcc.Effects
	// revoked follows on the effect of a revocation.
	revoked(lease int64)
}

// stage is where requests are evaluated one after another: the applied state,
// what is in flight over it, and what has been evaluated for the entry that is
// being built.
type stage struct {
	state    State
	leases   Leases
	minTTL   int64
	next     func() int64
	giveBack func(int64)
	// nextAt takes a revision for a Mirror; nil where there is none.
	nextAt func(revision int64)
	// mirroring says that another cluster is mirrored; nil for never.
	mirroring          func() bool
	present, compacted func() int64
	panicked           func(Op, any, []byte)
	// records returns the version of a table; nil where there are none.
	records func(table string) (int64, error)
	scope   scope

	overlay overlay
	w       working
	// newest is the greatest revision that was applied, or taken here. compact is
	// the greatest compaction that was evaluated here, 0 if none was.
	newest, compact int64
	// entries are those in flight and the one being built, number that of the
	// last.
	number  uint64
	entries []entry
}

// entry remembers what an entry put into the overlay.
type entry struct {
	number uint64
	// first is its least revision, 0 if it has none.
	first  int64
	keys   []string
	leases []int64
	tables []string
}

func (s *stage) init(sc scope) {
	s.scope = sc
	s.overlay = newOverlay()
	s.w = working{state: s.state, inFlight: s.overlay.keys, own: map[string]*version{}}
	if s.compacted == nil {
		s.compacted = s.state.Compacted
	}
	s.reset()
}

func (s *stage) reset() {
	s.overlay.reset()
	s.w.heads.reset()
	s.entries = s.entries[:0]
	s.newest = s.state.Revision()
	s.compact = 0
}

func (s *stage) begin() {
	s.number++
	s.entries = append(s.entries, entry{number: s.number})
}

func (s *stage) applied() {
	done := s.entries[0]
	s.entries = slices.Delete(s.entries, 0, 1)
	for _, k := range done.keys {
		if v := s.overlay.keys[k]; v != nil && v.entry == done.number {
			delete(s.overlay.keys, k)
			s.w.heads.put(k, headOrNone{v.head, !v.deleted})
		}
	}
	for _, id := range done.leases {
		if l, ok := s.overlay.leases[id]; ok && l.entry == done.number {
			delete(s.overlay.leases, id)
		}
	}
	for _, t := range done.tables {
		if r := s.overlay.records[t]; r.entry == done.number {
			delete(s.overlay.records, t)
		}
	}
}

// unsettled says whether a change up to revision rev is in flight.
func (s *stage) unsettled(rev int64) bool {
	for i := range s.entries {
		if first := s.entries[i].first; first != 0 {
			return first <= rev
		}
	}
	return false
}

func (s *stage) leaseExists(id int64) bool {
	if l, ok := s.overlay.leases[id]; ok {
		return l.exists
	}
	return s.leases.Exists(id)
}

func (s *stage) do(ctx context.Context, op Op) (Result, error) {
	r := request{s: s, ctx: ctx, head: s.newest, compacted: max(s.compact, s.compacted())}
	if s.present != nil {
		r.head = max(r.head, s.present())
	}
	if err := s.mayRun(op); err != nil {
		return Result{}, err
	}
	res, err := r.evaluate(op)
	clear(s.w.own)
	if err != nil {
		if r.main != 0 && s.giveBack != nil {
			s.giveBack(r.main)
		}
		return Result{}, err
	}
	if r.main != 0 {
		r.settle(&res)
	}
	if r.last != 0 {
		r.takeMirrored()
	}
	r.commit()
	return res, nil
}

// settle has what the request did before its first change show the revision before
// its own, as it would in one group: those between head and that one are of other
// groups. Whoever is told main may be told of them.
func (r *request) settle(res *Result) {
	if res.Revision == r.head {
		res.Revision = r.main - 1
	}
	for i := range res.Responses {
		r.settle(&res.Responses[i])
	}
}

// request is one request in evaluation: changes are gathered here, and reach
// the entry and the overlay together in commit.
type request struct {
	s   *stage
	ctx context.Context
	// head is what the request sees as the current revision, compacted as that of
	// the last compaction.
	head, compacted int64
	// main is the request's own revision, 0 before its first change. A Mirror has
	// none: its changes say theirs.
	main int64
	// last is the revision that a Mirror jumps to, 0 for none.
	last    int64
	changes []change
	// before and after are the effects of leases, compaction and records, before those
	// of the changes and after.
	before, after []func(*mvcc.Effects)
	// leases are those that are granted or revoked.
	leases  map[int64]bool
	compact int64
	// table gets the version, where one is changed.
	table   string
	version int64
}

type change struct {
	main, sub int64
	key       []byte
	// name is the key, for maps.
	name        string
	v           *version
	leaseBefore int64
}

func (c *change) encode(e *mvcc.Effects) {
	if c.v.deleted {
		e.Delete(c.sub, c.key, c.leaseBefore)
	} else {
		e.Put(c.sub, c.key, c.v.head, c.leaseBefore, c.v.value)
	}
}

// evaluate runs the request. A panic is an error of the one request.
func (r *request) evaluate(op Op) (res Result, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			if r.s.panicked != nil {
				r.s.panicked(op, cause, debug.Stack())
			}
			err = ErrInternal
		}
	}()
	err = r.run(op, &res)
	return res, err
}

// commit writes the request's effects, and makes its changes visible to the
// requests after it. Nothing can go wrong any more: what does ends the process.
func (r *request) commit() {
	s := r.s
	in := &s.entries[len(s.entries)-1]
	for _, effect := range r.before {
		effect(s.scope.core())
	}
	if n := len(r.changes); n > 0 {
		s.take(in, r.changes[0].main, r.changes[n-1].main)
	}
	for i := range r.changes {
		c := &r.changes[i]
		s.scope.change(c)
		c.v.entry = in.number
		in.keys = append(in.keys, c.name)
		s.overlay.keys[c.name] = c.v
	}
	if r.last > s.newest {
		s.take(in, r.last, r.last)
		s.scope.jump(r.last)
	}
	for _, effect := range r.after {
		effect(s.scope.core())
	}
	for id, there := range r.leases {
		s.overlay.leases[id] = leaseInFlight{there, in.number}
		in.leases = append(in.leases, id)
	}
	for _, id := range slices.Sorted(maps.Keys(r.leases)) {
		if !r.leases[id] {
			s.scope.revoked(id)
		}
	}
	if r.table != "" {
		s.overlay.records[r.table] = recordsInFlight{r.version, in.number}
		in.tables = append(in.tables, r.table)
	}
	if r.compact != 0 {
		s.compact = r.compact
	}
}

// take notes that the entry has changes from one revision on, up to another.
func (s *stage) take(in *entry, first, last int64) {
	if first <= s.newest {
		panic(fmt.Sprintf("evaluate: revision %d follows %d", first, s.newest))
	}
	s.newest = last
	if in.first == 0 {
		in.first = first
	}
}

// now is the revision that an answer shows at this point of the request.
func (r *request) now() int64 {
	if r.main != 0 {
		return r.main
	}
	return r.head
}

// change notes a change; later steps of the request see it. The first takes the
// request's revision.
func (r *request) change(key []byte, v *version, leaseBefore int64) {
	if r.main == 0 {
		r.main = r.s.next()
	}
	if !v.deleted {
		v.head.Mod = r.main
		if v.head.Create == 0 {
			v.head.Create = r.main
		}
	}
	r.add(change{main: r.main, sub: int64(len(r.changes)), key: key, name: string(key), v: v, leaseBefore: leaseBefore})
}

// add notes a change that has its revision.
func (r *request) add(c change) {
	r.changes = append(r.changes, c)
	r.s.w.own[c.name] = c.v
}

// lease notes that a lease is granted or revoked.
func (r *request) lease(id int64, there bool) {
	if r.leases == nil {
		r.leases = map[int64]bool{}
	}
	r.leases[id] = there
}

func (r *request) leaseExists(id int64) bool {
	if there, ok := r.leases[id]; ok {
		return there
	}
	return r.s.leaseExists(id)
}
