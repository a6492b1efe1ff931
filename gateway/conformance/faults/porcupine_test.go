package faults

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	// windowOps is how many requests porcupine is given at a time. It needs
	// memory by the square of them.
	windowOps = 10_000

	// porcupineTimeout is never reached by a history of that size, and if it
	// were that would be a failure.
	porcupineTimeout = time.Minute
)

// placed is a request at its place in the order: a change is its revision; a
// read follows the change of the revision in its header.
type placed struct {
	*op
	rev    int64
	change bool
	before int64 // of a change: the revision that it follows
}

// line is porcupine's state: the whole store at a revision. It is never
// changed, so that the search can come back to it.
type line struct {
	rev    int64
	reads  int      // done at rev
	items  []stored // sorted by key
	parent *line    // at the revision before
}

func (l *line) scan(key, end string) []stored {
	i := sort.Search(len(l.items), func(i int) bool { return l.items[i].Value().key >= key })
	items := []stored{}
	for ; i < len(l.items) && covers(key, end, l.items[i].Value().key); i++ {
		items = append(items, l.items[i])
	}
	return items
}

func (l *line) attached(lease int64) []stored {
	return slices.DeleteFunc(slices.Clone(l.items), func(s stored) bool { return s.Value().lease != lease })
}

// order finds the places, sorted. Those of unknown outcome that are not in the
// history are left out: nothing can be said of them. So are reads that do not
// claim to be linearizable.
func order(h *history) []placed {
	var all []placed
	changes := []int64{firstRevision - 1}
	for _, o := range h.ops {
		p := placed{op: o, change: true}
		switch {
		case o.changes():
			p.rev = o.rev
		case o.place != 0: // of unknown outcome, or a revocation
			p.rev = o.place
		case o.outcome == answered && !o.serializable && !o.grant && o.revoke == 0:
			p.rev, p.change = o.rev, false
		default:
			continue
		}
		if p.change {
			changes = append(changes, p.rev)
		}
		all = append(all, p)
	}
	slices.Sort(changes)
	upTo := func(rev int64) int64 { // the last change that is not later
		i := sort.Search(len(changes), func(i int) bool { return changes[i] > rev })
		return changes[max(i-1, 0)]
	}
	for i := range all {
		if p := &all[i]; p.change {
			p.before = upTo(p.rev - 1)
		} else {
			p.rev = upTo(p.rev)
		}
	}
	slices.SortStableFunc(all, func(a, b placed) int { return cmp.Compare(a.rev, b.rev) })
	return all
}

// linearize has porcupine search for an order of all requests that is one of
// real time, in which each answers what the store would. The whole store is one
// object; revisions keep the search short: a change can be done only on the
// revision before its own, and a read only at its header's. It is done in
// windows of revisions, each of which begins with the state that the one
// before must end with.
//
// REQUIRES: places are known; see pass.
func linearize(v *verdict, h *history, m *model, window int) (windows int) {
	begin := int64(firstRevision - 1)
	for all := order(h); ; {
		n := min(window, len(all))
		for n < len(all) && all[n].rev == all[n-1].rev {
			n++
		}
		end := begin
		for _, p := range all[:n] {
			end = max(end, p.rev)
		}
		last := past{m, end}
		if n == len(all) {
			last.rev = max(end, h.truth.last())
		}
		windows++
		switch porcupine.CheckOperationsTimeout(storeModel(all[:n], past{m, begin}), operations(all[:n], end, last), porcupineTimeout) {
		case porcupine.Ok:
		case porcupine.Illegal:
			v.violation("porcupine finds no order of revisions %d to %d (%d requests)", begin, end, n)
		default:
			v.violation("porcupine has not come to an end in %v with revisions %d to %d (%d requests)", porcupineTimeout, begin, end, n)
		}
		if all = all[n:]; len(all) == 0 {
			return windows
		}
		begin = end
	}
}

// operations are a window's requests, and one behind all of them that looks at
// what there is in the end.
func operations(all []placed, end int64, last past) []porcupine.Operation {
	ops := make([]porcupine.Operation, 0, len(all)+1)
	for i := range all {
		p := &all[i]
		ret := int64(p.ret)
		if p.outcome == unknown {
			ret = math.MaxInt64
		}
		ops = append(ops, porcupine.Operation{Input: p, Call: int64(p.call), Return: ret})
	}
	look := &placed{rev: end, op: &op{
		request: request{then: []step{{verb: get, key: everything, end: everything}}},
		answer:  answer{held: true, parts: []part{found(last.scan(everything, everything), 0)}},
		outcome: answered,
	}}
	return append(ops, porcupine.Operation{Input: look, Call: math.MaxInt64 - 1, Return: math.MaxInt64})
}

// storeModel is the store, from a state on.
func storeModel(all []placed, begin past) porcupine.Model {
	// A change comes only when all reads of the revision before have come: it
	// would be too late for them later. That is no restriction of what can be
	// found, and keeps the search from trying what must fail.
	reads := map[int64]int{}
	for _, p := range all {
		if !p.change {
			reads[p.rev]++
		}
	}
	return porcupine.Model{
		Init: func() any {
			return &line{rev: begin.rev, items: begin.scan(everything, everything)}
		},
		Step: func(state, input, _ any) (bool, any) {
			l, p := state.(*line), input.(*placed)
			if p.change {
				if p.before != l.rev || l.reads != reads[l.rev] {
					return false, nil
				}
				return l.change(p)
			}
			return l.read(p)
		},
		Equal: func(a, b any) bool {
			l, o := a.(*line), b.(*line)
			return l.rev == o.rev && l.reads == o.reads && slices.Equal(l.items, o.items)
		},
		Hash: func(state any) uint64 {
			l := state.(*line)
			return uint64(l.rev)*1_000_003 + uint64(l.reads)
		},
		DescribeOperation: func(input, _ any) string { return input.(*placed).String() },
		DescribeState:     func(state any) string { return fmt.Sprint(state.(*line).rev) },
	}
}

// change has a request make its revision.
func (l *line) change(p *placed) (bool, any) {
	x := execute(l, &p.request, p.rev)
	if len(x.events) == 0 || !p.agrees(x) {
		return false, nil
	}
	next := &line{rev: p.rev, items: l.items, parent: l}
	for _, e := range x.events {
		next.items = with(next.items, e)
	}
	return true, next
}

// read has a request look.
func (l *line) read(p *placed) (bool, any) {
	if p.rev != l.rev {
		return false, nil
	}
	at := l
	if old := p.then[0].rev; old != 0 {
		for at != nil && at.rev > old {
			at = at.parent
		}
	}
	// What is older than the window is left to the judge.
	if at != nil && !p.agrees(execute(at, &p.request, 0)) {
		return false, nil
	}
	next := *l
	next.reads++
	return true, &next
}

// agrees says that a request's answer, if there was one, is that of an
// execution.
func (p *placed) agrees(x execution) bool {
	if p.outcome != answered || p.revoke != 0 {
		return true
	}
	return p.held == x.held && slices.EqualFunc(p.parts, x.parts, part.equal)
}
