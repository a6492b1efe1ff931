package member_test

import (
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/alarm"
	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/repository"
	"github.com/pebbledash/pebbledash/storage/route"
)

// backUp adds a backup of m to a repository on fs, as gateway/backupclient does.
func backUp(t *testing.T, m *member.Member, fs engine.FS) *repository.Manifest {
	t.Helper()
	cp, err := m.Checkpoint(t.Context())
	require.NoError(t, err)
	to, err := repository.Create(repository.Config{Dir: "repository", FS: fs})
	require.NoError(t, err)
	for _, f := range cp.Files {
		sum, _, err := cp.Sum(t.Context(), f)
		require.NoError(t, err)
		file := repository.File{Name: f.Name, Size: f.Size, SHA: sum}
		has, err := to.Has(file)
		require.NoError(t, err)
		if has {
			continue
		}
		w, err := to.Write(file)
		require.NoError(t, err)
		in, err := cp.Open(f)
		require.NoError(t, err)
		_, err = io.Copy(w, in)
		require.NoError(t, err)
		require.NoError(t, in.Close())
		require.NoError(t, w.Finish())
	}
	manifest := &repository.Manifest{
		ClusterID: member.FormatID(cp.ClusterID), Member: cp.Name, Revision: cp.Revision, Compacted: cp.Compacted,
		Routes: cp.Routes,
	}
	require.NoError(t, to.Finish(manifest, time.Unix(1e9, 0)))
	require.NoError(t, cp.Close())
	require.NoError(t, to.Close())
	return manifest
}

// fromBackup restores a backup of a repository on fs, and starts a member over it.
func fromBackup(t *testing.T, manifest *repository.Manifest, fs engine.FS, bump int64) *member.Member {
	t.Helper()
	r, err := repository.Open(repository.Config{Dir: "repository", FS: fs})
	require.NoError(t, err)
	require.NoError(t, r.Verify(t.Context(), []string{manifest.ID}, func(int64) {}, func(v repository.Verified) {
		require.Empty(t, v.Damage)
	}))
	routes, err := route.Decode(manifest.Routes)
	require.NoError(t, err)
	data := engine.NewMem()
	res, err := member.Restore(t.Context(), member.RestoreConfig{
		Files: &member.BackupFiles{Repository: r, Manifest: manifest, Progress: func(int64) {}},
		Dir:   "data", FS: data, Name: "a", InitialCluster: "a=http://127.0.0.1:2380",
		PeerURLs: []string{"http://127.0.0.1:2380"}, Routes: routes, BumpRevision: bump,
	})
	require.NoError(t, err)
	require.Equal(t, manifest.Revision+bump, res.Revision)
	sound(t, data, routes)
	m := start(t, data, routes)
	require.Equal(t, res.Revision, m.Revision())
	return m
}

// sound compares the rows of a state with each other.
func sound(t *testing.T, fs engine.FS, routes *route.Table) {
	t.Helper()
	db, err := engine.OpenReadOnly(engine.ReadConfig{Dir: "data/state", FS: fs, CacheBytes: 1 << 20, Fatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	for _, g := range routes.Groups() {
		s, err := mvcc.Open(db, g.ID)
		require.NoError(t, err)
		_, err = s.Verify(t.Context(), func(key []byte) bool { return routes.Of(key) == g.ID }, func(damage string) {
			t.Errorf("group %s: %s", g.Name, damage)
		})
		require.NoError(t, err)
	}
}

func TestBackup(t *testing.T) {
	seed := *snapshotSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("go test ./storage/member -run TestBackup$ -snapshot-seed=%d", seed)
	bothRoutes(t, func(t *testing.T, routes *route.Table) {
		t.Helper()
		for i := range uint64(5) {
			fs := engine.NewMem()
			m := start(t, engine.NewMem(), routes)
			fillMember(t, m, seed+i, 300)
			_, err := m.WriteRecords(t.Context(), auth.Table, 0, []mvcc.RecordWrite{{Key: "k", Value: []byte("v")}})
			require.NoError(t, err)
			_, err = m.WriteRecords(t.Context(), alarm.Table, 0, []mvcc.RecordWrite{{Key: "k", Value: []byte("v")}})
			require.NoError(t, err)
			_, err = m.WriteRecords(t.Context(), "other", 0, []mvcc.RecordWrite{{Key: "k", Value: []byte("v")}})
			require.NoError(t, err)
			again := fromBackup(t, backUp(t, m, fs), fs, 0)
			sameStore(t, m, again)
			_, rows, err := again.Records(auth.Table)
			require.NoError(t, err)
			require.Equal(t, map[string][]byte{"k": []byte("v")}, rows)
			_, rows, err = again.Records(alarm.Table)
			require.NoError(t, err)
			require.Equal(t, map[string][]byte{"k": []byte("v")}, rows)
			_, rows, err = again.Records("other")
			require.NoError(t, err)
			require.Empty(t, rows, "what has to do with the old cluster")
			goesOn(t, m, again)
			third := fromBackup(t, backUp(t, again, fs), fs, 0)
			sameStore(t, again, third)
			for _, m := range []*member.Member{m, again, third} {
				require.NoError(t, m.Close())
			}
		}
	})
}

func TestBackupBesideWrites(t *testing.T) {
	fs := engine.NewMem()
	besideWrites(t, func(m *member.Member) *member.Member { return fromBackup(t, backUp(t, m, fs), fs, 0) })
}

// TestBackupBump raises the revision: what clients knew before is compacted.
func TestBackupBump(t *testing.T) {
	bothRoutes(t, func(t *testing.T, routes *route.Table) {
		t.Helper()
		fs := engine.NewMem()
		m := start(t, engine.NewMem(), routes)
		for _, key := range groupKeys {
			do(t, m, &evaluate.Put{Key: []byte(key), Value: []byte("1")})
			do(t, m, &evaluate.Put{Key: []byte(key), Value: []byte("2")})
		}
		again := fromBackup(t, backUp(t, m, fs), fs, 1000)
		require.Equal(t, m.Revision()+1000, again.Revision())
		require.Equal(t, again.Revision(), again.Compacted())
		require.NoError(t, again.CompactWait(t.Context(), again.Compacted()))
		got, err := again.Read(t.Context(), &evaluate.Range{Key: []byte{0}, End: []byte{0}}, false)
		require.NoError(t, err)
		require.Len(t, got.KVs, len(groupKeys))
		require.Equal(t, m.Revision()+1001, do(t, again, &evaluate.Put{Key: []byte("k")}).Revision)
		require.NoError(t, again.Close())
		require.NoError(t, m.Close())
	})
}

// TestBackupIsIncremental sends only what is new, and reads only that.
func TestBackupIsIncremental(t *testing.T) {
	fs := engine.NewMem()
	m := start(t, engine.NewMem(), nil)
	random := rand.NewChaCha8([32]byte{})
	for i := range 300 {
		value := make([]byte, 10_000)
		_, _ = random.Read(value) // never fails
		do(t, m, &evaluate.Put{Key: []byte{byte(i), byte(i >> 8)}, Value: value})
	}
	first := backUp(t, m, fs)
	require.Equal(t, first.Bytes(), first.NewBytes)
	// The first flush may have made Pebble compact so small a store as a whole. That comes
	// to an end.
	second := backUp(t, m, fs)
	require.Equal(t, first.ID, second.BasedOn)
	for i := 0; second.NewBytes*10 >= second.Bytes(); i++ {
		require.Less(t, i, 10)
		second = backUp(t, m, fs)
	}
	cp, err := m.Checkpoint(t.Context())
	require.NoError(t, err)
	had := map[string]bool{}
	for _, f := range second.Files {
		had[f.Name] = true
	}
	for _, f := range cp.Files {
		if strings.HasSuffix(f.Name, ".sst") && had[f.Name] {
			_, read, err := cp.Sum(t.Context(), f)
			require.NoError(t, err)
			require.Zero(t, read, "the checksum of %s is known", f.Name)
		}
	}
	require.NoError(t, cp.Close())
	require.NoError(t, m.Close())
}

// TestCheckpoints bounds them, and a member that starts removes what is left.
func TestCheckpoints(t *testing.T) {
	fs := engine.NewMem()
	m := start(t, fs, nil)
	do(t, m, &evaluate.Put{Key: []byte("k")})
	a, err := m.Checkpoint(t.Context())
	require.NoError(t, err)
	b, err := m.Checkpoint(t.Context())
	require.NoError(t, err)
	_, err = m.Checkpoint(t.Context())
	require.ErrorIs(t, err, member.ErrTooManyBackups)
	require.NoError(t, b.Close())
	b, err = m.Checkpoint(t.Context())
	require.NoError(t, err)
	names, err := fs.List("data/checkpoints")
	require.NoError(t, err)
	require.Len(t, names, 2)
	require.NoError(t, m.Close())

	m = start(t, fs, nil)
	_, err = fs.Stat("data/checkpoints")
	require.ErrorIs(t, err, os.ErrNotExist)
	for _, c := range []*member.Checkpoint{a, b} {
		require.NoError(t, c.Close())
	}
	require.NoError(t, m.Close())
	_, err = m.Checkpoint(t.Context())
	require.Error(t, err)
}

// TestBackupRefusesOtherRoutes: the rows of a checkpoint lie by its routes.
func TestBackupRefusesOtherRoutes(t *testing.T) {
	fs := engine.NewMem()
	m := start(t, engine.NewMem(), nil)
	manifest := backUp(t, m, fs)
	require.NoError(t, m.Close())
	r, err := repository.Open(repository.Config{Dir: "repository", FS: fs})
	require.NoError(t, err)
	routes, err := route.Parse(route.DefaultResourceGroups, "/registry")
	require.NoError(t, err)
	data := engine.NewMem()
	_, err = member.Restore(t.Context(), member.RestoreConfig{
		Files: &member.BackupFiles{Repository: r, Manifest: manifest, Progress: func(int64) {}},
		Dir:   "data", FS: data, Name: "a", InitialCluster: "a=http://127.0.0.1:2380",
		PeerURLs: []string{"http://127.0.0.1:2380"}, Routes: routes,
	})
	require.ErrorContains(t, err, "the backup has other routes than the flags say")
	_, err = data.Stat("data")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestBackupOvertaken: a compaction that comes while the files are made may free versions of
// the backup's revision; then there is another one.
func TestBackupOvertaken(t *testing.T) {
	var m *member.Member
	links := 0
	fs := engine.WrapFaulty(engine.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind != errorfs.OpLink {
			return nil
		}
		if links++; links == 1 {
			do(t, m, &evaluate.Put{Key: []byte("k"), Value: []byte("3")})
			do(t, m, &evaluate.Compact{Revision: m.Revision()})
			require.NoError(t, m.CompactWait(t.Context(), m.Revision()))
		}
		return nil
	}))
	m = start(t, fs, nil)
	do(t, m, &evaluate.Put{Key: []byte("k"), Value: []byte("1")})
	do(t, m, &evaluate.Put{Key: []byte("k"), Value: []byte("2")})
	to := engine.NewMem()
	manifest := backUp(t, m, to)
	require.EqualValues(t, 4, manifest.Revision)
	require.EqualValues(t, 4, manifest.Compacted)
	names, err := fs.List("data/checkpoints")
	require.NoError(t, err)
	require.Empty(t, names)
	again := fromBackup(t, manifest, to, 0)
	sameStore(t, m, again)
	require.NoError(t, again.Close())
	require.NoError(t, m.Close())
}
