package faults

import (
	"slices"
	"sort"
	"strings"
	"time"
)

// history is all that is known when a session is over.
type history struct {
	ops   []*op
	truth *truth
	// sightings are revisions that watchers were told.
	sightings []sighting
	// mayLeaveGaps says that a fault excuses revisions that do not exist.
	mayLeaveGaps bool
}

// sighting is that somebody knew at a time that the store had come to rev.
type sighting struct {
	at  time.Duration
	rev int64
	op  *op    // that was answered, or nil
	by  string // who, if it is no op
}

func (s sighting) who() string {
	if s.op != nil {
		return s.op.String()
	}
	return s.by
}

// counts are for the closing table.
type counts struct {
	acknowledged int // changes found as they were answered
	late         int // changes found whose outcome was unknown
	absent       int // changes not found whose outcome was unknown
	refused      int
	reads        int // answers that were true
	gaps         int // revisions that do not exist
}

// judge holds everything that clients were told against the truth, in about
// linear time. The place of a change is its revision, and that of a read is
// the revision in its header: so the order of all requests is known, and what
// has to be shown is that each is right at its place, and that the order is
// one of real time.
//
//  1. Each revision is what one request makes of the one before: it does all
//     that was asked, in one revision, and answers what the state before says.
//  2. Each change that was answered is there. (So none is lost, and no two were
//     given one revision.) Each of which the outcome is unknown is there once at
//     most; and none that was refused.
//  3. Each read, and each transaction that changed nothing, says what there was
//     at the revision in its header.
//  4. Whoever is asked after somebody was told a revision answers at that one or
//     later; a change comes later.
//  5. Nobody is told a revision before the requests of all revisions up to it
//     were sent.
type judge struct {
	*verdict
	*history

	model  *model
	counts counts

	byID      map[int64]*op
	changes   map[int64]*op // answered, by revision
	removers  []*op         // have no value to know them by, and no place yet
	revokedAt map[int64]int64
	floors    []sighting // by time; each rev is the greatest until then
}

// pass checks a history and returns what the judge has learned of it.
func pass(v *verdict, h *history) *judge {
	j := &judge{
		verdict: v, history: h, model: newModel(),
		byID: map[int64]*op{}, changes: map[int64]*op{}, revokedAt: map[int64]int64{},
	}
	j.sort()
	j.replay()
	j.lost()
	j.answers()
	j.realTime()
	return j
}

// sort puts the requests where they can be found.
func (j *judge) sort() {
	var all []sighting
	for _, o := range j.ops {
		o.place = 0
		j.byID[o.id] = o
		if o.outcome == answered {
			all = append(all, sighting{at: o.ret, rev: o.rev, op: o})
		}
		switch {
		case o.changes():
			if other := j.changes[o.rev]; other != nil {
				j.violation("revision %d was given twice: to %v and to %v", o.rev, other, o)
			}
			j.changes[o.rev] = o
		case o.revoke != 0 && o.outcome != refused, o.outcome == unknown && !o.puts():
			j.removers = append(j.removers, o)
		}
	}
	j.floors = append(all, j.sightings...)
	slices.SortStableFunc(j.floors, func(a, b sighting) int { return int(a.at - b.at) })
	for i := 1; i < len(j.floors); i++ {
		if j.floors[i].rev < j.floors[i-1].rev {
			j.floors[i].rev, j.floors[i].op, j.floors[i].by = j.floors[i-1].rev, j.floors[i-1].op, j.floors[i-1].by
		}
	}
}

// floor is the greatest revision that anybody was told before a time.
func (j *judge) floor(at time.Duration) sighting {
	i := sort.Search(len(j.floors), func(i int) bool { return j.floors[i].at >= at })
	if i == 0 {
		return sighting{rev: firstRevision - 1, by: "nobody"}
	}
	return j.floors[i-1]
}

// replay goes through the revisions and finds the request of each.
func (j *judge) replay() {
	for _, rev := range j.truth.revs {
		before := j.model.revision
		if rev <= before {
			j.violation("revision %d comes after %d in the history", rev, before)
			return
		}
		if rev > before+1 {
			j.counts.gaps += int(rev - before - 1)
			if !j.mayLeaveGaps {
				j.violation("there is no revision between %d and %d", before, rev)
			}
		}
		events := plain(j.truth.at[rev])
		o := j.explain(rev, events)
		if o != nil {
			o.place = rev
			j.place(o, rev, events)
		}
		j.attach(rev, events)
		j.model.apply(rev, events)
	}
	for _, o := range j.ops {
		switch {
		case o.outcome == refused:
			j.counts.refused++
		case o.outcome == unknown && o.place == 0:
			j.counts.absent++
		}
	}
}

// explain finds the request that made a revision.
func (j *judge) explain(rev int64, events []event) *op {
	if o := j.changes[rev]; o != nil {
		return o
	}
	for _, e := range events {
		if e.removed {
			continue
		}
		o := j.byID[idIn(e.value)]
		switch {
		case o == nil:
			j.violation("revision %d has %v, which nobody asked for", rev, e)
		case o.place != 0:
			j.violation("revision %d has %v, and so has revision %d: %v", rev, e, o.place, o)
		case o.outcome != unknown:
			j.violation("revision %d has %v, of %v", rev, e, o)
		default:
			return o
		}
		return nil
	}
	return j.explainRemoval(rev, events)
}

// explainRemoval finds the request that has just removed something. Several
// may have; it does not matter which of them is taken, as long as each that is
// left can still be taken for what comes later. So those that fit nothing else
// go first.
func (j *judge) explainRemoval(rev int64, events []event) *op {
	rank := func(o *op) int {
		switch {
		case o.revoke != 0 && o.outcome == answered:
			return 0
		case len(o.guards) > 0:
			return 1
		case len(o.then) > 0 && o.then[0].end == "":
			return 2
		default:
			return 3
		}
	}
	best, tooLate := -1, -1
	for i, o := range j.removers {
		if o.revoke != 0 && o.outcome == answered && o.rev < rev {
			continue
		}
		if !slices.Equal(execute(past{j.model, j.model.revision}, &o.request, rev).events, events) {
			continue
		}
		if j.floor(o.call).rev >= rev {
			tooLate = i
			continue
		}
		if best < 0 || rank(o) < rank(j.removers[best]) {
			best = i
		}
	}
	switch {
	case best < 0 && tooLate >= 0:
		o := j.removers[tooLate]
		j.violation("revision %d is %v, which could only be of %v; but %d was known before that was sent", rev, events, o, j.floor(o.call).rev)
		return nil
	case best < 0:
		j.violation("revision %d is %v, which nobody asked for", rev, events)
		return nil
	}
	o := j.removers[best]
	j.removers = slices.Delete(j.removers, best, best+1)
	return o
}

// place holds a request that made a revision against the state before.
func (j *judge) place(o *op, rev int64, events []event) {
	if o.revoke != 0 {
		j.revokedAt[o.revoke] = rev
	}
	x := execute(past{j.model, j.model.revision}, &o.request, rev)
	if !slices.Equal(x.events, events) {
		j.violation("revision %d, of %v, is %s", rev, o, difference(x.events, events, event.String))
	}
	if o.outcome == unknown {
		j.counts.late++
		return
	}
	j.counts.acknowledged++
	if o.revoke == 0 {
		j.compare(o, x)
	}
}

// compare holds an answer against what it has to be.
func (j *judge) compare(o *op, x execution) {
	if x.held != o.held {
		j.violation("%v: the guards held: %t, want %t", o, o.held, x.held)
		return
	}
	for i, want := range x.parts {
		if i >= len(o.parts) || !want.equal(o.parts[i]) {
			got := part{}
			if i < len(o.parts) {
				got = o.parts[i]
			}
			j.violation("%v: the answer of step %d is %v, want %v", o, i, got, want)
			return
		}
	}
}

// attach sees to it that no key gets a lease that is gone.
func (j *judge) attach(rev int64, events []event) {
	j.removers = slices.DeleteFunc(j.removers, func(o *op) bool {
		// One that was answered, and had nothing to remove.
		ended := o.revoke != 0 && o.outcome == answered && o.rev < rev
		if ended {
			j.revokedAt[o.revoke] = o.rev
		}
		return ended
	})
	for _, e := range events {
		if at, gone := j.revokedAt[e.lease]; gone && e.lease != 0 {
			j.violation("revision %d has %v, whose lease was revoked at %d", rev, e, at)
		}
	}
}

// lost looks for changes that were answered and are not there.
func (j *judge) lost() {
	for _, rev := range sortedKeys(j.changes) {
		if o := j.changes[rev]; o.place == 0 {
			j.violation("lost: %v is not in the history, which ends at %d", o, j.truth.last())
		}
	}
}

// answers checks what changed nothing.
func (j *judge) answers() {
	for _, o := range j.ops {
		switch {
		case o.outcome == refused && strings.Contains(o.failure, leaseNotFound):
			j.refusal(o)
		case o.outcome != answered || o.grant || o.changes():
		case o.revoke != 0:
			if left := (past{j.model, o.rev}).attached(o.revoke); len(left) > 0 {
				j.violation("%v: at that revision %v is still attached", o, left[0].Value())
			}
		case o.rev > j.truth.last():
			j.violation("%v: the history ends at %d", o, j.truth.last())
		default:
			at := o.rev
			if old := o.then[0].rev; old != 0 {
				if at = old; old > o.rev {
					j.violation("%v: that revision is still to come", o)
				}
			}
			j.compare(o, execute(past{j.model, at}, &o.request, 0))
			j.counts.reads++
		}
	}
}

// leaseNotFound is in the error of a put with a lease that is not there.
const leaseNotFound = "lease not found"

// refusal checks that a lease that was not found may have been revoked by
// then.
func (j *judge) refusal(o *op) {
	for _, s := range o.then {
		if s.lease == 0 {
			continue
		}
		for _, r := range j.ops {
			if r.revoke == s.lease && r.call < o.ret {
				return
			}
		}
	}
	j.violation("%v: nobody had revoked it", o)
}

// realTime checks that the order by revisions is one of real time.
func (j *judge) realTime() {
	for _, o := range j.ops {
		at := o.rev
		if o.outcome != answered {
			at = o.place
		}
		if o.serializable || at == 0 {
			continue
		}
		floor := j.floor(o.call)
		switch isChange := o.place != 0; {
		case isChange && o.place <= floor.rev:
			j.violation("%v is revision %d, but before it was sent %d was told to %s", o, o.place, floor.rev, floor.who())
		case !isChange && at < floor.rev:
			j.violation("%v: before it was sent %d was told to %s", o, floor.rev, floor.who())
		}
	}
	j.future()
}

// future checks that nobody was told what had not been asked for.
func (j *judge) future() {
	sent := make(map[int64]time.Duration, len(j.truth.revs))
	for _, o := range j.ops {
		if o.place != 0 {
			sent[o.place] = o.call
		}
	}
	latest := make([]time.Duration, 0, len(j.truth.revs)) // of all revisions up to each
	for i, rev := range j.truth.revs {
		at := sent[rev]
		if i > 0 {
			at = max(at, latest[i-1])
		}
		latest = append(latest, at)
	}
	check := func(s sighting) {
		i := sort.Search(len(j.truth.revs), func(i int) bool { return j.truth.revs[i] > s.rev })
		if i > 0 && latest[i-1] > s.at {
			j.violation("%s was told revision %d at %v, before all that is in it had been sent, at %v", s.who(), s.rev, s.at, latest[i-1])
		}
	}
	for _, s := range j.sightings {
		check(s)
	}
	for _, o := range j.ops {
		if o.outcome == answered {
			check(sighting{at: o.ret, rev: o.rev, op: o})
		}
	}
}
