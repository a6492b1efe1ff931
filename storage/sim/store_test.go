package sim_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// TestStore runs histories against evaluation and state alone, with no raft
// between them: the test decides how many entries are in flight and when they
// are applied, so a seed replays exactly.
func TestStore(t *testing.T) {
	var total sim.Tally
	for i := range histories(60) {
		seed := seedOf(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			replay(t, seed)
			target := newStoreTarget(t, seed)
			h := sim.NewHistory(seed, target)
			h.Generator.Rewrites = seed%2 == 1
			require.NoError(t, h.Run(1000))
			target.checkRows(h.Model)
			require.NoError(t, target.db.Close())
			total.Add(h.Tally)
		})
	}
	t.Logf("%+v", total)
}

// storeTarget is an Evaluator and a Store, and a log in memory between them
// that never loses anything.
type storeTarget struct {
	tb    testing.TB
	rng   *rand.Rand
	disk  disk
	db    *engine.DB
	store *mvcc.Store
	eval  *evaluate.Evaluator
	// log has the effects of every entry; entry i has index i+1.
	log [][]byte
	// proposed is the revision of the last entry of the log.
	proposed int64
	// leases are those that exist as far as the log is applied, and their times
	// to live.
	leases map[int64]int64
}

func newStoreTarget(tb testing.TB, seed uint64) *storeTarget {
	tb.Helper()
	s := &storeTarget{tb: tb, rng: rand.New(rand.NewPCG(seed, 2))}
	s.disk = newDisk(s.rng)
	require.NoError(tb, s.open())
	return s
}

func (s *storeTarget) open() error {
	var err error
	s.db, err = engine.Open(engine.Config{
		Dir: "state", FS: s.disk.fs(), CacheBytes: 1 << 20, MemTableBytes: 64 << 10,
		Logger: slog.New(slog.DiscardHandler),
		Fatal:  func(err error) { s.tb.Errorf("engine: %v", err) },
	})
	if err != nil {
		return err
	}
	if s.store, err = mvcc.Open(s.db, mvcc.CoreGroup); err != nil {
		return err
	}
	s.leases = map[int64]int64{}
	if err := s.store.Leases(func(id, ttl, _ int64) { s.leases[id] = ttl }); err != nil {
		return err
	}
	if err := s.apply(len(s.log)); err != nil {
		return err
	}
	s.proposed = s.store.Revision()
	s.eval = evaluate.New(evaluate.Config{
		Store: s.store, Group: mvcc.CoreGroup, Leases: s, MinTTL: 2,
		Next: func() int64 {
			s.proposed++
			return s.proposed
		},
		GiveBack: func(int64) { s.proposed-- },
		Panicked: func(op evaluate.Op, cause any, stack []byte) {
			s.tb.Errorf("evaluating %s panicked: %v\n%s", sim.FormatOp(op), cause, stack)
		},
	})
	return nil
}

// Exists tells the evaluator about the leases that are applied.
func (s *storeTarget) Exists(id int64) bool {
	_, ok := s.leases[id]
	return ok
}

// Joined and Groups tell it that there is one group.
func (s *storeTarget) Joined(int64, mvcc.GroupID) bool { return false }
func (s *storeTarget) Groups(int64) []mvcc.GroupID     { return nil }

// apply applies the log up to n entries, in batches of some.
func (s *storeTarget) apply(n int) error {
	for s.applied() < n {
		b := s.store.NewBatch()
		count := 0
		for ; s.applied()+count < n && (count == 0 || s.rng.IntN(3) > 0); count++ {
			i := s.applied() + count
			if err := b.Add(uint64(i+1), 1, s.log[i]); err != nil {
				return err
			}
		}
		out, err := b.Commit()
		if err != nil {
			return err
		}
		for _, l := range out.Leases {
			switch l.Kind {
			case mvcc.LeaseGranted:
				s.leases[l.ID] = l.TTL
			case mvcc.LeaseRevoked:
				delete(s.leases, l.ID)
			case mvcc.LeaseCheckpointed, mvcc.LeaseJoined, mvcc.LeaseLeft:
			}
		}
		for range count {
			if s.eval != nil {
				s.eval.Applied()
			}
		}
	}
	return nil
}

// checkRows checks that compactions have left no row behind. Each version has
// two rows, a lease one, a key of a lease one; four are not about any key.
func (s *storeTarget) checkRows(m *sim.Model) {
	s.tb.Helper()
	require.NoError(s.tb, s.settle())
	require.NoError(s.tb, s.store.Scrub(7, func() bool { return true }))
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
		want += len(keys)
	}
	require.GreaterOrEqual(s.tb, rows, want)
	require.LessOrEqual(s.tb, rows, want+4)
}

func (s *storeTarget) applied() int { return int(s.store.Applied().Index) }

// settle applies everything.
func (s *storeTarget) settle() error { return s.apply(len(s.log)) }

func (s *storeTarget) Do(op evaluate.Op) (evaluate.Result, error) {
	ctx := context.Background()
	if !evaluate.Writes(op) {
		if err := s.settle(); err != nil {
			return evaluate.Result{}, err
		}
		if t, ok := op.(*evaluate.Txn); ok {
			return evaluate.ReadTxn(ctx, s.store, s.store.Revision(), t)
		}
		return evaluate.Read(ctx, s.store, s.store.Revision(), op.(*evaluate.Range))
	}
	s.eval.Begin(nil)
	res, err := s.eval.Do(ctx, op)
	if entry, ok := s.eval.Seal(0); ok {
		s.log = append(s.log, entry)
	}
	if errors.Is(err, evaluate.ErrDrain) {
		if err := s.settle(); err != nil {
			return evaluate.Result{}, err
		}
		return s.Do(op)
	}
	// Some stay in flight. The answer is right already: nothing of this log can
	// be lost.
	if keep := s.rng.IntN(4); len(s.log)-s.applied() > keep {
		if aerr := s.apply(len(s.log) - keep); aerr != nil {
			return evaluate.Result{}, aerr
		}
	}
	if s.rng.IntN(4) == 0 {
		if serr := s.store.Scrub(1+s.rng.IntN(20), func() bool { return s.rng.IntN(4) > 0 }); serr != nil {
			return evaluate.Result{}, serr
		}
	}
	return res, err
}

func (s *storeTarget) RangeStream(r *evaluate.Range, maxBytes int) (evaluate.Result, error) {
	if err := s.settle(); err != nil {
		return evaluate.Result{}, err
	}
	var kvs []*mvccpb.KeyValue
	res, err := evaluate.Stream(context.Background(), s.store, s.store.Revision(), r, maxBytes,
		func(chunk []*mvccpb.KeyValue) error {
			kvs = append(kvs, chunk...)
			return nil
		})
	res.KVs = kvs
	return res, err
}

func (s *storeTarget) Changes(key, end []byte, from, to int64) ([]*mvccpb.Event, error) {
	if err := s.settle(); err != nil {
		return nil, err
	}
	var events []*mvccpb.Event
	err := s.store.Changes(context.Background(), mvcc.SpanOf(key, end), from, to, func(e *mvccpb.Event) error {
		events = append(events, e)
		return nil
	})
	return events, err
}

func (s *storeTarget) Previous(key []byte, revision int64) (*mvccpb.KeyValue, error) {
	kv, err := s.store.Get(key, revision-1)
	if errors.Is(err, mvcc.ErrCompacted) {
		return nil, nil
	}
	return kv, err
}

func (s *storeTarget) HashKV(revision int64) (uint32, error) {
	if err := s.settle(); err != nil {
		return 0, err
	}
	hash, _, _, err := s.store.HashKV(context.Background(), revision)
	return hash, err
}

func (s *storeTarget) Revision() int64 {
	if err := s.settle(); err != nil {
		s.tb.Error(err)
	}
	return s.store.Revision()
}

func (s *storeTarget) Compacted() int64 { return s.store.Compacted() }

func (s *storeTarget) Leases() ([]int64, error) {
	if err := s.settle(); err != nil {
		return nil, err
	}
	var ids []int64
	err := s.store.Leases(func(id, _, _ int64) { ids = append(ids, id) })
	return ids, err
}

func (s *storeTarget) Lease(id int64) (ttl int64, keys [][]byte, err error) {
	ttl, ok := s.leases[id]
	if !ok {
		return 0, nil, lease.ErrNotFound
	}
	keys, err = s.store.LeaseKeys(id)
	return ttl, keys, err
}

func (s *storeTarget) Restart() error {
	if err := s.db.Close(); err != nil {
		return err
	}
	s.eval = nil
	return s.open()
}

func (s *storeTarget) Crash(rng *rand.Rand) error {
	left := s.disk.afterCrash(rng)
	if err := s.db.Close(); err != nil {
		return err
	}
	s.disk, s.eval = left, nil
	return s.open()
}
