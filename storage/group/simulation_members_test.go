package group_test

import (
	"slices"

	"github.com/pebbledash/pebbledash/storage/group"
)

// memberChange is one change of the members.
type memberChange struct {
	kind group.ConfChange
	id   uint64
}

// reconfigure has the sequencer change the members, in one of the ways in which
// it can't lose its quorum by it.
func (c *cluster) reconfigure() {
	m := c.one(func(m *member) bool { return m.up && m.reigning })
	if m == nil || m.changing {
		return
	}
	r := m.core().Replicas()
	learner := c.one(func(o *member) bool { return o.up && slices.Contains(r.Learners, o.id) })
	switch n := c.rng.IntN(4); {
	case n == 0 && len(c.members) < maxMembers && len(r.Voters) < 5 && len(r.Learners) == 0:
		kind := group.AddLearner
		if c.rng.IntN(3) == 0 {
			kind = group.AddVoter
		}
		c.change(m, memberChange{kind, uint64(len(c.members) + 1)})
	case n == 1 && learner != nil:
		c.change(m, memberChange{group.AddVoter, learner.id})
	case n == 2 && len(r.Voters) > 1:
		id := r.Voters[c.rng.IntN(len(r.Voters))]
		for _, v := range r.Voters {
			if v != id && !c.members[v-1].up {
				return // who is left would not be enough
			}
		}
		if id == m.id {
			// Who removes stays; the operator asks again.
			m.core().GiveLead(m.another())
			return
		}
		c.change(m, memberChange{group.RemoveReplica, id})
	case n == 3 && learner != nil && c.rng.IntN(3) == 0:
		c.change(m, memberChange{group.RemoveReplica, learner.id})
	}
}

// change is member.Member.serveMembers. A member that is to come is there from
// the beginning, as one is whose operator is quick.
func (c *cluster) change(m *member, change memberChange) {
	c.trace("member %d changes the members: %+v", m.id, change)
	m.changing = true
	t := m.newTask()
	done := func(err error) {
		m.changing = false
		if err == nil {
			c.tally.ConfChanges++
		}
		c.trace("member %d has changed the members: %v", m.id, err)
	}
	if int(change.id) > len(c.members) {
		o := c.newMember(true)
		o.gone = true // until core knows it
	}
	last := func(err error) {
		if err != nil {
			done(err)
			return
		}
		m.follow(t, m.core().Replicas(), done)
	}
	core := func(err error) {
		if err != nil {
			done(err)
			return
		}
		m.until(t, func() bool { return m.core().Replicas().Equal(change.after(m.core().Replicas())) }, func() {
			m.core().ProposeConfChange(m.core().Replicas(), change.kind, change.id, memberRow(change.id))
		}, last)
	}
	t.wait(always, func() {
		m.follow(t, m.core().Replicas(), func(err error) {
			if err == nil && change.kind == group.RemoveReplica {
				m.follow(t, m.core().Replicas().Without(change.id), core)
				return
			}
			core(err)
		})
	})
}

// after returns the replicas with the change.
func (change memberChange) after(r group.Replicas) group.Replicas {
	without := r.Without(change.id)
	switch change.kind {
	case group.AddVoter:
		without.Voters = append(without.Voters, change.id)
	case group.AddLearner:
		if slices.Contains(r.Voters, change.id) {
			return r
		}
		without.Learners = append(without.Learners, change.id)
	case group.RemoveReplica, group.UpdateMember:
	}
	slices.Sort(without.Voters)
	slices.Sort(without.Learners)
	return without
}

// follow is member.Member.followInAll.
func (m *member) follow(t *task, to group.Replicas, done func(error)) {
	var next func(i int)
	next = func(i int) {
		if i == len(m.groups) {
			done(nil)
			return
		}
		h := m.groups[i]
		m.until(t, func() bool { return h.Replicas().Equal(to) }, func() {
			from := h.Replicas()
			if change, ok := stepTo(from, to); ok {
				h.ProposeConfChange(from, change.kind, change.id, nil)
			}
		}, func(err error) {
			if err != nil {
				done(err)
				return
			}
			next(i + 1)
		})
	}
	next(1)
}

// stepTo is member.step.
func stepTo(from, to group.Replicas) (memberChange, bool) {
	for _, id := range to.Voters {
		if !slices.Contains(from.Voters, id) {
			return memberChange{group.AddVoter, id}, true
		}
	}
	for _, id := range to.Learners {
		if !from.Has(id) {
			return memberChange{group.AddLearner, id}, true
		}
	}
	for _, id := range append(slices.Clone(from.Voters), from.Learners...) {
		if !to.Has(id) {
			return memberChange{group.RemoveReplica, id}, true
		}
	}
	return memberChange{}, false
}

// until is member.Member.until, for a caller who waits for ever.
func (m *member) until(t *task, is func() bool, propose func(), done func(error)) {
	switch {
	case is():
		done(nil)
		return
	case !m.reigning:
		done(group.ErrLeaderChanged)
		return
	}
	propose()
	changed, ticks := m.changed, m.ticks
	t.wait(func() bool { return m.changed != changed || m.ticks != ticks }, func() { m.until(t, is, propose, done) })
}

// admit lets members that core knows be started.
func (c *cluster) admit(r group.Replicas) {
	for _, m := range c.members {
		if m.life == 0 && r.Has(m.id) {
			m.gone = false
		}
	}
}

// followCore brings the groups' replicas to core's wherever they differ.
func (m *member) followCore() {
	if !m.reigning || m.changing {
		return
	}
	core := m.core().Replicas()
	for _, h := range m.groups[1:] {
		if !h.Replicas().Equal(core) {
			m.changing = true
			t := m.newTask()
			t.wait(always, func() { m.follow(t, core, func(error) { m.changing = false }) })
			return
		}
	}
}
