package group

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

func fence(epoch uint64) []byte { return (&entry{kind: KindFence, epoch: epoch}).encode() }

// place is a replica's epoch and number.
func (n *node) place() [2]uint64 {
	at := n.store.Applied()
	return [2]uint64{at.Epoch, at.Number}
}

// TestFences: a fence of an older epoch, or of the same once more, changes
// nothing and nobody is told. One of a newer ends the reign.
func TestFences(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	epoch := a.crown.epoch
	p := a.propose(put("k", 1))
	c.settle()
	p.succeeded(t)
	told := len(a.crown.fences)
	for _, old := range []uint64{0, epoch - 1, epoch} {
		b.in(func(g *Group) { require.NoError(t, g.rn.Propose(fence(old))) })
	}
	c.settle()
	for _, n := range c.nodes {
		require.Equal(t, [2]uint64{epoch, 1}, n.place())
	}
	require.Len(t, a.crown.fences, told)
	p = a.propose(put("k", 2))
	c.settle()
	require.EqualValues(t, 3, p.succeeded(t).Revision)

	c.epoch += 10
	b.in(func(g *Group) { require.NoError(t, g.rn.Propose(fence(c.epoch))) })
	c.calm(c.nodes...)
	for _, n := range c.nodes {
		require.Equal(t, [2]uint64{c.epoch, 0}, n.place())
		require.Equal(t, c.epoch, n.crown.fences[len(n.crown.fences)-1])
	}
	require.Zero(t, a.crown.epoch)
	require.Zero(t, a.line.Epoch())
	a.propose(put("k", 3)).failed(t, ErrNotSequencer)
}

// TestBehindAFence: entries behind the fence of a later epoch are dropped by
// everybody, and those who wait for them are told that the outcome is not known.
// What lies before the fence takes effect.
func TestBehindAFence(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	d := c.nodes[2]
	before := a.propose(put("before", 1))
	behind := a.propose(put("behind", 1))
	sent := c.forwarded(b.id)
	require.Len(t, sent, 2)
	a.group.queue = append(a.group.queue, &proposal{ctx: t.Context(), op: put("queued", 1), done: make(chan struct{})})
	queued := a.group.queue[0]
	a.group.inbox.queued.Add(1)
	a.group.reign.drain = true // so that it waits

	c.enthrone(d)
	d.turn()
	fences := c.forwarded(b.id)
	require.NotEmpty(t, fences)
	c.net = append(c.net, sent[0])
	c.net = append(c.net, fences...)
	c.net = append(c.net, sent[1])
	c.calm(c.nodes...)
	require.True(t, d.reigns())
	require.EqualValues(t, 2, before.succeeded(t).Revision)
	behind.failed(t, ErrLeaderChanged)
	queued.failed(t, ErrNotSequencer)
	require.Zero(t, a.group.Queued())
	for _, n := range c.nodes {
		require.Equal(t, "before=1@2 ", contents(t, n.store))
		require.Equal(t, [2]uint64{c.epoch, 0}, n.place())
	}
	// The revision of what was dropped was never shown, and is taken again.
	p := d.propose(put("k", 1))
	c.settle()
	require.EqualValues(t, 3, p.succeeded(t).Revision)
	c.judge()
}

// TestDeposedUnheard: the entries of a sequencer that does not know that it is
// deposed are dropped, however many it makes, until it applies the fence.
func TestDeposedUnheard(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	d := c.nodes[2]
	c.cut[21] = true // a hears nothing, and is heard
	c.enthrone(d)
	c.calm(c.nodes...)
	require.True(t, d.reigns())
	p, q := a.propose(put("k", "old")), a.propose(put("k", "old"))
	r := d.propose(put("k", "new"))
	c.calm(c.nodes...)
	require.EqualValues(t, 2, r.succeeded(t).Revision)
	require.False(t, p.answered() || q.answered())
	require.Equal(t, "k=new@2 ", contents(t, b.store))
	clear(c.cut)
	c.settle()
	p.failed(t, ErrLeaderChanged)
	q.failed(t, ErrLeaderChanged)
	c.judge()
}

// TestFenceIsRepeated: a fence that is lost is proposed again.
func TestFenceIsRepeated(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	c.enthrone(a)
	a.turn()
	require.NotEmpty(t, c.forwarded(b.id))
	p := a.propose(put("k", 1))
	require.Len(t, a.group.queue, 1, "it waits for the fence")
	a.tick()
	require.NotEmpty(t, c.net)
	c.calm(c.nodes...)
	require.True(t, a.reigns())
	p.succeeded(t)
	sent := len(c.net)
	a.tick()
	require.Len(t, c.net, sent, "it is not repeated once it is applied")
}

// TestBegin: only the epoch that the group is fenced with begins.
func TestBegin(t *testing.T) {
	c, a, _ := remote(t)
	defer c.end()
	c.enthrone(a)
	a.turn()
	for _, epoch := range []uint64{c.epoch - 1, c.epoch, c.epoch + 1} {
		a.group.Begin(epoch)
		a.turn()
		require.False(t, a.reigns())
	}
	// An older one does not take its place.
	a.group.Fence(c.epoch - 1)
	a.turn()
	require.Equal(t, c.epoch, a.group.reign.epoch)
	c.settle()
	require.True(t, a.reigns())
	a.group.End()
	a.group.End()
	a.turn()
	require.False(t, a.reigns())
}

// hold holds a replica and returns how often it was told that it is held.
func (n *node) hold(epoch uint64) *int {
	held := new(int)
	n.group.Hold(epoch, func() { *held++ })
	n.turn()
	return held
}

// TestHold: a hold waits until nothing is in flight, and then nothing is
// evaluated until the release. What is submitted meanwhile is what evaluation
// stands on afterwards.
func TestHold(t *testing.T) {
	c, a, _ := remote(t)
	defer c.end()
	epoch := a.crown.epoch
	p := a.propose(put("k", 1))
	require.Zero(t, *a.hold(epoch - 1), "of another reign")
	held := a.hold(epoch)
	waits := a.propose(put("k", 3))
	require.Zero(t, *held)
	c.calm(c.nodes...)
	p.succeeded(t)
	require.Equal(t, 1, *held)
	require.False(t, waits.answered())
	require.Len(t, a.group.queue, 1)

	// As a transaction over several groups changes it.
	a.line.BeginCrossing(1)
	rev := a.line.NextCrossing()
	require.EqualValues(t, 3, rev)
	e := mvcc.NewEffects(nil)
	e.Revision(rev)
	e.Put(0, []byte("k"), mvcc.Head{Create: 2, Version: 2}, 0, []byte("2"))
	var index uint64
	a.group.Submit(epoch, KindEffects, 0, e.Bytes(), nil, func(i uint64) { index = i })
	a.group.Submit(epoch-1, KindEffects, 0, e.Bytes(), nil, func(uint64) { t.Error("of another reign") })
	a.turn()
	require.Equal(t, 1, a.inFlight())
	c.calm(c.nodes...)
	require.Equal(t, a.group.AppliedIndex(), index)
	require.Equal(t, "k=2@3 ", contents(t, a.store))
	require.Equal(t, 1, *held, "told once")
	require.False(t, waits.answered())
	require.EqualValues(t, 2, a.line.Closed(), "the other groups may not have it")
	a.line.SettleCrossing()
	require.EqualValues(t, 3, a.line.Closed())

	a.group.Release(epoch - 1)
	a.turn()
	require.False(t, waits.answered())
	a.group.Release(epoch)
	a.turn()
	c.settle()
	require.EqualValues(t, 4, waits.succeeded(t).Revision)
	kv, err := a.store.Latest([]byte("k"))
	require.NoError(t, err)
	require.EqualValues(t, 3, kv.Version, "evaluated on what was submitted")
	require.Equal(t, [2]uint64{epoch, 3}, a.place())
	c.judge()
}

// TestHoldOfAnIdleGroup: a hold of a group with nothing in flight holds at once;
// the end of the reign ends it, and nobody is told.
func TestHoldOfAnIdleGroup(t *testing.T) {
	c, a, _ := remote(t)
	defer c.end()
	epoch := a.crown.epoch
	require.Equal(t, 1, *a.hold(epoch))
	waits := a.propose(put("k", 1))
	a.group.Submit(epoch, KindEffects, 0, mvccPut("lost", 50), nil, func(uint64) { t.Error("the reign has ended") })
	a.turn()
	c.net = nil
	c.enthrone(a)
	a.turn()
	waits.failed(t, ErrNotSequencer)
	require.Zero(t, a.inFlight())
	c.settle()
	p := a.propose(put("k", 1))
	c.settle()
	require.EqualValues(t, 2, p.succeeded(t).Revision, "it is not held any more")

	// One that is ended before it holds.
	p = a.propose(put("k", 2))
	held := a.hold(c.epoch)
	c.enthrone(a)
	c.settle()
	p.failed(t, ErrLeaderChanged)
	require.Zero(t, *held)
}

// TestDecisionsAndParts: a decision is kept by the id of its entry, and a part
// that a group has is dropped, though its number counts.
func TestDecisionsAndParts(t *testing.T) {
	c, a, _ := remote(t)
	defer c.end()
	epoch := a.crown.epoch
	a.hold(epoch)
	a.line.BeginCrossing(1)
	submit := func(kind Kind, id uint64, effects, parts string) (index uint64) {
		a.group.Submit(epoch, kind, id, []byte(effects), []byte(parts), func(i uint64) { index = i })
		a.turn()
		c.calm(c.nodes...)
		require.NotZero(t, index)
		return index
	}
	id := submit(KindDecision, 0, string(mvccPut("own", a.line.NextCrossing())), "parts of others")
	for _, n := range c.nodes {
		gotID, parts, err := n.store.Decision()
		require.NoError(t, err)
		require.Equal(t, id, gotID)
		require.Equal(t, "parts of others", string(parts))
		require.Equal(t, "own=@2 ", contents(t, n.store))
	}
	submit(KindPart, 7, string(mvccPut("seven", a.line.NextCrossing())), "")
	for _, old := range []uint64{6, 7} {
		submit(KindPart, old, string(mvccPut("old", a.line.NextCrossing())), "")
	}
	submit(KindPart, 8, "", "")
	for _, n := range c.nodes {
		require.Equal(t, "own=@2 seven=@3 ", contents(t, n.store))
		require.EqualValues(t, 8, n.store.Applied().Part)
		require.Equal(t, [2]uint64{epoch, 5}, n.place())
	}
	// A fence leaves the last part as it is, and tells of it.
	c.enthrone(a)
	c.settle()
	require.EqualValues(t, 8, a.store.Applied().Part)
}

// TestEvaluatedOnTheNextReign: between what the next sequencer has made and the
// news that this one's reign is over, its loop may evaluate on the former. What
// comes of it is dropped.
func TestEvaluatedOnTheNextReign(t *testing.T) {
	c, a, b := remote(t)
	defer c.end()
	d, epoch := c.nodes[2], a.crown.epoch
	a.hold(epoch)
	c.cut[21], c.cut[31] = true, true
	c.enthrone(d)
	c.calm(c.nodes...)
	p, q := d.propose(put("k", 1)), d.propose(put("k", 2))
	c.calm(c.nodes...)
	p.succeeded(t)
	q.succeeded(t)
	clear(c.cut)
	b.tick()
	for len(a.group.applier.queue) == 0 {
		for len(c.net) > 0 {
			c.deliver(false)
		}
		for _, n := range c.nodes {
			if n.hasMail() {
				n.turn()
			}
			if len(n.writer.queue) > 0 {
				n.write()
			}
		}
	}
	for len(a.group.applier.queue) > 0 {
		a.apply()
	}
	require.EqualValues(t, 3, a.store.Revision())
	require.Equal(t, epoch, a.group.reign.epoch, "its loop knows nothing of it")
	a.group.Release(epoch)
	late := a.propose(put("late", 1))
	c.settle()
	late.failed(t, ErrLeaderChanged)
	require.Equal(t, "k=2@3 ", contents(t, a.store))
	c.judge()
}
