package group

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// remote is a cluster of three whose raft the second replica leads, and in which
// the first reigns: its proposals are forwarded.
func remote(t *testing.T) (c *cluster, sequencer, leader *node) {
	t.Helper()
	c = newCluster(t, 1, 3, true)
	leader = c.elect(2)
	sequencer = c.nodes[0]
	c.enthrone(sequencer)
	c.settle()
	require.True(t, sequencer.reigns())
	return c, sequencer, leader
}

// forwarded takes the proposals to another replica out of the network.
func (c *cluster) forwarded(to uint64) (ps []packet) {
	var rest []packet
	for _, p := range c.net {
		if p.to == to && p.message.GetType() == raftpb.MsgProp {
			ps = append(ps, p)
		} else {
			rest = append(rest, p)
		}
	}
	c.net = rest
	return ps
}

// TestForwarded has a sequencer that follows in raft propose to the leader. It
// goes on evaluating while entries are on their way, but not without bound.
func TestForwarded(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	var ps []*proposal
	for i := range maxForwarded + 2 {
		ps = append(ps, a.propose(put("k", i)))
	}
	require.Equal(t, maxForwarded, a.inFlight())
	require.Len(t, a.group.queue, 2)
	require.Zero(t, b.inFlight())
	c.settle()
	for i, p := range ps {
		require.EqualValues(t, 2+i, p.succeeded(t).Revision)
	}
	require.EqualValues(t, maxForwarded+1, a.store.Applied().Number, "the last two in one entry")
	c.judge()
}

// TestForwardedIsLost: an entry that does not come is proposed again after a few
// ticks.
func TestForwardedIsLost(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	before := b.group.rn.BasicStatus().GetCommit()
	p := a.propose(put("k", 1))
	require.Len(t, c.forwarded(b.id), 1)
	for range quietTicks {
		a.tick()
		require.Empty(t, c.forwarded(b.id))
	}
	a.tick()
	require.Len(t, c.net, 1)
	c.settle()
	require.EqualValues(t, 2, p.succeeded(t).Revision)
	require.Equal(t, before+1, b.group.AppliedIndex())
	c.judge()
}

// TestForwardedTwice: an entry that came and was proposed again has an effect
// once.
func TestForwardedTwice(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	before := b.group.rn.BasicStatus().GetCommit()
	p := a.propose(put("k", 1))
	for range quietTicks + 1 {
		a.tick()
	}
	require.Len(t, c.net, 2)
	q := a.propose(put("k", 2))
	c.settle()
	require.EqualValues(t, 2, p.succeeded(t).Revision)
	require.EqualValues(t, 3, q.succeeded(t).Revision)
	require.Equal(t, before+3, b.group.AppliedIndex())
	require.EqualValues(t, 2, a.store.Applied().Number)
	for _, n := range c.nodes {
		require.Len(t, n.crown.events, 2)
	}
	c.judge()
}

// TestForwardedOutOfOrder: entries that the network has reordered take effect in
// their order. Those that came too early are dropped and proposed again.
func TestForwardedOutOfOrder(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	before := b.group.rn.BasicStatus().GetCommit()
	var ps []*proposal
	for i := range 3 {
		ps = append(ps, a.propose(&evaluate.Put{Key: []byte("k"), Value: fmt.Append(nil, i), PrevKV: true}))
	}
	sent := c.forwarded(b.id)
	require.Len(t, sent, 3)
	for _, i := range []int{2, 0, 1} {
		c.net = append(c.net, sent[i])
		c.calm(c.nodes...)
	}
	require.Equal(t, before+3, b.group.AppliedIndex())
	ps[0].succeeded(t)
	ps[1].succeeded(t)
	require.False(t, ps[2].answered(), "it came first, and was dropped")
	require.Equal(t, 1, a.inFlight())
	for range quietTicks + 1 {
		a.tick()
	}
	require.Len(t, c.net, 1, "those that are applied are not proposed again")
	c.settle()
	require.Equal(t, before+4, b.group.AppliedIndex())
	for i, p := range ps {
		require.EqualValues(t, 2+i, p.succeeded(t).Revision)
		if i > 0 {
			require.Equal(t, fmt.Sprint(i-1), string(p.res.PrevKVs[0].Value))
		}
	}
	// Nothing was evaluated again: no revision is missing.
	next := a.propose(put("k", "next"))
	c.settle()
	require.EqualValues(t, 5, next.succeeded(t).Revision)
	c.judge()
}

// TestLeaderOfTheGroupLost deposes a leader that has appended what was forwarded
// to it, and that nobody else has. The sequencer proposes it to the next, at once.
func TestLeaderOfTheGroupLost(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	c.cut[21], c.cut[23] = true, true
	p, q := a.propose(put("k", 1)), a.propose(put("k", 2))
	c.calm(c.nodes...)
	last, err := b.log.LastIndex()
	require.NoError(t, err)
	require.Equal(t, b.group.AppliedIndex()+2, last, "the leader has both")
	require.Equal(t, 2, a.inFlight())
	d := c.cutOff(b)
	require.EqualValues(t, 2, p.succeeded(t).Revision)
	require.EqualValues(t, 3, q.succeeded(t).Revision)
	require.NotEqual(t, b.id, d.id)

	// The entries of the deposed leader are overwritten, and not applied.
	clear(c.cut)
	c.settle()
	require.EqualValues(t, 2, b.store.Applied().Number)
	for _, n := range c.nodes {
		require.Len(t, n.crown.events, 2)
	}
	c.judge()
}

// TestReignsOnUnderAnotherLeader: a leader that reigns, and whose entry the others do
// not have, goes on reigning in the next term. What was lost is proposed to the
// new leader.
func TestReignsOnUnderAnotherLeader(t *testing.T) {
	c := newCluster(t, 1, 3, true)
	defer c.end()
	a := c.elect(1)
	c.enthrone(a)
	c.settle()
	epoch := a.crown.epoch
	p := a.propose(put("k", 1))
	a.write()
	a.turn()
	b := c.cutOff(a)
	require.False(t, p.answered())
	clear(c.cut)
	c.settle()
	require.Zero(t, a.leads)
	require.NotZero(t, b.leads)
	require.Equal(t, epoch, a.crown.epoch)
	require.EqualValues(t, 2, p.succeeded(t).Revision)
	require.EqualValues(t, 1, a.store.Applied().Number)
	c.judge()
}

// TestNoLeaderToProposeTo: without a leader of the group a sequencer evaluates on,
// within its bounds, and proposes when there is one.
func TestNoLeaderToProposeTo(t *testing.T) {
	c, a, _ := remote(t)
	defer c.end()
	a.in(func(g *Group) { require.NoError(t, g.rn.ForgetLeader()) })
	p := a.propose(put("k", 1))
	require.EqualValues(t, 1, a.group.Refused())
	q := a.propose(put("k", 2))
	require.EqualValues(t, 1, a.group.Refused(), "raft was not asked: the one before goes first")
	for range quietTicks + 1 {
		a.tick()
	}
	require.Equal(t, 2, a.inFlight())
	require.Empty(t, c.forwarded(2))
	// The leader's next heartbeat ends that, without a tick here.
	c.nodes[1].tick()
	c.calm(c.nodes...)
	require.EqualValues(t, 2, p.succeeded(t).Revision)
	require.EqualValues(t, 3, q.succeeded(t).Revision)
	c.judge()
}

// TestFlightIsBounded: a sequencer does not evaluate without bound what is not
// applied, in bytes either.
func TestFlightIsBounded(t *testing.T) {
	c, a, _ := remote(t)
	defer c.end()
	require.True(t, a.group.room())
	a.group.applier.flight.add(flying{data: make([]byte, maxFlightBytes)})
	require.False(t, a.group.room())
	a.group.applier.flight.fail(ErrStopped)
	require.True(t, a.group.room())
	_, bytes := a.group.applier.flight.size()
	require.Zero(t, bytes)
}
