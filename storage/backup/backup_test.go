package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/backup"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// stores is two groups, which share the keys by their first byte.
type stores struct {
	t         *testing.T
	db        *engine.DB
	all       []*mvcc.Store
	index     uint64
	compacted int64
}

func newStores(t *testing.T) *stores {
	t.Helper()
	db, err := engine.Open(engine.Config{
		Dir: "state", FS: engine.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 256 << 10,
		Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { t.Error(err) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s := &stores{t: t, db: db}
	for g := range mvcc.GroupID(2) {
		store, err := mvcc.Open(db, mvcc.CoreGroup+g)
		require.NoError(t, err)
		s.all = append(s.all, store)
	}
	return s
}

func (s *stores) apply(store int, change func(*mvcc.Effects)) {
	s.t.Helper()
	e := mvcc.NewEffects(nil)
	change(e)
	b := s.all[store].NewBatch()
	s.index++
	require.NoError(s.t, b.Add(s.index, 1, e.Bytes()))
	_, err := b.Commit()
	require.NoError(s.t, err)
}

func (s *stores) view(rev int64) (*mvcc.View, error) {
	return mvcc.NewView(s.t.Context(), s.all, rev, func() int64 { return s.compacted })
}

// write writes a backup at rev, and opens it.
func (s *stores) write(rev int64) (path string, f *backup.File) {
	s.t.Helper()
	view, err := s.view(rev)
	require.NoError(s.t, err)
	defer view.Close()
	b, err := backup.New(s.t.Context(), backup.Source{
		View: view, StorageVersion: "3.7.0", ClusterVersion: "3.7.0", Voters: []uint64{1, 2}, Learners: []uint64{3},
		Members: []backup.Member{{ID: 0xab, Name: "a", PeerURLs: []string{"http://h:1"}}}, Removed: []uint64{0xcd},
		Tables: backup.Tables{"authUsers": {"root": []byte("1")}},
	})
	require.NoError(s.t, err)
	require.Equal(s.t, rev, b.Revision())
	path = filepath.Join(s.t.TempDir(), "db")
	for range 2 { // it may be written again
		var out bytes.Buffer
		require.NoError(s.t, b.Write(s.t.Context(), &out))
		require.EqualValues(s.t, b.Size(), out.Len())
		require.NoError(s.t, os.WriteFile(path, out.Bytes(), 0o600))
	}
	f, err = backup.Open(s.t.Context(), path, false)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, f.Close()) })
	return path, f
}

func versions(t *testing.T, f *backup.File) (out []mvcc.Version, last int64) {
	t.Helper()
	last, err := f.Versions(t.Context(), func(v *mvcc.Version) error {
		out = append(out, *v)
		return nil
	})
	require.NoError(t, err)
	return out, last
}

func head(mod, create, version, lease int64) mvcc.Head {
	return mvcc.Head{Mod: mod, Create: create, Version: version, Lease: lease}
}

func fill(t *testing.T) *stores {
	t.Helper()
	s := newStores(t)
	s.apply(0, func(e *mvcc.Effects) { e.LeaseGrant(7, 60); e.LeaseGrant(-9, 70); e.LeaseCheckpoint(-9, 30) })
	s.apply(0, func(e *mvcc.Effects) { e.Revision(2); e.Put(0, []byte("a"), head(2, 2, 1, 7), 0, []byte("1")) })
	s.apply(1, func(e *mvcc.Effects) { e.Revision(2); e.Put(1, []byte("z"), head(2, 2, 1, 7), 0, nil) })
	s.apply(1, func(e *mvcc.Effects) { e.Revision(3); e.Put(0, []byte("z"), head(3, 2, 2, 0), 7, []byte("2")) })
	s.apply(0, func(e *mvcc.Effects) { e.Revision(4); e.Delete(0, []byte("a"), 7); e.LeaseRevoke(7) })
	return s
}

// TestFormat reads a file as etcd does.
func TestFormat(t *testing.T) {
	s := fill(t)
	path, _ := s.write(3)
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	kv := func(kv *mvccpb.KeyValue) string {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(kv)
		require.NoError(t, err)
		return string(b)
	}
	want := map[string]map[string]string{
		"alarm": {}, "auth": {}, "authRoles": {}, "authUsers": {"root": "1"},
		"cluster": {"clusterVersion": "3.7.0"},
		"key": {
			"\x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x00": kv(&mvccpb.KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 2, Version: 1, Lease: 7}),
			"\x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x01": kv(&mvccpb.KeyValue{Key: []byte("z"), CreateRevision: 2, ModRevision: 2, Version: 1, Lease: 7}),
			"\x00\x00\x00\x00\x00\x00\x00\x03_\x00\x00\x00\x00\x00\x00\x00\x00": kv(&mvccpb.KeyValue{Key: []byte("z"), Value: []byte("2"), CreateRevision: 2, ModRevision: 3, Version: 2}),
		},
		"lease": {
			// Its end came after revision 3: it ends again.
			"\x00\x00\x00\x00\x00\x00\x00\x07": "\x08\x07\x10\x01",
			"\xff\xff\xff\xff\xff\xff\xff\xf7": "\x08\xf7\xff\xff\xff\xff\xff\xff\xff\xff\x01\x10\x46\x18\x1e",
		},
		"members":         {"ab": `{"id":171,"peerURLs":["http://h:1"],"name":"a"}`},
		"members_removed": {"cd": "removed"},
		"meta": {
			"confState": `{"voters":[1,2],"learners":[3],"auto_leave":false}`, "storageVersion": "3.7.0",
			"consistent_index": "\x00\x00\x00\x00\x00\x00\x00\x05", "term": "\x00\x00\x00\x00\x00\x00\x00\x01",
		},
	}
	got := map[string]map[string]string{}
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			require.NoError(t, err)
		}
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			rows := map[string]string{}
			got[string(name)] = rows
			return b.ForEach(func(k, v []byte) error { rows[string(k)] = string(v); return nil })
		})
	}))
	require.Equal(t, want, got)

	s.apply(1, func(e *mvcc.Effects) { e.Revision(5); e.Delete(0, []byte("z"), 0) })
	_, f := s.write(5)
	all, last := versions(t, f)
	require.EqualValues(t, 5, last)
	require.Len(t, all, 5)
	require.True(t, all[4].Tombstone)
	require.Equal(t, "z", string(all[4].Key))
	tables, err := f.Tables()
	require.NoError(t, err)
	require.Equal(t, "1", string(tables["authUsers"]["root"]))
}

// TestCompacted has compactions in a file, done and not.
func TestCompacted(t *testing.T) {
	s := fill(t)
	_, f := s.write(4)
	compacted, scrubbed, err := f.Compacted()
	require.NoError(t, err)
	require.Zero(t, compacted+scrubbed)

	s.all[0].Compact(3)
	_, err = s.view(2)
	require.ErrorIs(t, err, mvcc.ErrCompacted)
	require.NoError(t, s.all[0].Scrub(10, func() bool { return true }))
	_, f = s.write(4)
	compacted, scrubbed, err = f.Compacted()
	require.NoError(t, err)
	require.Equal(t, []int64{3, 0}, []int64{compacted, scrubbed}, "the other group has still to delete")
	s.all[1].Compact(3)
	require.NoError(t, s.all[1].Scrub(10, func() bool { return true }))
	s.compacted = 4
	_, f = s.write(4)
	compacted, scrubbed, err = f.Compacted()
	require.NoError(t, err)
	require.Equal(t, []int64{4, 3}, []int64{compacted, scrubbed})
	all, _ := versions(t, f)
	require.Len(t, all, 3)
}

// TestBatches has rows of all sizes, put in no order, of which no batch has room for
// many: what a file has is what was written, in its order, at any revision.
func TestBatches(t *testing.T) {
	s := newStores(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	heads := map[string]mvcc.Head{}
	var want []mvcc.Version
	for rev := int64(2); rev < 1200; rev++ {
		size := rng.IntN(100)
		if rev > 900 {
			size = rng.IntN(300_000) // fewer go into a batch than the ones before
		}
		s.apply(int(rev)%2, func(e *mvcc.Effects) {
			e.Revision(rev)
			for sub := range int64(1 + rng.IntN(3)) {
				key := fmt.Sprintf("%c%d.%d", 'a'+rune(rev%2), sub, rng.IntN(300))
				h := head(rev, rev, heads[key].Version+1, 0)
				if old := heads[key]; old.Version > 0 {
					h.Create = old.Create
				}
				v := mvcc.Version{Rev: mvcc.Revision{Main: rev, Sub: sub}, Key: []byte(key), Head: h}
				if heads[key].Version > 0 && rng.IntN(5) == 0 {
					v.Tombstone, v.Head = true, mvcc.Head{}
					e.Delete(sub, v.Key, 0)
				} else {
					v.Value = bytes.Repeat([]byte{byte(rev)}, size)
					e.Put(sub, v.Key, h, 0, v.Value)
				}
				heads[key] = v.Head
				want = append(want, v)
			}
		})
	}
	for _, rev := range []int64{1199, 700} {
		at := slices.IndexFunc(want, func(v mvcc.Version) bool { return v.Rev.Main > rev })
		if at < 0 {
			at = len(want)
		}
		_, f := s.write(rev)
		i := 0
		_, err := f.Versions(t.Context(), func(v *mvcc.Version) error {
			if w := want[i]; v.Rev != w.Rev || v.Head != w.Head || v.Tombstone != w.Tombstone ||
				!bytes.Equal(v.Key, w.Key) || !bytes.Equal(v.Value, w.Value) {
				t.Fatalf("row %d: %+v of %q instead of %+v of %q", i, v.Rev, v.Key, w.Rev, w.Key)
			}
			i++
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, at, i)
	}

	// Whoever stops early has it stop.
	view, err := s.view(1199)
	require.NoError(t, err)
	defer view.Close()
	enough := errors.New("enough")
	n := 0
	require.ErrorIs(t, view.Versions(t.Context(), func(*mvcc.Version) error {
		if n++; n == 10 {
			return enough
		}
		return nil
	}), enough)
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	require.ErrorIs(t, view.Versions(ctx, func(*mvcc.Version) error {
		if n++; n == 10 {
			cancel()
		}
		return nil
	}), context.Canceled)
	require.ErrorIs(t, view.VersionsByKey(ctx, func(*mvcc.Version, bool) error { return nil }), context.Canceled)
	n = 0
	require.NoError(t, view.Versions(t.Context(), func(*mvcc.Version) error { n++; return nil }), "it can be gone through again")
	require.Len(t, want, n)
}

// TestRevisionWithoutChange keeps the revision where no row has it.
func TestRevisionWithoutChange(t *testing.T) {
	s := fill(t)
	s.apply(0, func(e *mvcc.Effects) { e.Revision(9) })
	path, f := s.write(9)
	all, last := versions(t, f)
	require.EqualValues(t, 9, last)
	require.Len(t, all, 4)
	st, err := backup.ReadStatus(t.Context(), path)
	require.NoError(t, err)
	require.EqualValues(t, 9, st.Revision)
	require.Equal(t, 1, st.TotalKey)
}

// FuzzOpen damages files, which must be told and not crash anything.
func FuzzOpen(f *testing.F) {
	f.Add(uint32(0), byte(1))
	f.Add(uint32(16), byte(255))
	f.Add(uint32(3*4096+8), byte(7))
	f.Fuzz(func(t *testing.T, at uint32, flip byte) {
		path, _ := fill(t).write(4)
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		content = content[:len(content)-32]
		content[int(at)%len(content)] ^= flip
		path = filepath.Join(t.TempDir(), "damaged")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		file, err := backup.Open(t.Context(), path, true)
		if err != nil {
			return
		}
		_, _ = file.Versions(t.Context(), func(*mvcc.Version) error { return nil })
		_ = file.Leases(t.Context(), func(backup.Lease) error { return nil })
		_, _, _ = file.Compacted()
		require.NoError(t, file.Close())
	})
}
