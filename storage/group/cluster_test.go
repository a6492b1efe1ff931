package group

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/pebbledash/pebbledash/storage/revline"
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
	// roaming says that the sequencer is whom the test has chosen last, as in a
	// group other than core; else it is whoever leads the group's raft. epoch is
	// then the greatest that was given.
	roaming bool
	epoch   uint64
	// asked are the confirmations of a roaming sequencer that are not answered.
	asked []question
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
	Answered, Unknown, Failed, Reads, Elections, Reigns, Crashes, Refused, Dropped, Snapshots int
}

// question is one of a roaming sequencer: does its epoch stand?
type question struct {
	epoch  uint64
	answer func(error)
}

// packet is a message, with rows if it is a snapshot's.
type packet struct {
	to      uint64
	message *raftpb.Message
	rows    [][]byte
}

// node is one replica and what it stands on.
type node struct {
	c      *cluster
	id     uint64
	fs     *engine.MemFS
	files  files
	store  *mvcc.Store
	log    *Log
	line   *revline.Line
	writer *LogWriter
	group  *Group
	crown  *crown
	leads  uint64
}

// call is a request of a client.
type call struct {
	n int
	p *proposal
	// read is the answer of a read, at the revision at.
	read chan error
	at   int64
	// shown is what had been shown to clients when it began.
	shown int64
	ended bool
}

func newCluster(t *testing.T, seed uint64, size int, roaming bool) *cluster {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed) // raft's election timeouts
	c := &cluster{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), roaming: roaming, cut: map[uint64]bool{},
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
	seen := &seen{}
	n.files = openFiles(t, n.fs, func(err error) { t.Errorf("replica %d: %v", n.id, err) })
	require.NoError(t, mvcc.RemoveIngests(n.fs, "state"))
	cfg := replicaConfig(t, n.files, n.id, n.c.voters(), seen)
	n.crown = &crown{seen: seen, line: cfg.Line}
	n.store, n.log, n.line, n.writer = cfg.Store, cfg.Log, cfg.Line, idleWriter(n.files.logs)
	cfg.Writer, cfg.Transport, cfg.Observer = n.writer, n, n
	cfg.Confirm, cfg.Sole = n.confirm, func() bool { return false }
	var err error
	n.group, err = Open(cfg)
	require.NoError(t, err)
	n.crown.group = n.group
	n.group.handleReady()
}

// confirm asks whether this replica's reign stands.
func (n *node) confirm(answer func(error)) {
	if n.c.roaming {
		n.c.asked = append(n.c.asked, question{n.group.reign.epoch, answer})
		return
	}
	n.group.Confirm(answer)
}

// Send implements Transport: messages are copied, as the network would.
func (n *node) Send(id mvcc.GroupID, ms []*raftpb.Message) {
	require.Equal(n.c.t, mvcc.CoreGroup, id)
	for _, m := range ms {
		n.c.net = append(n.c.net, packet{to: m.GetTo(), message: proto.Clone(m).(*raftpb.Message)})
	}
}

// SendSnapshot implements Transport: the state as it is now goes with the message.
func (n *node) SendSnapshot(_ mvcc.GroupID, m *raftpb.Message) {
	t := n.c.t
	export, err := n.store.Export(1000)
	require.NoError(t, err)
	defer func() { require.NoError(t, export.Close()) }()
	conf := &raftpb.ConfState{}
	require.NoError(t, proto.Unmarshal(export.ConfState(), conf))
	applied := export.Applied()
	require.GreaterOrEqual(t, applied.Index, m.GetSnapshot().GetMetadata().GetIndex())
	m = proto.Clone(m).(*raftpb.Message)
	m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: conf, Index: &applied.Index, Term: &applied.Term,
	}}
	p := packet{to: m.GetTo(), message: m}
	for {
		chunk, err := export.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		p.rows = append(p.rows, slices.Clone(chunk))
	}
	n.c.net = append(n.c.net, p)
}

// ingest are the rows of a snapshot that has come.
type ingest struct {
	*mvcc.Ingest
	store *mvcc.Store
}

// Floor implements Rows.
func (in ingest) Floor() int64 { return in.Scrubbed() }

// Commit implements Rows.
func (in ingest) Commit() error { return in.Ingest.Commit(context.Background(), in.store) }

// take takes a snapshot's message and rows.
func (n *node) take(p packet) {
	in, err := mvcc.NewIngest(n.files.state, n.fs, "state", mvcc.CoreGroup)
	require.NoError(n.c.t, err)
	for _, chunk := range p.rows {
		require.NoError(n.c.t, in.Add(slices.Clone(chunk)))
	}
	require.NoError(n.c.t, in.Finish())
	n.group.StepSnapshot(&Incoming{Message: proto.Clone(p.message).(*raftpb.Message), Rows: ingest{in, n.store}})
}

// Applied implements Observer: what a revision holds is the same on every
// replica, and stays so.
func (n *node) Applied(index uint64, out *mvcc.Outcome) {
	n.crown.Applied(index, out)
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

// Restoring implements Observer.
func (n *node) Restoring(int64) { n.c.tally.Snapshots++ }

// Restored implements Observer.
func (n *node) Restored(applied mvcc.Applied) {
	require.Equal(n.c.t, applied, n.store.Applied())
	n.crown.leases = map[int64]bool{}
	require.NoError(n.c.t, n.store.Leases(func(id, _, _ int64) { n.crown.leases[id] = true }))
}

// Changed implements Observer.
func (n *node) Changed() {}

// Configured implements Observer.
func (n *node) Configured() {}

// Leads implements Observer.
func (n *node) Leads(term uint64) {
	require.NotEqual(n.c.t, n.leads, term)
	if n.leads = term; term != 0 {
		n.c.tally.Elections++
		require.Equal(n.c.t, n.group.rn.BasicStatus().GetTerm(), term)
	}
	if !n.c.roaming {
		n.crown.Leads(term)
	}
}

// Fenced implements Observer.
func (n *node) Fenced(epoch, part uint64) { n.crown.Fenced(epoch, part) }

// reigns says whether a replica evaluates requests.
func (n *node) reigns() bool { return n.group.reign.begun }

// enthrone makes a replica the sequencer, in a cluster where it roams.
func (c *cluster) enthrone(n *node) {
	c.epoch++
	c.tally.Reigns++
	n.crown.reign(c.epoch)
}

// answerOne answers a roaming sequencer's question.
func (c *cluster) answerOne() {
	q := c.asked[0]
	c.asked = slices.Delete(c.asked, 0, 1)
	if q.epoch == c.epoch {
		q.answer(nil)
	} else {
		q.answer(ErrNotSequencer)
	}
}

// close ends a replica; its callers are told that it has stopped.
func (n *node) close() {
	n.group.failAll()
	n.files.close(n.c.t)
	n.leads = 0
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
	work := n.group.applier.queue[0]
	n.group.applier.queue = slices.Delete(n.group.applier.queue, 0, 1)
	require.NoError(n.c.t, n.group.applier.do(work))
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
	lost = lost || c.cut[p.message.GetFrom()*10+p.to]
	if lost {
		c.tally.Dropped++
	}
	if p.rows != nil {
		// The sender learns what has become of it, if it still is who it was.
		c.nodes[p.message.GetFrom()-1].group.SnapshotSent(p.to, !lost)
	}
	switch {
	case lost:
	case p.rows != nil:
		c.nodes[p.to-1].take(p)
	default:
		c.nodes[p.to-1].group.Step(proto.Clone(p.message).(*raftpb.Message))
	}
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
	if len(c.asked) > 0 {
		can = append(can, c.answerOne)
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
	switch c.rng.IntN(8) {
	case 0, 6:
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
		// Whoever has not got what is truncated is given a snapshot.
		if l := c.leader(); l != nil {
			n = l
		}
		require.NoError(c.t, n.files.state.Flush())
		durable, err := n.store.DurableApplied()
		require.NoError(c.t, err)
		require.NoError(c.t, n.log.Truncate(durable.Index))
		require.NoError(c.t, n.store.Scrub(5, func() bool { return c.rng.IntN(2) == 0 }))
	case 7:
		if !c.roaming {
			n.group.rn.TransferLeader(1 + c.rng.Uint64N(uint64(len(c.nodes))))
			n.group.handleReady()
		}
	}
}

// succeed changes who reigns in a cluster where the sequencer roams. Who reigned
// need not hear of it but by what it applies.
func (c *cluster) succeed() {
	n := c.nodes[c.rng.IntN(len(c.nodes))]
	if c.rng.IntN(3) == 0 {
		n.crown.reign(0)
	} else {
		c.enthrone(n)
	}
}

// leader returns a replica that leads the group's raft, nil if none does.
func (c *cluster) leader() *node {
	i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.leads != 0 })
	if i < 0 {
		return nil
	}
	return c.nodes[i]
}

// sequencer returns a replica that thinks it reigns, or any.
func (c *cluster) sequencer() *node {
	for _, i := range c.rng.Perm(len(c.nodes)) {
		if c.nodes[i].reigns() {
			return c.nodes[i]
		}
	}
	return c.nodes[c.rng.IntN(len(c.nodes))]
}

// request sends a random request to a sequencer.
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
		n := c.sequencer()
		k.read, k.at = make(chan error, 1), n.line.Present()
		epoch := n.line.Epoch()
		if !n.reigns() || n.group.reign.epoch != epoch {
			k.read <- ErrNotSequencer
			return
		}
		n.confirm(func(err error) {
			if err == nil && n.line.Epoch() != epoch {
				err = ErrNotSequencer
			}
			k.read <- err
		})
		return
	case 10:
		op = &evaluate.Compact{Revision: c.shown - c.rng.Int64N(20)}
	}
	k.p = &proposal{ctx: context.Background(), op: op, size: 10, done: make(chan struct{})}
	require.NoError(c.t, c.sequencer().group.inbox.propose(k.p))
}

// answers looks which clients were answered.
func (c *cluster) answers() {
	for _, k := range c.calls {
		if k.ended {
			continue
		}
		if k.read != nil {
			select {
			case err := <-k.read:
				k.ended = true
				if err == nil {
					c.tally.Reads++
					require.GreaterOrEqual(c.t, k.at, k.shown, "read %d", k.n)
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
	case unknown(err):
		c.tally.Unknown++
	default:
		c.tally.Failed++
	}
}

// unknown says whether a request with that answer may have taken effect.
func unknown(err error) bool { return errors.Is(err, ErrStopped) || errors.Is(err, ErrLeaderChanged) }

// settle ends all faults and runs until every replica has applied the same, or
// gives up.
func (c *cluster) settle() {
	clear(c.cut)
	stands := func(n *node) bool { return n.crown.epoch == c.epoch }
	if c.roaming && (c.epoch == 0 || !slices.ContainsFunc(c.nodes, stands)) {
		c.enthrone(c.nodes[c.rng.IntN(len(c.nodes))])
	}
	for range 200_000 {
		c.step(false)
		c.answers()
		if c.quiet() {
			return
		}
	}
	for _, n := range c.nodes {
		c.t.Logf("replica %d: crown %d, reign %+v, leads %d, in flight %d, applied %+v", n.id, n.crown.epoch, n.group.reign, n.leads, n.inFlight(), n.store.Applied())
	}
	c.t.Fatal("the replicas do not come to rest")
}

func (c *cluster) quiet() bool {
	leader := c.leader()
	if leader == nil || len(c.net)+len(c.asked) > 0 {
		return false
	}
	commit := leader.group.rn.BasicStatus().GetCommit()
	reigning := 0
	for _, n := range c.nodes {
		last, err := n.log.LastIndex()
		require.NoError(c.t, err)
		reads := &n.group.reads
		inFlight, _ := n.group.applier.flight.size()
		if n.hasMail() || len(n.writer.queue)+len(n.group.applier.queue)+len(n.group.queue) > 0 ||
			len(reads.waiting)+len(reads.asked)+inFlight > 0 ||
			n.group.AppliedIndex() != commit || last != commit || n.group.rn.BasicStatus().Lead != leader.id {
			return false
		}
		if n.reigns() {
			reigning++
		}
	}
	return reigning == 1
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
		hashes = append(hashes, fmt.Sprintf("%x at %d, compacted %d, leases %s, %+v, %s",
			hash, rev, compacted, leases, n.store.Applied(), contents(t, n.store)))
		if n.reigns() {
			require.Equal(t, rev, n.line.Present())
			require.Equal(t, rev, n.line.Closed())
		}
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
	took := c.effects()
	for _, k := range c.calls {
		require.True(t, k.ended, "request %d was never answered", k.n)
		if k.p == nil {
			continue
		}
		if k.p.err != nil {
			if !unknown(k.p.err) {
				require.NotContains(t, took, k.n, "request %d was answered with %v", k.n, k.p.err)
			}
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
}

// effects returns at which revision each request has put its value.
// A request is evaluated once, whatever becomes of its entry.
func (c *cluster) effects() map[int]int64 {
	took := map[int]int64{}
	for rev, events := range c.events {
		for _, e := range events {
			var n int
			if _, err := fmt.Sscan(string(e.Kv.Value), &n); err != nil || n >= len(c.calls) {
				continue // a deletion, or a request of a test's own
			}
			before, twice := took[n]
			require.False(c.t, twice, "request %d took effect at revisions %d and %d", n, before, rev)
			took[n] = rev
		}
	}
	return took
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
	for _, roaming := range []bool{false, true} {
		var total clusterTally
		for seed := range uint64(20) {
			t.Run(fmt.Sprintf("roaming=%t/seed=%d", roaming, seed), func(t *testing.T) {
				c := newCluster(t, seed, 3, roaming)
				// Half of the seeds break nothing but lose and reorder messages.
				c.run(seed%2 == 1)
				total.add(c.tally)
			})
		}
		t.Logf("roaming=%t: %+v", roaming, total)
		require.True(t, total.Answered > 1000 && total.Unknown > 20 && total.Reads > 100, "little has happened: %+v", total)
	}
}

// run is one history, and judges it.
func (c *cluster) run(faults bool) {
	for range 20_000 {
		c.step(true)
		c.answers()
		if c.rng.IntN(25) == 0 {
			c.request()
		}
		if c.roaming && c.rng.IntN(600) == 0 {
			c.succeed()
		}
		if faults && c.rng.IntN(300) == 0 {
			c.fault()
			c.answers()
		}
	}
	c.settle()
	last := &proposal{ctx: c.t.Context(), op: put("last", "x"), size: 10, done: make(chan struct{})}
	require.NoError(c.t, c.sequencer().group.inbox.propose(last))
	c.settle()
	require.True(c.t, last.answered())
	require.NoError(c.t, last.err)
	c.judge()
	for _, n := range c.nodes {
		c.tally.Refused += int(n.group.Refused())
		n.close()
	}
}

func (a *clusterTally) add(b clusterTally) {
	a.Answered += b.Answered
	a.Unknown += b.Unknown
	a.Failed += b.Failed
	a.Reads += b.Reads
	a.Elections += b.Elections
	a.Reigns += b.Reigns
	a.Crashes += b.Crashes
	a.Refused += b.Refused
	a.Dropped += b.Dropped
	a.Snapshots += b.Snapshots
}

func (p *proposal) answered() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
