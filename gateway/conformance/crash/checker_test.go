package crash_test

import (
	"cmp"
	"slices"
	"time"
)

// checker holds what clients were told against the history, one revision after
// another. It is used by one goroutine.
type checker struct {
	*ledger
	history *history
	model   *model

	counts counts
}

// counts are for the closing table.
type counts struct {
	acknowledged int // writes found as they were acknowledged
	late         int // writes found that were not acknowledged
	lost         int // writes not found that were not acknowledged
	looks        int // answers that were true
	expired      int // leases that ended by themselves
	gaps         int // revisions that a kill left out
}

func newChecker(l *ledger, h *history) *checker {
	return &checker{ledger: l, history: h, model: newModel()}
}

// advance checks everything up to a revision that no client has passed.
//
// REQUIRES: no client is at work, and all revisions up to rev are in the
// history, if they are anywhere.
func (c *checker) advance(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := c.model.revision + 1; r <= rev; r++ {
		c.revision(r)
	}
	for _, r := range sortedKeys(c.writes) {
		c.violation("%v is not in the history, which has come to %d", c.writes[r], rev)
		delete(c.writes, r)
	}
	for _, o := range c.open {
		if o.outcome == unanswered {
			c.counts.lost++
		}
	}
	clear(c.open)
	for _, l := range c.looks {
		c.look(l)
	}
	c.looks = nil
	for _, r := range sortedKeys(c.revokes) {
		for _, o := range c.revokes[r] {
			c.look(look{what: o.String(), rev: o.rev, key: everything, end: everything, shown: c.unattached(o)})
		}
	}
	clear(c.revokes)
}

// unattached is all there is at a revocation's revision, without the lease's
// keys.
func (c *checker) unattached(o *op) []item {
	all := c.model.scan(everything, everything, o.rev)
	return slices.DeleteFunc(all, func(i item) bool { return i.lease == o.revoke })
}

// look compares what somebody was shown with the model.
func (c *checker) look(l look) {
	if want := c.model.scan(l.key, l.end, l.rev); !slices.Equal(want, l.shown) {
		c.violation("%s: [%q, %q) at revision %d was %s", l.what, l.key, l.end, l.rev, difference(want, l.shown))
		return
	}
	c.counts.looks++
}

// revision checks the revision after the model's, and makes it part of it.
func (c *checker) revision(rev int64) {
	seen, ok := c.history.at(rev)
	if !ok {
		if c.mayBeMissing(rev) {
			c.counts.gaps++
		} else {
			c.violation("revision %d is missing in the history", rev)
		}
		return // A write that was told this revision is found in c.writes later.
	}
	if o := c.explain(rev, seen); o != nil {
		c.compare(o, rev, seen.events)
		delete(c.open, o.id)
	}
	c.model.apply(rev, seen.events)
}

// mayBeMissing says that a kill excuses a revision's absence.
func (c *checker) mayBeMissing(rev int64) bool {
	for i := range len(c.lives) - 1 {
		if c.lives[i].told < rev && rev < c.lives[i+1].mark {
			return true
		}
	}
	return false
}

// explain finds the op that made a revision. It returns nil if there is none,
// which it reports if need be.
func (c *checker) explain(rev int64, seen account) *op {
	if o := c.writes[rev]; o != nil {
		delete(c.writes, rev)
		c.counts.acknowledged++
		return o
	}
	for _, e := range seen.events {
		if !e.removed {
			return c.explainPut(rev, e)
		}
	}
	for _, o := range c.revokes[rev] {
		if events, _ := c.model.effects(o, rev); slices.Equal(events, seen.events) {
			c.counts.acknowledged++
			return o
		}
	}
	for _, id := range sortedKeys(c.open) {
		o := c.open[id]
		if o.outcome != unanswered || !c.model.holds(o) || !c.inTime(o, rev) {
			continue
		}
		if events, _ := c.model.effects(o, rev); slices.Equal(events, seen.events) {
			c.counts.late++
			return o
		}
	}
	if !c.expiry(rev, seen) {
		c.violation("revision %d is %v, and nobody asked for that", rev, seen.events)
	}
	return nil
}

// explainPut finds the op whose id is in a value.
func (c *checker) explainPut(rev int64, e event) *op {
	o := c.open[idIn(e.value)]
	switch {
	case o == nil:
		c.violation("revision %d has %v, of a write that nobody sent or that had its revision already", rev, e)
		return nil
	case o.outcome != unanswered:
		c.violation("revision %d has %v of %v", rev, e, o)
	case !c.inTime(o, rev):
		c.violation("revision %d has %v of %v, which was sent before a kill; the first write after that is %d",
			rev, e, o, c.lives[o.life+1].mark)
	case !c.model.holds(o):
		c.violation("revision %d has %v of %v, whose guard did not hold", rev, e, o)
	default:
		c.counts.late++
	}
	return o
}

// inTime says that an op that was not answered may be revision rev.
func (c *checker) inTime(o *op, rev int64) bool {
	return o.life+1 >= len(c.lives) || rev < c.lives[o.life+1].mark
}

// compare holds an op's events, and its answer if there was one, against the
// model.
func (c *checker) compare(o *op, rev int64, got []event) {
	events, was := c.model.effects(o, rev)
	if !slices.Equal(events, got) {
		c.violation("revision %d, of %v, is %s", rev, o, difference(events, got))
	}
	if o.outcome != applied {
		return
	}
	if !c.model.holds(o) {
		c.violation("%v, and its guard did not hold", o)
	}
	for i, before := range was {
		if !slices.Equal(before, o.was[i]) {
			c.violation("%v: before step %d there was, by its answer, %s", o, i, difference(before, o.was[i]))
		}
	}
}

// expiry says that a revision is the end of a lease by itself, and holds it
// against the time.
func (c *checker) expiry(rev int64, seen account) bool {
	for _, id := range sortedKeys(c.leases) {
		l := c.leases[id]
		if !l.short() || l.revoked || !slices.Equal(removals(c.model.attached(id, c.model.revision), rev), seen.events) {
			continue
		}
		if after := seen.when.Sub(l.asked); after < time.Duration(l.ttl)*time.Second {
			c.violation("revision %d is the end of lease %d, of %d s, %v after it was asked for", rev, id, l.ttl, after)
		}
		c.counts.expired++
		return true
	}
	return false
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
