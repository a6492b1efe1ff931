package group_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// call is one request of a client, and what came of it.
type call struct {
	n    int
	op   evaluate.Op
	kind callKind
	task *task
	// cancel ends the patience of the client.
	cancel context.CancelFunc
	// began is the step in which it began. What was true then: shown is the
	// greatest revision that was answered, ever the greatest that anybody was shown
	// anywhere, compacted the greatest compaction that was answered.
	began                  int
	shown, ever, compacted int64
	// leaseStood says that the request's lease was there and nobody had asked for
	// its end, leaseGone that its end was answered.
	leaseStood, leaseGone bool

	ended bool
	res   evaluate.Result
	err   error
}

type callKind int

const (
	writes callKind = iota
	reads
	readsSerializable
	// probes are writes that are sent until they are answered well.
	probes
)

// send sends a request to a member.
func (c *cluster) send(m *member, op evaluate.Op, kind callKind) *call {
	c.callCount++
	k := &call{
		n: c.callCount, op: op, kind: kind, task: m.newTask(), began: c.now,
		shown: c.answered, ever: c.truth.shown, compacted: c.compacted,
	}
	if id := leaseOf(op); id != 0 {
		l := c.lease(id)
		k.leaseStood, k.leaseGone = l.granted && l.revokes == 0, l.revoked
	}
	k.begin(c, m)
	return k
}

func (k *call) begin(c *cluster, m *member) {
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	c.open = append(c.open, k)
	c.sent[k.n] = k
	c.trace("call %d at member %d: %s", k.n, m.id, sim.FormatOp(k.op))
	if r, ok := k.op.(*evaluate.Compact); ok {
		c.compacting = max(c.compacting, r.Revision)
	}
	if r, ok := k.op.(*evaluate.LeaseRevoke); ok {
		c.lease(r.ID).revokes++
	}
	k.task.wait(always, func() {
		done := func(res evaluate.Result, err error) { c.end(k, res, err) }
		if k.kind == writes || k.kind == probes {
			m.do(ctx, k.task, k.op, done)
		} else {
			m.read(k.task, k.op, k.kind == readsSerializable, done)
		}
	})
}

// leaseTruth is what clients know of a lease.
type leaseTruth struct {
	granted, revoked bool
	// revokes counts the requests for its end.
	revokes int
}

func (c *cluster) lease(id int64) *leaseTruth {
	l := c.leases[id]
	if l == nil {
		l = &leaseTruth{}
		c.leases[id] = l
	}
	return l
}

// end takes in the answer to a call.
func (c *cluster) end(k *call, res evaluate.Result, err error) {
	if k.ended {
		return
	}
	k.ended, k.res, k.err = true, res, err
	k.cancel()
	if c.tracing {
		c.trace("call %d: %s", k.n, sim.FormatResult(k.op, res, err))
	}
	switch {
	case err == nil:
		c.tally.Answered++
		c.answers = append(c.answers, k)
		c.endWell(k)
	case sim.Semantic(err) != nil:
		c.tally.Refused++
		c.endRefused(k)
	default:
		c.tally.Unknown++
		if k.kind == probes {
			c.again = append(c.again, k.task.at) // somebody else has come to reign
		}
	}
}

// endWell holds an answer to the order of real time.
func (c *cluster) endWell(k *call) {
	rev := k.res.Revision
	c.truth.show(rev, fmt.Sprintf("the answer to call %d", k.n))
	if k.kind != readsSerializable {
		least := k.shown
		if changed(k.op, k.res) {
			least = max(k.shown, k.ever) + 1
		}
		if rev < least {
			violated("call %d, %s, shows revision %d: it should be %d or greater, by what was answered or shown before it began",
				k.n, sim.FormatOp(k.op), rev, least)
		}
	}
	if changed(k.op, k.res) {
		// What is answered is applied somewhere: it can't be lost any more.
		if c.truth.at[rev] == nil {
			violated("call %d is answered with revision %d, which nobody has applied", k.n, rev)
		}
		if other := c.owners[rev]; other != nil {
			violated("calls %d and %d have both made revision %d", other.n, k.n, rev)
		}
		c.owners[rev] = k
	}
	c.answered = max(c.answered, rev)
	switch op := k.op.(type) {
	case *evaluate.Compact:
		c.compacted = max(c.compacted, op.Revision)
		c.tally.Compactions++
	case *evaluate.LeaseGrant:
		c.lease(op.ID).granted = true
	case *evaluate.LeaseRevoke:
		c.lease(op.ID).revoked = true
		c.tally.Revoked++
	}
	if k.leaseGone {
		if _, ok := k.op.(*evaluate.Put); ok {
			violated("call %d is answered, and its lease was revoked before", k.n)
		}
	}
	if k.kind == reads || k.kind == readsSerializable {
		c.tally.Reads++
	}
	for _, r := range readsOf(nil, k.op, &k.res) {
		if r.Revision > 0 && r.Revision < k.compacted && k.kind != readsSerializable {
			violated("call %d reads at %d, after a compaction at %d was answered", k.n, r.Revision, k.compacted)
		}
	}
}

// endRefused holds an error to what it may be about.
func (c *cluster) endRefused(k *call) {
	bad := false
	switch err := k.err; {
	case errors.Is(err, mvcc.ErrCompacted):
		bad = c.compacting == 0
		if r, ok := k.op.(*evaluate.Range); ok {
			bad = bad || r.Revision <= 0 || r.Revision >= c.compacting
		}
	case errors.Is(err, mvcc.ErrFutureRevision):
		// Whoever asks for the future may be told so only if it was.
		if r, ok := k.op.(*evaluate.Range); ok && k.kind != readsSerializable {
			bad = r.Revision <= k.shown
		}
		if r, ok := k.op.(*evaluate.Compact); ok {
			bad = r.Revision <= k.shown
		}
	case errors.Is(err, lease.ErrNotFound):
		if id := leaseOf(k.op); id != 0 {
			own := 0
			if _, ok := k.op.(*evaluate.LeaseRevoke); ok {
				own = 1
			}
			bad = k.leaseStood && c.lease(id).revokes == own
		}
	}
	if bad {
		violated("call %d, %s, is refused: %v", k.n, sim.FormatOp(k.op), k.err)
	}
}
