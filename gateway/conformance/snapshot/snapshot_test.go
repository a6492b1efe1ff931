package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

const (
	patience = 60 * time.Second
	password = "secret"
)

// binaries are the programs of a round trip.
type binaries struct{ pebbledash, etcd, etcdctl, etcdutl string }

func resolve(t *testing.T) binaries {
	t.Helper()
	ours, err := server.Resolve(t.Context())
	require.NoError(t, err)
	if ours.Target != server.Pebbledash {
		t.Skip("is about Pebbledash beside etcd")
	}
	t.Cleanup(func() { require.NoError(t, ours.Close()) })
	b := binaries{pebbledash: ours.Path}
	for name, path := range map[string]*string{"etcd": &b.etcd, "etcdctl": &b.etcdctl, "etcdutl": &b.etcdutl} {
		peer, err := server.ResolvePeer(t.Context(), name)
		require.NoError(t, err)
		*path = peer.Path
	}
	return b
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	require.NoError(t, err, "%s %v: %s", name, args, complaint.String())
	return string(out)
}

// place is where a member runs.
type place struct{ client, peer string }

func places(t *testing.T, n int) []place {
	t.Helper()
	urls, err := server.FreeURLs(2 * n)
	require.NoError(t, err)
	var out []place
	for i := range n {
		out = append(out, place{urls[2*i], urls[2*i+1]})
	}
	return out
}

func initialCluster(ps []place) string {
	var parts []string
	for i, p := range ps {
		parts = append(parts, fmt.Sprintf("m%d=%s", i, p.peer))
	}
	return strings.Join(parts, ",")
}

// start starts a member of a restored, or of a new, cluster.
func start(t *testing.T, binary, dir string, ps []place, i int) *server.Server {
	t.Helper()
	s, err := launch(t.Context(), binary, dir, ps, i)
	require.NoError(t, err)
	return s
}

func launch(ctx context.Context, binary, dir string, ps []place, i int, args ...string) (*server.Server, error) {
	return server.Start(ctx, server.Config{
		Binary: binary, Name: fmt.Sprintf("m%d", i), DataDir: dir, LogPath: dir + ".log",
		ClientURL: ps[i].client, PeerURL: ps[i].peer, InitialCluster: initialCluster(ps), Args: args,
	})
}

// startAll starts all members of a cluster, whose directories have their numbers behind dir.
func startAll(t *testing.T, binary, dir string, ps []place) []*server.Server {
	t.Helper()
	members, errs := make([]*server.Server, len(ps)), make([]error, len(ps))
	var all sync.WaitGroup
	for i := range ps {
		all.Go(func() { members[i], errs[i] = launch(t.Context(), binary, fmt.Sprint(dir, i), ps, i) })
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	return members
}

func stop(t *testing.T, s *server.Server) {
	t.Helper()
	_, err := s.Stop()
	require.NoError(t, err)
}

func restore(t *testing.T, binary, file, dir string, ps []place, i int) {
	t.Helper()
	run(t, binary, "snapshot", "restore", file, "--data-dir="+dir, "--name="+fmt.Sprintf("m%d", i),
		"--initial-cluster="+initialCluster(ps), "--initial-advertise-peer-urls="+ps[i].peer)
}

func client(t *testing.T, url, user string) *clientv3.Client {
	t.Helper()
	cfg := clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop(), DialTimeout: patience}
	if user != "" {
		cfg.Username, cfg.Password = user, password
	}
	c, err := clientv3.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// fillKeys makes a history: keys of all groups, deleted, made again and compacted, and
// leases.
func fillKeys(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	put := func(key, value string, opts ...clientv3.OpOption) {
		_, err := c.Put(ctx, key, value, opts...)
		require.NoError(t, err)
	}
	families := []string{"/registry/pods/default/p", "/registry/events/default/e", "/registry/leases/kube-node-lease/l", "plain"}
	for i := range 120 {
		put(fmt.Sprintf("%s%d", families[i%4], i%24), fmt.Sprintf("value %d", i))
		if i%7 == 6 {
			_, err := c.Delete(ctx, fmt.Sprintf("%s%d", families[(i/7)%4], i%24))
			require.NoError(t, err)
		}
	}
	short, err := c.Grant(ctx, 3600)
	require.NoError(t, err)
	_, err = c.Grant(ctx, 7200)
	require.NoError(t, err)
	put("/registry/events/default/leased", "1", clientv3.WithLease(short.ID))
	put("leased", "2", clientv3.WithLease(short.ID))
	_, err = c.Txn(ctx).Then(
		clientv3.OpPut("/registry/pods/default/both", "a"), clientv3.OpPut("both", "b"), clientv3.OpDelete("plain3"),
	).Commit()
	require.NoError(t, err)
	put("big", strings.Repeat("x", 700_000))
	put("empty", "")
	_, err = c.Compact(ctx, 80)
	require.NoError(t, err)
	put("after the compaction", "1")
}

// raise raises an alarm, which forbids what makes the store grow.
func raise(t *testing.T, c *clientv3.Client) {
	t.Helper()
	_, err := pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: 0xab, Alarm: pb.AlarmType_NOSPACE,
	})
	require.NoError(t, err)
}

// addUsers adds users and roles, and switches authentication on.
func addUsers(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	_, err := c.UserAdd(ctx, "root", password)
	require.NoError(t, err)
	_, err = c.UserGrantRole(ctx, "root", "root")
	require.NoError(t, err)
	_, err = c.RoleAdd(ctx, "reader")
	require.NoError(t, err)
	_, err = c.RoleGrantPermission(ctx, "reader", "/registry/", "/registry0", clientv3.PermissionType(clientv3.PermRead))
	require.NoError(t, err)
	_, err = c.UserAdd(ctx, "reader", password)
	require.NoError(t, err)
	_, err = c.UserGrantRole(ctx, "reader", "reader")
	require.NoError(t, err)
	_, err = c.AuthEnable(ctx)
	require.NoError(t, err)
}

// seen is what a client can see of a store, as text to compare.
type seen struct {
	Hash     uint32
	Revision int64
	// AtRevision are all keys at each revision from the compacted one on.
	AtRevision []string
	History    []string
	Leases     []string
	Users      []string
	Alarms     []string
}

func look(t *testing.T, url string) seen {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := client(t, url, "root")
	hash, err := c.HashKV(ctx, url, 0)
	require.NoError(t, err)
	s := seen{Hash: hash.Hash, Revision: hash.Header.Revision}
	text := func(v any) string {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		return string(data)
	}
	for rev := hash.CompactRevision; rev <= s.Revision; rev++ {
		r, err := c.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(rev))
		require.NoError(t, err)
		s.AtRevision = append(s.AtRevision, fmt.Sprint(rev, " ", text(r.Kvs)))
	}
	_, err = c.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(hash.CompactRevision-1))
	require.ErrorContains(t, err, "compacted")

	watched, stop := context.WithCancel(ctx)
	defer stop()
	for r := range c.Watch(watched, "\x00", clientv3.WithFromKey(), clientv3.WithRev(hash.CompactRevision+1), clientv3.WithPrevKV()) {
		require.NoError(t, r.Err())
		for _, e := range r.Events {
			s.History = append(s.History, text(e))
		}
		if n := len(r.Events); n > 0 && r.Events[n-1].Kv.ModRevision == s.Revision {
			break
		}
	}

	leases, err := c.Leases(ctx)
	require.NoError(t, err)
	for _, l := range leases.Leases {
		ttl, err := c.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		require.NoError(t, err)
		slices.SortFunc(ttl.Keys, func(a, b []byte) int { return strings.Compare(string(a), string(b)) })
		s.Leases = append(s.Leases, fmt.Sprintf("%x of %d s: %q", l.ID, ttl.GrantedTTL, ttl.Keys))
	}
	slices.Sort(s.Leases)

	users, err := c.UserList(ctx)
	require.NoError(t, err)
	for _, u := range users.Users {
		user, err := c.UserGet(ctx, u)
		require.NoError(t, err)
		s.Users = append(s.Users, fmt.Sprint(u, user.Roles))
	}
	role, err := c.RoleGet(ctx, "reader")
	require.NoError(t, err)
	status, err := c.AuthStatus(ctx)
	require.NoError(t, err)
	s.Users = append(s.Users, text((*pb.AuthRoleGetResponse)(role).Perm), fmt.Sprint(status.Enabled, status.AuthRevision))

	alarms, err := c.AlarmList(ctx)
	require.NoError(t, err)
	for _, a := range alarms.Alarms {
		s.Alarms = append(s.Alarms, fmt.Sprintf("%s of %x", a.Alarm, a.MemberID))
	}

	// Who may read may, and no more.
	reader := client(t, url, "reader")
	_, err = reader.Get(ctx, "/registry/pods/", clientv3.WithPrefix())
	require.NoError(t, err)
	_, err = reader.Delete(ctx, "/registry/pods/x") // puts are forbidden to everybody
	require.ErrorContains(t, err, "permission denied")
	_, err = clientv3.New(clientv3.Config{
		Endpoints: []string{url}, Logger: zap.NewNop(), DialTimeout: patience, Username: "root", Password: "wrong",
	})
	require.ErrorContains(t, err, "authentication failed")
	return s
}

func same(t *testing.T, want, got seen, where string) {
	t.Helper()
	require.Equal(t, want.AtRevision, got.AtRevision, where)
	require.Equal(t, want.History, got.History, where)
	require.Equal(t, want.Leases, got.Leases, where)
	require.Equal(t, want.Users, got.Users, where)
	require.Equal(t, want, got, where)
}

// TestRoundTrip goes from etcd to Pebbledash, of one member and of three, and back.
func TestRoundTrip(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six members")
	}
	b := resolve(t)
	folder := t.TempDir()
	dir := func(name string) string { return filepath.Join(folder, name) }
	save := func(url, name string) string {
		file := dir(name)
		run(t, b.etcdctl, "--endpoints="+url, "--user=root:"+password, "snapshot", "save", file)
		for _, format := range []string{"simple", "json", "fields"} {
			require.Equal(t, run(t, b.etcdutl, "snapshot", "status", file, "-w", format),
				run(t, b.pebbledash, "snapshot", "status", file, "-w", format))
		}
		return file
	}
	one := places(t, 1)

	etcd := start(t, b.etcd, dir("etcd"), one, 0)
	source := client(t, one[0].client, "")
	fillKeys(t, source)
	raise(t, source)
	addUsers(t, source)
	want := look(t, one[0].client)
	require.Len(t, want.Leases, 2)
	require.Equal(t, []string{"NOSPACE of ab"}, want.Alarms)
	of := save(one[0].client, "of-etcd.db")
	stop(t, etcd)

	restore(t, b.pebbledash, of, dir("pebbledash"), one, 0)
	ours := start(t, b.pebbledash, dir("pebbledash"), one, 0)
	same(t, want, look(t, one[0].client), "restored from etcd's snapshot")
	back := save(one[0].client, "of-pebbledash.db")
	stop(t, ours)
	// It is not made of the log, and not of the snapshot again.
	ours = start(t, b.pebbledash, dir("pebbledash"), one, 0)
	same(t, want, look(t, one[0].client), "after a restart")
	stop(t, ours)

	restore(t, b.etcdutl, back, dir("etcd-again"), one, 0)
	etcd = start(t, b.etcd, dir("etcd-again"), one, 0)
	same(t, want, look(t, one[0].client), "back in etcd")
	stop(t, etcd)

	three := places(t, 3)
	for i := range three {
		restore(t, b.pebbledash, back, dir(fmt.Sprint("three-", i)), three, i)
	}
	members := startAll(t, b.pebbledash, dir("three-"), three)
	defer func() {
		for _, m := range members {
			stop(t, m)
		}
	}()
	for _, p := range three {
		same(t, want, look(t, p.client), "of three members")
	}
	c := client(t, three[1].client, "root")
	_, err := c.Put(t.Context(), "new", "1")
	require.ErrorContains(t, err, "database space exceeded")
	_, err = c.AlarmDisarm(t.Context(), &clientv3.AlarmMember{})
	require.NoError(t, err)
	r, err := c.Put(t.Context(), "new", "1")
	require.NoError(t, err)
	require.Equal(t, want.Revision+1, r.Header.Revision)
}

// TestLastMember goes on with what one member of three has when the others are lost, by a
// snapshot of it and by --force-new-cluster. Everything that it has shown is there.
func TestLastMember(t *testing.T) {
	if testing.Short() {
		t.Skip("starts four members")
	}
	b := resolve(t)
	folder := t.TempDir()
	dir := func(name string) string { return filepath.Join(folder, name) }
	three := places(t, 3)
	members := startAll(t, b.pebbledash, dir("three-"), three)
	c := client(t, three[0].client, "")
	families := []string{"/registry/pods/default/p", "/registry/events/default/e", "/registry/leases/kube-node-lease/l", "plain"}
	var last int64
	for i := range 200 {
		r, err := c.Put(t.Context(), fmt.Sprintf("%s%d", families[i%4], i), fmt.Sprint(i))
		require.NoError(t, err)
		last = r.Header.Revision
	}
	// The one that will be left has shown the last write.
	_, err := client(t, three[2].client, "").Get(t.Context(), "plain3")
	require.NoError(t, err)
	for _, m := range members[:2] {
		require.NoError(t, m.Kill())
	}
	run(t, b.etcdctl, "--endpoints="+three[2].client, "--command-timeout=60s", "snapshot", "save", dir("left.db"))
	stop(t, members[2])

	goesOn := func(m *server.Server) {
		c := client(t, m.Endpoint(), "")
		r, err := c.Get(t.Context(), "\x00", clientv3.WithFromKey())
		require.NoError(t, err)
		require.Len(t, r.Kvs, 200)
		require.Equal(t, last, r.Header.Revision)
		put, err := c.Put(t.Context(), "new", "1")
		require.NoError(t, err)
		require.Equal(t, last+1, put.Header.Revision)
		stop(t, m)
	}
	one := places(t, 1)
	restore(t, b.pebbledash, dir("left.db"), dir("one"), one, 0)
	goesOn(start(t, b.pebbledash, dir("one"), one, 0))
	forced, err := launch(t.Context(), b.pebbledash, dir("three-2"), three, 2, "--force-new-cluster")
	require.NoError(t, err)
	goesOn(forced)
}
