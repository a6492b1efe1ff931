package mvcc_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// everyEffect encodes one effect of each kind.
func everyEffect() []byte {
	e := mvcc.NewEffects(nil)
	e.LeaseGrant(7, 60)
	e.LeaseCheckpoint(7, 30)
	e.Revision(2)
	e.Put(0, []byte("key"), mvcc.Head{Create: 2, Version: 1, Lease: 7}, 0, []byte("value"))
	e.Put(1, []byte("other"), mvcc.Head{Create: 2, Version: 1}, 0, nil)
	e.Delete(2, []byte("key"), 7)
	e.LeaseRevoke(7)
	e.Compact(2)
	e.Records("table", 1, []mvcc.RecordWrite{{Key: "a", Value: []byte("1")}, {Key: "b"}})
	return e.Bytes()
}

func TestEffectsCutShort(t *testing.T) {
	s := newScript(t)
	whole := everyEffect()
	cuts := map[int]bool{} // where an effect ends
	for n := range whole {
		b := s.store.NewBatch()
		if err := b.Add(1, 1, whole[:n]); err == nil {
			cuts[n] = true
		} else {
			require.ErrorContains(t, err, "entry 1: ")
		}
		b.Drop()
	}
	require.Len(t, cuts, 9, "an entry of nine effects can be cut in front of each without a fault")
	require.Equal(t, "none", s.read(`range "\x00" "\x00"`))

	b := s.store.NewBatch()
	require.NoError(t, b.Add(1, 1, whole))
	_, err := b.Commit()
	require.NoError(t, err)
	require.Equal(t, `"other"="" c2 m2 v1`, s.read(`range "\x00" "\x00"`))
	s.checkLayout(t)
}

func TestEffectsRefused(t *testing.T) {
	put := func(e *mvcc.Effects, sub int64) {
		e.Put(sub, []byte("k"), mvcc.Head{Create: 2, Version: 1}, 0, nil)
	}
	for _, c := range []struct {
		name, want string
		make       func(*mvcc.Effects)
	}{
		{"put without a revision", "revision 0.0 of a change", func(e *mvcc.Effects) { put(e, 0) }},
		{"delete without a revision", "revision 0.0 of a change", func(e *mvcc.Effects) { e.Delete(0, []byte("k"), 0) }},
		{"the same revision again", "revision 2 follows 2", func(e *mvcc.Effects) { e.Revision(2); e.Revision(2) }},
		{"the first revision", "revision 1 follows 1", func(e *mvcc.Effects) { e.Revision(1) }},
		{"a negative revision", "revision -1 follows 1", func(e *mvcc.Effects) { e.Revision(-1) }},
		{"the same place again", "revision 2.0 of a change", func(e *mvcc.Effects) { e.Revision(2); put(e, 0); put(e, 0) }},
		{"a negative place", "revision 2.-1 of a change", func(e *mvcc.Effects) { e.Revision(2); put(e, -1) }},
		{"a place that has no room", "revision 2.4294967295 of a change", func(e *mvcc.Effects) { e.Revision(2); put(e, 1<<32-1) }},
		{"a compaction twice", "compaction at 2 follows one at 2", func(e *mvcc.Effects) { e.Revision(2); put(e, 0); e.Compact(2); e.Compact(2) }},
		{"a compaction of nothing", "compaction at 0 follows one at 0", func(e *mvcc.Effects) { e.Compact(0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			e := mvcc.NewEffects(nil)
			c.make(e)
			b := s.store.NewBatch()
			require.ErrorContains(t, b.Add(1, 1, e.Bytes()), c.want)
			b.Drop()
		})
	}
	t.Run("an unknown kind", func(t *testing.T) {
		s := newScript(t)
		for _, kind := range []byte{0, 11, 255} {
			b := s.store.NewBatch()
			require.ErrorContains(t, b.Add(1, 1, []byte{kind, 1, 1, 1, 1, 1}), "unknown kind of effect")
			b.Drop()
		}
	})
	t.Run("an entry again", func(t *testing.T) {
		s := newScript(t)
		b := s.store.NewBatch()
		require.NoError(t, b.Add(5, 1, nil))
		require.ErrorContains(t, b.Add(5, 1, nil), "entry 5 follows entry 5")
		b.Drop()
	})
}

// FuzzAdd gives entries of any bytes to a store. They are refused or applied;
// what is applied can be read, and opened again.
func FuzzAdd(f *testing.F) {
	whole := everyEffect()
	f.Add(whole)
	for n := range whole {
		f.Add(whole[:n])
	}
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{1, 2, 2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})             // a length too great
	f.Add([]byte{1, 2, 2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1, 1}) // a negative one

	var s *script
	n := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		// A group is a store of its own in a database.
		if n%1000 == 0 {
			if s != nil {
				require.NoError(t, s.db.Close())
			}
			s = &script{fs: engine.NewMem()}
			var err error
			s.db, err = openDB(s.fs)
			require.NoError(t, err)
		}
		n++
		group := mvcc.GroupID(100 + n%1000)
		store, err := mvcc.Open(s.db, group)
		require.NoError(t, err)
		b := store.NewBatch()
		if err := b.Add(1, 1, data); err != nil {
			b.Drop()
			return
		}
		out, err := b.Commit()
		require.NoError(t, err)
		readAll(t, store, out)

		again, err := mvcc.Open(s.db, group)
		require.NoError(t, err)
		require.Equal(t, store.Applied(), again.Applied())
		require.Equal(t, store.Revision(), again.Revision())
		require.Equal(t, store.Compacted(), again.Compacted())
		require.NoError(t, again.Scrub(1, func() bool { return true }))
		readAll(t, again, mvcc.Outcome{})
	})
}

// readAll reads everything that a store has in every way. Unless out is empty
// its events must be those of the store.
func readAll(t *testing.T, store *mvcc.Store, out mvcc.Outcome) {
	t.Helper()
	ctx := context.Background()
	all := mvcc.SpanOf([]byte{0}, []byte{0})
	var events []string
	require.NoError(t, store.Changes(ctx, mvcc.Span{}, store.Compacted(), store.Revision(), func(e *mvccpb.Event) error {
		events = append(events, fmt.Sprintf("%v", e))
		return nil
	}))
	if out.Compacted == 0 && out.Events != nil {
		var want []string
		for _, e := range out.Events {
			want = append(want, fmt.Sprintf("%v", e))
		}
		require.Equal(t, want, events)
	}
	sc, err := store.Scan(ctx, all, store.Revision())
	require.NoError(t, err)
	for sc.Next() {
		kv, err := sc.KV(false)
		require.NoError(t, err)
		one, err := store.Get(kv.Key, store.Revision())
		require.NoError(t, err)
		require.Equal(t, kv.String(), one.String())
	}
	require.NoError(t, sc.Err())
	require.NoError(t, sc.Close())
	require.NoError(t, store.Leases(func(id, _, _ int64) {
		_, err := store.LeaseKeys(id)
		require.NoError(t, err)
	}))
	_, _, _, err = store.HashKV(ctx, 0)
	require.NoError(t, err)
}
