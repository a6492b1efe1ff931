package group

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// elect has replica id lead, and lets everybody come to rest.
func (c *cluster) elect(id uint64) *node {
	n := c.nodes[id-1]
	if c.settle(); !n.group.leading {
		l := c.leader()
		l.group.rn.TransferLeader(id)
		l.group.handleReady()
		c.until(func() bool { return n.group.leading })
		c.settle()
	}
	require.True(c.t, n.group.leading)
	return n
}

// cutOff cuts a replica off from the others, who elect another leader.
func (c *cluster) cutOff(n *node) (leader *node) {
	for _, m := range c.nodes {
		c.cut[n.id*10+m.id], c.cut[m.id*10+n.id] = true, true
	}
	c.net = nil
	others := slices.DeleteFunc(slices.Clone(c.nodes), func(m *node) bool { return m == n })
	for {
		for _, m := range others {
			if m.group.leading {
				return m
			}
			m.tick()
		}
		c.calm(others...)
	}
}

// calm lets everything happen that can without a tick.
func (c *cluster) calm(nodes ...*node) {
	for again := true; again; {
		again = false
		for len(c.net) > 0 {
			c.deliver(false)
		}
		for _, n := range nodes {
			for n.hasMail() || len(n.writer.queue)+len(n.group.applier.queue) > 0 {
				again = true
				switch {
				case n.hasMail():
					n.turn()
				case len(n.writer.queue) > 0:
					n.write()
				default:
					n.apply()
				}
			}
		}
		again = again || len(c.net) > 0
	}
}

// until lets things happen without faults until what is waited for has.
func (c *cluster) until(done func() bool) {
	for range 100_000 {
		if done() {
			return
		}
		c.step(false)
	}
	c.t.Fatal("it does not happen")
}

// propose sends a request to a replica and lets it be evaluated.
func (n *node) propose(op evaluate.Op) *proposal {
	p := &proposal{ctx: context.Background(), op: op, size: 10, done: make(chan struct{})}
	require.NoError(n.c.t, n.group.inbox.propose(p))
	n.turn()
	return p
}

func (p *proposal) answered() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (c *cluster) end() {
	for _, n := range c.nodes {
		n.close()
	}
}

// TestRefusedProposal has raft refuse an entry: while the lead is handed over,
// it takes none. Whoever waits for it is told; what was in flight before goes on;
// and what is evaluated afterwards has not seen it.
func TestRefusedProposal(t *testing.T) {
	c := newCluster(t, 1, 3)
	defer c.end()
	a := c.elect(1)
	before := a.propose(put("before", 1))
	// The log writes it; only then is more evaluated.
	a.write()
	a.turn()
	require.False(t, before.answered())
	require.Equal(t, 1, a.group.eval.InFlight())

	// Nobody hears of it.
	c.cut[12], c.cut[13] = true, true
	a.group.rn.TransferLeader(2)
	lost := a.propose(put("lost", 1))
	require.True(t, lost.answered())
	require.ErrorIs(t, lost.err, ErrLeaderChanged)
	require.EqualValues(t, 1, a.group.Refused())
	// Nothing is evaluated as long as there is something in flight that the lost
	// one stood on.
	waits := a.propose(put("waits", 1))
	require.False(t, waits.answered())
	require.Len(t, a.group.queue, 1)

	// The attempt is given up after an election timeout.
	for range 10 {
		a.tick()
	}
	require.True(t, a.group.leading)
	require.Len(t, a.group.queue, 1)
	c.settle()
	require.True(t, before.answered())
	require.NoError(t, before.err)
	require.True(t, waits.answered())
	require.NoError(t, waits.err)
	// The revision that the lost one had taken stays free.
	require.EqualValues(t, 2, before.res.Revision)
	require.EqualValues(t, 4, waits.res.Revision)
	c.judge()
	require.Equal(t, "before=1@2 waits=1@4 ", contents(t, a.store))
}

// TestLostEntry deposes a leader whose newest entry nobody else has. The caller
// is told as soon as the new leader's first entry is applied in its place, and
// when the old one leads again it knows nothing of it.
func TestLostEntry(t *testing.T) {
	c := newCluster(t, 1, 3)
	defer c.end()
	a := c.elect(1)
	kept := a.propose(put("k", "kept"))
	c.settle()
	require.NoError(t, kept.err)

	lost := a.propose(put("k", "lost"))
	a.write()
	a.turn()
	b := c.cutOff(a)
	require.False(t, lost.answered())
	// The new leader takes the same revision: nobody has ever seen it.
	other := b.propose(put("k", "other"))
	c.calm(c.nodes...)
	require.True(t, other.answered())
	require.NoError(t, other.err)
	require.EqualValues(t, 3, other.res.Revision)

	clear(c.cut)
	c.settle()
	require.True(t, lost.answered())
	require.ErrorIs(t, lost.err, ErrLeaderChanged)
	require.False(t, a.group.leading)

	c.elect(1)
	next := a.propose(&evaluate.Put{Key: []byte("k"), Value: []byte("next"), PrevKV: true})
	c.settle()
	require.NoError(t, next.err)
	require.EqualValues(t, 4, next.res.Revision)
	require.Equal(t, "other", string(next.res.PrevKVs[0].Value))
	require.EqualValues(t, 2, next.res.PrevKVs[0].Version, "kept and other")
	c.judge()
}

// TestNewLeaderWaits: a replica that has won does not evaluate before it has
// applied its own first entry, and with it everything of the leaders before.
func TestNewLeaderWaits(t *testing.T) {
	c := newCluster(t, 1, 3)
	defer c.end()
	a := c.elect(1)
	p := a.propose(put("k", 1))
	// The others write the entry, and nobody knows that it is committed.
	for len(c.net) > 0 {
		c.deliver(false)
	}
	for _, n := range c.nodes[1:] {
		n.turn()
		n.write()
	}
	c.cut[12], c.cut[13], c.cut[21], c.cut[31] = true, true, true, true
	c.net = nil

	// Without the lead of the first, the second stands for election and wins.
	b := c.nodes[1]
	for _, n := range c.nodes[1:] {
		require.NoError(t, n.group.rn.ForgetLeader())
	}
	require.NoError(t, b.group.rn.Campaign())
	b.group.handleReady()
	for b.group.role != raft.StateLeader {
		for len(c.net) > 0 {
			c.deliver(false)
		}
		for _, n := range c.nodes[1:] {
			n.turn()
			if len(n.writer.queue) > 0 {
				n.write()
			}
		}
	}
	require.False(t, b.group.leading)
	q := b.propose(&evaluate.Put{Key: []byte("k"), Value: []byte("2"), PrevKV: true})
	require.Len(t, b.group.queue, 1, "not evaluated yet")
	require.EqualValues(t, 1, b.store.Revision())
	clear(c.cut)
	c.settle()
	require.True(t, p.answered())
	require.True(t, q.answered() && q.err == nil)
	require.Equal(t, "1", string(q.res.PrevKVs[0].Value))
	require.EqualValues(t, 3, q.res.Revision)
	c.judge()
}

// TestLostConfirmation loses the question of a follower. It asks again after an
// election timeout, and an answer to a question before a restart is none.
func TestLostConfirmation(t *testing.T) {
	c := newCluster(t, 1, 3)
	defer c.end()
	c.elect(1)
	b := c.nodes[1]
	ask := func() *read {
		r := &read{done: make(chan error, 1)}
		require.NoError(t, b.group.inbox.read(r))
		b.turn()
		return r
	}
	r := ask()
	require.NotEmpty(t, c.net)
	c.net = nil
	later := ask()
	for range 11 {
		require.Empty(t, r.done)
		for _, n := range c.nodes {
			n.tick()
		}
		c.calm(c.nodes...)
	}
	require.Len(t, r.done, 1)
	require.NoError(t, <-r.done)
	require.Len(t, later.done, 1)
	require.NoError(t, <-later.done)

	// The number of a question is not one of the run before.
	number := b.group.reads.number
	b.close()
	b.open()
	require.NotEqual(t, number, b.group.reads.number+1)
	require.Greater(t, b.group.reads.number-number, uint64(100))
}

// TestAnswersOfADeposedLeader: what a leader has evaluated that was deposed
// without knowing is not answered, whoever confirms what.
func TestAnswersOfADeposedLeader(t *testing.T) {
	c := newCluster(t, 1, 3)
	defer c.end()
	a := c.elect(1)
	p := a.propose(put("k", 1))
	c.settle()
	require.NoError(t, p.err)
	b := c.cutOff(a)
	stale := a.propose(unchanged("k"))
	q := b.propose(put("k", 2))
	c.calm(c.nodes...)
	require.True(t, q.answered())
	require.False(t, stale.answered())
	clear(c.cut)
	c.settle()
	require.True(t, stale.answered())
	require.ErrorIs(t, stale.err, ErrLeaderChanged)
	c.judge()
}

// TestStep drops what no other member may send.
func TestStep(t *testing.T) {
	c := newCluster(t, 1, 3)
	defer c.end()
	a := c.elect(1)
	data := append(entryHeader{term: a.group.rn.BasicStatus().GetTerm()}.append(nil), mvccPut()...)
	for _, m := range []*raftpb.Message{
		{Type: raftpb.MsgHup.Enum()},
		{Type: raftpb.MsgStorageAppend.Enum(), Entries: []*raftpb.Entry{{}}},
		{Type: raftpb.MsgStorageApplyResp.Enum()},
		{Type: raftpb.MsgProp.Enum(), Entries: []*raftpb.Entry{{Data: data}}},
	} {
		m.From, m.To = proto.Uint64(2), proto.Uint64(1)
		a.group.Step(m)
	}
	require.False(t, a.hasMail())
	c.settle()
	require.Empty(t, contents(t, a.store))
	p := a.propose(put("k", 1))
	c.settle()
	require.NoError(t, p.err)
}

func mvccPut() []byte {
	e := mvcc.NewEffects(nil)
	e.Revision(2)
	e.Put(0, []byte("forged"), mvcc.Head{Create: 2, Version: 1}, 0, nil)
	return e.Bytes()
}

// TestOtherTerm appends an entry that was evaluated in another term: every
// replica drops its effects and goes on.
func TestOtherTerm(t *testing.T) {
	c := newCluster(t, 1, 3)
	defer c.end()
	a := c.elect(1)
	term := a.group.rn.BasicStatus().GetTerm()
	for _, wrong := range []uint64{term - 1, term + 1} {
		require.NoError(t, a.group.rn.Propose(append(entryHeader{term: wrong, number: 1}.append(nil), mvccPut()...)))
	}
	a.group.handleReady()
	c.settle()
	for _, n := range c.nodes {
		require.Empty(t, contents(t, n.store))
	}
	p := a.propose(put("k", 1))
	c.settle()
	require.NoError(t, p.err)
	require.EqualValues(t, 2, p.res.Revision)
}

// TestFailedApply commits, after a good entry and in the same batch, one that
// can't be applied. Nothing of the batch is there, and whoever waits for the good
// one is not left alone.
func TestFailedApply(t *testing.T) {
	c := newCluster(t, 1, 1)
	n := c.nodes[0]
	require.NoError(t, n.group.rn.Campaign())
	n.group.handleReady()
	c.calm(n)
	require.True(t, n.group.leading)
	p := n.propose(put("k", 1))
	require.NoError(t, n.group.rn.Propose([]byte{99}))
	n.group.handleReady()
	for len(n.writer.queue) > 0 {
		n.write()
	}
	for n.hasMail() {
		n.turn()
	}
	require.Len(t, n.group.applier.queue, 1)
	require.Len(t, n.group.applier.queue[0].GetEntries(), 2)
	require.ErrorContains(t, n.group.applier.apply(n.group.applier.queue[0]), "format 99 is not known")
	require.False(t, p.answered())
	require.Empty(t, contents(t, n.store))
	n.close()
	require.True(t, p.answered())
	require.ErrorIs(t, p.err, ErrStopped)
}
