package group

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"
)

// read waits until leadership is confirmed and the state is as new as it was
// then.
type read struct {
	// done takes the outcome; nil if only answer waits.
	done chan error
	// answer are requests that changed nothing and are answered with it.
	answer []*proposal
}

func (r *read) finish(g *Group, err error) {
	if r.done != nil {
		g.inbox.reading.Add(-1)
		r.done <- err
	}
	if err == nil {
		g.answerApplied(r.answer)
		return
	}
	for _, p := range r.answer {
		p.fail(err)
	}
}

// readQueue batches reads: those that come while a confirmation is under way
// share the next (Ongaro, "Consensus: Bridging Theory and Practice", 6.4). It
// belongs to the loop.
type readQueue struct {
	waiting []*read
	// asked is under way, named by number, for so many ticks.
	asked  []*read
	number uint64
	ticks  int
	// ready wait for the state to reach index.
	ready []readyRead
	lead  uint64
}

type readyRead struct {
	index uint64
	reads []*read
}

func (q *readQueue) add(rs []*read) { q.waiting = append(q.waiting, rs...) }

// leaderChanged asks again: a confirmation by another leader may not come. What
// was evaluated here is not true of what another leader confirms.
func (q *readQueue) leaderChanged(g *Group, lead uint64) {
	q.lead = lead
	q.askAgain()
	q.waiting = slices.DeleteFunc(q.waiting, func(r *read) bool {
		if r.answer == nil {
			return false
		}
		r.finish(g, ErrLeaderChanged)
		return true
	})
}

// tick asks again what was not answered for so many ticks: the question, or the
// answer, may have been lost on its way.
func (q *readQueue) tick(limit int) {
	if q.ticks++; q.ticks > limit {
		q.askAgain()
	}
}

func (q *readQueue) askAgain() {
	q.waiting = append(q.asked, q.waiting...)
	q.asked = nil
}

// serve asks for the next confirmation and answers those that are done.
func (q *readQueue) serve(g *Group) {
	if len(q.waiting) > 0 && len(q.asked) == 0 && q.lead != raft.None && (g.role != raft.StateLeader || g.leading) {
		q.number, q.ticks = q.number+1, 0
		q.asked, q.waiting = q.waiting, nil
		g.rn.ReadIndex(binary.BigEndian.AppendUint64(nil, q.number))
	}
	applied := g.applier.index.Load()
	for len(q.ready) > 0 && q.ready[0].index <= applied {
		for _, r := range q.ready[0].reads {
			r.finish(g, nil)
		}
		q.ready = q.ready[1:]
	}
}

func (q *readQueue) confirmed(ctx []byte, index uint64) {
	if len(ctx) != 8 || binary.BigEndian.Uint64(ctx) != q.number || len(q.asked) == 0 {
		return
	}
	q.ready = append(q.ready, readyRead{index, q.asked})
	q.asked = nil
}

func (q *readQueue) fail(g *Group, err error) {
	for _, r := range q.waiting {
		r.finish(g, err)
	}
	for _, r := range q.asked {
		r.finish(g, err)
	}
	for _, rr := range q.ready {
		for _, r := range rr.reads {
			r.finish(g, err)
		}
	}
	*q = readQueue{}
}
