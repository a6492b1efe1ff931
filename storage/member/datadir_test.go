package member

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// testIdentity is that of the first start with etcd's and our defaults.
var testIdentity = Identity{
	Name: "default", ClusterID: 0xcdf818194e3a8c32, MemberID: 0x8e9e05c52164694d,
	Routes: "etcd-prefix=/registry core=1 pods=2:/registry/pods,/registry/pods/",
	Voters: []InitialMember{{0x8e9e05c52164694d, "default", []string{"http://localhost:2380"}}},
}

const testDir = "/var/lib/pebbledash"

// testVersion is what testIdentity's VERSION looks like.
const testVersion = `{
  "format": 1,
  "cluster_id": "cdf818194e3a8c32",
  "member_id": "8e9e05c52164694d",
  "name": "default",
  "created_by": "1.2.3",
  "routes": "etcd-prefix=/registry core=1 pods=2:/registry/pods,/registry/pods/",
  "joined": false,
  "voters": [
    {
      "id": "8e9e05c52164694d",
      "name": "default",
      "peer_urls": [
        "http://localhost:2380"
      ]
    }
  ],
  "crc32c": "46bebc5b"
}
`

func openAndBind(fsys engine.FS, dir string, want Identity) (d *DataDir, created bool, err error) {
	d, err = OpenDataDir(DataDirConfig{Dir: dir, FS: fsys})
	if err != nil {
		return nil, false, err
	}
	if _, created, err = d.Bind(want, "1.2.3"); err != nil {
		_ = d.Close()
		return nil, false, err
	}
	return d, created, nil
}

func put(t *testing.T, fsys engine.FS, content string, elem ...string) {
	t.Helper()
	path := fsys.PathJoin(elem...)
	require.NoError(t, fsys.MkdirAll(fsys.PathDir(path), 0o755))
	f, err := fsys.Create(path, diskWriteCategory)
	require.NoError(t, err)
	_, err = f.Write([]byte(content))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestDataDir(t *testing.T) {
	fsys := engine.NewMem()
	d, err := OpenDataDir(DataDirConfig{Dir: testDir, FS: fsys})
	require.NoError(t, err)
	_, ok := d.Identity()
	require.False(t, ok)
	require.Empty(t, d.CreatedBy())

	_, _, err = d.Bind(Identity{Name: "default", ClusterID: 1}, "1.2.3")
	require.EqualError(t, err, "data directory /var/lib/pebbledash is new, and can't be made: there is no name, cluster ID or member ID")
	_, _, err = d.Bind(Identity{Name: "caf\xe9", ClusterID: 1, MemberID: 2, Routes: "core=1", Joined: true}, "1.2.3")
	require.EqualError(t, err, `can't make data directory /var/lib/pebbledash: VERSION with name "caf\xe9" could not be read again`)
	id, created, err := d.Bind(testIdentity, "1.2.3")
	require.NoError(t, err)
	require.True(t, created)
	require.Equal(t, testIdentity, id)
	// From now on it is bound.
	_, _, err = d.Bind(Identity{Name: "other"}, "1.2.3")
	require.Error(t, err)
	require.NoError(t, d.Close())

	names, err := fsys.List(testDir)
	require.NoError(t, err)
	slices.Sort(names)
	require.Equal(t, []string{"LOCK", "VERSION", "log", "state"}, names)
	content, err := d.readFile(versionName)
	require.NoError(t, err)
	require.Equal(t, strings.Split(testVersion, "\n"), strings.Split(string(content), "\n"))

	// What comes to lie beside our files is not our business.
	put(t, fsys, "x", testDir, "notes.txt")
	put(t, fsys, "x", d.LogDir(), "000001.log")
	put(t, fsys, "x", d.StateDir(), "000001.sst")

	d, created, err = openAndBind(fsys, testDir, Identity{})
	require.NoError(t, err)
	require.False(t, created)
	id, ok = d.Identity()
	require.True(t, ok)
	require.Equal(t, testIdentity, id)
	require.Equal(t, "1.2.3", d.CreatedBy())
	require.Equal(t, "/var/lib/pebbledash/log", d.LogDir())
	require.Equal(t, "/var/lib/pebbledash/state", d.StateDir())
	require.NoError(t, d.Close())

	for _, c := range []struct {
		want Identity
		err  string
	}{
		{testIdentity, ""},
		{Identity{Name: "default"}, ""},
		// Who was there at the start is not asked again.
		{Identity{Routes: testIdentity.Routes, Joined: true}, ""},
		{Identity{Voters: []InitialMember{{7, "x", nil}}}, ""},
		{Identity{Name: "infra0", ClusterID: testIdentity.ClusterID}, `its name is "default", and the flags say "infra0"`},
		{Identity{Name: "default", ClusterID: 7}, "its cluster ID is cdf818194e3a8c32, and the flags say 7"},
		{Identity{MemberID: 0xabc}, "its member ID is 8e9e05c52164694d, and the flags say abc"},
	} {
		d, _, err = openAndBind(fsys, testDir, c.want)
		if c.err == "" {
			require.NoError(t, err)
			require.NoError(t, d.Close())
			continue
		}
		require.EqualError(t, err, "data directory /var/lib/pebbledash belongs to another member: "+c.err+
			"; correct the flags, or give another data directory")
	}
	_, err = OpenDataDir(DataDirConfig{})
	require.EqualError(t, err, "no data directory is given")
}

// The routes of the first start are the cluster's for good.
func TestDataDirRoutes(t *testing.T) {
	fsys := engine.NewMem()
	d, _, err := openAndBind(fsys, testDir, testIdentity)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	_, _, err = openAndBind(fsys, testDir, Identity{Routes: "core=1"})
	require.EqualError(t, err, "data directory /var/lib/pebbledash has other routes than the flags say; "+
		"routes are chosen when a cluster is bootstrapped and can't be changed: correct --resource-groups and --etcd-prefix, "+
		"or bootstrap a new cluster with them and bring the data there; "+
		`the directory has "etcd-prefix=/registry core=1 pods=2:/registry/pods,/registry/pods/", the flags say "core=1"`)
}

// A member that joined a cluster, and one of three that made one.
func TestDataDirVoters(t *testing.T) {
	three, err := ParseInitialCluster("c=http://10.0.0.3:2380,a=http://10.0.0.1:2380,b=https://[::1]:1,b=unix:///run/b&<c>", "token")
	require.NoError(t, err)
	for _, want := range []Identity{
		{Name: "b", ClusterID: three.ID, MemberID: three.Members[1].ID, Routes: "core=1", Voters: three.Members},
		{Name: "b", ClusterID: 7, MemberID: 8, Routes: "core=1", Joined: true, Voters: nil},
	} {
		fsys := engine.NewMem()
		d, created, err := openAndBind(fsys, testDir, want)
		require.NoError(t, err)
		require.True(t, created)
		require.NoError(t, d.Close())
		d, _, err = openAndBind(fsys, testDir, Identity{})
		require.NoError(t, err)
		got, _ := d.Identity()
		require.Equal(t, want, got)
		require.NoError(t, d.Close())
	}
}

// Each of these is refused, and nothing in it is touched.
func TestDataDirRefuses(t *testing.T) {
	version := func(change ...string) string { return strings.NewReplacer(change...).Replace(testVersion) }
	for _, c := range []struct {
		name, want string
		files      map[string]string
	}{
		{
			"etcd", "/var/lib/pebbledash is the data directory of an etcd member (it has member/snap/db), which Pebbledash can't open: give it an empty data directory, and bring the data there from a snapshot of the etcd member (etcdctl snapshot save)",
			map[string]string{"member/snap/db": "x"},
		},
		{"etcd's WAL", "it has member/wal", map[string]string{"member/wal/0.tmp": ""}},
		{
			"others' files", "/var/lib/pebbledash is no data directory of Pebbledash (it has no VERSION), and not empty either (hosts, passwd): give a directory of its own",
			map[string]string{"passwd": "x", "hosts": "x", "LOCK": ""},
		},
		{
			"many of them", "(a, b, c, d, e and 2 more)",
			map[string]string{"a": "", "b": "", "c": "", "d": "", "e": "", "f": "", "g": ""},
		},
		{"an unknown directory", "(member)", map[string]string{"member/x": ""}},
		{
			"a log without VERSION", "data directory /var/lib/pebbledash has no VERSION, but there is something in log/ (000002.log): it can't be opened; if it is not needed any more, empty the directory",
			map[string]string{"log/000002.log": "", "VERSION.tmp": testVersion},
		},
		{"a state without VERSION", "something in state/", map[string]string{"state/MANIFEST-000001": ""}},
		{"a file in place of a directory", "something in log/", map[string]string{"log": ""}},
		{
			"the log is gone", "data directory /var/lib/pebbledash has lost its log/: it can't be opened, restore it from a backup, or let an empty member join in its place",
			map[string]string{"VERSION": testVersion, "state/x": ""},
		},
		{"the state is gone", "has lost its state/", map[string]string{"VERSION": testVersion, "log/x": ""}},
		{
			"newer", `data directory /var/lib/pebbledash was written by a newer Pebbledash (format 2, this binary knows 1; the directory was made by version "9.9.9"); refusing to open it: upgrade the binary`,
			map[string]string{"VERSION": `{"format": 2, "created_by": "9.9.9", "cluster_id": 17, "shape": "round"}`},
		},
		{"empty VERSION", "/var/lib/pebbledash/VERSION is damaged, refusing to open the data directory: unexpected end of JSON input", map[string]string{"VERSION": ""}},
		{"not JSON", "invalid character", map[string]string{"VERSION": "v3\n"}},
		{"a number", "cannot unmarshal", map[string]string{"VERSION": "3.5\n"}},
		{"not an object", "cannot unmarshal", map[string]string{"VERSION": "[]"}},
		{"cut off", "unexpected end of JSON input", map[string]string{"VERSION": testVersion[:90]}},
		{"more after it", "invalid character", map[string]string{"VERSION": testVersion + testVersion}},
		{"too long", "it has more than 65536 bytes", map[string]string{"VERSION": testVersion + strings.Repeat(" ", 1<<16)}},
		{"no format", "there is no format 0", map[string]string{"VERSION": "{}"}},
		{"format below", "there is no format -1", map[string]string{"VERSION": version(`"format": 1`, `"format": -1`)}},
		{"unknown field", `unknown field "shape"`, map[string]string{"VERSION": version("{", `{"shape": "round",`)}},
		{"another member", `its checksum is bf45474a, it says "46bebc5b"`, map[string]string{"VERSION": version("4694d", "4694e")}},
		{"no checksum", `it says ""`, map[string]string{"VERSION": version("46bebc5b", "")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := engine.NewMem()
			for name, content := range c.files {
				put(t, fsys, content, testDir, name)
			}
			before := fsys.String()
			_, err := OpenDataDir(DataDirConfig{Dir: testDir, FS: fsys})
			require.ErrorContains(t, err, c.want)
			require.NotErrorIs(t, err, ErrLocked)
			require.Equal(t, before, fsys.String())
		})
	}
}

// A VERSION whose checksum is right but whose identity is none; nor would a
// directory be made with it.
func TestVersionWithoutIdentity(t *testing.T) {
	good, err := decodeVersion([]byte(testVersion))
	require.NoError(t, err)
	for _, c := range []struct {
		want   string
		change func(*versionJSON)
	}{
		{"there is no name, cluster ID or member ID", func(j *versionJSON) { j.Name = "" }},
		{"there is no name, cluster ID or member ID", func(j *versionJSON) { j.ClusterID = "0" }},
		{"invalid syntax", func(j *versionJSON) { j.ClusterID = "" }},
		{"invalid syntax", func(j *versionJSON) { j.MemberID = "xyz" }},
		{"invalid syntax", func(j *versionJSON) { j.MemberID = "-1" }},
		{"there are no routes", func(j *versionJSON) { j.Routes = "" }},
		{`routes "pods" can't be read`, func(j *versionJSON) { j.Routes = "pods" }},
		{"although it joined later", func(j *versionJSON) { j.Joined = true }},
		{"the first members are not those of the cluster", func(j *versionJSON) { j.Voters = nil }},
		{"the first members are not those of the cluster", func(j *versionJSON) { j.ClusterID = "1" }},
		{"the first members are not those of the cluster", func(j *versionJSON) { j.Voters[0].ID = "1" }},
		{"the first members are not those of the cluster", func(j *versionJSON) { j.Voters[0].Name = "other" }},
		{"the first members are not in order", func(j *versionJSON) { j.Voters[0].ID = "0" }},
		{"the first members are not in order", func(j *versionJSON) { j.Voters = append(j.Voters, j.Voters[0]) }},
		{"the first members are not in order", func(j *versionJSON) {
			j.Voters = append(j.Voters, voterJSON{"2", "a", []string{"http://a:1"}})
		}},
		{"invalid syntax", func(j *versionJSON) { j.Voters[0].ID = "" }},
		{"the peer URLs of member \"default\" are not in order", func(j *versionJSON) { j.Voters[0].PeerURLs = nil }},
		{"are not in order", func(j *versionJSON) { j.Voters[0].PeerURLs = []string{"http://b:1", "http://a:1"} }},
		{"are not in order", func(j *versionJSON) { j.Voters[0].PeerURLs = []string{"ftp://b:1"} }},
	} {
		var j versionJSON
		require.NoError(t, json.Unmarshal(good.encode(), &j))
		c.change(&j)
		j.CRC32C = j.checksum()
		_, err := decodeVersion(j.encode())
		require.ErrorContains(t, err, c.want)
		if id, _ := j.identity(); id.Name != "" {
			_, _, err = openAndBind(engine.NewMem(), testDir, id)
			require.ErrorContains(t, err, "data directory /var/lib/pebbledash is new, and can't be made: ")
			require.ErrorContains(t, err, c.want)
		}
	}
}

// Whitespace is not content: an operator may have reformatted the file.
func TestVersionReformatted(t *testing.T) {
	v, err := decodeVersion([]byte(strings.ReplaceAll(testVersion, "\n", "\r\n\t")))
	require.NoError(t, err)
	require.Equal(t, testIdentity, v.identity)
}

func FuzzDecodeVersion(f *testing.F) {
	f.Add([]byte(testVersion))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		v, err := decodeVersion(content)
		if err != nil {
			return
		}
		again, err := decodeVersion(v.encode())
		require.NoError(t, err)
		require.Equal(t, v, again)
	})
}

// What a crash may leave of a directory's making is no obstacle.
func TestDataDirLeftovers(t *testing.T) {
	for _, files := range [][]string{
		{},
		{"LOCK"},
		{"LOCK", "LOCK.pid", "VERSION.tmp"},
		{"lost+found/x"},
	} {
		fsys := engine.NewMem()
		require.NoError(t, fsys.MkdirAll(testDir+"/log", 0o700))
		for _, name := range files {
			put(t, fsys, "{", testDir, name)
		}
		d, created, err := openAndBind(fsys, testDir, testIdentity)
		require.NoError(t, err)
		require.True(t, created)
		require.False(t, d.exists(d.path(tempName)))
		require.NoError(t, d.Close())
	}
}

// TestDataDirCrash cuts the power before every operation of the making of a
// directory, keeping none, some or all of what was not synced. Whoever comes next
// finds either nothing, and makes it, or the whole of it; and the whole of it
// once Bind has returned.
func TestDataDirCrash(t *testing.T) {
	type crash struct {
		at  string
		fs  *engine.MemFS
		end bool
	}
	var crashes []crash
	rng := rand.New(rand.NewPCG(1, 2))
	mem := engine.NewCrashableMem()
	cut := func(at string, end bool) {
		for _, percent := range []int{0, 20, 50, 50, 50, 80, 100} {
			c := mem.CrashClone(engine.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			crashes = append(crashes, crash{fmt.Sprintf("%s, %d%% kept", at, percent), c, end})
		}
	}
	ops := 0
	faulty := engine.WrapFaulty(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		ops++
		cut(fmt.Sprintf("before operation %d on %s", ops, op.Path), false)
		return nil
	}))
	d, _, err := openAndBind(faulty, testDir, testIdentity)
	require.NoError(t, err)
	cut("after Bind", true)
	require.NoError(t, d.Close())
	cut("after Close", true)
	require.Greater(t, ops, 20)

	seen := map[bool]int{}
	for _, c := range crashes {
		d, created, err := openAndBind(c.fs, testDir, testIdentity)
		require.NoError(t, err, c.at)
		require.False(t, created && c.end, c.at)
		seen[created]++
		for _, dir := range []string{d.LogDir(), d.StateDir()} {
			_, err := c.fs.List(dir)
			require.NoError(t, err, c.at)
		}
		require.NoError(t, d.Close())
		d, created, err = openAndBind(c.fs, testDir, Identity{})
		require.NoError(t, err, c.at)
		require.False(t, created, c.at)
		require.NoError(t, d.Close())
	}
	require.Greater(t, seen[true], 10)
	require.Greater(t, seen[false], 10)
}

// TestDataDirFaults lets every operation fail once. The error is returned, the
// lock is not kept, and the next try succeeds.
func TestDataDirFaults(t *testing.T) {
	for fail := 1; ; fail++ {
		mem := engine.NewMem()
		ops, failed := 0, ""
		faulty := engine.WrapFaulty(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			// A file that can't even be closed has no answer to that.
			if op.Kind == errorfs.OpFileClose {
				return nil
			}
			if ops++; ops == fail {
				failed = fmt.Sprint(op.Kind, " ", op.Path)
				return errorfs.ErrInjected
			}
			return nil
		}))
		d, _, err := openAndBind(faulty, testDir, testIdentity)
		if err == nil {
			require.NoError(t, d.Close())
			if ops < fail {
				require.Greater(t, fail, 15)
				return
			}
		}
		d, _, err = openAndBind(mem, testDir, testIdentity)
		require.NoError(t, err, "after a failure of operation %d, %s", fail, failed)
		require.NoError(t, d.Close())
	}
}

func TestDataDirLockedHere(t *testing.T) {
	for _, fsys := range []engine.FS{engine.NewMem(), engine.OSFS()} {
		dir := filepath.Join(t.TempDir(), "a", "b")
		d, _, err := openAndBind(fsys, dir, testIdentity)
		require.NoError(t, err)
		_, _, err = openAndBind(fsys, dir, testIdentity)
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorContains(t, err, fmt.Sprintf("data directory is in use: %s is locked by process %d on host ", dir, os.Getpid()))

		// Without the note the error is still clear.
		require.NoError(t, d.fs.Remove(d.path(holderName)))
		_, _, err = openAndBind(fsys, dir, testIdentity)
		require.ErrorContains(t, err, "is locked by another process")
		put(t, fsys, "-5 \n", dir, holderName)
		_, _, err = openAndBind(fsys, dir, testIdentity)
		require.ErrorContains(t, err, "is locked by another process")

		// The refused ones have not broken the lock.
		require.NoError(t, d.Close())
		d, _, err = openAndBind(fsys, dir, testIdentity)
		require.NoError(t, err)
		require.NoError(t, d.Close())
	}
}

// TestDataDirLockedElsewhere has the directory open in another process, which
// is then killed.
func TestDataDirLockedElsewhere(t *testing.T) {
	const variable = "PEBBLEDASH_TEST_DATA_DIR"
	if dir := os.Getenv(variable); dir != "" {
		_, _, err := openAndBind(nil, dir, testIdentity)
		fmt.Fprintln(os.Stderr, "opened:", err)
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	dir := t.TempDir()
	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDataDirLockedElsewhere$")
	other.Env = append(os.Environ(), variable+"="+dir)
	_, err := other.StdinPipe()
	require.NoError(t, err)
	output, err := other.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "opened: <nil>\n", line)

	_, _, err = openAndBind(nil, dir, testIdentity)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, fmt.Sprintf("%s is locked by process %d on host ", dir, other.Process.Pid))

	require.NoError(t, other.Process.Signal(syscall.SIGKILL))
	require.Error(t, other.Wait())
	d, created, err := openAndBind(nil, dir, testIdentity)
	require.NoError(t, err)
	require.False(t, created)
	require.NoError(t, d.Close())
}

func TestDataDirModes(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	parent := t.TempDir()
	dir := filepath.Join(parent, "etcd")
	for range 2 {
		d, err := OpenDataDir(DataDirConfig{Dir: dir, Logger: logger})
		require.NoError(t, err)
		_, _, err = d.Bind(testIdentity, "1.2.3")
		require.NoError(t, err)
		for _, path := range []string{dir, d.LogDir(), d.StateDir()} {
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
		}
		require.NoError(t, d.Close())
	}
	require.Empty(t, log.String())

	require.NoError(t, os.Chmod(dir, 0o750))
	d, err := OpenDataDir(DataDirConfig{Dir: dir, Logger: logger})
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.Contains(t, log.String(), "level=WARN")
	require.Contains(t, log.String(), "mode=0750")

	// What is in the way is named.
	file := filepath.Join(parent, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, path := range []string{file, filepath.Join(file, "below")} {
		_, err = OpenDataDir(DataDirConfig{Dir: path})
		require.ErrorContains(t, err, "can't read data directory "+path)
		require.NotErrorIs(t, err, ErrLocked)
	}
}
