package keyspace_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/keyspace"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
	"github.com/pebbledash/pebbledash/storage/sim"
)

var seedFlag = flag.Uint64("seed", 0, "replay the history of this seed; 0 is new ones in every run")

var all = mvcc.Span{}

// keys are on both sides of the borders between groups.
func keys() (keys [][]byte) {
	for _, k := range []string{
		"\x00", "/registry/events", "/registry/events/", "/registry/events/a", "/registry/events0", "/registry/leases/a",
		"/registry/leases/a\x00", "/registry/minions/n", "/registry/pods", "/registry/pods-x", "/registry/pods/",
		"/registry/pods/a", "/registry/pods0", "\xff",
	} {
		keys = append(keys, []byte(k))
	}
	return keys
}

// pair is the same rows twice: in one store, and in a Space of four groups.
type pair struct {
	t     *testing.T
	rng   *rand.Rand
	model *sim.Model
	gen   *sim.Generator
	eval  *evaluate.Evaluator
	index uint64

	one    *mvcc.Store
	table  *route.Table
	stores map[mvcc.GroupID]*mvcc.Store
	space  *keyspace.Space
	// leases are those of the keys.
	leases map[string]int64
}

func openDB(tb testing.TB) *engine.DB {
	tb.Helper()
	db, err := engine.Open(engine.Config{
		Dir: "state", FS: engine.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 256 << 10,
		Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { tb.Error(err) },
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close()) })
	return db
}

// newSpace returns the Space of the default groups.
func newSpace(tb testing.TB) (*keyspace.Space, *route.Table, map[mvcc.GroupID]*mvcc.Store) {
	tb.Helper()
	table, err := route.Parse(route.DefaultResourceGroups, route.DefaultEtcdPrefix)
	require.NoError(tb, err)
	db := openDB(tb)
	stores := map[mvcc.GroupID]*mvcc.Store{}
	for _, g := range table.Groups() {
		stores[g.ID], err = mvcc.Open(db, g.ID)
		require.NoError(tb, err)
		stores[g.ID].DeferCompactions()
	}
	require.Len(tb, stores, 4)
	return keyspace.New(table, stores), table, stores
}

func newPair(t *testing.T, seed uint64) *pair {
	t.Helper()
	p := &pair{t: t, rng: rand.New(rand.NewPCG(seed, 3)), model: sim.NewModel(), leases: map[string]int64{}}
	p.gen = sim.NewGenerator(seed)
	p.gen.Keys, p.gen.BigValue = keys(), 100
	var err error
	p.one, err = mvcc.Open(openDB(t), mvcc.CoreGroup)
	require.NoError(t, err)
	revision := p.one.Revision()
	p.eval = evaluate.New(evaluate.Config{
		Store: p.one, Group: mvcc.CoreGroup, Leases: p, MinTTL: 2,
		Next:     func() int64 { revision++; return revision },
		GiveBack: func(int64) { revision-- },
	})
	p.space, p.table, p.stores = newSpace(t)
	return p
}

func (p *pair) Exists(id int64) bool            { return slices.Contains(p.model.Leases(), id) }
func (p *pair) Joined(int64, mvcc.GroupID) bool { return false }
func (p *pair) Groups(int64) []mvcc.GroupID     { return nil }
func (p *pair) scrubPause() bool                { return p.rng.IntN(4) > 0 }
func (p *pair) revision() int64                 { return max(1, p.gen.Revision(p.model)) }
func (p *pair) commit(b *mvcc.Batch, e []byte) *mvcc.Outcome {
	p.t.Helper()
	require.NoError(p.t, b.Add(p.index, 1, e))
	out, err := b.Commit()
	require.NoError(p.t, err)
	return &out
}

// step does a random request to both.
func (p *pair) step() {
	op := p.gen.Next(p.model)
	if evaluate.Writes(op) {
		p.write(op)
		_, _ = p.model.Do(op)
	}
	for _, s := range p.stores {
		if p.rng.IntN(8) == 0 {
			require.NoError(p.t, s.Scrub(1+p.rng.IntN(20), p.scrubPause))
		}
	}
	if p.rng.IntN(8) == 0 {
		require.NoError(p.t, p.one.Scrub(1+p.rng.IntN(20), p.scrubPause))
	}
}

// write changes the one store, and each group as the part of its keys was
// changed.
func (p *pair) write(op evaluate.Op) {
	p.eval.Begin(nil)
	_, _ = p.eval.Do(p.t.Context(), op)
	effects, ok := p.eval.Seal(0)
	if !ok {
		return
	}
	p.index++
	out := p.commit(p.one.NewBatch(), effects)
	p.eval.Applied()

	parts := map[mvcc.GroupID]*mvcc.Effects{}
	for i, e := range out.Events {
		g := p.table.Of(e.Kv.Key)
		if parts[g] == nil {
			parts[g] = mvcc.NewEffects(nil)
			parts[g].Revision(e.Kv.ModRevision)
		}
		key, sub := string(e.Kv.Key), int64(out.Subs[i])
		if e.Type == mvccpb.Event_DELETE {
			parts[g].Delete(sub, e.Kv.Key, p.leases[key])
			delete(p.leases, key)
			continue
		}
		h := mvcc.Head{Create: e.Kv.CreateRevision, Version: e.Kv.Version, Lease: e.Kv.Lease}
		parts[g].Put(sub, e.Kv.Key, h, p.leases[key], e.Kv.Value)
		p.leases[key] = e.Kv.Lease
	}
	for g, part := range parts {
		p.commit(p.stores[g].NewBatch(), part.Bytes())
	}
	if out.Compacted != 0 {
		p.space.SetCompacted(out.Compacted)
	}
}

// A reader is what both sides can do.
type reader interface {
	evaluate.Reader
	Revision() int64
	LeaseKeys(id int64) ([][]byte, error)
	Changes(ctx context.Context, span mvcc.Span, from, to int64, fn func(*mvccpb.Event) error) error
}

// compare asks both sides the same, and returns what.
func (p *pair) compare() string {
	var what string
	var ask func(r reader) string
	key, end := p.gen.Span()
	span := mvcc.SpanOf(key, end)
	switch p.rng.IntN(6) {
	case 0:
		rev := p.revision()
		what = fmt.Sprintf("get %q at %d", key, rev)
		ask = func(r reader) string {
			kv, err := r.Get(key, rev)
			return fmt.Sprint(sim.FormatKV(kv), err)
		}
	case 1:
		rev, stop := p.revision(), p.rng.IntN(10)
		what = fmt.Sprintf("scan [%q, %q) at %d, count after %d", span.Key, span.End, rev, stop)
		ask = func(r reader) string { return p.scan(r, span, rev, stop) }
	case 2:
		from, to := p.revision(), p.revision()
		what = fmt.Sprintf("changes of [%q, %q) from %d to %d", span.Key, span.End, from, to)
		ask = func(r reader) string { return p.changes(r, span, from, to) }
	case 3:
		rev := min(p.revision(), p.model.Revision())
		what = fmt.Sprintf("hash at %d", rev)
		ask = func(r reader) string { return p.hash(r, rev) }
	case 4:
		id := 1 + p.rng.Int64N(8)
		what = fmt.Sprintf("keys of lease %d", id)
		ask = func(r reader) string {
			keys, err := r.LeaseKeys(id)
			return fmt.Sprintf("%q %v", keys, err)
		}
	default:
		// Pages, so that counts are noted and known.
		rg := p.gen.Range(p.model)
		rg.Limit, rg.SortTarget, rg.SortOrder = 1+p.rng.Int64N(3), 0, 0
		rg.MinMod, rg.MaxMod, rg.MinCreate, rg.MaxCreate = 0, 0, 0, 0
		what = "pages of " + sim.FormatOp(rg)
		head := p.model.Revision()
		ask = func(r reader) string { return p.pages(r, *rg, head) }
	}
	require.Equal(p.t, ask(p.one), ask(p.space), what)
	require.Equal(p.t, p.one.Revision(), p.space.Revision())
	require.Equal(p.t, p.one.Compacted(), p.space.Compacted())
	return what
}

func (p *pair) scan(r reader, span mvcc.Span, rev int64, stop int) string {
	sc, err := r.Scan(p.t.Context(), span, rev)
	if err != nil {
		return err.Error()
	}
	var out bytes.Buffer
	for range stop {
		if !sc.Next() {
			break
		}
		kv, err := sc.KV(false)
		require.NoError(p.t, err)
		fmt.Fprintf(&out, "%q: %s, ", sc.Key(), sim.FormatKV(kv))
	}
	n, err := sc.CountRest()
	require.False(p.t, sc.Next())
	require.NoError(p.t, sc.Close())
	return fmt.Sprint(out.String(), n, err, sc.Err())
}

func (p *pair) changes(r reader, span mvcc.Span, from, to int64) string {
	var events []*mvccpb.Event
	err := r.Changes(p.t.Context(), span, from, to, func(e *mvccpb.Event) error {
		events = append(events, e)
		return nil
	})
	// Of several changes of a key at the compacted revision those before the last
	// are there until they are deleted.
	c := p.one.Compacted()
	for i := 0; i < len(events); i++ {
		same := func(e *mvccpb.Event) bool {
			return e.Kv.ModRevision == c && bytes.Equal(e.Kv.Key, events[i].Kv.Key)
		}
		if events[i].Kv.ModRevision == c && slices.ContainsFunc(events[i+1:], same) {
			events = slices.Delete(events, i, i+1)
			i--
		}
	}
	return fmt.Sprint(sim.FormatEvents(events, false), err)
}

func (p *pair) hash(r reader, rev int64) string {
	var hash uint32
	var compacted int64
	var err error
	if s, ok := r.(*keyspace.Space); ok {
		hash, compacted, err = s.HashKV(p.t.Context(), rev)
	} else {
		hash, _, compacted, err = p.one.HashKV(p.t.Context(), rev)
	}
	return fmt.Sprintf("%08x, compacted %d, %v", hash, compacted, err)
}

func (p *pair) pages(r reader, rg evaluate.Range, head int64) string {
	var out bytes.Buffer
	for {
		res, err := evaluate.Read(p.t.Context(), r, head, &rg)
		fmt.Fprintln(&out, sim.FormatResult(&rg, res, err))
		if err != nil || !res.More || len(rg.End) == 0 {
			return out.String()
		}
		rg.Key = append(bytes.Clone(res.KVs[len(res.KVs)-1].Key), 0)
		rg.Revision = max(rg.Revision, 0)
		if rg.Revision == 0 {
			rg.Revision = head
		}
	}
}

// TestSpaceIsOneStore compares a Space with one store that has the rows of all
// groups.
func TestSpaceIsOneStore(t *testing.T) {
	seeds := []uint64{*seedFlag}
	if *seedFlag == 0 {
		seeds = seeds[:0]
		for range 20 {
			seeds = append(seeds, 1+rand.Uint64N(1_000_000_000))
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("replay: go test ./storage/keyspace -run TestSpaceIsOneStore -seed %d", seed)
				}
			})
			p := newPair(t, seed)
			for range 400 {
				p.step()
				p.compare()
			}
		})
	}
}

// filled has n keys of each group, written in turns from revision 2 on, so that
// key i of the order of writing has revision i+2.
func filled(tb testing.TB, n int) (*keyspace.Space, map[mvcc.GroupID]*mvcc.Store) {
	tb.Helper()
	space, table, stores := newSpace(tb)
	batches := map[mvcc.GroupID]*mvcc.Batch{}
	index := map[mvcc.GroupID]uint64{}
	main := int64(1)
	for i := range n {
		for _, resource := range []string{"minions", "events", "pods", "leases"} {
			main++
			key := fmt.Appendf(nil, "/registry/%s/%06d", resource, i)
			g := table.Of(key)
			if batches[g] == nil {
				batches[g] = stores[g].NewBatch()
			}
			e := mvcc.NewEffects(nil)
			e.Revision(main)
			e.Put(0, key, mvcc.Head{Create: main, Version: 1}, 0, make([]byte, 512))
			index[g]++
			require.NoError(tb, batches[g].Add(index[g], 1, e.Bytes()))
		}
	}
	require.Len(tb, batches, 4)
	for _, b := range batches {
		_, err := b.Commit()
		require.NoError(tb, err)
	}
	return space, stores
}

// Whoever reads is told when it has taken long enough, and what it said itself.
func TestReadsEnd(t *testing.T) {
	space, _ := filled(t, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sc, err := space.Scan(ctx, all, 4001)
	require.NoError(t, err)
	n, err := sc.CountRest()
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, n, int64(2000))
	require.NoError(t, sc.Close())
	_, _, err = space.HashKV(ctx, 4001)
	require.ErrorIs(t, err, context.Canceled)
	err = space.Changes(ctx, all, 1, 4001, func(*mvccpb.Event) error { return nil })
	require.ErrorIs(t, err, context.Canceled)

	broken := errors.New("the client is gone")
	count := int64(0)
	err = space.Changes(t.Context(), all, 5, 4001, func(e *mvccpb.Event) error {
		require.Equal(t, 5+count, e.Kv.ModRevision)
		if count++; count == 3 {
			return broken
		}
		return nil
	})
	require.ErrorIs(t, err, broken)
	require.EqualValues(t, 3, count)
}

// clearOut deletes every key of filled(n), compacts, and deletes what is compacted.
func clearOut(t *testing.T, n int, space *keyspace.Space, stores map[mvcc.GroupID]*mvcc.Store) {
	t.Helper()
	deleted := int64(4*n + 2)
	for g, s := range stores {
		b, e := s.NewBatch(), mvcc.NewEffects(nil)
		e.Revision(deleted)
		for i := range n {
			for _, resource := range []string{"minions", "events", "pods", "leases"} {
				if key := fmt.Appendf(nil, "/registry/%s/%06d", resource, i); space.Of(key) == g {
					e.Delete(int64(i), key, 0)
				}
			}
		}
		require.NoError(t, b.Add(uint64(n+1), 1, e.Bytes()))
		_, err := b.Commit()
		require.NoError(t, err)
	}
	space.SetCompacted(deleted + 1)
	for _, s := range stores {
		require.NoError(t, s.Scrub(100, func() bool { return true }))
	}
	_, err := space.Scan(t.Context(), all, deleted)
	require.ErrorIs(t, err, mvcc.ErrCompacted)
}

// A scan keeps what it has seen of every group when it began, whatever is
// compacted and deleted meanwhile. One that is closed early leaves nothing open.
func TestScanKeepsItsView(t *testing.T) {
	space, stores := filled(t, 10)
	sc, err := space.Scan(t.Context(), all, 21)
	require.NoError(t, err)
	early, err := space.Scan(t.Context(), all, 21)
	require.NoError(t, err)
	require.True(t, early.Next())
	require.NoError(t, early.Close())

	clearOut(t, 10, space, stores)
	n, err := sc.CountRest()
	require.NoError(t, err)
	require.EqualValues(t, 20, n)
	require.NoError(t, sc.Close())

	sc, err = space.ScanLatest(t.Context(), all)
	require.NoError(t, err)
	require.False(t, sc.Next())
	require.NoError(t, sc.Err())
	require.NoError(t, sc.Close())
}

// As do changes.
func TestChangesKeepTheirView(t *testing.T) {
	space, stores := filled(t, 10)
	next := int64(2)
	err := space.Changes(t.Context(), all, 2, 41, func(e *mvccpb.Event) error {
		if next == 2 {
			clearOut(t, 10, space, stores)
		}
		require.Equal(t, next, e.Kv.ModRevision)
		require.Len(t, e.Kv.Value, 512)
		next++
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 42, next)
}

// A compaction that is effective in one group is so in all, before these know.
func TestCompactionOfOneIsOfAll(t *testing.T) {
	_, stores := filled(t, 10)
	table, err := route.Parse(route.DefaultResourceGroups, route.DefaultEtcdPrefix)
	require.NoError(t, err)
	stores[4].Compact(30)
	space := keyspace.New(table, stores)
	require.EqualValues(t, 30, space.Compacted())
	for _, key := range []string{"/registry/events/", "/registry/leases/", "/registry/minions/", "/registry/pods/"} {
		span := mvcc.Span{Key: []byte(key), End: []byte(key + "z")}
		refused := func(rev int64) (errs []error) {
			_, err := space.Get([]byte(key+"000000"), rev)
			errs = append(errs, err)
			if sc, err := space.Scan(t.Context(), span, rev); err != nil {
				errs = append(errs, err)
			} else {
				errs = append(errs, sc.Close())
			}
			errs = append(errs, space.Changes(t.Context(), span, rev, 41, func(*mvccpb.Event) error { return nil }))
			_, _, err = space.HashKV(t.Context(), rev)
			return append(errs, err)
		}
		for _, err := range refused(29) {
			require.ErrorIs(t, err, mvcc.ErrCompacted, key)
		}
		for _, err := range refused(30) {
			require.NoError(t, err, key)
		}
	}

	// A floor is as good, and leaves the groups as they are until there is a
	// compaction.
	space.RaiseFloor(35)
	space.RaiseFloor(20)
	require.EqualValues(t, 35, space.Compacted())
	_, err = space.Get([]byte("/registry/pods/000000"), 34)
	require.ErrorIs(t, err, mvcc.ErrCompacted)
	require.EqualValues(t, 30, stores[4].Compacted())
	require.Zero(t, stores[1].Compacted())
	space.SetCompacted(35)
	for _, s := range stores {
		require.EqualValues(t, 35, s.Compacted())
	}
}

// What a page has counted is not told of a revision that is compacted since.
func TestCountsAreCompacted(t *testing.T) {
	space, _ := filled(t, 10)
	page := &evaluate.Range{Key: []byte("/"), End: []byte("0"), Limit: 5, Revision: 30}
	res, err := evaluate.Read(t.Context(), space, 41, page)
	require.NoError(t, err)
	require.EqualValues(t, 29, res.Count)
	rest := mvcc.Span{Key: append(res.KVs[4].Key, 0), End: []byte("0")}
	n, ok := space.KnownCount(rest, 30)
	require.True(t, ok)
	require.EqualValues(t, 24, n)
	_, ok = space.KnownCount(rest, 31)
	require.False(t, ok)
	space.SetCompacted(31)
	_, ok = space.KnownCount(rest, 30)
	require.False(t, ok)
	_, err = evaluate.Read(t.Context(), space, 41, &evaluate.Range{Key: rest.Key, End: rest.End, Revision: 30, CountOnly: true})
	require.ErrorIs(t, err, mvcc.ErrCompacted)
}

// A compaction takes effect everywhere at once: who has been refused by one group
// is refused by every other from then on.
func TestCompactionIsOne(t *testing.T) {
	const revisions = 4000
	space, stores := filled(t, revisions/4)
	var wg sync.WaitGroup
	var looks atomic.Int64
	wg.Go(func() {
		for space.Compacted() < revisions {
			for g, s := range stores {
				if own := s.Compacted(); own > space.Compacted() {
					t.Errorf("group %d is compacted at %d before all are", g, own)
					return
				}
			}
			looks.Add(1)
		}
	})
	for _, s := range stores {
		wg.Go(func() {
			for s.Compacted() < revisions {
				if err := s.Scrub(10, func() bool { return true }); err != nil {
					t.Error(err)
				}
				runtime.Gosched()
			}
		})
	}
	for rev := int64(1); rev <= revisions; rev++ {
		for before := looks.Load(); rev%8 == 0 && looks.Load() == before && !t.Failed(); {
			runtime.Gosched()
		}
		space.SetCompacted(rev)
	}
	wg.Wait()
	space.SetCompacted(5)
	require.EqualValues(t, revisions, space.Compacted())
	sc, err := space.Scan(t.Context(), all, revisions)
	require.NoError(t, err)
	require.NoError(t, sc.Close())
	// Where there is nothing, too.
	_, err = space.Scan(t.Context(), mvcc.Span{Key: []byte("z"), End: []byte("a")}, revisions-1)
	require.ErrorIs(t, err, mvcc.ErrCompacted)
}

// Groups have their bit in masks, and so few there may be.
func TestStores(t *testing.T) {
	space, _, stores := newSpace(t)
	for g, s := range stores {
		require.Same(t, s, space.Store(g))
	}
	require.Nil(t, space.Store(9))
	require.Nil(t, space.Store(1000))
	require.Panics(t, func() {
		keyspace.New(route.CoreOnly(), map[mvcc.GroupID]*mvcc.Store{64: stores[1]})
	})
}
