package sim_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/keyspace"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// TestGroups runs histories against the states of four groups and their
// evaluators, with no raft between them. Nobody can tell them from one store: the
// answers, revisions, events and checksums are the model's, which knows no groups.
func TestGroups(t *testing.T) {
	var total sim.Tally
	var counts groupsTally
	for i := range histories(60) {
		seed := seedOf(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			replay(t, seed)
			target := newGroupsTarget(t, seed)
			h := sim.NewHistory(seed, target)
			h.Generator.Rewrites = seed%2 == 1
			for range 100 {
				h.Generator.Keys = target.someKeys()
				require.NoError(t, h.Run(10))
			}
			target.checkRows(h.Model)
			require.NoError(t, target.db.Close())
			h.Tally.Histories = 1
			total.Add(h.Tally)
			counts.add(target.counts)
		})
	}
	t.Logf("%+v %+v", total, counts)
	if total.Histories >= 50 {
		require.NotZero(t, counts.crossings)
		require.NotZero(t, counts.batched)
		require.NotZero(t, counts.drains)
		require.NotZero(t, counts.joins)
		require.NotZero(t, counts.leaves)
	}
}

// groupsKeys are on both sides of the borders between groups.
var groupsKeys = []string{
	"\x00", "/registry", "/registry/events", "/registry/events/", "/registry/events/a", "/registry/events/b",
	"/registry/events0", "/registry/leases/a", "/registry/leases/a\x00", "/registry/minions/n", "/registry/pods",
	"/registry/pods-x", "/registry/pods/", "/registry/pods/a", "/registry/pods/b", "/registry/pods0", "\xff",
}

// groupsTable has the routes that the keys are about.
func groupsTable(tb testing.TB) *route.Table {
	tb.Helper()
	table, err := route.Parse("events#events;leases#leases;pods#pods", "/registry")
	require.NoError(tb, err)
	return table
}

// groupsTally counts what only several groups have.
type groupsTally struct {
	// crossings are requests of several groups, batched those that came after
	// another in their batch, drains those that had to wait.
	crossings, batched, drains, joins, leaves int
}

func (t *groupsTally) add(o groupsTally) {
	t.crossings += o.crossings
	t.batched += o.batched
	t.drains += o.drains
	t.joins += o.joins
	t.leaves += o.leaves
}

// groupsTarget is a store of several groups whose logs, in memory, never lose
// anything. A request is answered when it has been evaluated; the groups apply
// some of it later, each at its own pace.
type groupsTarget struct {
	tb    testing.TB
	rng   *rand.Rand
	disk  disk
	db    *engine.DB
	table *route.Table
	space *keyspace.Space
	// prompt says that everything is applied before it is answered.
	prompt   bool
	groups   map[mvcc.GroupID]*groupTarget
	crossing *evaluate.Crossing
	// batch are the groups that a batch of several requests holds, 0 if there is
	// none.
	batch uint64
	// last is the revision that was handed out last, compacted that of the last
	// compaction which core has applied.
	last, compacted int64
	// leases are those that core has applied.
	leases map[int64]*leaseTarget
	counts groupsTally
}

type groupTarget struct {
	id    mvcc.GroupID
	store *mvcc.Store
	eval  *evaluate.Evaluator
	// log has every entry; entry i has index i+1.
	log []groupEntry
}

type groupEntry struct {
	effects []byte
	// first is its least revision, 0 if it has none; crossing says that it is a
	// part of a batch.
	first    int64
	crossing bool
}

type leaseTarget struct {
	ttl    int64
	joined map[mvcc.GroupID]bool
}

func newGroupsTarget(tb testing.TB, seed uint64) *groupsTarget {
	tb.Helper()
	s := &groupsTarget{tb: tb, rng: rand.New(rand.NewPCG(seed, 2)), groups: map[mvcc.GroupID]*groupTarget{}}
	s.disk, s.prompt = newDisk(s.rng), s.rng.IntN(3) == 0
	s.table = groupsTable(tb)
	for _, g := range s.table.Groups() {
		s.groups[g.ID] = &groupTarget{id: g.ID}
	}
	require.NoError(tb, s.open())
	return s
}

func (s *groupsTarget) open() error {
	var err error
	s.db, err = engine.Open(engine.Config{
		Dir: "state", FS: s.disk.fs(), CacheBytes: 1 << 20, MemTableBytes: 64 << 10,
		Logger: slog.New(slog.DiscardHandler),
		Fatal:  func(err error) { s.tb.Errorf("engine: %v", err) },
	})
	if err != nil {
		return err
	}
	stores := map[mvcc.GroupID]*mvcc.Store{}
	for id, g := range s.groups {
		if g.store, err = mvcc.Open(s.db, id); err != nil {
			return err
		}
		if decided := g.store.DeferCompactions(); id == mvcc.CoreGroup {
			s.compacted = decided
		}
		stores[id], g.eval = g.store, nil
	}
	s.space = keyspace.New(s.table, stores)
	if err := s.loadLeases(); err != nil {
		return err
	}
	if err := s.settle(); err != nil {
		return err
	}
	s.last = s.space.Revision()
	for id, g := range s.groups {
		g.eval = evaluate.New(evaluate.Config{
			Store: g.store, Group: id, Leases: s, MinTTL: 2,
			Next: s.next, GiveBack: s.giveBack, Present: s.Present, Compacted: s.decided, Panicked: s.panicked,
		})
	}
	s.crossing = evaluate.NewCrossing(evaluate.CrossingConfig{
		Space: s.space, Route: s.table.Of, Leases: s, MinTTL: 2,
		Next: s.next, GiveBack: s.giveBack, Present: s.Present, Compacted: s.decided, Panicked: s.panicked,
	})
	return nil
}

func (s *groupsTarget) loadLeases() error {
	s.leases = map[int64]*leaseTarget{}
	core := s.groups[mvcc.CoreGroup].store
	err := core.Leases(func(id, ttl, _ int64) {
		s.leases[id] = &leaseTarget{ttl: ttl, joined: map[mvcc.GroupID]bool{}}
	})
	if err != nil {
		return err
	}
	return core.Joins(func(id int64, g mvcc.GroupID) {
		if l := s.leases[id]; l != nil {
			l.joined[g] = true
		} else {
			s.tb.Errorf("group %d takes part in lease %d, which is not there", g, id)
		}
	})
}

func (s *groupsTarget) next() int64 {
	s.last++
	return s.last
}

func (s *groupsTarget) giveBack(rev int64) {
	require.Equal(s.tb, s.last, rev)
	s.last--
}

func (s *groupsTarget) decided() int64 { return s.compacted }

// Present is what was applied, or was answered.
func (s *groupsTarget) Present() int64 {
	if s.prompt {
		return s.space.Revision()
	}
	return s.last
}

func (s *groupsTarget) panicked(op evaluate.Op, cause any, stack []byte) {
	s.tb.Errorf("evaluating %s panicked: %v\n%s", sim.FormatOp(op), cause, stack)
}

// Exists implements evaluate.Leases.
func (s *groupsTarget) Exists(id int64) bool { return s.leases[id] != nil }

// Joined implements evaluate.Leases.
func (s *groupsTarget) Joined(id int64, g mvcc.GroupID) bool {
	l := s.leases[id]
	return l != nil && l.joined[g]
}

// Groups implements evaluate.Leases.
func (s *groupsTarget) Groups(id int64) []mvcc.GroupID {
	if l := s.leases[id]; l != nil {
		return slices.Collect(maps.Keys(l.joined))
	}
	return nil
}

// someKeys picks those that the next requests are about: of one group, half of
// the time, or of several.
func (s *groupsTarget) someKeys() (keys [][]byte) {
	mask := 1 << (1 + s.rng.IntN(len(s.groups)))
	if s.rng.IntN(2) == 0 {
		mask |= s.rng.IntN(1 << (1 + len(s.groups)))
	}
	for _, k := range groupsKeys {
		if mask&(1<<s.table.Of([]byte(k))) != 0 {
			keys = append(keys, []byte(k))
		}
	}
	return keys
}

func (g *groupTarget) applied() int { return int(g.store.Applied().Index) }

// apply applies the group's log up to n entries, in batches of some.
func (s *groupsTarget) apply(g *groupTarget, n int) error {
	for g.applied() < n {
		b := g.store.NewBatch()
		from := g.applied()
		count := 0
		for ; from+count < n && (count == 0 || s.rng.IntN(3) > 0); count++ {
			if err := b.Add(uint64(from+count+1), 1, g.log[from+count].effects); err != nil {
				return err
			}
		}
		out, err := b.Commit()
		if err != nil {
			return err
		}
		s.compacted = max(s.compacted, out.Compacted)
		s.applyLeases(out.Leases)
		if g.eval == nil {
			continue
		}
		var keys [][]byte
		for _, e := range out.Events {
			keys = append(keys, e.Kv.Key)
		}
		for _, e := range g.log[from : from+count] {
			if !e.crossing {
				g.eval.Applied()
			} else {
				require.Equal(s.tb, 1, count, "a part is applied with something that was in flight")
				g.eval.Advance(keys)
			}
		}
	}
	s.makeEffective()
	return nil
}

func (s *groupsTarget) applyLeases(changes []mvcc.LeaseChange) {
	for _, l := range changes {
		switch l.Kind {
		case mvcc.LeaseGranted:
			s.leases[l.ID] = &leaseTarget{ttl: l.TTL, joined: map[mvcc.GroupID]bool{}}
		case mvcc.LeaseRevoked:
			delete(s.leases, l.ID)
		case mvcc.LeaseJoined:
			s.counts.joins++
			s.leases[l.ID].joined[l.Group] = true
		case mvcc.LeaseLeft:
			s.counts.leaves++
			require.Nil(s.tb, s.leases[l.ID], "a group leaves a lease that is there")
		case mvcc.LeaseCheckpointed:
		}
	}
}

// closed is the greatest revision up to which everything is applied.
func (s *groupsTarget) closed() int64 {
	closed := s.last
	for _, g := range s.groups {
		for _, e := range g.log[g.applied():] {
			if e.first != 0 {
				closed = min(closed, e.first-1)
			}
		}
	}
	return closed
}

// makeEffective makes the last compaction effective if it may be.
func (s *groupsTarget) makeEffective() {
	if s.batch == 0 && s.closed() >= s.compacted {
		s.space.SetCompacted(s.compacted)
	}
}

// settle applies everything.
func (s *groupsTarget) settle() error {
	err := s.release()
	for _, g := range s.groups {
		err = errors.Join(err, s.apply(g, len(g.log)))
	}
	return err
}

// hold applies what is in flight in the groups and has them wait for the batch,
// which begins if there is none.
func (s *groupsTarget) hold(groups uint64) error {
	if s.batch == 0 {
		s.crossing.Begin()
	}
	for id, g := range s.groups {
		if bit := uint64(1) << id; groups&bit != 0 && s.batch&bit == 0 {
			if err := s.apply(g, len(g.log)); err != nil {
				return err
			}
		}
	}
	s.batch |= groups
	return nil
}

// release applies the parts of the batch, and lets its groups go.
func (s *groupsTarget) release() error {
	held, err := s.seal()
	for _, p := range held {
		g := s.groups[p.Group]
		err = errors.Join(err, s.apply(g, len(g.log)))
	}
	return err
}

// seal puts the parts of the batch into the logs.
func (s *groupsTarget) seal() ([]evaluate.Part, error) {
	if s.batch == 0 {
		return nil, nil
	}
	parts := s.crossing.Seal()
	for i, p := range parts {
		require.NotZero(s.tb, s.batch&(1<<p.Group), "group %d is not held", p.Group)
		require.True(s.tb, i == 0 || parts[i-1].Group < p.Group)
		require.True(s.tb, slices.IsSorted(p.Revisions))
		e := groupEntry{effects: p.Effects, crossing: true}
		if len(p.Revisions) > 0 {
			e.first = p.Revisions[0]
		}
		s.groups[p.Group].log = append(s.groups[p.Group].log, e)
	}
	s.batch = 0
	s.rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return parts, nil
}

func (s *groupsTarget) Do(op evaluate.Op) (evaluate.Result, error) {
	ctx := context.Background()
	if !evaluate.Writes(op) {
		if err := s.settle(); err != nil {
			return evaluate.Result{}, err
		}
		if t, ok := op.(*evaluate.Txn); ok {
			return evaluate.ReadTxn(ctx, s.space, s.last, t)
		}
		return evaluate.Read(ctx, s.space, s.last, op.(*evaluate.Range))
	}
	res, err := s.evaluate(ctx, op)
	if _, ok := op.(*evaluate.Compact); ok && err == nil || s.prompt || s.rng.IntN(10) == 0 {
		if serr := s.settle(); serr != nil {
			return evaluate.Result{}, serr
		}
	}
	for _, g := range s.groups {
		if keep := s.rng.IntN(6); len(g.log)-g.applied() > keep {
			if aerr := s.apply(g, len(g.log)-keep); aerr != nil {
				return evaluate.Result{}, aerr
			}
		}
		if s.rng.IntN(8) == 0 {
			serr := g.store.Scrub(1+s.rng.IntN(20), func() bool { return s.rng.IntN(4) > 0 })
			if serr != nil {
				return evaluate.Result{}, serr
			}
		}
	}
	return res, err
}

func (s *groupsTarget) evaluate(ctx context.Context, op evaluate.Op) (evaluate.Result, error) {
	groups := evaluate.Needs(op, s.table)
	if s.batch != 0 && s.rng.IntN(3) == 0 {
		if err := s.release(); err != nil {
			return evaluate.Result{}, err
		}
	}
	for id, g := range s.groups {
		if groups != 1<<id || groups&s.batch != 0 {
			continue
		}
		g.eval.Begin(nil)
		before := s.last
		res, err := g.eval.Do(ctx, op)
		if effects, ok := g.eval.Seal(0); ok {
			e := groupEntry{effects: effects}
			if s.last > before {
				e.first = s.last
			}
			g.log = append(g.log, e)
		}
		switch {
		case errors.Is(err, evaluate.ErrDrain):
			s.counts.drains++
			require.NotEqual(s.tb, len(g.log), g.applied(), "nothing is in flight")
			if err := s.apply(g, len(g.log)); err != nil {
				return evaluate.Result{}, err
			}
			return s.evaluate(ctx, op)
		case errors.Is(err, evaluate.ErrCrossing):
			return s.cross(ctx, op, groups)
		}
		return res, err
	}
	return s.cross(ctx, op, groups)
}

// cross evaluates a request in the batch.
func (s *groupsTarget) cross(ctx context.Context, op evaluate.Op, groups uint64) (evaluate.Result, error) {
	s.counts.crossings++
	if s.batch != 0 {
		s.counts.batched++
	}
	if err := s.hold(1 << mvcc.CoreGroup); err != nil {
		return evaluate.Result{}, err
	}
	if r, ok := op.(*evaluate.LeaseRevoke); ok {
		for _, g := range s.crossing.Groups(r.ID) {
			groups |= 1 << g
		}
	}
	if err := s.hold(groups); err != nil {
		return evaluate.Result{}, err
	}
	res, err := s.crossing.Do(ctx, op)
	if errors.Is(err, evaluate.ErrDrain) {
		s.counts.drains++
		if err := s.release(); err != nil {
			return evaluate.Result{}, err
		}
		return s.cross(ctx, op, groups)
	}
	return res, err
}

func (s *groupsTarget) RangeStream(r *evaluate.Range, maxBytes int) (evaluate.Result, error) {
	if err := s.settle(); err != nil {
		return evaluate.Result{}, err
	}
	var kvs []*mvccpb.KeyValue
	res, err := evaluate.Stream(context.Background(), s.space, s.last, r, maxBytes,
		func(chunk []*mvccpb.KeyValue) error {
			kvs = append(kvs, chunk...)
			return nil
		})
	res.KVs = kvs
	return res, err
}

func (s *groupsTarget) Changes(key, end []byte, from, to int64) ([]*mvccpb.Event, error) {
	if err := s.settle(); err != nil {
		return nil, err
	}
	var events []*mvccpb.Event
	err := s.space.Changes(context.Background(), mvcc.SpanOf(key, end), from, to, func(e *mvccpb.Event) error {
		events = append(events, e)
		return nil
	})
	return events, err
}

func (s *groupsTarget) Previous(key []byte, revision int64) (*mvccpb.KeyValue, error) {
	kv, err := s.space.Get(key, revision-1)
	if errors.Is(err, mvcc.ErrCompacted) {
		return nil, nil
	}
	return kv, err
}

func (s *groupsTarget) HashKV(revision int64) (uint32, error) {
	if err := s.settle(); err != nil {
		return 0, err
	}
	if revision <= 0 {
		revision = s.last
	}
	if revision > s.last {
		return 0, mvcc.ErrFutureRevision // for the member to say
	}
	hash, _, err := s.space.HashKV(context.Background(), revision)
	return hash, err
}

func (s *groupsTarget) Revision() int64 { return s.last }

func (s *groupsTarget) Compacted() int64 { return s.compacted }

func (s *groupsTarget) Leases() ([]int64, error) {
	if err := s.settle(); err != nil {
		return nil, err
	}
	var ids []int64
	err := s.groups[mvcc.CoreGroup].store.Leases(func(id, _, _ int64) { ids = append(ids, id) })
	return ids, err
}

func (s *groupsTarget) Lease(id int64) (ttl int64, keys [][]byte, err error) {
	l := s.leases[id]
	if l == nil {
		return 0, nil, lease.ErrNotFound
	}
	keys, err = s.space.LeaseKeys(id)
	for _, k := range keys {
		g := s.table.Of(k)
		require.True(s.tb, g == mvcc.CoreGroup || l.joined[g], "key %q of group %d, which takes no part in its lease", k, g)
	}
	return l.ttl, keys, err
}

func (s *groupsTarget) Restart() error {
	if _, err := s.seal(); err != nil {
		return err
	}
	if err := s.db.Close(); err != nil {
		return err
	}
	return s.open()
}

func (s *groupsTarget) Crash(rng *rand.Rand) error {
	if _, err := s.seal(); err != nil {
		return err
	}
	left := s.disk.afterCrash(rng)
	if err := s.db.Close(); err != nil {
		return err
	}
	s.disk = left
	return s.open()
}

// checkRows checks that compactions have left no row behind. Each version has
// two rows, a lease one, a group that takes part in it one, a key of a lease one;
// a few are not about any key.
func (s *groupsTarget) checkRows(m *sim.Model) {
	s.tb.Helper()
	require.NoError(s.tb, s.settle())
	for _, g := range s.groups {
		require.NoError(s.tb, g.store.Scrub(7, func() bool { return true }))
	}
	it, err := s.db.NewIter(nil)
	require.NoError(s.tb, err)
	rows := 0
	for ok := it.First(); ok; ok = it.Next() {
		rows++
	}
	require.NoError(s.tb, it.Close())
	want := 2*m.Kept() + len(m.Leases())
	for _, id := range m.Leases() {
		_, keys, err := m.Lease(id)
		require.NoError(s.tb, err)
		want += len(keys) + len(s.Groups(id))
	}
	require.GreaterOrEqual(s.tb, rows, want)
	require.LessOrEqual(s.tb, rows, want+4*len(s.groups))
}
