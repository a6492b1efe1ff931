package group_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

func formatEvents(events []*mvccpb.Event) string { return sim.FormatEvents(events, false) }

// judge has the model do, in the order of revisions, what the store has done
// since the last time, and compares every answer and every change.
func (c *cluster) judge() {
	seen := map[int64][]*call{}
	for _, k := range c.answers {
		if !changed(k.op, k.res) {
			seen[k.res.Revision] = append(seen[k.res.Revision], k)
		}
	}
	first := c.model.Revision()
	revs := slices.Collect(maps.Keys(seen))
	i := c.judgedRevisions
	revs = append(revs, c.truth.revisions[i:]...)
	c.judgedRevisions = len(c.truth.revisions)
	slices.Sort(revs)
	for _, rev := range slices.Compact(revs) {
		if r := c.truth.at[rev]; r != nil && rev > first {
			c.model.Skip(rev - 1)
			seen[rev] = c.judgeChange(r, seen[rev])
			r.judged = true
		}
		for _, k := range seen[rev] {
			c.judgeAnswer(k)
		}
	}
	c.answers = c.answers[:0]
	clear(c.owners)
	clear(c.sent)
}

// judgeChange has the model make a revision, and returns those of the calls with
// that revision that have not made it.
func (c *cluster) judgeChange(r *revision, seen []*call) []*call {
	events := r.events()
	if len(r.parts) > 1 {
		c.tally.Crossings++
	}
	owner := c.owners[r.main]
	if n := makerOf(events); n != 0 {
		m := c.sent[n]
		if m == nil || owner != nil && owner != m {
			violated("revision %d was made by call %d, and another, or none, knows of it:\n%s", r.main, n, formatEvents(events))
		}
		if m.ended && m.err != nil && sim.Semantic(m.err) != nil {
			violated("call %d was refused, %v, and has made revision %d", n, m.err, r.main)
		}
		if at := c.made[n]; at != 0 {
			violated("call %d has made revisions %d and %d", n, at, r.main)
		}
		c.made[n] = r.main
		if r.main <= m.ever {
			violated("call %d has made revision %d, and %d was shown before it began", n, r.main, m.ever)
		}
		owner = m
	}
	if owner == nil {
		owner = c.revoker(r, seen)
	}
	if owner == nil {
		c.judgeUnowned(r.main, events)
		return seen
	}
	c.ensureLeases(owner.op)
	res, err := c.model.Do(owner.op)
	if err != nil {
		violated("call %d, %s, has made revision %d, and should fail: %v", owner.n, sim.FormatOp(owner.op), r.main, err)
	}
	c.compareChanges(r.main, events, owner)
	if owner.ended && owner.err == nil {
		c.compare(owner, res)
	}
	return slices.DeleteFunc(seen, func(k *call) bool { return k == owner })
}

// revoker finds a revocation that may have made a revision: its answer does not
// say whether it did.
func (c *cluster) revoker(r *revision, seen []*call) *call {
	for _, k := range seen {
		op, ok := k.op.(*evaluate.LeaseRevoke)
		if !ok {
			continue
		}
		_, keys, err := c.model.Lease(op.ID)
		if err == nil && slices.EqualFunc(keys, r.events(), func(key []byte, e *mvccpb.Event) bool {
			return e.Type == mvccpb.Event_DELETE && bytes.Equal(key, e.Kv.Key)
		}) {
			return k
		}
	}
	return nil
}

// judgeUnowned has the model make a revision of which nobody was told.
func (c *cluster) judgeUnowned(main int64, events []*mvccpb.Event) {
	t := &evaluate.Txn{}
	for _, e := range events {
		if e.Type == mvccpb.Event_DELETE {
			t.Success = append(t.Success, &evaluate.DeleteRange{Key: e.Kv.Key})
		} else {
			t.Success = append(t.Success, &evaluate.Put{Key: e.Kv.Key, Value: e.Kv.Value, Lease: e.Kv.Lease})
		}
	}
	c.ensureLeases(t)
	_, err := c.model.Do(t)
	must(err)
	c.compareChanges(main, events, nil)
}

func (c *cluster) compareChanges(main int64, events []*mvccpb.Event, owner *call) {
	all := []byte{0}
	want, err := c.model.Changes(all, all, main, main)
	must(err)
	if !slices.EqualFunc(events, want, sameEvent) {
		by := "nobody knows whom"
		if owner != nil {
			by = fmt.Sprintf("call %d, %s", owner.n, sim.FormatOp(owner.op))
		}
		violated("revision %d, by %s, is\n%sand should be\n%s", main, by, formatEvents(events), formatEvents(want))
	}
}

// ensureLeases has the model know of the leases that a request names: when they
// came and went is not the model's to say.
func (c *cluster) ensureLeases(op evaluate.Op) {
	if t, ok := op.(*evaluate.Txn); ok {
		for _, o := range append(slices.Clone(t.Success), t.Failure...) {
			c.ensureLeases(o)
		}
		return
	}
	if id := leaseOf(op); id != 0 {
		if _, err := c.model.Do(&evaluate.LeaseGrant{ID: id, TTL: 60}); err != nil && !errors.Is(err, lease.ErrExists) {
			must(err)
		}
	}
}

// judgeAnswer compares the answer to a call that has changed nothing with the
// state at its revision.
func (c *cluster) judgeAnswer(k *call) {
	rev := k.res.Revision
	c.model.Skip(rev)
	switch op := k.op.(type) {
	case *evaluate.LeaseGrant, *evaluate.Compact:
		return
	case *evaluate.LeaseRevoke:
		if _, keys, err := c.model.Lease(op.ID); err == nil && len(keys) > 0 {
			violated("call %d has revoked lease %d by revision %d, and keys are left: %q", k.n, op.ID, rev, keys)
		}
	case *evaluate.Range:
		if rev < c.model.Revision() {
			c.judgeOld(k, op)
			return
		}
		res, err := c.model.Do(op)
		must(err)
		c.compare(k, res)
	default:
		if rev < c.model.Revision() {
			violated("call %d, %s, shows revision %d, behind %d", k.n, sim.FormatOp(op), rev, c.model.Revision())
		}
		res, err := c.model.Do(op)
		must(err)
		c.compare(k, res)
		if c.model.Revision() != rev {
			violated("call %d, %s, should have changed something after revision %d", k.n, sim.FormatOp(op), rev)
		}
	}
}

// judgeOld compares a serializable answer of a member that was behind.
func (c *cluster) judgeOld(k *call, r *evaluate.Range) {
	if k.kind != readsSerializable {
		violated("call %d, %s, shows revision %d, behind %d", k.n, sim.FormatOp(r), k.res.Revision, c.model.Revision())
	}
	old := *r
	old.Revision = k.res.Revision
	res, err := c.model.Do(&old)
	must(err)
	res.Revision = k.res.Revision
	c.compare(k, res)
}

func (c *cluster) compare(k *call, want evaluate.Result) {
	got, model := sim.FormatResult(k.op, inside(k.res), nil), sim.FormatResult(k.op, inside(want), nil)
	if got != model {
		violated("call %d at member %d, %s, is answered\n%s\nwhich should be\n%s", k.n, k.task.at.id, sim.FormatOp(k.op), got, model)
	}
}

// inside returns an answer without the revisions that the steps of a transaction
// show: those before its first change show what was applied when it was
// evaluated, of which the model knows nothing.
func inside(res evaluate.Result) evaluate.Result {
	res.Responses = slices.Clone(res.Responses)
	for i := range res.Responses {
		res.Responses[i] = inside(res.Responses[i])
		res.Responses[i].Revision = 0
	}
	return res
}

// judgeMembers compares what the members have in the end.
func (c *cluster) judgeMembers(thoroughly bool) {
	all := &evaluate.Range{Key: []byte{0}, End: []byte{0}}
	want, err := c.model.Do(all)
	must(err)
	state := sim.FormatResult(all, want, nil)
	var first *member
	for _, m := range c.members {
		if !m.up {
			continue
		}
		if m.published != c.truth.last() {
			violated("member %d has published up to %d, and %d is the last", m.id, m.published, c.truth.last())
		}
		res, err := m.readAt(all, m.line.Closed())
		must(err)
		if got := sim.FormatResult(all, res, nil); got != state {
			violated("member %d has\n%s\nwhich should be\n%s", m.id, got, state)
		}
		m.checkLeases()
		if first == nil {
			first = m
			continue
		}
		m.sameAs(first, thoroughly)
	}
}

// checkLeases holds that a key has a lease that is there, and that a group takes
// part in it.
func (m *member) checkLeases() {
	for g, s := range m.stores {
		for id := range m.c.newestLease + 1 {
			keys, err := s.LeaseKeys(id)
			must(err)
			if len(keys) > 0 && (!m.leases.Exists(id) || g != 0 && !m.leases.Joined(id, m.c.groups[g])) {
				violated("member %d: %q have lease %d, which is not there, or does not know of group %d", m.id, keys, id, g)
			}
		}
	}
}

func (m *member) sameAs(first *member, thoroughly bool) {
	for g := range m.stores {
		if a, b := first.stores[g].Applied(), m.stores[g].Applied(); a != b {
			violated("group %d is, at members %d and %d, at %+v and %+v", g, first.id, m.id, a, b)
		}
	}
	if m.leases.String() != first.leases.String() || m.decided != first.decided || m.space.Compacted() != first.space.Compacted() {
		violated("members %d and %d have the leases %v and %v, the compactions %d (%d) and %d (%d)", first.id, m.id,
			&first.leases, &m.leases, first.space.Compacted(), first.decided, m.space.Compacted(), m.decided)
	}
	if !thoroughly {
		return
	}
	hash := func(m *member) uint32 {
		sum, _, err := m.space.HashKV(context.Background(), m.line.Closed())
		must(err)
		return sum
	}
	if a, b := hash(first), hash(m); a != b {
		violated("members %d and %d have the hashes %x and %x", first.id, m.id, a, b)
	}
}

var _ = mvcc.FirstRevision
