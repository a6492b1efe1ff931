package inspect_test

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/inspect"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

const lease = 77

func openMember(t *testing.T, fs engine.FS, dir string) *member.Member {
	t.Helper()
	routes, err := route.Parse(route.DefaultResourceGroups, "/registry")
	require.NoError(t, err)
	m, err := member.Open(t.Context(), member.Config{
		Dir: dir, FS: fs, Name: "a", InitialCluster: "a=http://127.0.0.1:2380", ClientURLs: []string{"http://127.0.0.1:2379"},
		Routes: routes, CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	<-m.Ready()
	return m
}

// fill writes keys of all groups but events: revisions 2 to 9, compacted at 4.
func fill(t *testing.T, m *member.Member) {
	t.Helper()
	for _, op := range []evaluate.Op{
		&evaluate.LeaseGrant{ID: lease, TTL: 1000},
		&evaluate.Put{Key: []byte("/registry/pods/p"), Value: []byte("p1")},                // 2
		&evaluate.Put{Key: []byte("/registry/pods/p"), Value: []byte("p2")},                // 3
		&evaluate.Put{Key: []byte("/registry/leases/l"), Value: []byte("l"), Lease: lease}, // 4
		&evaluate.Put{Key: []byte("core"), Value: []byte("c1")},                            // 5
		&evaluate.Put{Key: []byte("core"), Value: []byte("c2")},                            // 6
		&evaluate.DeleteRange{Key: []byte("core")},                                         // 7
		&evaluate.Put{Key: []byte("core"), Value: []byte("c3")},                            // 8
		&evaluate.Put{Key: []byte("/registry/pods/p"), Value: []byte("p3")},                // 9
		&evaluate.Records{Table: "users", Writes: []mvcc.RecordWrite{{Key: "u", Value: []byte("x")}}},
		&evaluate.Compact{Revision: 4},
	} {
		_, err := m.Do(t.Context(), op)
		require.NoError(t, err)
	}
}

// made is a data directory in memory.
func made(t *testing.T) *engine.MemFS {
	t.Helper()
	fs := engine.NewCrashableMem()
	m := openMember(t, fs, "data")
	fill(t, m)
	require.NoError(t, m.Close())
	return fs
}

func look(t *testing.T, fs engine.FS, dir string) *inspect.Dir {
	t.Helper()
	d, err := inspect.Open(inspect.Config{Dir: dir, FS: fs})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// verify returns what is damaged.
func verify(t *testing.T, d *inspect.Dir) (damage []string, groups []inspect.Verified) {
	t.Helper()
	err := d.Verify(t.Context(), func(d inspect.Damage) { damage = append(damage, d.Group+": "+d.What) },
		func(v inspect.Verified) { groups = append(groups, v) })
	require.NoError(t, err)
	return damage, groups
}

func keys(t *testing.T, d *inspect.Dir, prefix string, rev int64) (out []string) {
	t.Helper()
	err := d.Keys(t.Context(), []byte(prefix), rev, false, func(kv *mvccpb.KeyValue) error {
		out = append(out, fmt.Sprintf("%s=%s@%d", kv.Key, kv.Value, kv.ModRevision))
		return nil
	})
	require.NoError(t, err)
	return out
}

func TestSound(t *testing.T) {
	d := look(t, made(t), "data")
	require.Equal(t, "a", d.Identity().Name)
	damage, verified := verify(t, d)
	require.Empty(t, damage)
	groups, err := d.Groups()
	require.NoError(t, err)
	require.Len(t, groups, 4)
	require.Len(t, verified, 4)
	for i, g := range groups {
		require.Equal(t, g, verified[i].Group)
		require.Zero(t, g.Unapplied())
		require.Equal(t, g.Last, g.Applied.Index)
		require.Equal(t, g.Bytes, verified[i].Rows.Bytes)
		require.Equal(t, []uint64{d.Identity().MemberID}, g.Replicas.Voters)
	}
	require.Equal(t, []mvcc.RecordTable{{Name: "users", Version: 1, Records: 1}}, groups[0].Records)
	core := verified[0].Rows
	require.Equal(t, mvcc.Rows{Keys: 1, Versions: 4, Tombstones: 1, Leases: 1, Records: 1, Bytes: core.Bytes}, core)
	require.EqualValues(t, 1, verified[2].Rows.Attached)
	members, removed, err := d.Members()
	require.NoError(t, err)
	require.Empty(t, removed)
	require.Len(t, members, 1)
	require.Equal(t, "a", members[0].Name)
}

func TestKeys(t *testing.T) {
	d := look(t, made(t), "data")
	require.Equal(t, []string{"/registry/leases/l=l@4", "/registry/pods/p=p3@9", "core=c3@8"}, keys(t, d, "", 0))
	require.Equal(t, []string{"/registry/leases/l=l@4", "/registry/pods/p=p2@3"}, keys(t, d, "", 7))
	require.Equal(t, []string{"/registry/pods/p=p2@3"}, keys(t, d, "/registry/p", 8))
	nothing := func(*mvccpb.KeyValue) error { return nil }
	require.ErrorContains(t, d.Keys(t.Context(), nil, 3, false, nothing), "revision 3 is gone by a compaction: the oldest that can be read is 4, the newest 9")
	require.ErrorContains(t, d.Keys(t.Context(), nil, 10, false, nothing), "revision 10 is not there: the state is at revision 9")
	require.ErrorIs(t, d.Keys(t.Context(), nil, 0, true, func(kv *mvccpb.KeyValue) error {
		require.Empty(t, kv.Value)
		return os.ErrClosed
	}), os.ErrClosed)
}

func TestHistory(t *testing.T) {
	d := look(t, made(t), "data")
	var out []string
	require.NoError(t, d.History(t.Context(), []byte("core"), func(v *mvcc.Version) error {
		out = append(out, fmt.Sprintf("%d %d %d %q %t", v.Rev.Main, v.Head.Create, v.Head.Version, v.Value, v.Tombstone))
		return nil
	}))
	require.Equal(t, []string{`5 5 1 "c1" false`, `6 5 2 "c2" false`, `7 0 0 "" true`, `8 8 1 "c3" false`}, out)
	require.NoError(t, d.History(t.Context(), []byte("cor"), func(*mvcc.Version) error { return os.ErrClosed }))
}

// What a crash has kept from the state is told.
func TestUnapplied(t *testing.T) {
	fs := engine.NewCrashableMem()
	m := openMember(t, fs, "data")
	fill(t, m)
	crashed := fs.CrashClone(engine.CrashCloneCfg{})
	require.NoError(t, m.Close())
	d := look(t, crashed, "data")
	damage, groups := verify(t, d)
	require.Empty(t, damage)
	require.Positive(t, groups[0].Unapplied())
}

func dataKey(group byte, user string, main int64) []byte {
	return engine.AppendVersion(append([]byte{0, group, 'k'}, user...), main, 0)
}

func revsKey(group byte, main int64) []byte {
	key := binary.BigEndian.AppendUint64([]byte{0, group, 'r'}, uint64(main))
	return engine.AppendPrefix(binary.BigEndian.AppendUint32(key, 0))
}

func attachKey(group byte, id int64, user string) []byte {
	return engine.AppendPrefix(append(binary.BigEndian.AppendUint64([]byte{0, group, 'a'}, uint64(id)), user...))
}

func metaKey(group byte, name string) []byte {
	return engine.AppendPrefix(append([]byte{0, group, 'm'}, name...))
}

func entryKey(group byte, index uint64) []byte {
	return engine.AppendPrefix(binary.BigEndian.AppendUint64([]byte{0, group, 'e'}, index))
}

// Numbers of the groups of the default routes.
const (
	core, events, leases, pods = 1, 2, 3, 4
)

func get(t *testing.T, db *engine.DB, key []byte) []byte {
	t.Helper()
	row, closer, err := db.Get(key)
	require.NoError(t, err)
	defer func() { require.NoError(t, closer.Close()) }()
	return slices.Clone(row)
}

// Every kind of damage is found, and nothing else is said to be damaged.
func TestDamage(t *testing.T) {
	sound := made(t)
	for _, c := range []struct {
		name string
		// log says that the logs are damaged, not the state.
		log   bool
		plant func(t *testing.T, db *engine.DB)
		want  []string
	}{
		{
			name: "head of a version", want: []string{`pods: key "/registry/pods/p" at revision 9 is version 3, created at 3, and not version 3, created at 2, after the version at 3`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				row := get(t, db, dataKey(pods, "/registry/pods/p", 9))
				row[0] ^= 1
				require.NoError(t, db.Set(dataKey(pods, "/registry/pods/p", 9), row, engine.NoSync))
			},
		},
		{
			name: "impossible head", want: []string{
				`core: key "core" at revision 5 can't be version 1, created at 69`,
				`core: key "core" at revision 6 is version 2, created at 5, and not version 2, created at 69, after the version at 5`,
			},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				row := get(t, db, dataKey(core, "core", 5))
				row[0] ^= 0x40
				require.NoError(t, db.Set(dataKey(core, "core", 5), row, engine.NoSync))
			},
		},
		{
			name: "cut record", want: []string{
				`leases: key "/registry/leases/l" at revision 4: mvcc: bad record of 1 bytes at revision 4`,
				`leases: key "/registry/leases/l", which is attached to lease`,
				`leases: the versions take`,
			},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(dataKey(leases, "/registry/leases/l", 4), []byte{4}, engine.NoSync))
			},
		},
		{
			name: "revision row", want: []string{`core: revision 6.0 of key "core" is not in the index of revisions`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Delete(revsKey(core, 6), engine.NoSync))
			},
		},
		{
			name: "revision row of another key", want: []string{
				`core: revision 6.0 is of key "bore" in the index, and key "core" has a version of it`,
				`core: revision 6.0 of key "bore" has no row`,
			},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(revsKey(core, 6), []byte("bore"), engine.NoSync))
			},
		},
		{
			name: "data row", want: []string{`core: revision 6.0 of key "core" has no row`, `core: the versions take`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Delete(dataKey(core, "core", 6), engine.NoSync))
			},
		},
		{
			name: "both rows of a version", want: []string{
				`core: key "core" at revision 8 is version 1, created at 8, and not version 3, created at 5, after the version at 6`,
				`core: the versions take`,
			},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Delete(dataKey(core, "core", 7), engine.NoSync))
				require.NoError(t, db.Delete(revsKey(core, 7), engine.NoSync))
			},
		},
		{
			name: "lost newest version", want: []string{
				`pods: revision 9.0 of key "/registry/pods/p" has no row`, `pods: the versions take`,
			},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Delete(dataKey(pods, "/registry/pods/p", 9), engine.NoSync))
			},
		},
		{
			name: "deleted twice", want: []string{`core: key "core" at revision 7 is deleted twice, after the version at 6`, `core: the versions take`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(dataKey(core, "core", 6), nil, engine.NoSync))
			},
		},
		{
			name: "goes on after a deletion", want: []string{`core: key "core" at revision 8 is version 2 of a key that was deleted, after the version at 7`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				row := get(t, db, dataKey(core, "core", 8))
				row[0], row[1] = 5, 2
				require.NoError(t, db.Set(dataKey(core, "core", 8), row, engine.NoSync))
			},
		},
		{
			name: "attachment lost", want: []string{`leases: key "/registry/leases/l" names lease 000000000000004d, to which it is not attached`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Delete(attachKey(leases, lease, "/registry/leases/l"), engine.NoSync))
			},
		},
		{
			name: "attachment of another key", want: []string{`pods: key "/registry/pods/p" is attached to lease 000000000000004d, which its newest version does not name`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(attachKey(pods, lease, "/registry/pods/p"), nil, engine.NoSync))
			},
		},
		{
			name: "key of another group", want: []string{`core: key "/registry/pods/q" belongs to another group`, `core: the versions take`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				row := get(t, db, dataKey(core, "core", 5))
				require.NoError(t, db.Set(dataKey(core, "/registry/pods/q", 5), row, engine.NoSync))
				require.NoError(t, db.Delete(dataKey(core, "core", 5), engine.NoSync))
				require.NoError(t, db.Set(revsKey(core, 5), []byte("/registry/pods/q"), engine.NoSync))
			},
		},
		{
			name: "future", want: []string{`core: key "core" has a version at revision 100, and the group is at 8`, `core: the versions take`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(dataKey(core, "core", 100), nil, engine.NoSync))
				require.NoError(t, db.Set(revsKey(core, 100), []byte("core"), engine.NoSync))
			},
		},
		{
			name: "counted bytes", want: []string{`pods: the versions take 134 bytes, and the group has counted 200`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(metaKey(pods, "freed"), binary.BigEndian.AppendUint64(nil, 1), engine.NoSync))
			},
		},
		{
			name: "applied row", want: []string{"events: mvcc: bad row of the applied index"},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(metaKey(events, "applied"), []byte("x"), engine.NoSync))
			},
		},
		{
			name: "applied too far", want: []string{"events: the state is applied up to entry 99, and the log ends at entry"},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				row := get(t, db, metaKey(events, "applied"))
				binary.BigEndian.PutUint64(row, 99)
				require.NoError(t, db.Set(metaKey(events, "applied"), row, engine.NoSync))
			},
		},
		{
			name: "strange table", want: []string{`core: there is a table 'z', which is not known`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(engine.AppendPrefix([]byte{0, core, 'z', 1}), nil, engine.NoSync))
			},
		},
		{
			name: "strange group", want: []string{`: the state has rows of group 9, which the cluster does not have`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(engine.AppendPrefix([]byte{0, 9, 'm', 'x'}), nil, engine.NoSync))
			},
		},
		{
			name: "lease row", want: []string{`core: mvcc: bad lease row`},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Set(engine.AppendPrefix(binary.BigEndian.AppendUint64([]byte{0, core, 'l'}, lease)), nil, engine.NoSync))
			},
		},
		{
			name: "entry lost", log: true, want: []string{"core: group: the log is damaged: entry 5 follows 3"},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Delete(entryKey(core, 4), engine.NoSync))
			},
		},
		{
			name: "log begins behind the state", log: true, want: []string{"events: the state is applied up to entry"},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				row := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 50), 2)
				require.NoError(t, db.DeleteRange(entryKey(events, 0), entryKey(events, 50), engine.NoSync))
				require.NoError(t, db.Set(engine.AppendPrefix([]byte{0, events, 't'}), row, engine.NoSync))
			},
		},
		{
			name: "log lost", log: true, want: []string{"events: the state is applied up to entry"},
			plant: func(t *testing.T, db *engine.DB) {
				t.Helper()
				require.NoError(t, db.Delete(engine.AppendPrefix([]byte{0, events, 't'}), engine.NoSync))
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := sound.CrashClone(engine.CrashCloneCfg{})
			dir := "data/state"
			if c.log {
				dir = "data/log"
			}
			db, err := engine.Open(engine.Config{
				Dir: dir, FS: fs, Log: c.log, CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
				Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { panic(err) },
			})
			require.NoError(t, err)
			c.plant(t, db)
			require.NoError(t, db.Flush())
			require.NoError(t, db.Close())
			damage, groups := verify(t, look(t, fs, "data"))
			require.Len(t, groups, 4)
			require.Len(t, damage, len(c.want), "%q", damage)
			for i, want := range c.want {
				require.True(t, strings.HasPrefix(damage[i], want), "%q is not %q", damage[i], want)
			}
		})
	}
}

// files returns the content of all files below dir.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		out[path] = string(content)
		return err
	}))
	return out
}

// tables returns the tables of the state, the greatest first.
func tables(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "state", "*.sst"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	size := func(name string) int64 {
		info, err := os.Stat(name)
		require.NoError(t, err)
		return info.Size()
	}
	slices.SortFunc(names, func(a, b string) int { return int(size(b) - size(a)) })
	return names
}

func TestRealFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	_, err := inspect.Open(inspect.Config{Dir: dir})
	require.ErrorContains(t, err, "there is no data directory")
	require.NoDirExists(t, dir)
	m := openMember(t, nil, dir)
	fill(t, m)
	// So much that values are not all in one block.
	for i := range 200 {
		_, err := m.Do(t.Context(), &evaluate.Put{Key: fmt.Appendf(nil, "/registry/pods/x%03d", i), Value: []byte(strings.Repeat(fmt.Sprint(i), 300))})
		require.NoError(t, err)
	}
	_, err = inspect.Open(inspect.Config{Dir: dir})
	require.ErrorIs(t, err, member.ErrLocked)
	require.ErrorContains(t, err, "stop the member first")
	require.NoError(t, m.Close())

	before := files(t, dir)
	d, err := inspect.Open(inspect.Config{Dir: dir})
	require.NoError(t, err)
	_, err = member.OpenDataDir(member.DataDirConfig{Dir: dir})
	require.ErrorIs(t, err, member.ErrLocked)
	damage, _ := verify(t, d)
	require.Empty(t, damage)
	require.Len(t, keys(t, d, "/registry/pods/", 0), 201)
	require.NoError(t, d.Close())
	require.Equal(t, before, files(t, dir))

	t.Run("flipped byte", func(t *testing.T) {
		name := tables(t, dir)[0]
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		bad := slices.Clone(content)
		bad[len(bad)/3] ^= 1
		require.NoError(t, os.WriteFile(name, bad, 0o600))
		defer func() { require.NoError(t, os.WriteFile(name, content, 0o600)) }()
		damage, _ := verify(t, look(t, nil, dir))
		require.NotEmpty(t, damage)
		require.Contains(t, damage[0], "the state can't be read")
	})
	t.Run("truncated table", func(t *testing.T) {
		name := tables(t, dir)[0]
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(name, info.Size()/2))
		var damage *inspect.Damage
		_, err = inspect.Open(inspect.Config{Dir: dir})
		require.ErrorAs(t, err, &damage)
		require.ErrorContains(t, err, "the data directory is damaged")
		// It was given back.
		_, err = inspect.Open(inspect.Config{Dir: dir})
		require.NotErrorIs(t, err, member.ErrLocked)
	})
}
