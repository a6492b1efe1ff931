package evaluate_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// bench is an Evaluator over an empty store in memory, whose entries are
// applied when the test says so.
type bench struct {
	t        *testing.T
	store    *mvcc.Store
	eval     *evaluate.Evaluator
	entries  [][]byte
	applied  uint64
	panicked int
}

type noLeases struct{}

func (noLeases) Exists(int64) bool               { return false }
func (noLeases) Joined(int64, mvcc.GroupID) bool { return false }
func (noLeases) Groups(int64) []mvcc.GroupID     { return nil }

func newBench(t *testing.T) *bench {
	t.Helper()
	db, err := engine.Open(engine.Config{
		Dir: "state", FS: engine.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
		Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { t.Error(err) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	b := &bench{t: t}
	b.store, err = mvcc.Open(db, mvcc.CoreGroup)
	require.NoError(t, err)
	revision := b.store.Revision()
	b.eval = evaluate.New(evaluate.Config{
		Store: b.store, Group: mvcc.CoreGroup, Leases: noLeases{}, MinTTL: 2,
		Next:     func() int64 { revision++; return revision },
		GiveBack: func(r int64) { require.Equal(t, revision, r); revision-- },
		Panicked: func(evaluate.Op, any, []byte) { b.panicked++ },
	})
	return b
}

// entry evaluates ops into one entry and returns how each went.
func (b *bench) entry(ops ...evaluate.Op) (results []evaluate.Result, errs []error) {
	b.t.Helper()
	b.eval.Begin(nil)
	for _, op := range ops {
		res, err := b.eval.Do(b.t.Context(), op)
		results, errs = append(results, res), append(errs, err)
	}
	if encoded, ok := b.eval.Seal(0); ok {
		b.entries = append(b.entries, encoded)
	}
	return results, errs
}

// apply applies every entry in flight.
func (b *bench) apply() {
	b.t.Helper()
	for _, effects := range b.entries {
		b.applied++
		batch := b.store.NewBatch()
		require.NoError(b.t, batch.Add(b.applied, 1, effects))
		_, err := batch.Commit()
		require.NoError(b.t, err)
		b.eval.Applied()
	}
	b.entries = nil
}

// keys returns what the store holds, as "key=value@mod".
func (b *bench) keys() (out []string) {
	b.t.Helper()
	res, err := evaluate.Read(b.t.Context(), b.store, b.store.Revision(), &evaluate.Range{Key: []byte{0}, End: []byte{0}})
	require.NoError(b.t, err)
	for _, kv := range res.KVs {
		out = append(out, string(kv.Key)+"="+string(kv.Value)+"@"+string(rune('0'+kv.ModRevision)))
	}
	return out
}

func put(key, value string) *evaluate.Put {
	return &evaluate.Put{Key: []byte(key), Value: []byte(value)}
}

// A panic ends the request that it happens in. What that had changed by then is
// gone, and the requests before and after it in the entry are as if it had not
// been.
func TestPanicIsContained(t *testing.T) {
	b := newBench(t)
	results, errs := b.entry(
		put("a", "1"),
		(*evaluate.Put)(nil),
		&evaluate.Txn{Success: []evaluate.Op{put("lost", "1"), (*evaluate.DeleteRange)(nil)}},
		put("b", "2"),
	)
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], evaluate.ErrInternal)
	require.ErrorIs(t, errs[2], evaluate.ErrInternal)
	require.NoError(t, errs[3])
	require.EqualValues(t, 2, results[0].Revision)
	require.EqualValues(t, 3, results[3].Revision)
	require.Equal(t, 2, b.panicked)
	b.apply()
	require.Equal(t, []string{"a=1@2", "b=2@3"}, b.keys())
	require.EqualValues(t, 3, b.store.Revision())

	// The key that was lost is seen as lost by whoever comes next.
	results, errs = b.entry(&evaluate.DeleteRange{Key: []byte("lost")})
	require.NoError(t, errs[0])
	require.Zero(t, results[0].Deleted)
}

// A read at a revision that is still in flight waits for it: it needs the store
// to be there.
func TestReadInFlightDrains(t *testing.T) {
	b := newBench(t)
	b.entry(put("a", "1"))
	read := &evaluate.Txn{Success: []evaluate.Op{
		&evaluate.Range{Key: []byte("a"), Revision: 2}, put("b", "2"),
	}}
	_, errs := b.entry(read)
	require.ErrorIs(t, errs[0], evaluate.ErrDrain)
	b.apply()
	results, errs := b.entry(read)
	require.NoError(t, errs[0])
	require.Equal(t, "1", string(results[0].Responses[0].KVs[0].Value))
	b.apply()
	require.Equal(t, []string{"a=1@2", "b=2@3"}, b.keys())
}

// Requests see what is in flight, keys and ranges alike, and the answer shows
// the revision that they saw.
func TestInFlightIsSeen(t *testing.T) {
	b := newBench(t)
	b.entry(put("a", "1"), put("c", "1"), put("d", "1"))
	b.apply()
	b.entry(put("b", "2"), &evaluate.DeleteRange{Key: []byte("c")})
	results, errs := b.entry(&evaluate.Txn{
		Compare: []evaluate.Compare{{Target: evaluate.CompareMod, Key: []byte("b"), Number: 5}},
		Success: []evaluate.Op{
			&evaluate.DeleteRange{Key: []byte("a")},
			&evaluate.Range{Key: []byte("a"), End: []byte("z")},
			put("e", "3"),
			&evaluate.Range{Key: []byte("a"), End: []byte("z"), MinMod: 6},
		},
	})
	require.NoError(t, errs[0])
	require.True(t, results[0].Succeeded)
	require.EqualValues(t, 7, results[0].Revision)
	var seen []string
	for _, kv := range results[0].Responses[1].KVs {
		seen = append(seen, string(kv.Key))
	}
	require.Equal(t, []string{"b", "d"}, seen)
	require.Len(t, results[0].Responses[3].KVs, 1, "its own change, by the revision that it will have")
	require.EqualValues(t, 7, results[0].Responses[3].KVs[0].ModRevision)
	b.apply()
	require.Equal(t, []string{"b=2@5", "d=1@4", "e=3@7"}, b.keys())
}

// After a refused entry nothing of it is left once the evaluator begins again.
func TestRefusedEntryIsForgotten(t *testing.T) {
	b := newBench(t)
	b.entry(put("a", "1"))
	b.entry(put("a", "2"))
	b.entries = b.entries[:1]
	b.eval.Refused()
	b.apply()
	b.eval.Reset()
	results, errs := b.entry(&evaluate.Txn{Success: []evaluate.Op{&evaluate.Range{Key: []byte("a")}, put("b", "1")}})
	require.NoError(t, errs[0])
	require.Equal(t, "1", string(results[0].Responses[0].KVs[0].Value))
}
