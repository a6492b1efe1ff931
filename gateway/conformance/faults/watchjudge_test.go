package faults

import "slices"

// watchJudge holds what a watcher was told against the truth:
//
//   - ordered: revisions come in order, and the events of one as its request
//     made them;
//   - unique: what was told is not told again, nor what lies before the start;
//   - atomic: all of a revision comes in one response, or in the fragments of
//     one, and so never before and after a broken stream;
//   - complete: nothing in between is left out, and each event is as in the
//     truth, with the state before if that was asked for;
//   - resumable: all this holds over broken streams, for a watcher that goes on
//     where it was;
//   - progress to a revision is told only behind all events up to it.
type watchJudge struct {
	*verdict
	*watchLog
	truth *truth
	model *model

	next   int64    // the first revision that has not been told
	parts  []told   // of a response that comes in fragments
	prevs  []stored // of the parts
	right  int      // events
	stream int64    // the greatest revision in this stream
	begun  bool     // next is known
}

// passWatch checks a watcher, who has been waited for until it was told a
// revision, and returns how many events it was rightly told.
func passWatch(v *verdict, w *watchLog, t *truth, m *model, until int64) int {
	j := &watchJudge{verdict: v, watchLog: w, truth: t, model: m}
	for _, d := range w.deliveries {
		if !j.delivery(d) {
			return j.right
		}
	}
	if left := t.in(w.key, w.end, j.next, until); w.whole && len(left) > 0 {
		j.violation("%s was told up to %d only, and never %d events from %v on", w.name, j.next-1, len(left), left[0].Value())
	}
	return j.right
}

// delivery checks what comes next. After the first that is wrong there is no
// use in going on.
func (j *watchJudge) delivery(d delivery) bool {
	if d.rev > j.truth.last() && d.kind != opened {
		j.violation("%s is told revision %d at %v; the history ends at %d", j.name, d.rev, d.at, j.truth.last())
		return false
	}
	switch d.kind {
	case opened:
		j.parts, j.prevs, j.stream = nil, nil, 0
		if j.begun = d.rev != 0; j.begun {
			j.next = d.rev
		}
		return true
	case created:
		if !j.begun {
			j.next, j.begun = d.rev+1, true
		}
		return true
	case progress:
		return j.progressed(d)
	default:
		return j.happened(d)
	}
}

func (j *watchJudge) progressed(d delivery) bool {
	if d.rev < j.stream && !j.library {
		j.violation("%s is told of progress to %d at %v, after %d", j.name, d.rev, d.at, j.stream)
		return false
	}
	if len(j.parts) > 0 {
		j.violation("%s is told of progress to %d at %v amid the fragments of %v", j.name, d.rev, d.at, j.parts[0].Value())
		return false
	}
	if left := j.truth.in(j.key, j.end, j.next, d.rev); len(left) > 0 {
		j.violation("%s is told of progress to %d at %v, ahead of %d events from %v on", j.name, d.rev, d.at, len(left), left[0].Value())
		return false
	}
	j.stream = max(j.stream, d.rev)
	j.next = max(j.next, d.rev+1)
	return true
}

func (j *watchJudge) happened(d delivery) bool {
	j.parts = append(j.parts, d.events...)
	prev := d.prev
	if prev == nil {
		prev = make([]stored, len(d.events))
	}
	j.prevs = append(j.prevs, prev...)
	if d.fragment {
		if !j.fragment {
			j.violation("%s is told in fragments at %v, and did not ask for that", j.name, d.at)
			return false
		}
		return true
	}
	got, prevs := j.parts, j.prevs
	j.parts, j.prevs = nil, nil
	from, to := got[0].Value().mod, got[len(got)-1].Value().mod
	switch {
	case !slices.IsSortedFunc(got, func(a, b told) int { return int(a.Value().mod - b.Value().mod) }):
		j.violation("%s is told out of order at %v: revisions %d to %d", j.name, d.at, from, to)
		return false
	case from < j.next:
		j.violation("%s is told of %v at %v, after everything up to %d", j.name, got[0].Value(), d.at, j.next-1)
		return false
	case d.rev < to:
		j.violation("%s is told of revision %d at %v in a response of revision %d", j.name, to, d.at, d.rev)
		return false
	}
	if want := j.truth.in(j.key, j.end, j.next, to); !slices.Equal(want, got) {
		j.violation("%s is told of revisions %d to %d at %v: %s", j.name, j.next, to, d.at, difference(want, got, showTold))
		return false
	}
	for i, e := range got {
		if !j.before(e.Value(), prevs[i]) {
			return false
		}
	}
	j.right += len(got)
	j.stream, j.next = max(j.stream, to), to+1
	return true
}

// before checks the state that was there before an event.
func (j *watchJudge) before(e event, got stored) bool {
	var want stored
	if j.prev {
		want, _ = j.model.at(e.key, e.mod-1)
	}
	if got == want {
		return true
	}
	show := func(s stored) string {
		if s == (stored{}) {
			return "nothing"
		}
		return s.Value().String()
	}
	j.violation("%s is told of %v that before there was %s, want %s", j.name, e, show(got), show(want))
	return false
}
