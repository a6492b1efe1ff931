package evaluate

import (
	"context"
	"fmt"
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
	// change takes the effect of a change at the revision main.sub. The order of
	// calls is that of revisions.
	change(main, sub int64, c *change)
	// core returns where the effects go that are not about keys.
	core() *mvcc.Effects
	// revoked follows on the effect of a revocation.
	revoked(lease int64)
}

// stage is where requests are evaluated one after another: the applied state,
// what is in flight over it, and what has been evaluated for the entry that is
// being built.
type stage struct {
	state              State
	leases             Leases
	minTTL             int64
	next               func() int64
	giveBack           func(int64)
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
	// main is the request's own revision, 0 before its first change.
	main    int64
	changes []change
	// special are the effects of leases, compaction and records.
	special func(*mvcc.Effects)
	leaseID int64
	leased  bool
	compact int64
	// table gets the version, where one is changed.
	table   string
	version int64
}

type change struct {
	key []byte
	// name is the key, for maps.
	name        string
	v           *version
	leaseBefore int64
}

func (c *change) encode(e *mvcc.Effects, sub int64) {
	if c.v.deleted {
		e.Delete(sub, c.key, c.leaseBefore)
	} else {
		e.Put(sub, c.key, c.v.head, c.leaseBefore, c.v.value)
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
	if len(r.changes) > 0 {
		if r.main <= s.newest {
			panic(fmt.Sprintf("evaluate: revision %d follows %d", r.main, s.newest))
		}
		s.newest = r.main
		if in.first == 0 {
			in.first = r.main
		}
	}
	for sub := range r.changes {
		c := &r.changes[sub]
		s.scope.change(r.main, int64(sub), c)
		c.v.entry = in.number
		in.keys = append(in.keys, c.name)
		s.overlay.keys[c.name] = c.v
	}
	if r.special != nil {
		r.special(s.scope.core())
	}
	if r.leaseID != 0 {
		s.overlay.leases[r.leaseID] = leaseInFlight{r.leased, in.number}
		in.leases = append(in.leases, r.leaseID)
		if !r.leased {
			s.scope.revoked(r.leaseID)
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
	name := string(key)
	r.changes = append(r.changes, change{key, name, v, leaseBefore})
	r.s.w.own[name] = v
}
