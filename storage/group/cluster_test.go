package group

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/cryptotest"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// cluster is a group of several replicas without goroutines: one seed decides
// what happens next, to which replica, and what becomes of each message. So a
// seed replays exactly.
//
// It keeps what every replica has published, by revision, and what every client
// was told, and compares the two.
type cluster struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	nodes []*node
	net   []packet
	// cut has the pairs of replicas, as from*10+to, that can't talk.
	cut map[uint64]bool
	// history has the changes of each revision, as the first replica that
	// applied it published them.
	history map[int64]string
	events  map[int64][]*mvccpb.Event
	calls   []*call
	// shown is the greatest revision that any client has been told.
	shown int64
	tally clusterTally
}

// clusterTally counts what was done, so that a test can show it was not idle.
type clusterTally struct {
	Answered, Unknown, Failed, Reads, Elections, Crashes, Lost, Refused, Dropped int
}

type packet struct {
	to      uint64
	message *raftpb.Message
}

// node is one replica and what it stands on.
type node struct {
	c      *cluster
	id     uint64
	fs     *engine.MemFS
	files  files
	store  *mvcc.Store
	log    *Log
	writer *LogWriter
	group  *Group
	seen   *seen
	leads  bool
}

// call is a request of a client.
type call struct {
	n int
	p *proposal
	r *read
	// at is the replica that it was sent to, for a read.
	at *node
	// shown is what had been shown to clients when it began.
	shown int64
	ended bool
}

func newCluster(t *testing.T, seed uint64, size int) *cluster {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed) // raft's election timeouts
	c := &cluster{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), cut: map[uint64]bool{},
		history: map[int64]string{}, events: map[int64][]*mvccpb.Event{}, shown: 1,
	}
	for id := range uint64(size) {
		n := &node{c: c, id: id + 1, fs: engine.NewCrashableMem()}
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		n.open()
	}
	return c
}

func (c *cluster) voters() []uint64 {
	var ids []uint64
	for _, n := range c.nodes {
		ids = append(ids, n.id)
	}
	return ids
}

func (n *node) open() {
	t := n.c.t
	n.seen = &seen{}
	n.files = openFiles(t, n.fs, func(err error) { t.Errorf("replica %d: %v", n.id, err) })
	cfg := replicaConfig(t, n.files, n.id, n.c.voters(), n.seen)
	n.store, n.log, n.writer = cfg.Store, cfg.Log, idleWriter(n.files.logs)
	cfg.Writer, cfg.Transport, cfg.Observer = n.writer, n, n
	var err error
	n.group, err = open(cfg)
	require.NoError(t, err)
	n.group.handleReady()
}

// Send implements Transport: messages are copied, as the network would.
func (n *node) Send(id mvcc.GroupID, ms []*raftpb.Message) {
	require.Equal(n.c.t, mvcc.CoreGroup, id)
	for _, m := range ms {
		n.c.net = append(n.c.net, packet{m.GetTo(), proto.Clone(m).(*raftpb.Message)})
	}
}

// Applied implements Observer: what a revision holds is the same on every
// replica, and stays so.
func (n *node) Applied(out mvcc.Outcome) {
	n.seen.Applied(out)
	byRevision := map[int64]string{}
	for _, e := range out.Events {
		byRevision[e.Kv.ModRevision] += fmt.Sprintf("%s %q=%q c%d v%d l%d; ",
			e.Type, e.Kv.Key, e.Kv.Value, e.Kv.CreateRevision, e.Kv.Version, e.Kv.Lease)
	}
	for rev, changes := range byRevision {
		if before, ok := n.c.history[rev]; ok {
			require.Equal(n.c.t, before, changes, "revision %d on replica %d", rev, n.id)
			continue
		}
		n.c.history[rev] = changes
		for _, e := range out.Events {
			if e.Kv.ModRevision == rev {
				n.c.events[rev] = append(n.c.events[rev], e)
			}
		}
	}
}

// Leading implements Observer.
func (n *node) Leading(leading bool) {
	require.NotEqual(n.c.t, n.leads, leading)
	if n.leads = leading; leading {
		n.c.tally.Elections++
	}
}

// close ends a replica; its callers are told that it has stopped.
func (n *node) close() {
	n.group.failAll()
	n.files.close(n.c.t)
	n.leads = false
}

// turn is one turn of the group's loop.
func (n *node) turn() {
	var box letters
	n.group.inbox.take(&box)
	n.group.handle(&box)
	n.group.evaluate()
	n.group.handleReady()
}

func (n *node) tick() {
	n.group.tick()
	n.group.evaluate()
	n.group.handleReady()
}

// write writes some of what the log was asked for, in one batch.
func (n *node) write() {
	k := 1 + n.c.rng.IntN(len(n.writer.queue))
	work := slices.Clone(n.writer.queue[:k])
	n.writer.queue = slices.Delete(n.writer.queue, 0, k)
	n.writer.write(work)
}

func (n *node) apply() {
	m := n.group.applier.queue[0]
	n.group.applier.queue = slices.Delete(n.group.applier.queue, 0, 1)
	require.NoError(n.c.t, n.group.applier.apply(m))
}

func (n *node) hasMail() bool {
	b := &n.group.inbox.box
	return len(b.applied)+len(b.calls)+len(b.proposals)+len(b.reads)+len(b.steps) > 0
}

// deliver takes a message from the network: the oldest or, with faults, any of
// them, which may be lost, or stay to be delivered again.
func (c *cluster) deliver(faults bool) {
	i, stays, lost := 0, false, false
	if faults {
		i = c.rng.IntN(min(len(c.net), 20))
		stays, lost = c.rng.IntN(20) == 0, c.rng.IntN(20) == 0
	}
	p := c.net[i]
	if !stays {
		c.net = slices.Delete(c.net, i, i+1)
	}
	if lost || c.cut[p.message.GetFrom()*10+p.to] {
		c.tally.Dropped++
		return
	}
	c.nodes[p.to-1].group.Step(proto.Clone(p.message).(*raftpb.Message))
}

// step lets one thing happen.
func (c *cluster) step(faults bool) {
	if c.rng.IntN(150) == 0 {
		c.nodes[c.rng.IntN(len(c.nodes))].tick()
		return
	}
	var can []func()
	if len(c.net) > 0 {
		can = append(can, func() { c.deliver(faults) }, func() { c.deliver(faults) }, func() { c.deliver(faults) })
	}
	for _, n := range c.nodes {
		if n.hasMail() {
			can = append(can, n.turn)
		}
		if len(n.writer.queue) > 0 {
			can = append(can, n.write)
		}
		if len(n.group.applier.queue) > 0 {
			can = append(can, n.apply)
		}
	}
	if len(can) == 0 {
		c.nodes[c.rng.IntN(len(c.nodes))].tick()
		return
	}
	can[c.rng.IntN(len(can))]()
}

// fault breaks or mends something.
func (c *cluster) fault() {
	n := c.nodes[c.rng.IntN(len(c.nodes))]
	switch c.rng.IntN(6) {
	case 0:
		clear(c.cut)
	case 1:
		other := c.nodes[c.rng.IntN(len(c.nodes))]
		c.cut[n.id*10+other.id] = true
	case 2:
		for _, other := range c.nodes {
			c.cut[n.id*10+other.id], c.cut[other.id*10+n.id] = true, true
		}
	case 3:
		c.tally.Crashes++
		// What a crash keeps has randomness of its own: how much of it is asked for
		// depends on Pebble's background work.
		rng := rand.New(rand.NewPCG(c.seed, uint64(c.tally.Crashes)))
		lost := n.fs.CrashClone(engine.CrashCloneCfg{UnsyncedDataPercent: 25 * c.rng.IntN(5), RNG: rng})
		n.close()
		n.fs = lost
		n.open()
	case 4:
		require.NoError(c.t, n.files.state.Flush())
	case 5:
		// Logs are truncated as far as all have it: what a lagging replica would
		// need is a snapshot.
		safe := ^uint64(0)
		for _, n := range c.nodes {
			durable, err := n.store.DurableApplied()
			require.NoError(c.t, err)
			safe = min(safe, durable.Index)
		}
		if safe > 1 {
			require.NoError(c.t, n.log.Truncate(safe))
		}
		require.NoError(c.t, n.store.Scrub(5, func() bool { return c.rng.IntN(2) == 0 }))
	}
}

// leader returns a replica that thinks it leads, or any.
func (c *cluster) leader() *node {
	for _, i := range c.rng.Perm(len(c.nodes)) {
		if c.nodes[i].group.leading {
			return c.nodes[i]
		}
	}
	return c.nodes[c.rng.IntN(len(c.nodes))]
}

// request sends a random request to a leader, or a read to anybody.
func (c *cluster) request() {
	key := fmt.Sprintf("k%d", c.rng.IntN(6))
	k := &call{n: len(c.calls), shown: c.shown}
	c.calls = append(c.calls, k)
	var op evaluate.Op
	switch c.rng.IntN(12) {
	default:
		op = &evaluate.Put{Key: []byte(key), Value: fmt.Append(nil, k.n), PrevKV: true}
	case 0:
		op = &evaluate.DeleteRange{Key: []byte(key), End: []byte("z"), PrevKV: true}
	case 1, 2:
		// Changes one key if another has not been changed since a revision, and
		// else reads.
		op = &evaluate.Txn{
			Compare: []evaluate.Compare{{
				Target: evaluate.CompareMod, Result: evaluate.CompareLess, Key: []byte("k0"), Number: c.shown - c.rng.Int64N(4),
			}},
			Success: []evaluate.Op{
				&evaluate.Put{Key: []byte(key), Value: fmt.Append(nil, k.n), PrevKV: true}, &evaluate.DeleteRange{Key: []byte("k5")},
			},
			Failure: []evaluate.Op{&evaluate.Range{Key: []byte("k"), End: []byte("l")}},
		}
	case 3, 4:
		op = &evaluate.Txn{
			Compare: []evaluate.Compare{{Target: evaluate.CompareVersion, Result: evaluate.CompareLess, Key: []byte("k0")}},
			Success: []evaluate.Op{put("never", 1)},
			Failure: []evaluate.Op{&evaluate.Range{Key: []byte("k"), End: []byte("l")}},
		}
	case 5:
		op = &evaluate.LeaseGrant{ID: 1 + c.rng.Int64N(3), TTL: 60}
	case 6:
		op = &evaluate.LeaseRevoke{ID: 1 + c.rng.Int64N(3)}
	case 7:
		op = &evaluate.Put{Key: []byte(key), Value: fmt.Append(nil, k.n), Lease: 1 + c.rng.Int64N(3), PrevKV: true}
	case 8, 9:
		k.at = c.nodes[c.rng.IntN(len(c.nodes))]
		k.r = &read{done: make(chan error, 1)}
		require.NoError(c.t, k.at.group.inbox.read(k.r))
		return
	case 10:
		op = &evaluate.Compact{Revision: c.shown - c.rng.Int64N(20)}
	}
	k.p = &proposal{ctx: context.Background(), op: op, size: 10, done: make(chan struct{})}
	require.NoError(c.t, c.leader().group.inbox.propose(k.p))
}

// answers looks which clients were answered.
func (c *cluster) answers() {
	for _, k := range c.calls {
		if k.ended {
			continue
		}
		if k.r != nil {
			select {
			case err := <-k.r.done:
				k.ended = true
				if err == nil {
					c.tally.Reads++
					require.GreaterOrEqual(c.t, k.at.store.Revision(), k.shown, "read %d on replica %d", k.n, k.at.id)
				}
			default:
			}
			continue
		}
		select {
		case <-k.p.done:
			k.ended = true
			c.answered(k)
		default:
		}
	}
}

func (c *cluster) answered(k *call) {
	switch err := k.p.err; {
	case err == nil:
		c.tally.Answered++
		require.GreaterOrEqual(c.t, k.p.res.Revision, k.shown, "request %d: %+v", k.n, k.p.op)
		c.shown = max(c.shown, k.p.res.Revision)
	case errors.Is(err, ErrStopped), errors.Is(err, ErrLeaderChanged):
		c.tally.Unknown++
	default:
		c.tally.Failed++
	}
}

// settle ends all faults and runs until every replica has applied the same, or
// gives up.
func (c *cluster) settle() {
	clear(c.cut)
	for range 200_000 {
		c.step(false)
		c.answers()
		if c.quiet() {
			return
		}
	}
	c.t.Fatal("the replicas do not come to rest")
}

func (c *cluster) quiet() bool {
	leader := c.leader()
	if !leader.group.leading || len(c.net) > 0 {
		return false
	}
	commit := leader.group.rn.BasicStatus().GetCommit()
	for _, n := range c.nodes {
		last, err := n.log.LastIndex()
		require.NoError(c.t, err)
		reads := &n.group.reads
		if n.hasMail() || len(n.writer.queue)+len(n.group.applier.queue) > 0 ||
			len(reads.waiting)+len(reads.asked)+len(reads.ready) > 0 ||
			n.group.AppliedIndex() != commit || last != commit || n.group.rn.BasicStatus().Lead != leader.id {
			return false
		}
	}
	return true
}

// state is what all keys are at one revision.
type state map[string]string

func (s state) clone() state { return maps.Clone(s) }

// states replays the history.
func (c *cluster) states() (revisions []int64, at map[int64]state) {
	at = map[int64]state{1: {}}
	now := state{}
	for _, rev := range slices.Sorted(maps.Keys(c.events)) {
		now = now.clone()
		for _, e := range c.events[rev] {
			if e.Type == mvccpb.Event_DELETE {
				delete(now, string(e.Kv.Key))
			} else {
				now[string(e.Kv.Key)] = fmt.Sprintf("%s@%d", e.Kv.Value, e.Kv.ModRevision)
			}
		}
		at[rev] = now
		revisions = append(revisions, rev)
	}
	return revisions, at
}

// judge compares what clients were told with what there is in the end.
func (c *cluster) judge() {
	t := c.t
	var hashes []string
	for _, n := range c.nodes {
		hash, rev, compacted, err := n.store.HashKV(context.Background(), 0)
		require.NoError(t, err)
		var leases []string
		require.NoError(t, n.store.Leases(func(id, ttl, _ int64) {
			keys, err := n.store.LeaseKeys(id)
			require.NoError(t, err)
			leases = append(leases, fmt.Sprintf("%d/%d%q", id, ttl, keys))
		}))
		hashes = append(hashes, fmt.Sprintf("%x at %d, compacted %d, leases %s, %s", hash, rev, compacted, leases, contents(t, n.store)))
	}
	for i := range hashes {
		require.Equal(t, hashes[0], hashes[i], "replicas 1 and %d", i+1)
	}

	revisions, at := c.states()
	require.Equal(t, revisions[len(revisions)-1], c.nodes[0].store.Revision(), "nothing published was lost")
	before := func(rev int64) state {
		i, _ := slices.BinarySearch(revisions, rev)
		if i == 0 {
			return state{}
		}
		return at[revisions[i-1]]
	}
	owner := map[int64]int{}
	for _, k := range c.calls {
		if k.p == nil || !k.ended || k.p.err != nil {
			continue
		}
		rev := k.p.res.Revision
		if changes(k.p.op, k.p.res) {
			_, twice := owner[rev]
			require.False(t, twice, "requests %d and %d have revision %d", owner[rev], k.n, rev)
			owner[rev] = k.n
			require.NotEmpty(t, c.history[rev], "request %d was answered with revision %d, which is not there", k.n, rev)
		}
		c.judgeAnswer(k, before(rev), at[rev])
	}
	for _, k := range c.calls {
		if k.ended {
			continue
		}
		// Who waits at a replica that does not lead would wait for it to.
		waits := k.p != nil && slices.ContainsFunc(c.nodes, func(n *node) bool {
			return !n.group.leading && slices.Contains(n.group.queue, k.p)
		})
		require.True(t, waits, "request %d was never answered", k.n)
	}
}

// changes says whether an answered request has changed a key.
func changes(op evaluate.Op, res evaluate.Result) bool {
	switch op.(type) {
	case *evaluate.Put:
		return true
	case *evaluate.DeleteRange:
		return res.Deleted > 0
	case *evaluate.Txn:
		return res.Succeeded
	default:
		return false
	}
}

// judgeAnswer compares an answer with the states before and at its revision.
func (c *cluster) judgeAnswer(k *call, before, now state) {
	t := c.t
	show := func(kvs []*mvccpb.KeyValue) string {
		s := state{}
		for _, kv := range kvs {
			s[string(kv.Key)] = fmt.Sprintf("%s@%d", kv.Value, kv.ModRevision)
		}
		return fmt.Sprint(s)
	}
	res := k.p.res
	switch op := k.p.op.(type) {
	case *evaluate.Put:
		require.Equal(t, fmt.Sprintf("%s@%d", op.Value, res.Revision), now[string(op.Key)], "request %d", k.n)
		require.Equal(t, fmt.Sprint(before.only(string(op.Key), string(op.Key)+"\x00")), show(res.PrevKVs), "request %d", k.n)
	case *evaluate.DeleteRange:
		if res.Deleted == 0 {
			before = now
		}
		require.Equal(t, fmt.Sprint(before.only(string(op.Key), string(op.End))), show(res.PrevKVs), "request %d", k.n)
	case *evaluate.Txn:
		if res.Succeeded {
			p := op.Success[0].(*evaluate.Put)
			require.Equal(t, fmt.Sprint(before.only(string(p.Key), string(p.Key)+"\x00")), show(res.Responses[0].PrevKVs), "request %d", k.n)
			require.NotContains(t, now, "k5")
		} else {
			require.Equal(t, fmt.Sprint(now), show(res.Responses[0].KVs), "request %d at %d", k.n, res.Revision)
		}
	}
}

// only is the part of a state between two keys.
func (s state) only(from, to string) state {
	out := s.clone()
	maps.DeleteFunc(out, func(k, _ string) bool { return k < from || k >= to })
	return out
}

func TestReplicas(t *testing.T) {
	var total clusterTally
	for seed := range uint64(30) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			c := newCluster(t, seed, 3)
			// Half of the seeds break nothing but lose and reorder messages.
			faults := seed%2 == 1
			for range 20 {
				for range 1000 {
					c.step(true)
					c.answers()
					if c.rng.IntN(25) == 0 {
						c.request()
					}
					if faults && c.rng.IntN(300) == 0 {
						c.fault()
						c.answers()
					}
				}
			}
			c.settle()
			require.NoError(t, c.leader().group.inbox.propose(&proposal{ctx: t.Context(), op: put("last", 1), size: 10, done: make(chan struct{})}))
			c.settle()
			c.judge()
			total.add(c.tally)
			for _, n := range c.nodes {
				n.close()
			}
		})
	}
	t.Logf("%+v", total)
}

func (a *clusterTally) add(b clusterTally) {
	a.Answered += b.Answered
	a.Unknown += b.Unknown
	a.Failed += b.Failed
	a.Reads += b.Reads
	a.Elections += b.Elections
	a.Crashes += b.Crashes
	a.Dropped += b.Dropped
}
