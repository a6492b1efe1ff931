package group

import (
	"errors"
	"sync"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// flight are the entries that this replica has proposed and not seen applied,
// with those who wait for them.
type flight struct {
	mu      sync.Mutex // guards the fields below; nothing is taken after it
	entries []flying
}

type flying struct {
	term, number uint64
	waiting      []*proposal
}

func (f *flight) add(e flying) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = append(f.entries, e)
}

// wait lets proposals wait for the newest entry; false if none is in flight.
func (f *flight) wait(ps []*proposal) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.entries) == 0 {
		return false
	}
	last := &f.entries[len(f.entries)-1]
	last.waiting = append(last.waiting, ps...)
	return true
}

// applied removes the entry, if it is this replica's, and returns who waits
// for it.
func (f *flight) applied(h entryHeader) (waiting []*proposal, own bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.entries) == 0 || f.entries[0].term != h.term || f.entries[0].number != h.number {
		return nil, false
	}
	waiting = f.entries[0].waiting
	f.entries[0].waiting = nil
	f.entries = f.entries[1:]
	return waiting, true
}

// fail answers those who wait for entries of terms before the one given.
func (f *flight) fail(before uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.entries) > 0 && f.entries[0].term < before {
		for _, p := range f.entries[0].waiting {
			p.fail(err)
		}
		f.entries = f.entries[1:]
	}
}

// evaluate evaluates what waits in the queue, as far as this replica may now.
func (g *Group) evaluate() {
	// What changes nothing needs no entry, and what waits behind it should not
	// have to wait for something else to happen.
	for g.leading && g.appending == 0 && !g.drain && len(g.queue) > 0 {
		if !g.evaluateEntry() {
			return
		}
	}
}

// evaluateEntry turns what waits in the queue into one entry and proposes it;
// false if raft refused it.
func (g *Group) evaluateEntry() bool {
	g.number++
	header := entryHeader{term: g.rn.BasicStatus().GetTerm(), epoch: g.cfg.Sequencer.Epoch(), number: g.number}
	size := 0
	n := 0
	for ; n < len(g.queue) && n < maxEntryRequests && (n == 0 || size < maxEntryBytes); n++ {
		size += g.queue[n].size
	}
	data := header.append(make([]byte, 0, size+size/4+64*n+64))
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
		res, err := g.eval.Do(p.ctx, p.op)
		if errors.Is(err, evaluate.ErrDrain) {
			g.drain = true
			break
		}
		taken++
		p.res, p.err = res, err
		changed = append(changed, p)
	}
	rest := copy(g.queue, g.queue[taken:])
	clear(g.queue[rest:])
	g.queue = g.queue[:rest]
	g.inbox.queued.Add(-int64(taken))

	entry, ok := g.eval.Seal(prefix)
	if !ok {
		g.number--
		g.answerUnchanged(changed)
		g.drained()
		return true
	}
	g.applier.flight.add(flying{term: header.term, number: header.number, waiting: changed})
	if err := g.rn.Propose(entry); err != nil {
		g.refused(err)
		return false
	}
	g.handleReady()
	return true
}

// answerUnchanged answers requests that changed nothing, once leadership is
// confirmed and everything that they saw is applied. That an entry in flight was
// committed later on would not confirm it: another leader may have done that,
// after it has acknowledged what these requests have not seen.
func (g *Group) answerUnchanged(ps []*proposal) {
	switch {
	case len(ps) == 0:
	case g.sole.Load():
		g.answerApplied(ps)
	default:
		g.reads.add([]*read{{answer: ps}})
	}
}

// answerApplied answers requests once everything that is in flight is applied.
func (g *Group) answerApplied(ps []*proposal) {
	if len(ps) == 0 || g.applier.flight.wait(ps) {
		return
	}
	for _, p := range ps {
		close(p.done)
	}
}

// refused takes back an entry that raft did not take: this replica is about to
// lose the lead, and what was evaluated after it would stand on nothing.
func (g *Group) refused(err error) {
	g.cfg.Logger.Warn("raft refused a proposal", "error", err)
	g.refusals.Add(1)
	f := &g.applier.flight
	f.mu.Lock()
	last := f.entries[len(f.entries)-1]
	f.entries = f.entries[:len(f.entries)-1]
	f.mu.Unlock()
	for _, p := range last.waiting {
		p.fail(ErrLeaderChanged)
	}
	g.eval.Refused()
	g.drain, g.forget = true, true
	g.drained()
}

// drained lets evaluation go on when nothing is in flight any more.
func (g *Group) drained() {
	if !g.drain || g.eval.InFlight() > 0 {
		return
	}
	if g.forget {
		g.eval.Reset()
	}
	g.drain, g.forget = false, false
}
