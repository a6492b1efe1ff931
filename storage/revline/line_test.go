package revline

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// rig is a line over groups that a test applies things to.
type rig struct {
	*Line
	groups []mvcc.Applied
	// heard are the sink's and the callbacks' calls, in order.
	heard []string
}

// newRig makes a line over so many groups, with ids from 1 on, where nothing was
// applied.
func newRig(groups int, configure func(*Config)) *rig {
	r := &rig{groups: make([]mvcc.Applied, groups)}
	cfg := Config{Sink: r}
	for i := range r.groups {
		r.groups[i] = mvcc.Applied{Index: 1, Term: 1, Revision: 1}
		cfg.Groups = append(cfg.Groups, mvcc.GroupID(i+1))
	}
	cfg.Applied = r.groups
	if configure != nil {
		configure(&cfg)
	}
	r.Line = New(cfg)
	return r
}

// Publish implements Sink.
func (r *rig) Publish(events []*mvccpb.Event, revision int64) {
	s := fmt.Sprintf("publish %d:", revision)
	for _, e := range events {
		s += fmt.Sprintf(" %s@%d", e.Kv.Key, e.Kv.ModRevision)
	}
	r.heard = append(r.heard, s)
}

// Restored implements Sink.
func (r *rig) Restored(revision int64) {
	r.heard = append(r.heard, fmt.Sprintf("restored %d", revision))
}

// hear returns what was heard since the last time.
func (r *rig) hear() []string {
	h := r.heard
	r.heard = nil
	return h
}

// fence has the groups named apply the fence of an epoch.
func (r *rig) fence(epoch uint64, groups ...int) {
	for _, g := range groups {
		a := &r.groups[g]
		a.Index++
		a.Epoch = epoch
		r.Applied(mvcc.GroupID(g+1), *a, &mvcc.Outcome{})
	}
}

// reign begins a reign.
func (r *rig) reign(t *testing.T, epoch uint64) {
	t.Helper()
	for g := range r.groups {
		r.fence(epoch, g)
	}
	require.True(t, r.Begin(epoch))
}

// apply has a group apply changes with these revisions, as one batch.
func (r *rig) apply(g int, revisions ...int64) {
	a := &r.groups[g]
	out := &mvcc.Outcome{}
	for _, rev := range revisions {
		a.Index++
		a.Revision = rev
		out.Events = append(out.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte{byte('a' + g)}, ModRevision: rev}})
		out.Subs = append(out.Subs, uint32(g)) // no two of one revision are the same
	}
	out.Revision = a.Revision
	r.Applied(mvcc.GroupID(g+1), *a, out)
}

func (r *rig) next(g int) int64 { return r.Next(mvcc.GroupID(g + 1)) }

// at returns present and closed.
func (r *rig) at() [2]int64 { return [2]int64{r.Present(), r.Closed()} }

func TestNew(t *testing.T) {
	r := newRig(2, nil)
	require.Equal(t, [2]int64{1, 1}, r.at())
	require.Zero(t, r.Epoch())
	// One that is opened again shows what was closed, not what its groups have: of
	// that it does not know what is missing.
	l := New(Config{
		Groups: []mvcc.GroupID{1, 2}, Applied: []mvcc.Applied{{Index: 9, Revision: 20, Epoch: 3}, {Index: 5, Revision: 12, Epoch: 3}},
		Closed: 10,
	})
	require.EqualValues(t, 10, l.Present())
	require.EqualValues(t, 10, l.Closed())
	require.Panics(t, func() { l.Next(3) }, "there is no group 3")
}

// TestNext: revisions are handed out across the groups in one order, and closed in
// that order, whatever order they are applied in.
func TestNext(t *testing.T) {
	r := newRig(3, nil)
	r.apply(0, 4)
	r.apply(1, 7)
	require.Equal(t, [2]int64{1, 1}, r.at(), "nobody has said that it is closed")
	r.reign(t, 5)
	require.EqualValues(t, 5, r.Epoch())
	require.Equal(t, [2]int64{7, 7}, r.at())
	require.Equal(t, []string{"publish 7: a@4 b@7"}, r.hear())

	require.EqualValues(t, 8, r.next(0))
	require.EqualValues(t, 9, r.next(1))
	require.EqualValues(t, 10, r.next(1))
	require.EqualValues(t, 11, r.next(2))
	require.EqualValues(t, 12, r.next(0))
	require.Equal(t, [2]int64{7, 7}, r.at(), "what is only handed out is not shown")

	r.apply(2, 11)
	require.Equal(t, [2]int64{11, 7}, r.at())
	r.apply(1, 9)
	require.Equal(t, [2]int64{11, 7}, r.at())
	require.Empty(t, r.hear())
	r.apply(0, 8)
	require.Equal(t, [2]int64{11, 9}, r.at())
	require.Equal(t, []string{"publish 9: a@8 b@9"}, r.hear())
	r.apply(0, 12)
	require.Equal(t, [2]int64{12, 9}, r.at())
	r.apply(1, 10)
	require.Equal(t, [2]int64{12, 12}, r.at())
	require.Equal(t, []string{"publish 12: b@10 c@11 a@12"}, r.hear())
	require.EqualValues(t, 13, r.next(2))
}

// TestGiveBack takes back revisions of requests that have changed nothing after
// all.
func TestGiveBack(t *testing.T) {
	r := newRig(2, nil)
	r.reign(t, 1)
	require.EqualValues(t, 2, r.next(0))
	r.GiveBack(1, 2)
	require.EqualValues(t, 2, r.next(1), "it is handed out again")
	require.EqualValues(t, 3, r.next(0))
	require.EqualValues(t, 4, r.next(1))
	// Another group has had the next one: it stays free, and nobody waits for it.
	r.GiveBack(1, 3)
	require.EqualValues(t, 5, r.next(0))
	r.apply(1, 2, 4)
	require.Equal(t, [2]int64{4, 4}, r.at())
	r.apply(0, 5)
	require.Equal(t, [2]int64{5, 5}, r.at())

	// What is not outstanding any more can't be given back.
	require.EqualValues(t, 6, r.next(0))
	r.GiveBack(1, 5)
	r.GiveBack(2, 6)
	require.EqualValues(t, 7, r.next(0))
	r.End()
	r.GiveBack(1, 7)
	require.EqualValues(t, 5, r.Closed())
	r.reign(t, 2)
	require.EqualValues(t, 6, r.next(0))
}

// TestCrossing: the revisions of transactions over several groups are outstanding
// until all of them have applied their parts.
func TestCrossing(t *testing.T) {
	r := newRig(3, nil)
	r.reign(t, 1)
	require.EqualValues(t, 2, r.next(2))
	r.BeginCrossing(0b011)
	require.EqualValues(t, 3, r.NextCrossing())
	require.EqualValues(t, 4, r.NextCrossing())
	require.EqualValues(t, 5, r.next(2))
	require.EqualValues(t, 6, r.NextCrossing())
	r.GiveBackCrossing(6)
	require.EqualValues(t, 6, r.NextCrossing())
	r.GiveBackCrossing(5) // not theirs
	r.apply(2, 2)
	require.Equal(t, [2]int64{2, 2}, r.at())
	r.apply(0, 3, 4)
	require.Equal(t, [2]int64{4, 2}, r.at())
	require.False(t, r.IsSettled(0b001, 4))
	require.False(t, r.IsSettled(0b010, 4))
	require.True(t, r.IsSettled(0b010, 2))
	require.True(t, r.IsSettled(0b100, 4), "the third takes no part")
	r.apply(1, 4)
	r.apply(0, 6)
	r.apply(2, 5)
	require.Equal(t, [2]int64{6, 2}, r.at())
	r.SettleCrossing()
	require.Equal(t, [2]int64{6, 6}, r.at())
	require.True(t, r.IsSettled(0b111, 6))
	require.Equal(t, []string{"publish 2: c@2", "publish 6: a@3 a@4 b@4 c@5 a@6"}, r.hear())

	// The end of the reign forgets them.
	require.EqualValues(t, 7, r.NextCrossing())
	r.End()
	r.SettleCrossing()
	r.GiveBackCrossing(7)
	r.reign(t, 2)
	require.EqualValues(t, 7, r.next(0))
	require.True(t, r.IsSettled(0b010, 7))
}

// TestPresent never goes back, and grows only by what may be shown.
func TestPresent(t *testing.T) {
	r := newRig(2, nil)
	r.apply(0, 9)
	require.EqualValues(t, 1, r.Present())
	r.Saw(5)
	r.Saw(3)
	require.Equal(t, [2]int64{5, 1}, r.at(), "the sequencer has shown it")
	r.Promised(Promise{Epoch: 1, Closed: 7, Indexes: []uint64{2, 1}})
	require.Equal(t, [2]int64{7, 7}, r.at())
	r.Saw(6)
	require.Equal(t, [2]int64{7, 7}, r.at())
	r.reign(t, 1)
	require.Equal(t, [2]int64{9, 9}, r.at())
}

// TestBegin: a reign begins only when all groups are fenced with its epoch.
func TestBegin(t *testing.T) {
	r := newRig(3, nil)
	require.False(t, r.Begin(4))
	r.fence(4, 0, 2)
	require.False(t, r.Begin(4))
	r.fence(3, 1)
	require.False(t, r.Begin(4))
	require.Zero(t, r.Epoch())
	r.fence(4, 1)
	require.False(t, r.Begin(3))
	require.True(t, r.Begin(4))

	// Another member's fence has come first.
	r.End()
	require.Zero(t, r.Epoch())
	r.fence(5, 0, 1)
	r.fence(6, 2)
	require.False(t, r.Begin(5))
	// What a group has taken since the last reign has no meaning in the next.
	r.next(0)
	r.fence(6, 0, 1)
	require.True(t, r.Begin(6))
	require.EqualValues(t, 2, r.next(1))
	r.apply(1, 2)
	require.Equal(t, [2]int64{2, 2}, r.at())
	require.PanicsWithValue(t, "revline: epoch 6 follows 6", func() { r.Begin(6) })
}

// TestNewerEpochEndsTheReign: an applied entry of the next sequencer ends the reign
// before anything of it is counted.
func TestNewerEpochEndsTheReign(t *testing.T) {
	for name, apply := range map[string]func(*rig){
		"applied": func(r *rig) {
			r.groups[0].Epoch = 2
			r.apply(0, 9)
		},
		"restored": func(r *rig) {
			r.groups[0].Epoch, r.groups[0].Revision = 2, 9
			r.Line.Restored(1, r.groups[0])
		},
		"a fence alone": func(r *rig) { r.fence(2, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(2, nil)
			r.reign(t, 1)
			require.EqualValues(t, 2, r.next(0))
			require.EqualValues(t, 3, r.next(1))
			r.apply(1, 3)
			require.Equal(t, [2]int64{3, 1}, r.at())
			var ended error
			r.Settled(1, 0b01, 3, func(_ Point, err error) { ended = err })
			require.NoError(t, ended)
			apply(r)
			require.ErrorIs(t, ended, ErrEnded)
			require.Zero(t, r.Epoch())
			require.Equal(t, [2]int64{3, 1}, r.at(), "neither shown nor closed")
			_, ok := r.Promise()
			require.False(t, ok)
			require.False(t, r.IsSettled(0b11, 1))
			require.Empty(t, r.hear())
		})
	}
}

// TestRestoredAtTheSequencer: a snapshot retires what is applied with it.
func TestRestoredAtTheSequencer(t *testing.T) {
	r := newRig(2, nil)
	r.reign(t, 1)
	for range 3 {
		r.next(0)
	}
	require.EqualValues(t, 5, r.next(1))
	r.apply(1, 5)
	require.Equal(t, [2]int64{5, 1}, r.at())
	r.groups[0].Index, r.groups[0].Revision = 10, 3
	r.Line.Restored(1, r.groups[0])
	require.Equal(t, [2]int64{5, 3}, r.at())
	require.Equal(t, []string{"restored 3"}, r.hear())
	r.apply(0, 4)
	require.Equal(t, [2]int64{5, 5}, r.at())
	require.Equal(t, []string{"publish 5: a@4 b@5"}, r.hear())
}

// TestRestored: the events up to a snapshot's revision were not all seen, those of
// other groups neither.
func TestRestored(t *testing.T) {
	r := newRig(2, nil)
	r.apply(1, 3, 4, 9)
	r.groups[0].Index, r.groups[0].Revision = 20, 6
	r.Line.Restored(1, r.groups[0])
	r.apply(1, 10)
	require.Empty(t, r.hear())
	r.Promised(Promise{Closed: 5, Indexes: []uint64{20, 5}})
	require.Equal(t, []string{"restored 5"}, r.hear(), "of 6 the rest is to come")
	r.apply(0, 8)
	r.Promised(Promise{Closed: 8, Indexes: []uint64{21, 5}})
	require.Equal(t, []string{"restored 6", "publish 8: a@8"}, r.hear())
	r.Promised(Promise{Closed: 10, Indexes: []uint64{21, 5}})
	require.Equal(t, []string{"publish 10: b@9 b@10"}, r.hear())

	// A snapshot of what is closed already hides nothing.
	r.groups[1].Index++
	r.Line.Restored(2, r.groups[1])
	r.apply(0, 11)
	r.Promised(Promise{Closed: 11, Indexes: []uint64{22, 6}})
	require.Equal(t, []string{"publish 11: a@11"}, r.hear())
}

// TestOpenedAgain: events that a restart applies again, of revisions that other
// groups had already, are not published by halves.
func TestOpenedAgain(t *testing.T) {
	r := newRig(2, func(c *Config) {
		c.Applied = []mvcc.Applied{{Index: 9, Revision: 8}, {Index: 5, Revision: 5}}
		c.Closed = 4
	})
	r.groups = []mvcc.Applied{{Index: 9, Revision: 8}, {Index: 5, Revision: 5}}
	r.apply(1, 7, 8, 9)
	r.reign(t, 1)
	require.Equal(t, [2]int64{9, 9}, r.at())
	require.Equal(t, []string{"restored 8", "publish 9: b@9"}, r.hear())
}

// TestWhoIsTold: first the sink, then those who asked to be told, then those who
// wait, then the other members; each without a lock.
func TestWhoIsTold(t *testing.T) {
	var r *rig
	r = newRig(1, func(c *Config) {
		c.Advanced = func(closed int64) {
			r.heard = append(r.heard, fmt.Sprintf("advanced %d, present %d", closed, r.Present()))
			r.Epoch()
		}
		c.Tell = func() {
			p, ok := r.Promise()
			r.heard = append(r.heard, fmt.Sprintf("tell %+v %t", p, ok))
		}
	})
	r.reign(t, 3)
	require.Empty(t, r.hear())
	r.next(0)
	r.Settled(3, 1, 2, func(p Point, err error) { r.heard = append(r.heard, fmt.Sprintf("settled %+v %v", p, err)) })
	r.apply(0, 2)
	require.Equal(t, []string{
		"publish 2: a@2", "advanced 2, present 2", "settled {Revision:2 Indexes:[3] Compacted:0} <nil>",
		"tell {Epoch:3 Closed:2 Indexes:[3]} true",
	}, r.hear())
	// Who does not reign tells nobody.
	r.End()
	r.apply(0, 3)
	r.Promised(Promise{Closed: 3, Indexes: []uint64{4}})
	require.Equal(t, []string{"publish 3: a@3", "advanced 3, present 3"}, r.hear())
}

// TestSettled: a read waits for what is outstanding up to its revision in its
// groups, and for nothing else.
func TestSettled(t *testing.T) {
	r := newRig(3, nil)
	r.reign(t, 1)
	for g := range 3 {
		r.next(g)
	}
	r.apply(2, 4)
	type answer struct {
		Point
		err error
	}
	ask := func(epoch uint64, mask Mask, revision int64) *answer {
		var a *answer
		got := new(answer)
		r.Settled(epoch, mask, revision, func(p Point, err error) { *got = answer{p, err}; a = got })
		if a == nil {
			got.err = context.Canceled // not answered
		}
		return got
	}
	now := func(a *answer, revision int64, indexes ...uint64) {
		t.Helper()
		require.NoError(t, a.err)
		require.Equal(t, Point{Revision: revision, Indexes: indexes}, a.Point)
	}
	now(ask(1, 0b100, 4), 4, 2, 2, 3)
	now(ask(1, 0b111, 1), 1, 2, 2, 3)
	now(ask(1, 0, 4), 4, 2, 2, 3)
	first, second, both := ask(1, 0b001, 4), ask(1, 0b010, 3), ask(1, 0b011, 4)
	for _, a := range []*answer{first, second, both} {
		require.ErrorIs(t, a.err, context.Canceled)
	}
	require.ErrorIs(t, ask(2, 0b001, 4).err, ErrEnded)
	require.ErrorIs(t, ask(0, 0b001, 4).err, ErrEnded)
	r.next(0) // later ones do not matter
	r.apply(0, 2)
	now(first, 4, 3, 2, 3)
	require.ErrorIs(t, both.err, context.Canceled)
	r.apply(1, 3)
	now(second, 3, 3, 3, 3)
	now(both, 4, 3, 3, 3)

	ends := ask(1, 0b001, 5)
	require.ErrorIs(t, ends.err, context.Canceled)
	r.End()
	require.ErrorIs(t, ends.err, ErrEnded)
	r.reign(t, 2)
	require.ErrorIs(t, ask(1, 0b001, 4).err, ErrEnded)
	now(ask(2, 0b001, 4), 4, 4, 4, 4)
}

// TestWaitPoint waits for indexes, in the groups that are asked for.
func TestWaitPoint(t *testing.T) {
	r := newRig(2, nil)
	p := Point{Revision: 5, Indexes: []uint64{1, 3}}
	require.NoError(t, r.WaitPoint(t.Context(), 0b01, p))
	done := make(chan error, 1)
	go func() { done <- r.WaitPoint(t.Context(), 0b10, p) }()
	r.waitFor(1)
	r.apply(1, 2)
	require.Empty(t, done)
	r.apply(1, 3)
	require.NoError(t, <-done)
	require.NoError(t, r.WaitPoint(t.Context(), 0b11, p))
	r.waitFor(0)
}

// waitFor waits until so many wait.
func (r *rig) waitFor(n int) {
	for {
		r.mu.Lock()
		waiting := len(r.waiters.list)
		r.mu.Unlock()
		if waiting == n {
			return
		}
		runtime.Gosched()
	}
}

// TestWaitClosed waits for a closed revision. Who gives up is forgotten.
func TestWaitClosed(t *testing.T) {
	r := newRig(1, nil)
	require.NoError(t, r.WaitClosed(t.Context(), 1))
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp, done := make(chan error, 1), make(chan error, 1)
	go func() { gaveUp <- r.WaitClosed(ctx, 3) }()
	go func() { done <- r.WaitClosed(t.Context(), 3) }()
	r.waitFor(2)
	cancel()
	require.ErrorIs(t, <-gaveUp, context.Canceled)
	require.ErrorIs(t, r.WaitClosed(ctx, 4), context.Canceled)
	r.reign(t, 1)
	r.waitFor(1)
	r.next(0)
	r.next(0)
	r.apply(0, 2)
	require.Empty(t, done)
	r.apply(0, 3)
	require.NoError(t, <-done)
	r.waitFor(0)
}

// TestLineConcurrently has everybody use a line at once. What is published is in
// order, and what is closed is applied.
func TestLineConcurrently(t *testing.T) {
	const groups, each = 4, 400
	sink := &ordered{t: t}
	cfg := Config{Sink: sink}
	var applied [groups]atomic.Int64
	for g := range groups {
		cfg.Groups = append(cfg.Groups, mvcc.GroupID(g+1))
		cfg.Applied = append(cfg.Applied, mvcc.Applied{Epoch: 1, Revision: 1})
	}
	l := New(cfg)
	require.True(t, l.Begin(1))
	var work, readers sync.WaitGroup
	for g := range groups {
		queue := make(chan int64, 8)
		work.Go(func() {
			defer close(queue)
			rng := rand.New(rand.NewPCG(uint64(g), 0))
			for range each {
				rev := l.Next(mvcc.GroupID(g + 1))
				if rng.IntN(5) == 0 {
					l.GiveBack(mvcc.GroupID(g+1), rev)
					continue
				}
				queue <- rev
			}
		})
		work.Go(func() {
			a := mvcc.Applied{Epoch: 1, Revision: 1}
			for rev := range queue {
				a.Index++
				a.Revision = rev
				applied[g].Store(rev)
				l.Applied(mvcc.GroupID(g+1), a, &mvcc.Outcome{
					Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{ModRevision: rev}}}, Subs: []uint32{0}, Revision: rev,
				})
			}
		})
	}
	var stop atomic.Bool
	readers.Go(func() {
		for !stop.Load() {
			rev := l.Present()
			done := make(chan Point, 1)
			l.Settled(1, 0b1111, rev, func(p Point, err error) {
				if err != nil {
					t.Error(err)
				}
				done <- p
			})
			if p := <-done; l.WaitPoint(t.Context(), 0b1111, p) != nil || p.Revision != rev {
				t.Errorf("settled at %d for %d", p.Revision, rev)
			}
			if p, ok := l.Promise(); !ok || p.Closed < rev {
				t.Errorf("a promise of %d after %d was settled", p.Closed, rev)
			}
		}
	})
	work.Wait()
	stop.Store(true)
	readers.Wait()
	var last int64
	for g := range applied {
		last = max(last, applied[g].Load())
	}
	require.Equal(t, last, l.Closed())
	require.Equal(t, last, l.Present())
	require.Equal(t, last, sink.revision)
	require.Positive(t, sink.events)
}

// ordered is a sink that checks the order.
type ordered struct {
	t        *testing.T
	revision int64
	events   int
}

// Publish implements Sink.
func (s *ordered) Publish(events []*mvccpb.Event, revision int64) {
	last := s.revision
	for _, e := range events {
		if rev := e.Kv.ModRevision; rev <= last || rev > revision {
			s.t.Errorf("revision %d follows %d, up to %d", rev, last, revision)
		}
		last = e.Kv.ModRevision
	}
	s.revision = revision
	s.events += len(events)
}

// Restored implements Sink.
func (s *ordered) Restored(revision int64) { s.t.Errorf("restored at %d", revision) }

// TestTakeCrossing: a revision that a request says itself is as one that was handed
// out, and the line counts on from it, also where one was given back and left a gap.
func TestTakeCrossing(t *testing.T) {
	r := newRig(3, nil)
	r.reign(t, 1)
	require.EqualValues(t, 2, r.next(0))
	require.EqualValues(t, 3, r.next(1))
	r.GiveBack(1, 2) // a gap
	require.EqualValues(t, 4, r.next(0))
	r.GiveBack(1, 4)
	r.GiveBack(2, 3)
	r.BeginCrossing(0b111)
	r.TakeCrossing(2)
	r.TakeCrossing(9)
	r.apply(0, 2)
	r.apply(2, 9)
	require.Equal(t, [2]int64{9, 1}, r.at(), "nothing is closed before all groups have it")
	require.False(t, r.IsSettled(0b001, 9))
	r.SettleCrossing()
	require.Equal(t, [2]int64{9, 9}, r.at())
	require.EqualValues(t, 10, r.next(1))
}
