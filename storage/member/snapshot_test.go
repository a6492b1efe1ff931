package member_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/alarm"
	"github.com/pebbledash/pebbledash/storage/backup"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
	"github.com/pebbledash/pebbledash/storage/sim"
)

var snapshotSeed = flag.Uint64("snapshot-seed", 0, "replay the history of this seed; 0 is a new one")

// save takes a snapshot into a file.
func save(t *testing.T, m *member.Member) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "snapshot.db")
	var file bytes.Buffer
	length := int64(0)
	require.NoError(t, m.Snapshot(t.Context(), "3.7.0", "3.7.0", func(size int64) io.Writer {
		length = size
		return &file
	}))
	require.EqualValues(t, length, file.Len())
	require.NoError(t, os.WriteFile(path, file.Bytes(), 0o600))
	return path
}

func restoreConfig(t *testing.T, path string, fs engine.FS, routes *route.Table) member.RestoreConfig {
	t.Helper()
	file, err := backup.Open(t.Context(), path, false)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	return member.RestoreConfig{
		File: file, Dir: "data", FS: fs, Name: "a", InitialCluster: "a=http://127.0.0.1:2380",
		PeerURLs: []string{"http://127.0.0.1:2380"}, Routes: routes,
	}
}

// restored starts a member over what is restored of a file.
func restored(t *testing.T, path string, routes *route.Table) *member.Member {
	t.Helper()
	fs := engine.NewMem()
	_, err := member.Restore(t.Context(), restoreConfig(t, path, fs, routes))
	require.NoError(t, err)
	return start(t, fs, routes)
}

func history(t *testing.T, m *member.Member, to int64) (out []string) {
	t.Helper()
	from := max(m.Compacted(), 1)
	require.NoError(t, m.Changes(t.Context(), []byte{0}, []byte{0}, from, to, func(e *mvccpb.Event) error {
		line, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
		out = append(out, string(line))
		return err
	}))
	return out
}

// sameStore compares what two members have.
func sameStore(t *testing.T, want, got *member.Member) {
	t.Helper()
	ctx := t.Context()
	require.Equal(t, want.Revision(), got.Revision())
	require.Equal(t, want.Compacted(), got.Compacted())
	require.Equal(t, history(t, want, want.Revision()), history(t, got, want.Revision()))
	for rev := max(want.Compacted(), 1); rev <= want.Revision(); rev++ {
		all := &evaluate.Range{Key: []byte{0}, End: []byte{0}, Revision: rev}
		a, err := want.Read(ctx, all, false)
		require.NoError(t, err)
		b, err := got.Read(ctx, all, false)
		require.NoError(t, err)
		require.Len(t, b.KVs, len(a.KVs))
		for i := range a.KVs {
			require.True(t, proto.Equal(a.KVs[i], b.KVs[i]), "revision %d", rev)
		}
		x, err := want.HashKV(ctx, rev)
		require.NoError(t, err)
		y, err := got.HashKV(ctx, rev)
		require.NoError(t, err)
		require.Equal(t, x, y)
	}
	ids, err := want.Leases(ctx)
	require.NoError(t, err)
	others, err := got.Leases(ctx)
	require.NoError(t, err)
	require.ElementsMatch(t, ids, others)
	for _, id := range ids {
		a, err := want.LeaseTimeToLive(ctx, id, true)
		require.NoError(t, err)
		b, err := got.LeaseTimeToLive(ctx, id, true)
		require.NoError(t, err)
		require.Equal(t, a.GrantedTTL, b.GrantedTTL)
		require.Equal(t, a.Keys, b.Keys)
	}
	require.Equal(t, want.Bytes() > 0, got.Bytes() > 0)
}

// fillMember does random requests.
func fillMember(t *testing.T, m *member.Member, seed uint64, steps int) {
	t.Helper()
	model, gen := sim.NewModel(), sim.NewGenerator(seed)
	gen.Keys, gen.BigValue = nil, 20_000
	for _, k := range groupKeys {
		gen.Keys = append(gen.Keys, []byte(k), []byte(k+"/2"))
	}
	for range steps {
		op := gen.Next(model)
		if !evaluate.Writes(op) {
			continue
		}
		if g, ok := op.(*evaluate.LeaseGrant); ok {
			g.TTL = 1000 // no lease ends meanwhile
		}
		_, want := model.Do(op)
		_, err := m.Do(t.Context(), op)
		require.Equal(t, want == nil, err == nil, "%v, %v", want, err)
	}
}

// goesOn works with again, which is what m was.
func goesOn(t *testing.T, m, again *member.Member) {
	t.Helper()
	for _, id := range []int64{1 << 40, 1 << 41} {
		do(t, again, &evaluate.LeaseGrant{ID: id, TTL: 60})
	}
	for j, key := range groupKeys {
		rev := do(t, again, &evaluate.Put{Key: []byte(key), Lease: 1 << (40 + j%2)}).Revision
		require.Equal(t, m.Revision()+int64(j)+1, rev)
	}
	ids, err := m.Leases(t.Context())
	require.NoError(t, err)
	for _, id := range ids {
		info, err := again.LeaseTimeToLive(t.Context(), id, true)
		require.NoError(t, err)
		do(t, again, &evaluate.LeaseRevoke{ID: id})
		for _, key := range info.Keys {
			got, err := again.Read(t.Context(), &evaluate.Range{Key: key}, false)
			require.NoError(t, err)
			require.Empty(t, got.KVs, "%s goes with its lease", key)
		}
	}
	do(t, again, &evaluate.Compact{Revision: again.Revision()})
	require.NoError(t, again.CompactWait(t.Context(), again.Revision()))
}

// TestSnapshot takes the state there and back, also into other groups.
func TestSnapshot(t *testing.T) {
	seed := *snapshotSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("go test ./storage/member -run TestSnapshot$ -snapshot-seed=%d", seed)
	bothRoutes(t, func(t *testing.T, routes *route.Table) {
		t.Helper()
		for i := range uint64(5) {
			m := start(t, engine.NewMem(), routes)
			fillMember(t, m, seed+i, 300)
			path := save(t, m)
			bothRoutes(t, func(t *testing.T, routes *route.Table) {
				t.Helper()
				again := restored(t, path, routes)
				sameStore(t, m, again)
				goesOn(t, m, again)
				sameStore(t, again, restored(t, save(t, again), nil))
				require.NoError(t, again.Close())
			})
			require.NoError(t, m.Close())
		}
	})
}

// TestSnapshotAlarms keeps the alarms, but for those of groups' quotas.
func TestSnapshotAlarms(t *testing.T) {
	m := start(t, engine.NewMem(), nil)
	_, err := m.WriteRecords(t.Context(), alarm.Table, 0, []mvcc.RecordWrite{
		{Key: "NOSPACE/ab", Value: []byte{}}, {Key: "NOSPACE/ab/events", Value: []byte{}}, {Key: "CORRUPT/1", Value: []byte{}},
	})
	require.NoError(t, err)
	again := restored(t, save(t, m), nil)
	version, rows, err := again.RecordsNow(t.Context(), alarm.Table)
	require.NoError(t, err)
	require.EqualValues(t, 1, version)
	require.Equal(t, map[string][]byte{"NOSPACE/ab": {}, "CORRUPT/1": {}}, rows)
	require.NoError(t, again.Close())
	require.NoError(t, m.Close())
}

func TestSnapshotEmpty(t *testing.T) {
	m := start(t, engine.NewMem(), nil)
	again := restored(t, save(t, m), nil)
	sameStore(t, m, again)
	require.EqualValues(t, 2, do(t, again, &evaluate.Put{Key: []byte("k")}).Revision)
	require.NoError(t, again.Close())
	require.NoError(t, m.Close())
}

// TestSnapshotBump raises the revision: what clients knew before is compacted.
func TestSnapshotBump(t *testing.T) {
	bothRoutes(t, func(t *testing.T, routes *route.Table) {
		t.Helper()
		m := start(t, engine.NewMem(), routes)
		for _, key := range groupKeys {
			do(t, m, &evaluate.Put{Key: []byte(key), Value: []byte("1")})
			do(t, m, &evaluate.Put{Key: []byte(key), Value: []byte("2")})
		}
		do(t, m, &evaluate.DeleteRange{Key: []byte(groupKeys[0])})
		fs := engine.NewMem()
		cfg := restoreConfig(t, save(t, m), fs, routes)
		cfg.BumpRevision = 1000
		res, err := member.Restore(t.Context(), cfg)
		require.NoError(t, err)
		require.Equal(t, m.Revision()+1000, res.Revision)
		again := start(t, fs, routes)
		require.Equal(t, res.Revision, again.Revision())
		require.Equal(t, res.Revision, again.Compacted())
		require.NoError(t, again.CompactWait(t.Context(), again.Compacted()))
		got, err := again.Read(t.Context(), &evaluate.Range{Key: []byte{0}, End: []byte{0}}, false)
		require.NoError(t, err)
		require.Len(t, got.KVs, len(groupKeys)-1)
		// And from there once more: no row has that revision.
		third := restored(t, save(t, again), routes)
		sameStore(t, again, third)
		require.Equal(t, res.Revision+1, do(t, third, &evaluate.Put{Key: []byte("k")}).Revision)
		for _, m := range []*member.Member{m, again, third} {
			require.NoError(t, m.Close())
		}
	})
}

// besideWrites has copies made of a member while requests change, compact and revoke;
// each must be what there was at its revision.
func besideWrites(t *testing.T, copied func(*member.Member) *member.Member) {
	t.Helper()
	routes, err := route.Parse(route.DefaultResourceGroups, "/registry")
	require.NoError(t, err)
	m := start(t, engine.NewMem(), routes)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- churn(ctx, m) }()
	for range 20 {
		again := copied(m)
		rev := again.Revision()
		if x, err := m.HashKV(t.Context(), rev); err == nil && x.CompactRevision == max(again.Compacted(), -1) {
			y, err := again.HashKV(t.Context(), rev)
			require.NoError(t, err)
			require.Equal(t, x.Hash, y.Hash)
		}
		// Whatever has a lease goes with it.
		got, err := again.Read(t.Context(), &evaluate.Range{Key: []byte{0}, End: []byte{0}}, false)
		require.NoError(t, err)
		for _, kv := range got.KVs {
			info, err := again.LeaseTimeToLive(t.Context(), kv.Lease, true)
			require.NoError(t, err, "key %s", kv.Key)
			require.Contains(t, info.Keys, kv.Key)
		}
		require.NoError(t, again.Close())
	}
	stop()
	require.NoError(t, <-done)
	require.NoError(t, m.Close())
}

// churn writes until ctx is done, with leases that come and go.
func churn(ctx context.Context, m *member.Member) error {
	all := context.WithoutCancel(ctx)
	for i := int64(1); ctx.Err() == nil; i++ {
		if _, err := m.Do(all, &evaluate.LeaseGrant{ID: i, TTL: 1000}); err != nil {
			return err
		}
		for _, key := range groupKeys {
			_, err := m.Do(all, &evaluate.Put{Key: fmt.Appendf(nil, "%s/%d", key, i%3), Value: make([]byte, 3000), Lease: i})
			if err != nil {
				return err
			}
		}
		if _, err := m.Do(all, &evaluate.LeaseRevoke{ID: i}); err != nil {
			return err
		}
		if i%10 == 0 {
			if _, err := m.Do(all, &evaluate.Compact{Revision: m.Revision() - 20}); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestSnapshotBesideWrites(t *testing.T) {
	besideWrites(t, func(m *member.Member) *member.Member {
		routes, err := route.Parse(route.DefaultResourceGroups, "/registry")
		require.NoError(t, err)
		return restored(t, save(t, m), routes)
	})
}

// TestSnapshotStops closes the member while a snapshot is being read.
func TestSnapshotStops(t *testing.T) {
	m := start(t, engine.NewMem(), nil)
	for i := range 3000 {
		do(t, m, &evaluate.Put{Key: fmt.Appendf(nil, "%d", i), Value: make([]byte, 1000)})
	}
	r, w := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		err := m.Snapshot(t.Context(), "", "", func(int64) io.Writer { return w })
		_ = w.CloseWithError(err)
		failed <- err
	}()
	_, err := io.ReadFull(r, make([]byte, 10_000))
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- m.Close() }()
	for err == nil {
		_, err = m.Do(t.Context(), &evaluate.Put{Key: []byte("k")})
	}
	_, err = io.Copy(io.Discard, r)
	require.ErrorIs(t, err, group.ErrStopped)
	require.ErrorIs(t, <-failed, group.ErrStopped)
	require.NoError(t, <-closed)
	require.ErrorIs(t, m.Snapshot(t.Context(), "", "", nil), group.ErrStopped)
}

// TestRestoreRefuses leaves nothing behind.
func TestRestoreRefuses(t *testing.T) {
	m := start(t, engine.NewMem(), nil)
	for i := range 100 {
		do(t, m, &evaluate.Put{Key: fmt.Appendf(nil, "%d", i), Value: make([]byte, 1000)})
	}
	path := save(t, m)
	require.NoError(t, m.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)

	file := func(content []byte) string {
		path := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	flipped := bytes.Clone(whole)
	flipped[20_000] ^= 1
	for _, c := range []struct {
		name, path string
		skip       bool
		want       string
	}{
		{"no file", filepath.Join(t.TempDir(), "none"), false, "no such file"},
		{"a folder", t.TempDir(), false, "empty, or no file"},
		{"empty", file(nil), false, "empty, or no file"},
		{"one bit", file(flipped), false, "its hash is"},
		{"cut short", file(whole[:len(whole)-4096]), false, "its hash is"},
		{"no hash", file(whole[:len(whole)-sha256.Size]), false, "--skip-hash-check"},
		{"cut short, unhashed", file(whole[:len(whole)-sha256.Size-8192]), true, "cut short"},
		{"text", file(bytes.Repeat([]byte("text"), 10_000)), true, "no valid first page"},
	} {
		_, err := backup.Open(t.Context(), c.path, c.skip)
		require.ErrorContains(t, err, c.want, c.name)
	}
	f, err := backup.Open(t.Context(), file(whole[:len(whole)-sha256.Size]), true)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	fs := engine.NewMem()
	cfg := restoreConfig(t, path, fs, nil)
	cfg.Dir = "a/b/data"
	cfg.Name = "b"
	_, err = member.Restore(t.Context(), cfg)
	require.ErrorContains(t, err, `couldn't find local name "b"`)
	cfg.Name, cfg.PeerURLs = "a", []string{"http://127.0.0.1:1"}
	_, err = member.Restore(t.Context(), cfg)
	require.ErrorContains(t, err, "initial-advertise-peer-urls")
	cfg.PeerURLs = []string{"http://127.0.0.1:2380"}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = member.Restore(ctx, cfg)
	require.NoError(t, err, "it is done before anybody looks")
	_, err = member.Restore(t.Context(), cfg)
	require.ErrorContains(t, err, "is not empty")
	require.NoError(t, fs.RemoveAll("a"))

	// A disk that fails at any write.
	full := &os.PathError{Op: "write", Path: "file", Err: syscall.ENOSPC}
	const other = 5 // the one beside which somebody else makes a directory
	for at := int64(1); ; at++ {
		var n atomic.Int64
		var over atomic.Bool
		cfg.FS = engine.WrapFaulty(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			switch {
			case op.Kind.ReadOrWrite() != errorfs.OpIsWrite || op.Kind == errorfs.OpRemoveAll || op.Kind == errorfs.OpRemove:
				return nil
			case over.Load():
				select {} // a database that has failed would try again and again
			case n.Add(1) >= at:
				if at == other {
					_ = fs.MkdirAll(fmt.Sprintf("f%d/other", at), 0o700)
				}
				return full
			}
			return nil
		}))
		// One that has failed keeps its lock.
		cfg.Dir = fmt.Sprintf("f%d/data", at)
		_, err := member.Restore(t.Context(), cfg)
		over.Store(true)
		if err == nil {
			require.Greater(t, at, int64(10))
			break
		}
		if at == other {
			_, err := fs.Stat(fmt.Sprintf("f%d/other", at))
			require.NoError(t, err, "what is somebody else's is gone")
			require.NoError(t, fs.Remove(fmt.Sprintf("f%d/other", at)))
			_, err = fs.Stat(cfg.Dir)
			require.ErrorIs(t, err, os.ErrNotExist)
			continue
		}
		_, left := fs.Stat(fmt.Sprintf("f%d", at))
		require.ErrorIs(t, left, os.ErrNotExist, "failure %d: %v", at, err)
	}
}
