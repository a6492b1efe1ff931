package repository_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/repository"
	"github.com/pebbledash/pebbledash/storage/route"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// content is what a backup has, by the names of files.
type content map[string]string

func (c content) file(name string) repository.File {
	return repository.File{Name: name, Size: int64(len(c[name])), SHA: sha256.Sum256([]byte(c[name]))}
}

// create adds a backup, as far as it goes.
func create(cfg repository.Config, c content, revision int64, now time.Time) (m *repository.Manifest, err error) {
	to, err := repository.Create(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	for name := range c {
		has, err := to.Has(c.file(name))
		if err != nil {
			return nil, err
		}
		if has {
			continue
		}
		w, err := to.Write(c.file(name))
		if err != nil {
			return nil, err
		}
		if _, err := io.Copy(w, bytes.NewReader([]byte(c[name]))); err != nil {
			w.Drop()
			return nil, err
		}
		if err := w.Finish(); err != nil {
			return nil, err
		}
	}
	m = &repository.Manifest{ClusterID: "c", Revision: revision, Routes: route.CoreOnly().String()}
	return m, to.Finish(m, now)
}

// check reads a backup again.
func check(t *testing.T, cfg repository.Config, id string, c content) {
	t.Helper()
	r, err := repository.Open(cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	m, err := r.Manifest(id)
	require.NoError(t, err)
	require.Len(t, m.Files, len(c))
	out := engine.NewMem()
	require.NoError(t, out.MkdirAll("out", 0o700))
	require.NoError(t, r.Copy(t.Context(), m, out, "out", func(int64) {}))
	for name, want := range c {
		f, err := out.Open("out/" + name)
		require.NoError(t, err)
		got, err := io.ReadAll(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.Equal(t, want, string(got))
	}
}

// whole reads all backups that there are.
func whole(t *testing.T, cfg repository.Config) {
	t.Helper()
	if _, err := cfg.FS.Stat("r/REPOSITORY"); err != nil {
		return // not made yet
	}
	r, err := repository.Open(cfg)
	require.NoError(t, err)
	ids, err := r.IDs()
	require.NoError(t, err)
	for _, id := range ids {
		m, err := r.Manifest(id)
		require.NoError(t, err, "no manifest is half there")
		out := engine.NewMem()
		require.NoError(t, out.MkdirAll("out", 0o700))
		require.NoError(t, r.Copy(t.Context(), m, out, "out", func(int64) {}))
	}
	require.NoError(t, r.Close())
}

func list(t *testing.T, cfg repository.Config) []string {
	t.Helper()
	r, err := repository.Open(cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	ids, err := r.IDs()
	require.NoError(t, err)
	return ids
}

func TestRepository(t *testing.T) {
	cfg := repository.Config{Dir: filepath.Join(t.TempDir(), "a", "b")}
	one := content{"x.sst": "shared", "MANIFEST": "1", "marker": "", "other": ""}
	two := content{"x.sst": "shared", "MANIFEST": "2"}
	first, err := create(cfg, one, 5, epoch)
	require.NoError(t, err)
	require.EqualValues(t, 7, first.NewBytes)
	// The clock was set back.
	second, err := create(cfg, two, 6, epoch.Add(-time.Hour))
	require.NoError(t, err)
	require.EqualValues(t, 1, second.NewBytes)
	require.Equal(t, first.ID, second.BasedOn)
	require.Equal(t, []string{first.ID, second.ID}, list(t, cfg))
	check(t, cfg, first.ID, one)
	check(t, cfg, second.ID, two)

	p, err := repository.Prune(cfg, 1)
	require.NoError(t, err)
	require.Equal(t, repository.Pruned{Removed: []string{first.ID}, Files: 2, Bytes: 1}, p)
	check(t, cfg, second.ID, two)
	p, err = repository.Prune(cfg, 3)
	require.NoError(t, err)
	require.Empty(t, p)
	_, err = repository.Prune(cfg, 0)
	require.ErrorContains(t, err, "at least one is kept")
}

// TestLocks: a prune excludes all, a create only others of its kind.
func TestLocks(t *testing.T) {
	cfg := repository.Config{Dir: t.TempDir()}
	_, err := create(cfg, content{"x": "1"}, 5, epoch)
	require.NoError(t, err)
	reading, err := repository.Open(cfg)
	require.NoError(t, err)
	_, err = repository.Prune(cfg, 1)
	require.ErrorIs(t, err, repository.ErrInUse)
	creating, err := repository.Create(cfg)
	require.NoError(t, err)
	_, err = repository.Create(cfg)
	require.ErrorIs(t, err, repository.ErrInUse)
	require.NoError(t, reading.Close())
	_, err = repository.Prune(cfg, 1)
	require.ErrorIs(t, err, repository.ErrInUse)
	require.NoError(t, creating.Close())
	_, err = repository.Prune(cfg, 1)
	require.NoError(t, err)
}

// TestLatest asks which is meant where it can't be said.
func TestLatest(t *testing.T) {
	cfg := repository.Config{Dir: "r", FS: engine.NewMem()}
	first, err := create(cfg, content{"x": "1"}, 5, epoch)
	require.NoError(t, err)
	r, err := repository.Open(cfg)
	require.NoError(t, err)
	id, err := r.Find(repository.Latest)
	require.NoError(t, err)
	require.Equal(t, first.ID, id)
	to, err := repository.Create(cfg)
	require.NoError(t, err)
	has, err := to.Has(content{"x": "1"}.file("x"))
	require.NoError(t, err)
	require.True(t, has)
	require.NoError(t, to.Finish(&repository.Manifest{ClusterID: "other", Revision: 5, Routes: route.CoreOnly().String()}, epoch))
	_, err = r.Find(repository.Latest)
	require.ErrorContains(t, err, "backups of several clusters (c and other)")
}

// TestRefuses what is no repository, what is newer, and files that could lead elsewhere.
func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	cfg := repository.Config{Dir: dir}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600))
	_, err := create(cfg, content{"x": "1"}, 5, epoch)
	require.ErrorContains(t, err, "and not empty either (precious)")
	_, err = repository.Open(repository.Config{Dir: filepath.Join(dir, "none")})
	require.ErrorContains(t, err, "is no repository of backups")
	_, err = repository.Open(repository.Config{})
	require.ErrorContains(t, err, "--repository")

	cfg.Dir = filepath.Join(dir, "r")
	for _, name := range []string{"", ".", "..", "../x", "a/b", "a\x00"} {
		_, err = create(cfg, content{name: "1"}, 5, epoch)
		require.ErrorContains(t, err, "bad file", name)
	}
	to, err := repository.Create(cfg)
	require.NoError(t, err)
	w, err := to.Write(content{"x": "1"}.file("x"))
	require.NoError(t, err)
	_, err = w.Write([]byte("2"))
	require.NoError(t, err)
	require.ErrorContains(t, w.Finish(), "has come damaged")
	require.ErrorContains(t, to.Finish(&repository.Manifest{Revision: 5, Routes: route.CoreOnly().String()}, epoch), "it has no files")
	require.NoError(t, to.Close())
	require.Empty(t, list(t, cfg))
	require.NoError(t, os.WriteFile(filepath.Join(cfg.Dir, "REPOSITORY"), []byte(`{"format":2}`), 0o600))
	_, err = repository.Open(cfg)
	require.ErrorContains(t, err, "use a newer pebbledash")
}

// TestPruneKeepsWhatItCantRead: nobody knows what a damaged manifest needs.
func TestPruneKeepsWhatItCantRead(t *testing.T) {
	fs := engine.NewMem()
	cfg := repository.Config{Dir: "r", FS: fs}
	one, two := content{"x": "1"}, content{"x": "2"}
	first, err := create(cfg, one, 5, epoch)
	require.NoError(t, err)
	second, err := create(cfg, two, 6, epoch.Add(time.Second))
	require.NoError(t, err)
	f, err := fs.Create("r/backups/"+second.ID+".json", "test")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = repository.Prune(cfg, 1)
	require.ErrorContains(t, err, "nothing was removed")
	check(t, cfg, first.ID, one)
}

// history adds backups and prunes, on a file system that fails, until something does, and
// returns what must be there then. A backup of which nobody was told may be, too.
func history(cfg repository.Config, steps int) (kept []string, of map[string]content, err error) {
	of = map[string]content{}
	for i := range steps {
		c := content{"shared": "always", fmt.Sprintf("of-%d", i/2): fmt.Sprintf("two have %d", i/2), "MANIFEST": fmt.Sprint(i)}
		m, err := create(cfg, c, int64(i+1), epoch.Add(time.Duration(i)*time.Second))
		if err != nil {
			return kept, of, err
		}
		kept = append(kept, m.ID)
		of[m.ID] = c
		if i%3 == 2 {
			// Whether it fails or not: at most the older ones are gone.
			kept = kept[len(kept)-2:]
			if _, err := repository.Prune(cfg, 2); err != nil {
				return kept, of, err
			}
		}
	}
	return kept, of, nil
}

// TestCrashes loses the power, and has writes fail, after each operation that changes the
// file system: what was said to be there is there, whole, and the next backup works.
func TestCrashes(t *testing.T) {
	const steps = 7
	for _, lost := range []int{0, 50, 100} {
		done := false
		for at := 0; !done; at++ {
			mem := engine.NewCrashableMem()
			left := at
			var crashed *engine.MemFS
			fs := engine.WrapFaulty(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
					return nil
				}
				if left--; left == -1 {
					crashed = mem.CrashClone(engine.CrashCloneCfg{UnsyncedDataPercent: lost, RNG: rand.New(rand.NewPCG(uint64(at), 0))})
				}
				if left < 0 {
					return errorfs.ErrInjected
				}
				return nil
			}))
			kept, of, err := history(repository.Config{Dir: "r", FS: fs}, steps)
			if done = err == nil; done {
				require.Len(t, kept, 3)
				require.Greater(t, at, 100, "it did fail")
				break
			}
			require.ErrorIs(t, err, errorfs.ErrInjected)
			for _, left := range []*engine.MemFS{mem, crashed} {
				cfg := repository.Config{Dir: "r", FS: left}
				for _, id := range kept {
					check(t, cfg, id, of[id])
				}
				whole(t, cfg)
				c := content{"shared": "always", "MANIFEST": "after"}
				m, err := create(cfg, c, 100, epoch.Add(time.Hour))
				require.NoError(t, err)
				check(t, cfg, m.ID, c)
				_, err = repository.Prune(cfg, 1)
				require.NoError(t, err)
				check(t, cfg, m.ID, c)
				files := 0
				dirs, err := left.List("r/files")
				require.NoError(t, err)
				for _, dir := range dirs {
					names, err := left.List("r/files/" + dir)
					require.NoError(t, err)
					files += len(names)
				}
				require.Equal(t, 2, files, "nothing else is left")
			}
		}
	}
}

// FuzzManifest reads what may be damaged.
func FuzzManifest(f *testing.F) {
	fs := engine.NewMem()
	cfg := repository.Config{Dir: "r", FS: fs}
	m, err := create(cfg, content{"x": "1"}, 5, epoch)
	require.NoError(f, err)
	path := "r/backups/" + m.ID + ".json"
	in, err := fs.Open(path)
	require.NoError(f, err)
	sound, err := io.ReadAll(in)
	require.NoError(f, err)
	require.NoError(f, in.Close())
	f.Add(sound)
	f.Add(sound[:len(sound)-1])
	f.Add([]byte{})
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := fs.Create(path, "test")
		require.NoError(t, err)
		_, err = out.Write(bytes.Clone(data))
		require.NoError(t, err)
		require.NoError(t, out.Close())
		r, err := repository.Open(cfg)
		require.NoError(t, err)
		if _, err := r.Manifest(m.ID); err == nil {
			require.Equal(t, string(sound), string(data))
		}
	})
}
