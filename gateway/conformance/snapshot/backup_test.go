package snapshot

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// ours returns the binary under test.
func ours(t *testing.T) string {
	t.Helper()
	b, err := server.Resolve(t.Context())
	require.NoError(t, err)
	if b.Target != server.Pebbledash {
		t.Skip("is about Pebbledash alone")
	}
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b.Path
}

// report is what "backup create -w json" says.
type report struct {
	ID         string `json:"id"`
	Revision   int64  `json:"revision"`
	Compacted  int64  `json:"compacted"`
	TotalBytes int64  `json:"total_bytes"`
	NewBytes   int64  `json:"new_bytes"`
}

func backup(t *testing.T, binary, url, repository string, more ...string) (r report) {
	t.Helper()
	out := run(t, binary, append([]string{"backup", "create", "--endpoints=" + url, "--repository=" + repository, "-w", "json"}, more...)...)
	require.NoError(t, json.Unmarshal([]byte(out), &r), out)
	return r
}

// fails runs a command that must fail, and returns what it complains of.
func fails(t *testing.T, binary string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%v: %s", args, out)
	require.Positive(t, exit.ExitCode(), "%s", out)
	return string(out)
}

func fromRepository(t *testing.T, binary, repository, id, dir string, ps []place, i int, more ...string) {
	t.Helper()
	run(t, binary, append([]string{
		"backup", "restore", id, "--repository=" + repository, "--data-dir=" + dir, "--name=" + fmt.Sprintf("m%d", i),
		"--initial-cluster=" + initialCluster(ps), "--initial-advertise-peer-urls=" + ps[i].peer,
	}, more...)...)
}

// stored are the files in a repository that are content.
func stored(t *testing.T, repository string) map[string]int64 {
	t.Helper()
	files := map[string]int64{}
	require.NoError(t, filepath.WalkDir(filepath.Join(repository, "files"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		files[path] = info.Size()
		return err
	}))
	return files
}

// TestBackupRoundTrip restores a backup to one member and to three, of which all show what
// there was.
func TestBackupRoundTrip(t *testing.T) {
	if testing.Short() {
		t.Skip("starts five members")
	}
	binary := ours(t)
	folder := t.TempDir()
	dir := func(name string) string { return filepath.Join(folder, name) }
	repository := dir("repository")
	one := places(t, 1)
	source := start(t, binary, dir("source"), one, 0)
	c := client(t, one[0].client, "")
	fillKeys(t, c)
	addUsers(t, c)
	want := look(t, one[0].client)

	require.Contains(t, fails(t, binary, "backup", "create", "--endpoints="+one[0].client, "--repository="+repository),
		"etcdserver: user name is empty")
	require.Contains(t, fails(t, binary, "backup", "create", "--endpoints="+one[0].client, "--repository="+repository, "--user=reader:"+password),
		"permission denied")
	root := "--user=root:" + password
	made := backup(t, binary, one[0].client, repository, root)
	require.Equal(t, want.Revision, made.Revision)
	require.Equal(t, made.TotalBytes, made.NewBytes)
	stop(t, source)
	run(t, binary, "backup", "verify", "--repository="+repository)

	fromRepository(t, binary, repository, "latest", dir("one"), one, 0)
	again := start(t, binary, dir("one"), one, 0)
	same(t, want, look(t, one[0].client), "restored")
	stop(t, again)
	again = start(t, binary, dir("one"), one, 0)
	same(t, want, look(t, one[0].client), "after a restart")
	second := backup(t, binary, one[0].client, repository, root)
	stop(t, again)

	three := places(t, 3)
	members := make([]*server.Server, 3)
	errs := make([]error, 3)
	var all sync.WaitGroup
	for i := range three {
		fromRepository(t, binary, repository, second.ID, dir(fmt.Sprint("three-", i)), three, i)
	}
	for i := range three {
		all.Go(func() { members[i], errs[i] = launch(t.Context(), binary, dir(fmt.Sprint("three-", i)), three, i) })
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	for _, p := range three {
		same(t, want, look(t, p.client), "of three members")
	}
	r, err := client(t, three[1].client, "root").Put(t.Context(), "new", "1")
	require.NoError(t, err)
	require.Equal(t, want.Revision+1, r.Header.Revision)
	for _, m := range members {
		stop(t, m)
	}

	// Clients that have seen later revisions see that what they know is gone.
	fromRepository(t, binary, repository, made.ID, dir("bumped"), one, 0, "--bump-revision=1000", "--mark-compacted")
	bumped := start(t, binary, dir("bumped"), one, 0)
	c = client(t, one[0].client, "root")
	_, err = c.Get(t.Context(), "plain", clientv3.WithRev(want.Revision))
	require.ErrorContains(t, err, "compacted")
	r, err = c.Put(t.Context(), "new", "1")
	require.NoError(t, err)
	require.Equal(t, want.Revision+1001, r.Header.Revision)
	stop(t, bumped)
}

// value is one that does not compress.
func value(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return string(b)
}

// families are prefixes of all groups.
var families = []string{"/registry/pods/default/", "/registry/events/default/", "/registry/leases/kube-node-lease/", "/registry/configmaps/"}

// write puts keys of all groups, some with leases that come and go, until ctx is done.
func write(ctx context.Context, c *clientv3.Client) error {
	for i := 0; ctx.Err() == nil; i++ {
		lease, err := c.Grant(context.WithoutCancel(ctx), 600)
		if err != nil {
			return err
		}
		for j, f := range families {
			var opts []clientv3.OpOption
			if (i+j)%2 == 0 {
				opts = append(opts, clientv3.WithLease(lease.ID))
			}
			if _, err := c.Put(context.WithoutCancel(ctx), fmt.Sprint(f, i%50), value(100), opts...); err != nil {
				return err
			}
		}
		if i%3 == 0 {
			if _, err := c.Revoke(context.WithoutCancel(ctx), lease.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// answers is what a member says of all keys at revisions, with the history up to the last.
func answers(t *testing.T, url string, from, to int64) (out []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := client(t, url, "")
	for rev := from; rev <= to; rev += max(1, (to-from)/20) {
		r, err := c.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(rev))
		require.NoError(t, err)
		text, err := json.Marshal(r.Kvs)
		require.NoError(t, err)
		out = append(out, fmt.Sprint(rev, " ", string(text)))
	}
	for r := range c.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(from+1), clientv3.WithPrevKV()) {
		require.NoError(t, r.Err())
		for _, e := range r.Events {
			if e.Kv.ModRevision > to {
				return out
			}
			text, err := json.Marshal(e)
			require.NoError(t, err)
			out = append(out, string(text))
		}
		if n := len(r.Events); n > 0 && r.Events[n-1].Kv.ModRevision >= to {
			return out
		}
	}
	t.Error("the watch ended")
	return out
}

// TestBackupBesideWrites takes backups while clients write, and compares each with what the
// source says of that revision.
func TestBackupBesideWrites(t *testing.T) {
	if testing.Short() {
		t.Skip("starts four members")
	}
	binary := ours(t)
	folder := t.TempDir()
	dir := func(name string) string { return filepath.Join(folder, name) }
	repository := dir("repository")
	ps := places(t, 2)
	source := start(t, binary, dir("source"), ps[:1], 0)
	c := client(t, ps[0].client, "")
	for i := range 100 {
		_, err := c.Put(t.Context(), fmt.Sprint(families[i%4], i%30), value(100))
		require.NoError(t, err)
	}
	_, err := c.Compact(t.Context(), 60)
	require.NoError(t, err)
	ctx, end := context.WithCancel(t.Context())
	written := make(chan error, 1)
	go func() { written <- write(ctx, c) }()
	var made []report
	for range 3 {
		made = append(made, backup(t, binary, ps[0].client, repository))
	}
	end()
	require.NoError(t, <-written)
	for i, b := range made {
		require.EqualValues(t, 60, b.Compacted)
		fromRepository(t, binary, repository, b.ID, dir(fmt.Sprint(i)), ps[1:], 0)
		restored := start(t, binary, dir(fmt.Sprint(i)), ps[1:], 0)
		require.Equal(t, answers(t, ps[0].client, b.Compacted, b.Revision), answers(t, ps[1].client, b.Compacted, b.Revision))
		of := client(t, ps[1].client, "")
		want, err := c.HashKV(t.Context(), ps[0].client, b.Revision)
		require.NoError(t, err)
		got, err := of.HashKV(t.Context(), ps[1].client, b.Revision)
		require.NoError(t, err)
		require.Equal(t, want.Hash, got.Hash)
		require.Equal(t, want.CompactRevision, got.CompactRevision)
		stop(t, restored)
		run(t, binary, "verify", dir(fmt.Sprint(i)))
	}
	stop(t, source)
	run(t, binary, "backup", "verify", "--repository="+repository)
}

// enough is more than the tables of the first level, which change as a whole, are.
const enough = 160

// fillLarge puts so many MiB, in values that do not compress.
func fillLarge(t *testing.T, c *clientv3.Client, mib int) {
	t.Helper()
	const size, clients = 256 << 10, 8
	errs := make([]error, clients)
	var all sync.WaitGroup
	for w := range clients {
		all.Go(func() {
			for i := w; i < mib*4 && errs[w] == nil; i += clients {
				_, errs[w] = c.Put(t.Context(), fmt.Sprintf("%s%06d", families[i%4], i), value(size))
			}
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
}

// TestBackupIsIncremental: a backup right after another adds next to nothing, verify finds
// what is damaged, and prune leaves what is needed.
func TestBackupIsIncremental(t *testing.T) {
	if testing.Short() {
		t.Skip("writes a large store")
	}
	binary := ours(t)
	folder := t.TempDir()
	repository := filepath.Join(folder, "repository")
	ps := places(t, 1)
	source := start(t, binary, filepath.Join(folder, "source"), ps, 0)
	c := client(t, ps[0].client, "")
	fillLarge(t, c, enough)
	first := backup(t, binary, ps[0].client, repository)
	before := stored(t, repository)
	_, err := c.Put(t.Context(), "one", "more")
	require.NoError(t, err)
	second := backup(t, binary, ps[0].client, repository)
	added := int64(0)
	for path, size := range stored(t, repository) {
		if _, ok := before[path]; !ok {
			added += size
		}
	}
	require.Equal(t, second.NewBytes, added)
	// What was in the upper levels may have moved down meanwhile, once.
	require.Less(t, added*2, second.TotalBytes, "of %d", first.TotalBytes)
	stop(t, source)

	run(t, binary, "backup", "prune", "--keep=1", "--repository="+repository)
	require.Contains(t, run(t, binary, "backup", "verify", "--repository="+repository), second.ID)
	require.NotContains(t, run(t, binary, "backup", "list", "--repository="+repository), first.ID)
	total := int64(0)
	for _, size := range stored(t, repository) {
		total += size
	}
	require.LessOrEqual(t, total, second.TotalBytes, "nothing that is not needed is left")
	fromRepository(t, binary, repository, "latest", filepath.Join(folder, "restored"), ps, 0)
	restored := start(t, binary, filepath.Join(folder, "restored"), ps, 0)
	r, err := client(t, ps[0].client, "").Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	require.NoError(t, err)
	require.EqualValues(t, enough*4+1, r.Count)
	stop(t, restored)
}

// valve is a proxy that stops after so many bytes from the server.
type valve struct {
	net.Listener
	// shut is closed when it has stopped.
	shut chan struct{}
}

func newValve(t *testing.T, to string, most int64) *valve {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	v := &valve{l, make(chan struct{})}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(to, "http://"))
		if err != nil {
			_ = in.Close()
			return
		}
		go func() {
			_, _ = io.Copy(out, in)
			_ = out.Close()
		}()
		_, _ = io.CopyN(in, out, most)
		close(v.shut)
		// Held until the server or the test ends; what it sends from here on is not read.
		<-t.Context().Done()
		_ = in.Close()
		_ = out.Close()
	}()
	return v
}

// TestBackupKilled kills the tool, and the server, in the middle of a backup.
func TestBackupKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	binary := ours(t)
	folder := t.TempDir()
	repository, data := filepath.Join(folder, "repository"), filepath.Join(folder, "source")
	ps := places(t, 1)
	source := start(t, binary, data, ps, 0)
	c := client(t, ps[0].client, "")
	fillLarge(t, c, 20)
	first := backup(t, binary, ps[0].client, repository)
	fillLarge(t, c, 20)

	create := func() (*exec.Cmd, *bytes.Buffer) {
		v := newValve(t, ps[0].client, 5<<20)
		cmd := exec.CommandContext(t.Context(), binary, "backup", "create",
			"--endpoints=http://"+v.Addr().String(), "--repository="+repository)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		require.NoError(t, cmd.Start())
		<-v.shut
		return cmd, &out
	}
	names := func(dir string) []string {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		require.NoError(t, err)
		var out []string
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	sound := func() {
		require.Contains(t, run(t, binary, "backup", "verify", "--repository="+repository), first.ID)
		require.NotContains(t, run(t, binary, "backup", "list", "--repository="+repository), "damaged")
	}

	tool, _ := create()
	require.Len(t, names(filepath.Join(data, "checkpoints")), 1)
	// Who is in the way is told.
	require.Contains(t, fails(t, binary, "backup", "create", "--endpoints="+ps[0].client, "--repository="+repository), "is in use")
	require.Contains(t, fails(t, binary, "backup", "prune", "--keep=1", "--repository="+repository), "is in use")
	require.NoError(t, tool.Process.Kill())
	require.Error(t, tool.Wait())
	sound()
	require.NotEmpty(t, names(filepath.Join(repository, "tmp")))
	second := backup(t, binary, ps[0].client, repository)
	require.Empty(t, names(filepath.Join(repository, "tmp")))
	sound()

	fillLarge(t, c, 20)
	tool, out := create()
	require.NoError(t, source.Kill())
	require.NotEmpty(t, names(filepath.Join(data, "checkpoints")))
	sound()
	require.NoError(t, tool.Process.Signal(os.Interrupt))
	require.Error(t, tool.Wait(), out.String())
	require.Empty(t, names(filepath.Join(repository, "tmp")), out.String())
	source = start(t, binary, data, ps, 0)
	require.Empty(t, names(filepath.Join(data, "checkpoints")))
	r, err := client(t, ps[0].client, "").Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	require.NoError(t, err)
	require.EqualValues(t, 80, r.Count)
	third := backup(t, binary, ps[0].client, repository)
	require.Greater(t, third.Revision, second.Revision)
	stop(t, source)
	sound()
}

// TestBackupDamage finds what is damaged, each with words of its own.
func TestBackupDamage(t *testing.T) {
	binary := ours(t)
	folder := t.TempDir()
	repository := filepath.Join(folder, "repository")
	ps := places(t, 1)
	source := start(t, binary, filepath.Join(folder, "source"), ps, 0)
	_, err := client(t, ps[0].client, "").Put(t.Context(), "/registry/pods/a", value(1000))
	require.NoError(t, err)
	made := backup(t, binary, ps[0].client, repository)
	stop(t, source)
	largest, size := "", int64(0)
	for path, n := range stored(t, repository) {
		if n > size {
			largest, size = path, n
		}
	}
	manifest := filepath.Join(repository, "backups", made.ID+".json")
	restore := []string{"backup", "restore", made.ID, "--repository=" + repository, "--data-dir=" + filepath.Join(folder, "restored")}
	damage := func(path string, change func([]byte) []byte, complaints ...string) {
		t.Helper()
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		if changed := change(bytes.Clone(content)); changed == nil {
			require.NoError(t, os.Remove(path))
		} else {
			require.NoError(t, os.WriteFile(path, changed, 0o600))
		}
		for _, args := range [][]string{{"backup", "verify", "--repository=" + repository}, restore} {
			said := fails(t, binary, args...)
			for _, c := range complaints {
				require.Contains(t, said, c, args)
			}
		}
		require.NoDirExists(t, filepath.Join(folder, "restored"), "nothing half-made is left")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		run(t, binary, "backup", "verify", "--repository="+repository)
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	cut := func(b []byte) []byte { return b[:len(b)/2] }
	none := func([]byte) []byte { return nil }
	damage(largest, flip, "is damaged: its content does not have the checksum that its name says", filepath.Base(largest))
	damage(largest, cut, "is damaged: it has ", filepath.Base(largest))
	damage(largest, none, "is missing", filepath.Base(largest))
	damage(manifest, flip, "the manifest of backup "+made.ID+" is damaged", "its content does not have the checksum that its last line says")
	damage(manifest, cut, "the manifest of backup "+made.ID+" is damaged", "it is cut short")

	// A file that is missing comes anew.
	require.NoError(t, os.Remove(largest))
	source = start(t, binary, filepath.Join(folder, "source"), ps, 0)
	backup(t, binary, ps[0].client, repository)
	stop(t, source)
	require.Contains(t, fails(t, binary, "backup", "restore", "x", "--repository="+repository), "has no backup \"x\"")
	require.Contains(t, fails(t, binary, "backup", "list", "--repository="+folder), "is no repository of backups")
}
