package group

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// truncate drops all of a replica's log that its state holds.
func (n *node) truncate() {
	require.NoError(n.c.t, n.files.state.Flush())
	durable, err := n.store.DurableApplied()
	require.NoError(n.c.t, err)
	require.NoError(n.c.t, n.log.Truncate(durable.Index))
}

// snapshot lets the leader find out that a replica lags behind its log, and
// returns the snapshot that it sends.
func (c *cluster) snapshot(leader, lags *node) packet {
	for range 100 {
		leader.tick()
		for len(c.net) > 0 {
			for i, p := range c.net {
				if p.rows != nil && p.to == lags.id {
					c.net = append(c.net[:i], c.net[i+1:]...)
					return p
				}
			}
			c.deliver(false)
			for _, n := range c.nodes {
				for n.hasMail() || len(n.writer.queue) > 0 {
					n.turn()
					if len(n.writer.queue) > 0 {
						n.write()
					}
				}
			}
		}
	}
	c.t.Fatal("no snapshot is sent")
	return packet{}
}

// lagging is a cluster of three whose third replica has missed what the others
// have truncated.
func lagging(t *testing.T) (c *cluster, leader, lags *node) {
	t.Helper()
	c = newCluster(t, 1, 3, false)
	leader, lags = c.elect(1), c.nodes[2]
	c.cut[13], c.cut[23] = true, true
	for i := range 5 {
		p := leader.propose(put("k", i))
		c.calm(c.nodes...)
		p.succeeded(t)
	}
	leader.truncate()
	clear(c.cut)
	return c, leader, lags
}

// TestAppendsWaitForASnapshot: what raft asks of the log while a snapshot is being
// restored is written behind the snapshot, and not before the rows are in the
// state.
func TestAppendsWaitForASnapshot(t *testing.T) {
	c, leader, lags := lagging(t)
	defer c.end()
	p := c.snapshot(leader, lags)
	index := p.message.GetSnapshot().GetMetadata().GetIndex()
	require.Equal(t, leader.group.AppliedIndex(), index)
	lags.take(p)
	lags.turn()
	require.Equal(t, 1, lags.group.restoring)
	require.Len(t, lags.group.applier.queue, 1)
	require.Empty(t, lags.writer.queue)

	// A candidate asks for a vote, which has to be durable before it is given.
	term := lags.group.rn.BasicStatus().GetTerm() + 1
	lags.group.Step(&raftpb.Message{
		Type: raftpb.MsgVote.Enum(), From: proto.Uint64(2), To: proto.Uint64(3), Term: &term,
		Index: proto.Uint64(index + 10), LogTerm: &term, Context: []byte("CampaignTransfer"),
	})
	c.net = nil
	lags.turn()
	require.Len(t, lags.group.appends, 1)
	require.Empty(t, lags.writer.queue)
	require.Empty(t, c.net)
	require.Less(t, lags.group.AppliedIndex(), index)

	lags.apply()
	require.Equal(t, index, lags.group.AppliedIndex())
	require.Equal(t, leader.store.Applied(), lags.store.Applied())
	require.Equal(t, contents(t, leader.store), contents(t, lags.store))
	require.Empty(t, lags.writer.queue)
	lags.turn()
	require.Zero(t, lags.group.restoring)
	require.Empty(t, lags.group.appends)
	require.Len(t, lags.writer.queue, 2)
	require.NotNil(t, lags.writer.queue[0].msg.Snapshot)
	require.Nil(t, lags.writer.queue[1].msg.Snapshot)
	require.Empty(t, c.net)
	for len(lags.writer.queue) > 0 {
		lags.write()
		lags.turn()
	}
	first, err := lags.log.FirstIndex()
	require.NoError(t, err)
	require.Equal(t, index+1, first)
	hard, _, err := lags.log.InitialState()
	require.NoError(t, err)
	require.Equal(t, []uint64{term, 2}, []uint64{hard.GetTerm(), hard.GetVote()})
	require.NotEmpty(t, c.net, "the vote is given")
	c.settle()
	c.judge()
}

// counted are rows of a snapshot that nobody should want.
type counted struct{ dropped, committed int }

func (r *counted) Floor() int64  { return 0 }
func (r *counted) Commit() error { r.committed++; return nil }
func (r *counted) Drop()         { r.dropped++ }

// TestUnwantedSnapshots: one that is older than what there is, or comes after the
// end, is dropped.
func TestUnwantedSnapshots(t *testing.T) {
	c := newCluster(t, 1, 3, false)
	a := c.elect(1)
	p := a.propose(put("k", 1))
	c.settle()
	p.succeeded(t)
	b := c.nodes[1]
	at := b.store.Applied()
	old := func() *raftpb.Message {
		term := b.group.rn.BasicStatus().GetTerm()
		index := at.Index - 1
		return &raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: &term,
			Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
				ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Index: &index, Term: &at.Term,
			}},
		}
	}
	rows := &counted{}
	b.group.StepSnapshot(&Incoming{Message: old(), Rows: rows})
	b.turn()
	require.Equal(t, counted{dropped: 1}, *rows)
	require.Empty(t, b.group.incoming)
	require.Zero(t, b.group.restoring)
	c.settle()
	c.judge()
	c.end()
	b.group.StepSnapshot(&Incoming{Message: old(), Rows: rows})
	require.Equal(t, counted{dropped: 2}, *rows)
}

// TestSnapshotAnswers: a sequencer that lags behind the group's log learns of its
// own entries by a snapshot. Those who wait for them are answered, and the
// revisions are not outstanding any more.
func TestSnapshotAnswers(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	c.cut[21], c.cut[31] = true, true // a hears nothing, and is heard
	p, q := a.propose(put("k", 1)), a.propose(put("k", 2))
	c.calm(c.nodes...)
	require.Equal(t, "k=2@3 ", contents(t, b.store))
	require.False(t, p.answered() || q.answered())
	require.Less(t, a.line.Closed(), int64(2))
	b.truncate()
	clear(c.cut)
	s := c.snapshot(b, a)
	a.take(s)
	a.turn()
	a.apply()
	require.EqualValues(t, 2, p.succeeded(t).Revision)
	require.EqualValues(t, 3, q.succeeded(t).Revision)
	require.EqualValues(t, 3, a.line.Closed())
	require.EqualValues(t, 3, a.line.Present())
	r := a.propose(put("k", 3))
	require.Zero(t, a.group.eval.InFlight()-1, "evaluation knows that they are applied")
	c.settle()
	require.EqualValues(t, 4, r.succeeded(t).Revision)
	require.Equal(t, 1, c.tally.Snapshots)
	c.judge()
}

// TestSnapshotEndsAReign: a sequencer that learns by a snapshot that it is deposed
// counts nothing of it for its reign.
func TestSnapshotEndsAReign(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	c.cut[21], c.cut[31] = true, true
	c.enthrone(c.nodes[2])
	c.calm(c.nodes...)
	p := a.propose(put("k", "old"))
	q := c.nodes[2].propose(put("k", "new"))
	c.calm(c.nodes...)
	require.EqualValues(t, 2, q.succeeded(t).Revision)
	b.truncate()
	clear(c.cut)
	a.take(c.snapshot(b, a))
	a.turn()
	a.apply()
	require.Zero(t, a.line.Epoch())
	require.False(t, p.answered())
	require.EqualValues(t, 1, a.line.Present(), "what others have made it does not show")
	c.settle()
	p.failed(t, ErrLeaderChanged)
	c.judge()
}

// TestStalled: how long the log has been written is known while it is.
func TestStalled(t *testing.T) {
	var blocking atomic.Bool
	entered, release := make(chan struct{}), make(chan struct{})
	fs := engine.WrapFaulty(engine.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if sync && filepath.Ext(op.Path) == ".log" && blocking.CompareAndSwap(true, false) {
			close(entered)
			<-release
		}
		return nil
	}))
	db := openDB(t, fs, "log", func(err error) { t.Error(err) })
	log, err := OpenLog(db, mvcc.CoreGroup)
	require.NoError(t, err)
	require.NoError(t, log.Bootstrap(1, 1))
	manual := clock.NewManual(time.Unix(0, 0))
	writer := NewLogWriter(db, manual, nil)
	require.Zero(t, writer.Stalled())
	manual.Advance(time.Minute)
	require.Zero(t, writer.Stalled(), "nothing is written")

	blocking.Store(true)
	done := make(chan struct{})
	writer.submit(appendRequest{
		log: log, msg: appendMessage(0, 0, 0, logEntry(2, 2, 10)), done: func(*raftpb.Message) { close(done) },
	})
	<-entered
	require.Zero(t, writer.Stalled())
	manual.Advance(3 * time.Second)
	require.Equal(t, 3*time.Second, writer.Stalled())
	close(release)
	<-done
	require.Zero(t, writer.Stalled())
	writer.Close()
	require.NoError(t, db.Close())
}
