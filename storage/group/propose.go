package group

import (
	"context"
	"errors"

	"go.etcd.io/raft/v3"

	"github.com/pebbledash/pebbledash/pkg/tracing"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// reign is what the loop knows of this member's reign (storage/PROTOCOL.md, 3).
type reign struct {
	// epoch is 0 while this member does not reign.
	epoch uint64
	// fenced says that the group has applied the epoch's fence; begun, that
	// requests are evaluated.
	fenced, begun bool
	// number is the last entry's.
	number uint64
	// hold is called once nothing is in flight, and evaluation rests until the
	// release: held.
	hold func()
	held bool
	// drain holds evaluation up until nothing is in flight.
	drain bool
	// lead and term are raft's as of when everything in flight was proposed last;
	// quiet counts the ticks since anything of it was applied.
	lead, term uint64
	quiet      int
	// dropped says that raft did not take a proposal, which is still to be made.
	dropped bool
}

// Fence begins a reign of this member: the group is fenced with epoch, which
// Observer.Fenced tells.
func (g *Group) Fence(epoch uint64) {
	g.post(func() {
		if epoch <= g.reign.epoch {
			return
		}
		g.endReign(ErrLeaderChanged)
		g.reign.epoch = epoch
		g.proposeFence()
	})
}

// Begin lets the group evaluate requests.
// REQUIRES: the group is fenced with this epoch, and nothing that was decided
// for it is missing.
func (g *Group) Begin(epoch uint64) {
	g.post(func() {
		if g.reign.epoch == epoch && g.reign.fenced && !g.reign.begun {
			g.eval.Reset()
			g.reign.begun = true
			g.readyOnce.Do(func() { close(g.ready) })
			g.setSole()
		}
	})
}

// End ends this member's reign, if there is one. What waits for an entry is
// answered with ErrLeaderChanged, what was not evaluated with ErrNotSequencer.
func (g *Group) End() { g.post(func() { g.endReign(ErrLeaderChanged) }) }

func (g *Group) endReign(err error) {
	if g.reign.epoch == 0 {
		return
	}
	g.reign = reign{}
	g.setSole()
	g.counts.lost.Add(int64(g.applier.flight.fail(err)))
	g.failQueue(ErrNotSequencer)
}

func (g *Group) failQueue(err error) {
	for _, p := range g.queue {
		g.inbox.queued.Add(-1)
		p.fail(err)
	}
	clear(g.queue)
	g.queue = g.queue[:0]
}

// Hold stops evaluation and calls fn, in the loop, once nothing is in flight.
// REQUIRES: the group is not held.
func (g *Group) Hold(epoch uint64, fn func()) {
	g.post(func() {
		if g.reign.epoch == epoch {
			g.reign.hold = fn
			g.drained()
		}
	})
}

// Release lets a group that is held evaluate again, on what is applied now, or one
// that is not held yet go on.
func (g *Group) Release(epoch uint64) {
	g.post(func() {
		if g.reign.epoch != epoch {
			return
		}
		if g.reign.held {
			g.eval.Reset()
		}
		g.reign.hold, g.reign.held = nil, false
	})
}

// Submit proposes an entry that another than the group's evaluator has made; id
// is that of a part's decision, and parts are a decision's. applied is called
// in the loop with the entry's index; if the reign ends before, it is not.
// REQUIRES: the group is held, or is fenced and not begun.
func (g *Group) Submit(epoch uint64, kind Kind, id uint64, effects, parts []byte, applied func(index uint64)) {
	g.post(func() {
		if g.reign.epoch != epoch {
			return
		}
		g.reign.number++
		e := entry{kind: kind, epoch: epoch, number: g.reign.number, id: id, effects: effects, parts: parts}
		g.propose(flying{epoch: epoch, number: e.number, data: e.encode(), applied: applied})
	})
}

func (g *Group) proposeFence() {
	e := entry{kind: KindFence, epoch: g.reign.epoch}
	// If raft does not take it now, it will at a later tick.
	_ = g.rn.Propose(e.encode())
}

// propose hands an entry to raft. It stays in flight until it is applied here.
func (g *Group) propose(e flying) {
	e.data = g.compressor.compress(e.data)
	if n, _ := g.applier.flight.size(); n == 0 {
		s := g.rn.BasicStatus()
		g.reign.lead, g.reign.term, g.reign.quiet = s.Lead, s.GetTerm(), 0
	}
	g.applier.flight.add(e)
	if g.reign.dropped {
		return // those before it go first
	}
	g.noteProposed(g.rn.Propose(e.data))
}

func (g *Group) noteProposed(err error) {
	if err == nil {
		return
	}
	g.counts.refused.Add(1)
	g.reign.dropped = true
	if !errors.Is(err, raft.ErrProposalDropped) {
		g.cfg.Logger.Warn("raft refused a proposal, will try again", "error", err)
	}
}

// proposeAgain proposes everything in flight once more where it may have been
// lost: the group's leader has changed, or nothing of it has come for long.
// What was not lost is dropped the second time (storage/PROTOCOL.md, 2).
func (g *Group) proposeAgain() {
	n, _ := g.applier.flight.size()
	if n == 0 {
		g.reign.dropped = false
		return
	}
	s := g.rn.BasicStatus()
	moved := s.Lead != g.reign.lead || s.GetTerm() != g.reign.term
	silent := s.Lead != g.cfg.Replica && g.reign.quiet > quietTicks
	if s.Lead == raft.None || !moved && !silent && !g.reign.dropped {
		return
	}
	g.reign.lead, g.reign.term, g.reign.quiet, g.reign.dropped = s.Lead, s.GetTerm(), 0, false
	g.applier.flight.each(func(data []byte) bool {
		g.noteProposed(g.rn.Propose(data))
		return !g.reign.dropped
	})
}

// quietTicks is for how long nothing of what was forwarded may come before it is
// taken for lost.
const quietTicks = 3

// Bounds of what is in flight in one group. A leader's log takes one entry at a
// time anyway; the first is for entries that go to another leader.
const (
	maxForwarded   = 4
	maxFlight      = 256
	maxFlightBytes = 64 << 20
)

// room says whether another entry may be evaluated now.
func (g *Group) room() bool {
	n, bytes := g.applier.flight.size()
	if n >= maxFlight || bytes >= maxFlightBytes {
		return false
	}
	if g.role == raft.StateLeader {
		return g.appending == 0
	}
	return n < maxForwarded
}

// evaluate evaluates what waits in the queue, as far as this replica may now.
func (g *Group) evaluate() {
	if len(g.queue) > 0 && g.reign.epoch == 0 {
		g.failQueue(ErrNotSequencer)
	}
	// What changes nothing needs no entry, and what waits behind it should not
	// have to wait for something else to happen.
	for g.reign.begun && g.reign.hold == nil && !g.reign.drain && len(g.queue) > 0 && g.room() {
		g.evaluateEntry()
	}
}

// evaluateEntry turns what waits in the queue into one entry and proposes it.
func (g *Group) evaluateEntry() {
	number := g.reign.number + 1
	size := 0
	n := 0
	for ; n < len(g.queue) && n < maxEntryRequests && (n == 0 || size < maxEntryBytes); n++ {
		size += g.queue[n].size
	}
	data := appendHeader(make([]byte, 0, size+size/4+64*n+64), g.reign.epoch, number)
	prefix := len(data)
	g.eval.Begin(data)
	taken := 0
	var changed []*proposal
	for _, p := range g.queue[:n] {
		if p.ctx.Err() != nil {
			// Nobody waits for it any more, and it has had no effect.
			p.fail(p.ctx.Err())
			taken++
			continue
		}
		p.trace.Mark(tracing.Evaluating)
		res, err := g.eval.Do(p.ctx, p.op)
		p.trace.Mark(tracing.Evaluated)
		if errors.Is(err, evaluate.ErrDrain) {
			g.reign.drain = true
			break
		}
		taken++
		if errors.Is(err, evaluate.ErrCrossing) {
			p.fail(err)
			continue
		}
		p.res, p.err = res, err
		changed = append(changed, p)
	}
	rest := copy(g.queue, g.queue[taken:])
	clear(g.queue[rest:])
	g.queue = g.queue[:rest]
	g.inbox.queued.Add(-int64(taken))

	g.counts.evaluated.Add(int64(taken))
	g.taken = taken

	data, ok := g.eval.Seal(prefix)
	if !ok {
		mark(changed, tracing.Confirming)
		g.answerUnchanged(changed)
		g.drained()
		return
	}
	g.reign.number = number
	g.noteTraced(changed)
	g.propose(flying{epoch: g.reign.epoch, number: number, data: data, waiting: changed, evaluated: true})
	g.handleReady()
}

// answerUnchanged answers requests that changed nothing, once the reign is
// confirmed and everything that they saw is applied. That an entry in flight was
// committed later on would not confirm it: another sequencer may have reigned
// before that, and acknowledged what these requests have not seen.
func (g *Group) answerUnchanged(ps []*proposal) {
	if len(ps) == 0 {
		return
	}
	if g.cfg.Confirm == nil || g.cfg.Sole() {
		g.answerApplied(ps)
		return
	}
	epoch := g.reign.epoch
	u := &unconfirmed{ps}
	g.unconfirmed[u] = struct{}{}
	g.cfg.Confirm(func(err error) {
		g.post(func() {
			delete(g.unconfirmed, u)
			if err == nil && g.reign.epoch != epoch {
				err = ErrLeaderChanged
			}
			if err == nil {
				g.answerApplied(ps)
				return
			}
			u.fail(err)
		})
	})
}

// unconfirmed are requests that changed nothing and wait until the reign that
// they were evaluated in is confirmed.
type unconfirmed struct{ proposals []*proposal }

func (u *unconfirmed) fail(err error) {
	for _, p := range u.proposals {
		p.fail(err)
	}
}

// answerApplied answers requests once everything that is in flight is applied.
func (g *Group) answerApplied(ps []*proposal) {
	if len(ps) == 0 || g.applier.flight.wait(ps) {
		return
	}
	mark(ps, tracing.Confirmed)
	for _, p := range ps {
		close(p.done)
	}
}

// drained lets evaluation, or a hold, go on when nothing is in flight any more.
func (g *Group) drained() {
	if n, _ := g.applier.flight.size(); n > 0 || g.eval.InFlight() > 0 {
		return
	}
	g.reign.drain = false
	if g.reign.hold != nil && !g.reign.held {
		g.reign.held = true
		g.reign.hold()
	}
}

// Do evaluates, logs and applies a request and returns its answer. The error is
// one of evaluation (nothing was changed), one of this package's, or ctx's: then
// whether the request takes effect is not known.
func (g *Group) Do(ctx context.Context, op evaluate.Op, size int) (evaluate.Result, error) {
	p := &proposal{ctx: ctx, op: op, size: size, done: make(chan struct{})}
	if g.cfg.Traced {
		p.trace = tracing.From(ctx)
		p.trace.Mark(tracing.Submitted)
	}
	if err := g.inbox.propose(p); err != nil {
		return evaluate.Result{}, err
	}
	select {
	case <-p.done:
		return p.res, p.err
	case <-ctx.Done():
		g.counts.abandoned.Add(1)
		return evaluate.Result{}, ctx.Err()
	}
}
