package group

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// elect has replica id lead the group's raft, and lets everybody come to rest.
func (c *cluster) elect(id uint64) *node {
	n := c.nodes[id-1]
	if c.settle(); n.leads == 0 {
		l := c.leader()
		l.group.rn.TransferLeader(id)
		l.group.handleReady()
		c.until(func() bool { return n.leads != 0 })
		c.settle()
	}
	require.NotZero(c.t, n.leads)
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
			if m.leads != 0 {
				c.calm(others...)
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
		for len(c.asked) > 0 {
			again = true
			c.answerOne()
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

// in runs fn in a replica's loop.
func (n *node) in(fn func(*Group)) {
	fn(n.group)
	n.group.handleReady()
}

// inFlight returns how many of a replica's entries are not applied.
func (n *node) inFlight() int {
	entries, _ := n.group.applier.flight.size()
	return entries
}

// succeeded requires that a request was answered, and not with an error.
func (p *proposal) succeeded(t *testing.T) evaluate.Result {
	t.Helper()
	require.True(t, p.answered())
	require.NoError(t, p.err)
	return p.res
}

func (p *proposal) failed(t *testing.T, want error) {
	t.Helper()
	require.True(t, p.answered())
	require.ErrorIs(t, p.err, want)
	require.Zero(t, p.res)
}

func (c *cluster) end() {
	for _, n := range c.nodes {
		n.close()
	}
}

// TestRefusedProposal has raft refuse an entry: while the lead is handed over,
// it takes none. It is proposed again when raft takes entries again, and those
// that were evaluated after it go behind it.
func TestRefusedProposal(t *testing.T) {
	c := newCluster(t, 1, 3, false)
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
	refused := a.propose(put("refused", 1))
	require.EqualValues(t, 1, a.group.Refused())
	behind := a.propose(put("behind", 1))
	require.EqualValues(t, 1, a.group.Refused(), "raft was not asked: the one before it goes first")
	require.False(t, refused.answered())
	require.False(t, behind.answered())
	require.Equal(t, 3, a.inFlight())

	// The attempt is given up after an election timeout.
	for range 10 {
		a.tick()
	}
	require.NotZero(t, a.leads)
	c.settle()
	require.EqualValues(t, 2, before.succeeded(t).Revision)
	require.EqualValues(t, 3, refused.succeeded(t).Revision)
	require.EqualValues(t, 4, behind.succeeded(t).Revision)
	c.judge()
	require.Equal(t, "before=1@2 behind=1@4 refused=1@3 ", contents(t, a.store))
}

// TestLostEntry deposes a leader whose newest entry nobody else has. The caller
// is told as soon as the old leader learns of it, and when that leads again it
// knows nothing of the entry.
func TestLostEntry(t *testing.T) {
	c := newCluster(t, 1, 3, false)
	defer c.end()
	a := c.elect(1)
	kept := a.propose(put("k", "kept"))
	c.settle()
	kept.succeeded(t)

	lost := a.propose(put("k", "lost"))
	a.write()
	a.turn()
	b := c.cutOff(a)
	require.False(t, lost.answered())
	// The new sequencer takes the same revision: nobody has ever seen it.
	other := b.propose(put("k", "other"))
	c.calm(c.nodes...)
	require.EqualValues(t, 3, other.succeeded(t).Revision)

	clear(c.cut)
	c.settle()
	lost.failed(t, ErrLeaderChanged)
	require.Zero(t, a.leads)

	c.elect(1)
	next := a.propose(&evaluate.Put{Key: []byte("k"), Value: []byte("next"), PrevKV: true})
	c.settle()
	require.EqualValues(t, 4, next.succeeded(t).Revision)
	require.Equal(t, "other", string(next.res.PrevKVs[0].Value))
	require.EqualValues(t, 2, next.res.PrevKVs[0].Version, "kept and other")
	c.judge()
}

// TestNewSequencerWaits: a replica that has won does not evaluate before it has
// applied its own fence, and with it everything of the sequencers before.
func TestNewSequencerWaits(t *testing.T) {
	c := newCluster(t, 1, 3, false)
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
	require.Zero(t, b.leads)
	require.Zero(t, b.store.Revision()-1)
	b.propose(put("k", "early")).failed(t, ErrNotSequencer)

	c.until(func() bool { return b.leads != 0 })
	require.False(t, b.reigns())
	require.EqualValues(t, 2, b.store.Revision(), "the entries of earlier terms are applied")
	b.turn() // it is told to fence
	q := b.propose(&evaluate.Put{Key: []byte("k"), Value: []byte("2"), PrevKV: true})
	require.Len(t, b.group.queue, 1, "not evaluated yet")
	clear(c.cut)
	c.settle()
	require.True(t, p.answered())
	require.EqualValues(t, 3, q.succeeded(t).Revision)
	require.Equal(t, "1", string(q.res.PrevKVs[0].Value))
	c.judge()
}

// TestLostConfirmation loses a leader's question. It is asked again, and those
// who came meanwhile share the next. Nobody else is confirmed, and an answer to a
// question before a restart is none.
func TestLostConfirmation(t *testing.T) {
	c := newCluster(t, 1, 3, false)
	defer c.end()
	a := c.elect(1)
	ask := func(n *node) chan error {
		answer := make(chan error, 1)
		n.group.Confirm(func(err error) { answer <- err })
		n.turn()
		return answer
	}
	require.ErrorIs(t, <-ask(c.nodes[1]), ErrNotSequencer)
	first := ask(a)
	require.NotEmpty(t, c.net)
	c.net = nil
	later, latest := ask(a), ask(a)
	require.Empty(t, c.net, "one question at a time")
	require.Empty(t, first)
	for range 2 {
		for _, n := range c.nodes {
			n.tick()
		}
		c.calm(c.nodes...)
	}
	for _, answer := range []chan error{first, later, latest} {
		require.Len(t, answer, 1)
		require.NoError(t, <-answer)
	}
	require.Zero(t, a.group.inbox.reading.Load())

	// The number of a question is not one of the run before.
	number := a.group.reads.number
	a.close()
	a.open()
	require.NotEqual(t, number, a.group.reads.number+1)
	require.Greater(t, a.group.reads.number-number, uint64(100))
}

// TestForgottenConfirmation: a question that raft has forgotten is asked again
// after an election timeout.
func TestForgottenConfirmation(t *testing.T) {
	c := newCluster(t, 1, 3, false)
	defer c.end()
	a := c.elect(1)
	answer := make(chan error, 1)
	a.group.Confirm(func(err error) { answer <- err })
	a.turn()
	before := a.group.reads.number
	a.group.reads.number += 5 // as if raft had never got the question
	for range 10 {
		a.tick()
		c.calm(c.nodes...)
	}
	require.Empty(t, answer)
	require.Equal(t, before+5, a.group.reads.number)
	a.tick()
	c.calm(c.nodes...)
	require.Len(t, answer, 1)
	require.NoError(t, <-answer)
}

// TestAnswersOfADeposedLeader: what a sequencer has evaluated that was deposed
// without knowing is not answered, whoever confirms what.
func TestAnswersOfADeposedLeader(t *testing.T) {
	for _, roaming := range []bool{false, true} {
		c := newCluster(t, 1, 3, roaming)
		a := c.elect(1)
		if roaming {
			c.enthrone(a)
			c.settle()
		}
		p := a.propose(put("k", 1))
		c.settle()
		p.succeeded(t)
		b := c.cutOff(a)
		if roaming {
			c.enthrone(b)
			c.calm(c.nodes...)
		}
		stale := a.propose(unchanged("k"))
		q := b.propose(put("k", 2))
		c.calm(c.nodes...)
		q.succeeded(t)
		if !roaming {
			// Nobody answers its question.
			require.False(t, stale.answered())
		}
		clear(c.cut)
		c.settle()
		stale.failed(t, ErrNotSequencer)
		c.judge()
		c.end()
	}
}

// TestStep drops what no other member may send, and takes what one that reigns
// forwards.
func TestStep(t *testing.T) {
	c := newCluster(t, 1, 3, false)
	defer c.end()
	a := c.elect(1)
	epoch := a.crown.epoch
	// Of another epoch, of which no place is the next.
	forged := appendHeader(nil, epoch+1, 1)
	forged = append(forged, mvccPut("forged", 2)...)
	for _, m := range []*raftpb.Message{
		{Type: raftpb.MsgHup.Enum()},
		{Type: raftpb.MsgBeat.Enum()},
		{Type: raftpb.MsgUnreachable.Enum()},
		{Type: raftpb.MsgSnapStatus.Enum()},
		{Type: raftpb.MsgCheckQuorum.Enum()},
		{Type: raftpb.MsgSnap.Enum()}, // those come with rows
		{Type: raftpb.MsgStorageAppend.Enum(), Entries: []*raftpb.Entry{{}}},
		{Type: raftpb.MsgStorageAppendResp.Enum()},
		{Type: raftpb.MsgStorageApply.Enum()},
		{Type: raftpb.MsgStorageApplyResp.Enum()},
	} {
		m.From, m.To = proto.Uint64(2), proto.Uint64(1)
		a.group.Step(m)
		require.False(t, a.hasMail(), m.GetType())
	}
	a.group.Step(&raftpb.Message{
		Type: raftpb.MsgProp.Enum(), From: proto.Uint64(2), To: proto.Uint64(1), Entries: []*raftpb.Entry{{Data: forged}},
	})
	require.True(t, a.hasMail())
	before := a.group.rn.BasicStatus().GetCommit()
	c.settle()
	require.Equal(t, before+1, a.group.AppliedIndex())
	require.Empty(t, contents(t, a.store))
	p := a.propose(put("k", 1))
	c.settle()
	p.succeeded(t)
}

// mvccPut are the effects of a put.
func mvccPut(key string, revision int64) []byte {
	e := mvcc.NewEffects(nil)
	e.Revision(revision)
	e.Put(0, []byte(key), mvcc.Head{Create: revision, Version: 1}, 0, nil)
	return e.Bytes()
}

// TestOutOfPlace appends entries that are not the next of the group's epoch: every
// replica drops their effects and goes on.
func TestOutOfPlace(t *testing.T) {
	c := newCluster(t, 1, 3, false)
	defer c.end()
	a := c.elect(1)
	p := a.propose(put("k", 1))
	c.settle()
	p.succeeded(t)
	epoch := a.crown.epoch
	require.Equal(t, []uint64{epoch, 1}, []uint64{a.store.Applied().Epoch, a.store.Applied().Number})
	for _, wrong := range []struct{ epoch, number uint64 }{
		{epoch - 1, 1}, {epoch - 1, 2}, {epoch + 1, 1}, {epoch + 1, 2}, {0, 0}, {epoch, 0}, {epoch, 1}, {epoch, 3},
	} {
		for _, kind := range []Kind{KindEffects, KindDecision, KindPart} {
			e := entry{
				kind: kind, epoch: wrong.epoch, number: wrong.number, id: 1000,
				effects: mvccPut("forged", 50), parts: []byte("parts")[:map[Kind]int{KindDecision: 5}[kind]],
			}
			require.NoError(t, a.group.rn.Propose(e.encode()))
		}
	}
	a.group.handleReady()
	c.settle()
	for _, n := range c.nodes {
		require.Equal(t, "k=1@2 ", contents(t, n.store))
		at := n.store.Applied()
		require.Equal(t, []uint64{epoch, 1, 0}, []uint64{at.Epoch, at.Number, at.Part})
		id, _, err := n.store.Decision()
		require.NoError(t, err)
		require.Zero(t, id)
	}
	p = a.propose(put("k", 2))
	c.settle()
	require.EqualValues(t, 3, p.succeeded(t).Revision)
}

// TestFailedApplyInLoop is the same where the loop applies by itself: what comes
// after it is not applied either.
func TestFailedApplyInLoop(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	r.do(t, put("before", 1))
	r.post(func() { require.NoError(t, r.rn.Propose([]byte{99, 1})) })
	require.ErrorContains(t, <-r.fatal, "format 99, kind 1 is not known")
	p := &proposal{ctx: context.Background(), op: put("after", 1), size: 10, done: make(chan struct{})}
	require.NoError(t, r.inbox.propose(p))
	for range 2 { // The second call finds done what the first came with.
		turned := make(chan struct{})
		r.post(func() { close(turned) })
		<-turned
	}
	require.Equal(t, r.AppliedIndex()+2, r.Status().Commit)
	require.Equal(t, "before=1@2 ", contents(t, r.store))
	r.stop(t)
	p.failed(t, ErrStopped)
}

// TestFailedApply commits, after a good entry and in the same batch, one that
// can't be applied. Nothing of the batch is there, and whoever waits for the good
// one is not left alone.
func TestFailedApply(t *testing.T) {
	c := newCluster(t, 1, 1, false)
	n := c.nodes[0]
	require.NoError(t, n.group.rn.Campaign())
	n.group.handleReady()
	c.calm(n)
	require.True(t, n.reigns())
	n.group.applier.applying.Lock() // so that it is left to it
	p := n.propose(put("k", 1))
	require.NoError(t, n.group.rn.Propose([]byte{99, 1}))
	n.group.handleReady()
	for len(n.writer.queue) > 0 {
		n.write()
	}
	for n.hasMail() {
		n.turn()
	}
	require.Len(t, n.group.applier.queue, 1)
	require.Len(t, n.group.applier.queue[0].m.GetEntries(), 2)
	require.ErrorContains(t, n.group.applier.do(n.group.applier.queue[0]), "format 99, kind 1 is not known")
	require.False(t, p.answered())
	require.Empty(t, contents(t, n.store))
	n.close()
	p.failed(t, ErrStopped)
}
