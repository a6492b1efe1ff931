package member_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

// patience bounds every wait: what takes so long hangs.
const patience = 60 * time.Second

// routed keys, one of each group.
var groupKeys = []string{"/registry/events/e", "/registry/leases/l", "/registry/pods/p", "core"}

// cluster are members in one process that talk over loopback.
type cluster struct {
	t      *testing.T
	routes *route.Table
	nodes  []*node
	// configure changes a member's Config; may be nil.
	configure func(*member.Config)
}

// node is one member, running or not, and what outlives it.
type node struct {
	c         *cluster
	name, url string
	addr      string
	fs        *engine.MemFS
	join      bool
	*member.Member
	listener net.Listener
	sink     *sink
	log      *logged
	failed   chan error
}

// sink is what a member publishes: events in order, whole revisions.
type sink struct {
	t  *testing.T
	mu sync.Mutex // guards the fields below
	// events are those since the last Restored, of which there were so many.
	events   []*mvccpb.Event
	restored int
	revision int64
}

// Publish implements revline.Sink.
func (s *sink) Publish(events []*mvccpb.Event, revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.revision
	for _, e := range events {
		if e.Kv.ModRevision <= s.revision || e.Kv.ModRevision < last || e.Kv.ModRevision > revision {
			s.t.Errorf("revision %d was published after %d, in a call up to %d", e.Kv.ModRevision, last, revision)
		}
		last = e.Kv.ModRevision
	}
	s.events = append(s.events, events...)
	s.revision = revision
}

// Restored implements revline.Sink.
func (s *sink) Restored(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision <= s.revision {
		s.t.Errorf("restored at %d, after %d", revision, s.revision)
	}
	s.events, s.revision = nil, revision
	s.restored++
}

// from renders what was published from a revision on.
func (s *sink) from(revision int64) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Kv.ModRevision >= revision {
			out = append(out, fmt.Sprintf("%d %s %s=%s", e.Kv.ModRevision, e.Type, e.Kv.Key, e.Kv.Value))
		}
	}
	return out
}

// logged keeps a member's messages.
type logged struct {
	slog.Handler
	mu       *sync.Mutex // guards messages
	messages *[]string
}

func newLog(t *testing.T) *logged {
	t.Helper()
	h := slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})
	return &logged{h, new(sync.Mutex), new([]string)}
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }

func (l *logged) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	*l.messages = append(*l.messages, r.Message)
	l.mu.Unlock()
	if !l.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

func (l *logged) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logged{l.Handler.WithAttrs(attrs), l.mu, l.messages}
}

// count returns how often a message was logged.
func (l *logged) count(message string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range *l.messages {
		if m == message {
			n++
		}
	}
	return n
}

// newCluster makes a cluster of so many members and waits until all are ready.
func newCluster(t *testing.T, size int, configure func(*member.Config)) *cluster {
	t.Helper()
	routes, err := route.Parse(route.DefaultResourceGroups, "/registry")
	require.NoError(t, err)
	c := &cluster{t: t, routes: routes, configure: configure}
	for range size {
		c.add(false)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.close()
		}
	})
	c.open(c.nodes...)
	return c
}

// add makes room for another member, which is not started.
func (c *cluster) add(join bool) *node {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(c.t, err)
	n := &node{
		c: c, name: string(rune('a' + len(c.nodes))), listener: l, addr: l.Addr().String(),
		url: "http://" + l.Addr().String(), fs: engine.NewMem(), join: join,
	}
	c.nodes = append(c.nodes, n)
	return n
}

// open starts members at once and waits until they are ready.
func (c *cluster) open(nodes ...*node) {
	c.t.Helper()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = n.open() })
	}
	wg.Wait()
	require.NoError(c.t, errors.Join(errs...))
	for _, n := range nodes {
		n.ready()
	}
}

func (n *node) config() member.Config {
	var initial []string
	for _, m := range n.c.nodes {
		initial = append(initial, m.name+"="+m.url)
	}
	n.sink, n.log, n.failed = &sink{t: n.c.t}, newLog(n.c.t), make(chan error, 1)
	cfg := member.Config{
		Dir: "data", FS: n.fs, Name: n.name, PeerURLs: []string{n.url}, ClientURLs: []string{"http://client-of-" + n.name + ":1"},
		InitialCluster: strings.Join(initial, ","), Join: n.join, Routes: n.c.routes,
		PeerListeners: []net.Listener{n.listener}, LaxReconfig: true, MaxLearners: 1,
		TickInterval: 30 * time.Millisecond, ElectionTicks: 10,
		CacheBytes: 1 << 20, Logger: slog.New(n.log), Events: n.sink,
		Fatal: func(err error) { n.failed <- err },
	}
	if n.c.configure != nil {
		n.c.configure(&cfg)
	}
	return cfg
}

func (n *node) open() (err error) {
	if n.listener == nil {
		if n.listener, err = net.Listen("tcp", n.addr); err != nil {
			return err
		}
	}
	n.Member, err = member.Open(n.c.t.Context(), n.config())
	return err
}

// refused requires that a member does not open.
func (n *node) refused(why string) {
	n.c.t.Helper()
	require.ErrorContains(n.c.t, n.open(), why)
	n.Member = nil
	_ = n.listener.Close()
	n.listener = nil
}

func (n *node) ready() {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-n.Ready():
	case err := <-n.failed:
		n.c.t.Fatalf("member %s: %v", n.name, err)
	case <-ctx.Done():
		n.c.t.Fatalf("member %s is not ready", n.name)
	}
}

// close stops a member in good order, if it runs.
func (n *node) close() {
	n.c.t.Helper()
	if n.Member == nil {
		if n.listener != nil {
			_ = n.listener.Close()
		}
		return
	}
	require.NoError(n.c.t, n.Close())
	n.Member, n.listener = nil, nil
}

// eventually waits until ok says so.
func (c *cluster) eventually(ok func() bool, what string) {
	c.t.Helper()
	require.Eventually(c.t, ok, patience, 5*time.Millisecond, what)
}

// leader returns the member that the running ones agree on, once they do.
func (c *cluster) leader() *node {
	c.t.Helper()
	var leader *node
	c.eventually(func() bool {
		leader = nil
		var id uint64
		for _, n := range c.nodes {
			if n.Member == nil || n.Err() != nil {
				continue
			}
			if l := n.Leader(); l == 0 || id != 0 && l != id {
				return false
			}
			id = n.Leader()
		}
		for _, n := range c.nodes {
			if n.Member != nil && n.Err() == nil && n.id() == id {
				leader = n
			}
		}
		return leader != nil
	}, "nobody leads")
	return leader
}

func (n *node) id() uint64 { return n.Status().MemberID }

// do runs a request that may be repeated, until its outcome is known.
func (n *node) do(op evaluate.Op) evaluate.Result {
	n.c.t.Helper()
	var res evaluate.Result
	n.c.eventually(func() bool {
		var err error
		res, err = n.Do(n.c.t.Context(), op)
		if err != nil && !errors.Is(err, group.ErrLeaderChanged) && !errors.Is(err, group.ErrTimeout) {
			require.NoError(n.c.t, err, n.name)
		}
		return err == nil
	}, "a request is not answered")
	return res
}

func (n *node) put(key, value string) int64 {
	n.c.t.Helper()
	return n.do(&evaluate.Put{Key: []byte(key), Value: []byte(value)}).Revision
}

// get reads a key linearizably.
func (n *node) get(key string) string {
	n.c.t.Helper()
	res, err := n.Read(n.c.t.Context(), &evaluate.Range{Key: []byte(key)}, false)
	require.NoError(n.c.t, err, n.name)
	if len(res.KVs) == 0 {
		return ""
	}
	return string(res.KVs[0].Value)
}

// same waits until the running members have the same, and returns its hash.
func (c *cluster) same() uint32 {
	c.t.Helper()
	var hash uint32
	var revision int64
	for _, n := range c.nodes {
		if n.Member == nil || n.Err() != nil {
			continue
		}
		rev, err := n.ReadIndex(c.t.Context())
		require.NoError(c.t, err)
		if revision == 0 {
			revision = rev
		}
		got, err := n.HashKV(c.t.Context(), revision)
		require.NoError(c.t, err)
		if hash == 0 {
			hash = got.Hash
		}
		require.Equal(c.t, hash, got.Hash, n.name)
	}
	return hash
}

// TestClusterWrites writes through every member to every group, and reads
// elsewhere.
func TestClusterWrites(t *testing.T) {
	c := newCluster(t, 3, nil)
	last := int64(1)
	for round := range 3 {
		for i, n := range c.nodes {
			for _, key := range groupKeys {
				value := fmt.Sprintf("%s%d", n.name, round)
				rev := n.put(key, value)
				require.Greater(t, rev, last)
				last = rev
				// Who was answered finds it here, and anybody by a linearizable read.
				res, err := n.Read(t.Context(), &evaluate.Range{Key: []byte(key)}, true)
				require.NoError(t, err)
				require.Equal(t, value, string(res.KVs[0].Value))
				require.Equal(t, value, c.nodes[(i+1)%3].get(key))
			}
		}
	}
	// Over several groups at once, at one revision.
	var ops []evaluate.Op
	for _, key := range groupKeys {
		ops = append(ops, &evaluate.Put{Key: []byte(key), Value: []byte("all")})
	}
	res := c.nodes[1].do(&evaluate.Txn{Success: ops})
	for _, n := range c.nodes {
		got, err := n.Read(t.Context(), &evaluate.Range{Key: []byte{0}, End: []byte{0}}, false)
		require.NoError(t, err)
		require.Len(t, got.KVs, 4)
		for _, kv := range got.KVs {
			require.Equal(t, "all", string(kv.Value))
			require.Equal(t, res.Revision, kv.ModRevision)
		}
	}
	c.same()
	// All publish the same, in the same order.
	for _, n := range c.nodes {
		c.eventually(func() bool { return n.Closed() >= res.Revision }, "a member lags")
	}
	want := c.nodes[0].sink.from(2)
	require.GreaterOrEqual(t, len(want), 3*3*4+4)
	for _, n := range c.nodes[1:] {
		require.Equal(t, want, n.sink.from(2))
	}
}

// TestClusterMembers: every member knows the others, and what they say of
// themselves.
func TestClusterMembers(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, n := range c.nodes {
		c.eventually(func() bool {
			return !slices.ContainsFunc(n.Members(), func(i member.Info) bool { return len(i.ClientURLs) == 0 })
		}, "a member does not tell its client URLs")
		members := n.Members()
		require.Len(t, members, 3)
		for _, m := range members {
			i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.name == m.Name })
			require.GreaterOrEqual(t, i, 0)
			require.Equal(t, []string{c.nodes[i].url}, m.PeerURLs)
			require.Equal(t, []string{"http://client-of-" + m.Name + ":1"}, m.ClientURLs)
			require.Equal(t, c.nodes[i].id(), m.ID)
			require.False(t, m.IsLearner)
		}
		require.Equal(t, c.nodes[0].Status().ClusterID, n.Status().ClusterID)
		require.Equal(t, c.nodes[0].Members(), members)
	}
}

// TestMembersNow: whoever is asked for the members as they are names them with the
// changes that were acknowledged, also if it has not applied them yet.
func TestMembersNow(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.leader()
	for i := range 20 {
		info, _, err := leader.MemberAdd(t.Context(), []string{fmt.Sprintf("http://127.0.0.1:%d", 1+i)}, true)
		require.NoError(t, err)
		for j, n := range c.nodes {
			members, err := n.MembersNow(t.Context())
			require.NoError(t, err)
			require.True(t, slices.ContainsFunc(members, func(m member.Info) bool {
				return m.ID == info.ID && m.IsLearner
			}), "member %d does not have addition %d", j, i)
		}
		_, err = leader.MemberRemove(t.Context(), info.ID)
		require.NoError(t, err)
		for j, n := range c.nodes {
			members, err := n.MembersNow(t.Context())
			require.NoError(t, err)
			require.Len(t, members, 3, "member %d does not have removal %d", j, i)
		}
	}
}

// TestClusterLeases grants, attaches, renews and revokes through different
// members.
func TestClusterLeases(t *testing.T) {
	c := newCluster(t, 3, nil)
	a, b, d := c.nodes[0], c.nodes[1], c.nodes[2]
	a.do(&evaluate.LeaseGrant{ID: 7, TTL: 600})
	for i, key := range groupKeys {
		c.nodes[i%3].do(&evaluate.Put{Key: []byte(key), Value: []byte("x"), Lease: 7})
	}
	for _, n := range c.nodes {
		ttl, err := n.LeaseRenew(t.Context(), 7)
		require.NoError(t, err)
		require.EqualValues(t, 600, ttl)
		info, err := n.LeaseTimeToLive(t.Context(), 7, true)
		require.NoError(t, err)
		require.EqualValues(t, 600, info.GrantedTTL)
		var keys []string
		for _, k := range info.Keys {
			keys = append(keys, string(k))
		}
		require.ElementsMatch(t, groupKeys, keys)
		ids, err := n.Leases(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int64{7}, ids)
	}
	rev := b.do(&evaluate.LeaseRevoke{ID: 7}).Revision
	for _, key := range groupKeys {
		require.Empty(t, d.get(key))
	}
	var deleted []string
	for _, e := range d.sink.from(rev) {
		deleted = append(deleted, e[strings.Index(e, "DELETE"):])
		require.True(t, strings.HasPrefix(e, fmt.Sprint(rev)), "at one revision: %s", e)
	}
	require.Len(t, deleted, 4)
	_, err := d.LeaseRenew(t.Context(), 7)
	require.Error(t, err)
}

// TestMoveLead moves the sequencer from member to member, with callers at work on
// all of them. Nothing that was acknowledged is lost, and no revision is given
// twice.
func TestMoveLead(t *testing.T) {
	c := newCluster(t, 3, nil)
	stop := make(chan struct{})
	var mu sync.Mutex // guards the maps
	acknowledged, owner := map[string]string{}, map[int64]string{}
	var callers sync.WaitGroup
	for i, n := range c.nodes {
		callers.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				key, value := fmt.Sprintf("%s/%s%d", groupKeys[k%4], n.name, k%20), fmt.Sprint(i, k)
				res, err := n.Do(t.Context(), &evaluate.Put{Key: []byte(key), Value: []byte(value)})
				mu.Lock()
				if err != nil {
					t.Errorf("%s: %v", n.name, err) // not even that the leader has changed
				} else {
					if other := owner[res.Revision]; other != "" {
						t.Errorf("revision %d for %s and %s", res.Revision, other, value)
					}
					owner[res.Revision], acknowledged[key] = value, value
				}
				mu.Unlock()
			}
		})
	}
	for round := range 6 {
		leader := c.leader()
		to := c.nodes[(slices.Index(c.nodes, leader)+1+round%2)%3]
		require.NoError(t, leader.MoveLeader(t.Context(), to.id()))
		c.eventually(func() bool { return c.leader() == to }, "the lead does not move")
		before := to.put("moved", fmt.Sprint(round))
		c.eventually(func() bool { return to.Revision() > before+20 }, "the callers stand still")
	}
	close(stop)
	callers.Wait()
	for key, value := range acknowledged {
		require.Equal(t, value, c.nodes[0].get(key))
	}
	require.Greater(t, len(owner), 100)
	c.same()
}

// TestMemberJoins adds a learner, which is started and catches up, promotes it,
// and removes another member, which stops by itself, and the leader.
func TestMemberJoins(t *testing.T) {
	c := newCluster(t, 3, nil)
	for i := range 20 {
		c.nodes[i%3].put(fmt.Sprintf("%s/%d", groupKeys[i%4], i), "before")
	}
	added := c.add(true)
	info, members, err := c.nodes[0].MemberAdd(t.Context(), []string{added.url}, true)
	require.NoError(t, err)
	require.Len(t, members, 4)
	require.True(t, info.IsLearner)
	for _, refused := range []struct {
		urls    []string
		learner bool
		want    error
	}{
		{[]string{"http://127.0.0.1:1", added.url}, false, member.ErrPeerURLExists},
		{[]string{"http://127.0.0.1:1"}, true, member.ErrTooManyLearners},
	} {
		_, _, err := c.nodes[1].MemberAdd(t.Context(), refused.urls, refused.learner)
		require.ErrorIs(t, err, refused.want)
	}
	_, err = c.nodes[1].MemberPromote(t.Context(), info.ID)
	require.ErrorIs(t, err, member.ErrLearnerNotReady)
	_, err = c.nodes[1].MemberPromote(t.Context(), c.nodes[0].id())
	require.ErrorIs(t, err, member.ErrNotLearner)
	_, err = c.nodes[1].MemberRemove(t.Context(), 4711)
	require.ErrorIs(t, err, member.ErrMemberNotFound)

	c.open(added)
	require.Equal(t, info.ID, added.id())
	require.True(t, added.IsLearner())
	require.Equal(t, "before", added.get("/registry/pods/p/2"))
	added.put("/registry/pods/of-learner", "x")
	require.Equal(t, "x", c.nodes[0].get("/registry/pods/of-learner"))
	c.same()
	c.eventually(func() bool {
		_, err = c.nodes[2].MemberPromote(t.Context(), info.ID)
		return err == nil
	}, "the learner is not ready")
	c.eventually(func() bool { return !added.IsLearner() }, "the learner does not know that it votes")

	gone := c.nodes[1]
	left, err := c.nodes[0].MemberRemove(t.Context(), gone.id())
	require.NoError(t, err)
	require.Len(t, left, 3)
	c.stopped(gone)
	added.put("after", "1")

	leader := c.leader()
	_, err = added.MemberRemove(t.Context(), leader.id())
	require.NoError(t, err)
	c.stopped(leader)
	for _, n := range c.nodes {
		if n.Member == nil {
			continue
		}
		require.Equal(t, fmt.Sprint("after", n.name), fmt.Sprint("after", func() string {
			n.put("after", n.name)
			return n.get("after")
		}()))
		require.Len(t, n.Members(), 2)
		require.NotEqual(t, leader.name, n.name)
	}
	c.same()

	// Who was removed is not let in again.
	require.NoError(t, gone.open())
	c.stopped(gone)
}

// TestMemberRemovesItself: who is asked to remove itself says that it has, though the
// others refuse it from then on, and it stops for that.
func TestMemberRemovesItself(t *testing.T) {
	c := newCluster(t, 3, nil)
	for size := 2; size > 0; size-- {
		leader := c.leader()
		left, err := leader.MemberRemove(t.Context(), leader.id())
		require.NoError(t, err)
		require.Len(t, left, size)
		c.stopped(leader)
	}
}

// stopped waits until a member stops because it was removed, and closes it.
func (c *cluster) stopped(n *node) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case err := <-n.failed:
		require.ErrorIs(c.t, err, member.ErrRemoved)
	case <-ctx.Done():
		c.t.Fatalf("member %s goes on", n.name)
	}
	require.ErrorIs(c.t, n.Err(), member.ErrRemoved)
	_, err := n.Do(c.t.Context(), &evaluate.Put{Key: []byte("k")})
	require.ErrorIs(c.t, err, group.ErrStopped)
	_, err = n.Read(c.t.Context(), &evaluate.Range{Key: []byte("k")}, false)
	require.ErrorIs(c.t, err, group.ErrStopped)
	n.close()
}

// TestMemberUpdate changes a member's peer URLs.
func TestMemberUpdate(t *testing.T) {
	c := newCluster(t, 3, nil)
	n := c.nodes[2]
	n.close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	url := "http://" + l.Addr().String()
	_, err = c.nodes[0].MemberUpdate(t.Context(), 4711, []string{url})
	require.ErrorIs(t, err, member.ErrMemberNotFound)
	id := c.nodes[0].Members()[slices.IndexFunc(c.nodes[0].Members(), func(i member.Info) bool { return i.Name == n.name })].ID
	_, err = c.nodes[0].MemberUpdate(t.Context(), id, []string{c.nodes[0].url})
	require.ErrorIs(t, err, member.ErrPeerURLExists)
	members, err := c.nodes[0].MemberUpdate(t.Context(), id, []string{url})
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(members, func(i member.Info) bool {
		return i.ID == id && i.Name == n.name && slices.Equal(i.PeerURLs, []string{url}) && len(i.ClientURLs) == 1
	}))
	// The others find it there.
	n.listener, n.addr = l, l.Addr().String()
	c.open(n)
	require.NotZero(t, n.put("k", "v"))
	require.Equal(t, "v", n.get("k"))
}

// TestClusterRestarts stops all members and starts them again, more than once.
func TestClusterRestarts(t *testing.T) {
	c := newCluster(t, 3, nil)
	for i := range 40 {
		c.nodes[i%3].put(fmt.Sprintf("%s/%d", groupKeys[i%4], i%7), fmt.Sprint(i))
	}
	c.nodes[0].do(&evaluate.LeaseGrant{ID: 7, TTL: 600})
	c.nodes[0].do(&evaluate.Put{Key: []byte(groupKeys[0]), Lease: 7})
	revision := c.nodes[1].do(&evaluate.Compact{Revision: 20}).Revision
	for range 2 {
		hash := c.same()
		for _, n := range c.nodes {
			n.close()
		}
		c.open(c.nodes...)
		require.Equal(t, hash, c.same())
		for _, n := range c.nodes {
			rev, err := n.ReadIndex(t.Context())
			require.NoError(t, err)
			require.Equal(t, revision, rev)
			c.eventually(func() bool { return n.Compacted() == 20 }, "the compaction is lost")
			_, err = n.Read(t.Context(), &evaluate.Range{Key: []byte("k"), Revision: 19}, false)
			require.ErrorIs(t, err, mvcc.ErrCompacted)
			info, err := n.LeaseTimeToLive(t.Context(), 7, true)
			require.NoError(t, err)
			require.Len(t, info.Keys, 1)
		}
	}
	require.Equal(t, revision+1, c.nodes[2].put("k", "v"))
}

// TestMinority: without a quorum nothing is acknowledged, and serializable reads
// go on.
func TestMinority(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.nodes[0].put("k", "1")
	require.Equal(t, "1", c.nodes[2].get("k"))
	c.nodes[0].close()
	c.nodes[1].close()
	n := c.nodes[2]
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := n.Do(ctx, &evaluate.Put{Key: []byte("k"), Value: []byte("2")})
	require.Error(t, err)
	_, err = n.Read(ctx, &evaluate.Range{Key: []byte("k")}, false)
	require.Error(t, err)
	res, err := n.Read(t.Context(), &evaluate.Range{Key: []byte("k")}, true)
	require.NoError(t, err)
	require.Equal(t, "1", string(res.KVs[0].Value))
	// What was not acknowledged may yet take effect.
	c.open(c.nodes[0])
	require.Contains(t, []string{"1", "2"}, n.get("k"))
	n.put("k", "3")
	require.Equal(t, "3", c.nodes[0].get("k"))
}

// TestLaggingMember truncates the logs beyond what a member that was away has: it
// is given snapshots, and its watchers are told that they have missed something.
func TestLaggingMember(t *testing.T) {
	c := newCluster(t, 3, func(cfg *member.Config) {
		cfg.CatchUpEntries = 5
		cfg.MemTableBytes = 64 << 10
	})
	lags := c.nodes[2]
	for i := range 8 {
		c.nodes[0].put(fmt.Sprintf("%s/%d", groupKeys[i%4], i), "before")
	}
	c.nodes[0].do(&evaluate.LeaseGrant{ID: 7, TTL: 600})
	c.same()
	lags.close()
	// The keys that it has are deleted, so that they are seen to be gone.
	c.nodes[0].do(&evaluate.DeleteRange{Key: []byte{0}, End: []byte{0}})
	c.nodes[0].do(&evaluate.LeaseRevoke{ID: 7})
	c.nodes[1].do(&evaluate.LeaseGrant{ID: 8, TTL: 600})
	c.nodes[1].do(&evaluate.Put{Key: []byte(groupKeys[2]), Lease: 8})
	big := strings.Repeat("x", 10<<10)
	for i := range 200 {
		c.nodes[i%2].put(fmt.Sprintf("%s/new%d", groupKeys[i%4], i%40), big)
	}
	last := c.nodes[0].do(&evaluate.Compact{Revision: c.nodes[0].Revision() - 50}).Revision
	c.open(lags)
	c.eventually(func() bool { return lags.Closed() >= last }, "the member does not catch up")
	require.Positive(t, lags.log.count("taking a snapshot"), "the logs were not truncated")
	require.Positive(t, lags.sink.restored)
	c.same()
	for i := range 8 {
		require.Empty(t, lags.get(fmt.Sprintf("%s/%d", groupKeys[i%4], i)))
	}
	ids, err := lags.Leases(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int64{8}, ids)
	require.Equal(t, c.nodes[0].Compacted(), lags.Compacted())
	require.Len(t, lags.Members(), 3)

	// It is one like the others again: it can reign.
	require.NoError(t, c.leader().MoveLeader(t.Context(), lags.id()))
	rev := lags.put(groupKeys[2], "of the one that lagged")
	require.Equal(t, "of the one that lagged", c.nodes[0].get(groupKeys[2]))
	c.eventually(func() bool { return len(lags.sink.from(rev)) == 1 }, "nothing is published any more")
}

// TestRoutesAreChecked: a member does not open what was made for other routes, nor
// joins a cluster that has others.
func TestRoutesAreChecked(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.nodes[0].put("/registry/pods/p", "x")
	added := c.add(true)
	_, _, err := c.nodes[0].MemberAdd(t.Context(), []string{added.url}, true)
	require.NoError(t, err)
	ours := c.routes
	c.routes = route.CoreOnly()
	added.refused("the cluster has other routes than the flags say, and all its members must have the same: " +
		"correct --resource-groups and --etcd-prefix")
	c.routes = ours
	c.open(added)
	require.Equal(t, "x", added.get("/registry/pods/p"))
	require.Equal(t, c.nodes[0].Status().ClusterID, added.Status().ClusterID)

	other, err := route.Parse("pods#pods", "/registry")
	require.NoError(t, err)
	for _, n := range c.nodes {
		n.close()
	}
	for _, routes := range []*route.Table{other, route.CoreOnly()} {
		c.routes = routes
		for _, n := range c.nodes {
			n.refused("has other routes than the flags say; routes are chosen when a cluster is bootstrapped and can't be " +
				"changed: correct --resource-groups and --etcd-prefix")
		}
	}
	c.routes = ours
	c.open(c.nodes[0])
	require.Equal(t, "x", c.nodes[0].get("/registry/pods/p"))
}

// TestJoinIsRefused: who joins must have been added, and name the members as the
// cluster has them.
func TestJoinIsRefused(t *testing.T) {
	c := newCluster(t, 1, nil)
	added := c.add(true)
	added.refused("the cluster has no member with the peer URLs [" + added.url + "]: add it first (etcdctl member add b --peer-urls=...)")
	_, _, err := c.nodes[0].MemberAdd(t.Context(), []string{added.url}, true)
	require.NoError(t, err)
	stranger := c.add(true)
	added.refused("--initial-cluster names a member that the cluster does not have")
	c.nodes = c.nodes[:2]
	_ = stranger.listener.Close()
	first := c.nodes[0]
	c.nodes = c.nodes[1:]
	added.refused("names no other member to ask")
	c.nodes = []*node{{name: "x", url: "http://127.0.0.1:1"}, added}
	added.refused("could not ask the cluster that is to be joined")
	c.nodes = []*node{first, added}
	c.open(added)

	// One that has served does not come back without its data.
	c.eventually(func() bool {
		return !slices.ContainsFunc(first.Members(), func(i member.Info) bool { return len(i.ClientURLs) == 0 })
	}, "a member does not tell its client URLs")
	added.close()
	added.fs = engine.NewMem()
	added.refused("has already been bootstrapped, but its data directory is empty")
}

// TestLastVoterStays: a cluster has a voter always, whatever learners there are and however
// little is checked.
func TestLastVoterStays(t *testing.T) {
	c := newCluster(t, 1, func(cfg *member.Config) { cfg.LaxReconfig = true })
	added := c.add(true)
	_, _, err := c.nodes[0].MemberAdd(t.Context(), []string{added.url}, true)
	require.NoError(t, err)
	_, err = c.nodes[0].MemberRemove(t.Context(), c.nodes[0].id())
	require.ErrorIs(t, err, member.ErrNotEnoughStarted)
	c.open(added)
	_, err = added.MemberRemove(t.Context(), c.nodes[0].id())
	require.ErrorIs(t, err, member.ErrNotEnoughStarted)
	_, err = added.MemberRemove(t.Context(), added.id())
	require.NoError(t, err)
	c.stopped(added)
	c.nodes[0].put("k", "v")
}

// TestPromoteWithSpreadLeaders: whether a learner is in sync is asked of who leads each
// group.
func TestPromoteWithSpreadLeaders(t *testing.T) {
	c := newCluster(t, 3, func(cfg *member.Config) { cfg.SpreadLeaders = true })
	for i := range 20 {
		c.nodes[i%3].put(fmt.Sprintf("%s/%d", groupKeys[i%4], i), "x")
	}
	added := c.add(true)
	info, _, err := c.nodes[0].MemberAdd(t.Context(), []string{added.url}, true)
	require.NoError(t, err)
	_, err = c.nodes[0].MemberPromote(t.Context(), info.ID)
	require.ErrorIs(t, err, member.ErrLearnerNotReady)
	c.open(added)
	c.eventually(func() bool {
		leaders := c.nodes[0].GroupLeaders()
		slices.Sort(leaders)
		return len(slices.Compact(leaders)) == 3
	}, "the leads are not spread")
	c.eventually(func() bool {
		_, err := c.nodes[1].MemberPromote(t.Context(), info.ID)
		return err == nil
	}, "the learner is not ready")
	c.same()
}
