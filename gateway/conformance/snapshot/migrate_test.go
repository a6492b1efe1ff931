package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/conformance/certs"
	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

// migration runs the tool.
type migration struct {
	t      *testing.T
	binary string
	flags  []string
	output string
}

func newMigration(t *testing.T, b binaries, from string, to ...string) *migration {
	t.Helper()
	dir := t.TempDir()
	return &migration{
		t: t, binary: b.pebbledash, output: filepath.Join(dir, "migrate.log"),
		flags: []string{"--from=" + from, "--from-user=root:" + password, "--to=" + strings.Join(to, ","), "--to-user=root:" + password, "--work-dir=" + dir},
	}
}

// start has it mirror until it is killed, or done.
func (m *migration) start() (kill func(), done <-chan error) {
	m.t.Helper()
	log, err := os.OpenFile(m.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(m.t, err)
	cmd := exec.CommandContext(m.t.Context(), m.binary, append([]string{"migrate"}, m.flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(m.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(cmd.Wait(), log.Close()) }()
	m.t.Cleanup(func() {
		if text, err := os.ReadFile(m.output); err == nil && m.t.Failed() {
			m.t.Logf("the migration said:\n%s", text)
		}
	})
	return func() {
		_ = cmd.Process.Kill()
		require.Error(m.t, <-ended, "it has ended by itself")
	}, ended
}

// try runs a subcommand, or with none the mirror itself.
func (m *migration) try(args ...string) (string, error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, m.binary, append([]string{"migrate"}, args...)...).CombinedOutput()
	return string(out), err
}

// cluster starts the members of a new cluster.
func startNew(t *testing.T, binary string, ps []place) []*server.Server {
	t.Helper()
	members, errs := make([]*server.Server, len(ps)), make([]error, len(ps))
	folder := t.TempDir()
	var all sync.WaitGroup
	for i := range ps {
		all.Go(func() { members[i], errs[i] = launch(t.Context(), binary, filepath.Join(folder, fmt.Sprint(i)), ps, i) })
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	t.Cleanup(func() {
		for _, m := range members {
			require.NoError(t, m.Kill())
			if t.Failed() {
				t.Logf("the log of %s ends:\n%s", m.Endpoint(), m.LogTail())
			}
		}
	})
	return members
}

// reached returns once a cluster has shown a revision.
func reached(t *testing.T, c *clientv3.Client, revision int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	now, err := c.Get(ctx, "\x00")
	require.NoError(t, err)
	for at := now.Header.Revision; at < revision; {
		for r := range c.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(at+1)) {
			require.NoError(t, r.Err())
			if at = r.Header.Revision; at >= revision {
				return
			}
		}
		require.NoError(t, ctx.Err())
	}
}

// writers change the source, each at random, until they are stopped.
type writers struct {
	t    *testing.T
	c    *clientv3.Client
	stop atomic.Bool
	all  sync.WaitGroup
}

func startWriters(t *testing.T, c *clientv3.Client, n int) *writers {
	t.Helper()
	w := &writers{t: t, c: c}
	w.all.Go(func() { // One does not pause.
		for n := 0; !w.stop.Load(); n++ {
			if _, err := c.Put(t.Context(), "steady", fmt.Sprint(n)); err != nil {
				t.Errorf("writing to the source: %v", err)
				return
			}
		}
	})
	for i := range n {
		w.all.Go(func() { w.write(rand.New(rand.NewPCG(uint64(i), 7))) })
	}
	return w
}

// write takes care that what it leaves does not change any more by itself: leases that
// run out have run out.
func (w *writers) write(rng *rand.Rand) {
	ctx := w.t.Context()
	key := func() string { return fmt.Sprint(families[rng.IntN(len(families))], rng.IntN(40)) }
	var leases []clientv3.LeaseID
	for n := 0; !w.stop.Load(); n++ {
		var err error
		switch k := rng.IntN(40); {
		case k < 22:
			_, err = w.c.Put(ctx, key(), strings.Repeat("v", rng.IntN(300)))
		case k < 28:
			_, err = w.c.Delete(ctx, key())
		case k < 32:
			// Each key once: etcd takes no other transaction.
			f := families[rng.IntN(len(families))]
			_, err = w.c.Txn(ctx).Then(
				clientv3.OpPut("txn/a", "1"), clientv3.OpPut(f+"b", "2"), clientv3.OpDelete("plain/c"), clientv3.OpPut("txn/d", "3"),
			).Commit()
		case k == 32:
			f := families[rng.IntN(len(families))]
			for i := 0; i < 150 && err == nil; i++ {
				_, err = w.c.Put(ctx, fmt.Sprintf("%smany/%d", f, i), "x")
			}
			if err == nil {
				_, err = w.c.Delete(ctx, f+"many/", clientv3.WithPrefix())
			}
		case k == 33:
			var l *clientv3.LeaseGrantResponse
			if l, err = w.c.Grant(ctx, int64(3600+n)); err == nil {
				leases = append(leases, l.ID)
			}
		case k < 38 && len(leases) > 0:
			_, err = w.c.Put(ctx, key(), "leased", clientv3.WithLease(leases[rng.IntN(len(leases))]))
		case k == 38 && len(leases) > 2:
			_, err = w.c.Revoke(ctx, leases[0])
			leases = leases[1:]
		case k == 39 && n%10 == 0:
			err = w.runOut(fmt.Sprint("short/", n))
		}
		if err != nil {
			w.t.Errorf("writing to the source: %v", err)
			return
		}
	}
}

// runOut has a lease of a second run out.
func (w *writers) runOut(key string) error {
	ctx := w.t.Context()
	l, err := w.c.Grant(ctx, 1)
	if err != nil {
		return err
	}
	events := w.c.Watch(ctx, key) // from now on: what comes may be compacted at any time
	if _, err := w.c.Put(ctx, key, "1", clientv3.WithLease(l.ID)); err != nil {
		return err
	}
	for r := range events {
		if err := r.Err(); err != nil {
			return err
		}
		for _, e := range r.Events {
			if e.Type == clientv3.EventTypeDelete {
				return nil
			}
		}
	}
	return ctx.Err()
}

func (w *writers) finish() {
	w.stop.Store(true)
	w.all.Wait()
}

func revisionOf(t *testing.T, c *clientv3.Client) int64 {
	t.Helper()
	r, err := c.Get(t.Context(), "\x00")
	require.NoError(t, err)
	return r.Header.Revision
}

// compact compacts as far as back revisions before now.
func compact(t *testing.T, c *clientv3.Client, back int64) {
	t.Helper()
	_, err := c.Compact(t.Context(), revisionOf(t, c)-back)
	require.NoError(t, err)
}

// TestMigration goes over from an etcd that is written to, to three members, while the
// tool and a member are killed.
func TestMigration(t *testing.T) {
	if testing.Short() {
		t.Skip("starts four members")
	}
	b := resolve(t)
	from, to := places(t, 1), places(t, 3)
	startNew(t, b.etcd, from)
	old := client(t, from[0].client, "")
	fillKeys(t, old)
	addUsers(t, old)
	old = client(t, from[0].client, "root")
	members := startNew(t, b.pebbledash, to)
	clients := make([]*clientv3.Client, 3)
	for i, p := range to {
		clients[i] = client(t, p.client, "")
	}

	w := startWriters(t, old, 4)
	m := newMigration(t, b, from[0].client, to[0].client, to[1].client, to[2].client)
	kill, _ := m.start()
	reached(t, clients[1], 3)
	kill() // perhaps within the snapshot
	kill, _ = m.start()
	reached(t, clients[1], revisionOf(t, old))

	_, err := clients[1].Put(t.Context(), "foreign", "1")
	require.Equal(t, codes.FailedPrecondition, status.Code(err), "%v", err)
	require.ErrorContains(t, err, "a migration from "+from[0].client)
	_, err = clients[2].Grant(t.Context(), 60)
	require.Equal(t, codes.FailedPrecondition, status.Code(err), "%v", err)
	_, err = clients[2].Compact(t.Context(), 2)
	require.ErrorContains(t, err, "a migration from")
	_, err = clients[2].UserAdd(t.Context(), "root", password)
	require.ErrorContains(t, err, "a migration from")

	compact(t, old, 100)
	reached(t, clients[1], revisionOf(t, old)+300)
	kill()
	require.NoError(t, members[0].Kill())
	_, done := m.start()
	reached(t, clients[1], revisionOf(t, old)+300)
	require.NoError(t, members[0].Restart(t.Context()))
	require.NoError(t, members[1].Kill())
	reached(t, clients[2], revisionOf(t, old)+300)
	require.NoError(t, members[1].Restart(t.Context()))

	out, err := m.try(append([]string{"finish"}, m.flags...)...)
	require.Error(t, err, out)
	require.Contains(t, out, "still written to")
	w.finish()
	compact(t, old, 150)
	out, err = m.try(append([]string{"finish"}, m.flags...)...)
	require.NoError(t, err, out)
	require.Contains(t, out, "finished: both clusters are at revision")
	require.NoError(t, <-done, "the mirror finds out that it is not needed any more")
	want := look(t, from[0].client)
	require.NotEmpty(t, want.Leases)
	for _, p := range to {
		same(t, want, look(t, p.client), "after the migration")
	}
	r, err := client(t, to[2].client, "root").Put(t.Context(), "new", "1")
	require.NoError(t, err)
	require.Equal(t, want.Revision+1, r.Header.Revision)
	out, err = m.try("status", "--to="+to[1].client, "--to-user=root:"+password)
	require.NoError(t, err)
	require.Contains(t, out, fmt.Sprint("was finished at revision ", want.Revision))
	out, err = m.try(m.flags...)
	require.Error(t, err)
	require.Contains(t, out, "there is nothing to mirror any more")
	entries, err := os.ReadDir(filepath.Dir(m.output))
	require.NoError(t, err)
	require.Len(t, entries, 1, "the snapshot is left: %v", entries)
}

// TestMigrationIsRefused: what a migration is not begun into, and not finished with.
func TestMigrationIsRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three members")
	}
	b := resolve(t)
	one, other, to := places(t, 1), places(t, 1), places(t, 1)
	startNew(t, b.etcd, one)
	startNew(t, b.etcd, other)
	startNew(t, b.pebbledash, to)
	source, second, dst := client(t, one[0].client, ""), client(t, other[0].client, ""), client(t, to[0].client, "")
	for _, c := range []*clientv3.Client{source, second} {
		_, err := c.Put(t.Context(), "a", "1")
		require.NoError(t, err)
	}
	m := newMigration(t, b, one[0].client, to[0].client)
	refused := func(text string, args ...string) {
		t.Helper()
		out, err := m.try(args...)
		require.Error(t, err, out)
		require.Contains(t, out, text)
	}
	refused("no migration is on", append([]string{"finish"}, m.flags...)...)
	refused("no migration is on", "abort", "--to="+to[0].client)
	lease, err := dst.Grant(t.Context(), 60)
	require.NoError(t, err)
	refused("1 leases", m.flags...)
	_, err = dst.Revoke(t.Context(), lease.ID)
	require.NoError(t, err)
	refused("this cluster itself", "--from="+to[0].client, "--to="+to[0].client, "--work-dir="+t.TempDir())

	kill, _ := m.start()
	reached(t, dst, 2)
	refused("a migration from "+one[0].client, "--from="+other[0].client, "--to="+to[0].client, "--work-dir="+t.TempDir())
	kill()
	// The source forgets what was not mirrored.
	_, err = source.Put(t.Context(), "a", "2")
	require.NoError(t, err)
	put, err := source.Put(t.Context(), "a", "3")
	require.NoError(t, err)
	_, err = source.Compact(t.Context(), put.Header.Revision)
	require.NoError(t, err)
	refused("empty the destination and start over", m.flags...)

	out, err := m.try("abort", "--to="+to[0].client)
	require.NoError(t, err, out)
	_, err = dst.Put(t.Context(), "b", "1")
	require.NoError(t, err)
	refused("this one has come to revision 3", m.flags...)
}

// TestMigrationKeepsLeases: none runs out at the destination, however long it takes,
// and each has all its time at the end.
func TestMigrationKeepsLeases(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two members")
	}
	b := resolve(t)
	from, to := places(t, 1), places(t, 1)
	startNew(t, b.etcd, from)
	startNew(t, b.pebbledash, to)
	source, dst := client(t, from[0].client, ""), client(t, to[0].client, "")
	const ttl = 3
	lease, err := source.Grant(t.Context(), ttl)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	alive, err := source.KeepAlive(ctx, lease.ID)
	require.NoError(t, err)
	_, err = source.Put(ctx, "held", "1", clientv3.WithLease(lease.ID))
	require.NoError(t, err)
	m := newMigration(t, b, from[0].client, to[0].client)
	kill, _ := m.start()
	reached(t, dst, 2)
	clk := clock.Real{}
	began := clk.Now()
	for range alive {
		if clk.Since(began) > 2*ttl*time.Second {
			break
		}
	}
	kill()
	got, err := dst.TimeToLive(ctx, lease.ID)
	require.NoError(t, err)
	require.EqualValues(t, ttl, got.TTL)
	out, err := m.try(append([]string{"finish"}, m.flags...)...)
	require.NoError(t, err, out)
	require.Equal(t, int64(2), revisionOf(t, dst))
	// Nobody renews it any more.
	for r := range dst.Watch(ctx, "held", clientv3.WithRev(3)) {
		require.NoError(t, r.Err())
		require.Equal(t, clientv3.EventTypeDelete, r.Events[0].Type)
		break
	}
}

// TestMigrationOfLargeRevisions: what the source deletes at once comes in several messages,
// while there is nothing else to mirror. The source may be another Pebbledash.
func TestMigrationOfLargeRevisions(t *testing.T) {
	if testing.Short() {
		t.Skip("starts four members")
	}
	b := resolve(t)
	for name, binary := range map[string]string{"etcd": b.etcd, "pebbledash": b.pebbledash} {
		t.Run(name, func(t *testing.T) {
			from, to := places(t, 1), places(t, 1)
			startNew(t, binary, from)
			startNew(t, b.pebbledash, to)
			source, dst := client(t, from[0].client, ""), client(t, to[0].client, "")
			const keys, atOnce = 30_000, 100
			for i := 0; i < keys; i += atOnce {
				var puts []clientv3.Op
				for n := range atOnce {
					puts = append(puts, clientv3.OpPut(fmt.Sprintf("many/%0100d", i+n), ""))
				}
				_, err := source.Txn(t.Context()).Then(puts...).Commit()
				require.NoError(t, err)
			}
			m := newMigration(t, b, from[0].client, to[0].client)
			_, done := m.start()
			reached(t, dst, revisionOf(t, source))
			deleted, err := source.Delete(t.Context(), "many/", clientv3.WithPrefix())
			require.NoError(t, err)
			require.EqualValues(t, keys, deleted.Deleted)
			reached(t, dst, deleted.Header.Revision)
			out, err := m.try(append([]string{"finish"}, m.flags...)...)
			require.NoError(t, err, out)
			require.NoError(t, <-done)
			left, err := dst.Get(t.Context(), "many/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			require.NoError(t, err)
			require.Zero(t, left.Count)
		})
	}
}

// TestMigrationOverTLS goes over between two clusters that each want certificates of
// their own authority; without one the tool says why it gets no answer.
func TestMigrationOverTLS(t *testing.T) {
	b := resolve(t)
	secured := func(binary string) (place, *certs.Authority) {
		p := places(t, 1)[0]
		p.client = strings.Replace(p.client, "http:", "https:", 1)
		ca, err := certs.New(t.TempDir(), "clients of "+p.client)
		require.NoError(t, err)
		require.NoError(t, ca.Issue("server", "server", "127.0.0.1"))
		require.NoError(t, ca.Issue("client", "client"))
		s, err := launch(t.Context(), binary, filepath.Join(t.TempDir(), "m"), []place{p}, 0,
			"--cert-file="+ca.Path("server.crt"), "--key-file="+ca.Path("server.key"),
			"--trusted-ca-file="+ca.Path("ca.crt"), "--client-cert-auth")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Kill()) })
		return p, ca
	}
	connect := func(p place, ca *certs.Authority) *clientv3.Client {
		config, err := ca.Client("client")
		require.NoError(t, err)
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{p.client}, TLS: config, Logger: zap.NewNop(), DialTimeout: patience})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	from, fromCA := secured(b.etcd)
	to, toCA := secured(b.pebbledash)
	old, next := connect(from, fromCA), connect(to, toCA)
	fillKeys(t, old)

	m := newMigration(t, b, from.client, to.client)
	m.flags = []string{"--from=" + from.client, "--to=" + to.client, "--work-dir=" + t.TempDir()}
	out, err := m.try("status", "--to="+to.client)
	require.Error(t, err)
	require.Contains(t, out, "certificate")
	for _, side := range []struct {
		name string
		ca   *certs.Authority
	}{{"from", fromCA}, {"to", toCA}} {
		m.flags = append(m.flags, "--"+side.name+"-cacert="+side.ca.Path("ca.crt"),
			"--"+side.name+"-cert="+side.ca.Path("client.crt"), "--"+side.name+"-key="+side.ca.Path("client.key"))
	}
	_, done := m.start()
	reached(t, next, revisionOf(t, old))
	_, err = old.Put(t.Context(), "late", "1")
	require.NoError(t, err)
	reached(t, next, revisionOf(t, old))
	out, err = m.try(append([]string{"finish"}, m.flags...)...)
	require.NoError(t, err, out)
	require.NoError(t, <-done)
	want, err := old.Get(t.Context(), "\x00", clientv3.WithFromKey())
	require.NoError(t, err)
	got, err := next.Get(t.Context(), "\x00", clientv3.WithFromKey())
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(want.Kvs), fmt.Sprint(got.Kvs))
	require.Equal(t, want.Header.Revision, got.Header.Revision)
}
