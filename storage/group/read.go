package group

import (
	"encoding/binary"

	"go.etcd.io/raft/v3"
)

// read waits until this replica's lead is confirmed.
type read struct{ answer func(error) }

func (r *read) finish(g *Group, err error) {
	g.inbox.reading.Add(-1)
	r.answer(err)
}

// readQueue batches confirmations: those that come while one is under way share
// the next (Ongaro, "Consensus: Bridging Theory and Practice", 6.4). It belongs
// to the loop.
type readQueue struct {
	waiting []*read
	// asked is under way, named by number, for so many ticks.
	asked  []*read
	number uint64
	ticks  int
}

func (q *readQueue) add(rs []*read) { q.waiting = append(q.waiting, rs...) }

// leaderChanged ends what waits: another leader's confirmation is none.
func (q *readQueue) leaderChanged(g *Group) {
	if g.role != raft.StateLeader {
		q.fail(g, ErrNotSequencer)
	}
}

// tick asks again what was not answered for so many ticks: the question, or the
// answer, may have been lost on its way.
func (q *readQueue) tick(limit int) {
	if q.ticks++; q.ticks > limit {
		q.waiting = append(q.asked, q.waiting...)
		q.asked = nil
	}
}

// serve asks for the next confirmation.
func (q *readQueue) serve(g *Group) {
	if len(q.waiting) == 0 || len(q.asked) > 0 {
		return
	}
	if g.role != raft.StateLeader {
		q.fail(g, ErrNotSequencer)
		return
	}
	q.number, q.ticks = q.number+1, 0
	q.asked, q.waiting = q.waiting, nil
	g.rn.ReadIndex(binary.BigEndian.AppendUint64(nil, q.number))
}

func (q *readQueue) confirmed(g *Group, ctx []byte) {
	if len(ctx) != 8 || binary.BigEndian.Uint64(ctx) != q.number {
		return
	}
	asked := q.asked
	q.asked = nil
	for _, r := range asked {
		r.finish(g, nil)
	}
}

func (q *readQueue) fail(g *Group, err error) {
	all := append(q.asked, q.waiting...)
	q.asked, q.waiting = nil, nil
	for _, r := range all {
		r.finish(g, err)
	}
}
