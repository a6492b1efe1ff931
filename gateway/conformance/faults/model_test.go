package faults

import (
	"slices"
	"sort"
	"strings"
	"unique"
)

// snapshot is the store at a revision.
type snapshot interface {
	// scan is what there is in a range, in the order of keys.
	scan(key, end string) []stored
	// attached is what a lease would take along.
	attached(lease int64) []stored
}

// execution is what a request does and says.
type execution struct {
	held   bool
	parts  []part
	events []event // in the order of steps
}

// execute has a request done on a snapshot, as revision rev if it changes
// anything. This is the whole of what the store has to do.
func execute(s snapshot, q *request, rev int64) execution {
	if q.revoke != 0 {
		return execution{held: true, events: removals(s.attached(q.revoke), rev)}
	}
	x := execution{held: holds(s, q)}
	o := overlay{snapshot: s}
	for _, st := range q.branch(x.held) {
		x.parts = append(x.parts, o.step(st, rev))
	}
	x.events = o.events
	return x
}

// holds says that a request's guards let it pass.
func holds(s snapshot, q *request) bool {
	for _, g := range q.guards {
		var mod int64
		if found := s.scan(g.key, ""); len(found) > 0 {
			mod = found[0].Value().mod
		}
		if mod != g.mod {
			return false
		}
	}
	return true
}

func removals(items []stored, rev int64) []event {
	var events []event
	for _, i := range items {
		events = append(events, removal(i.Value().key, rev))
	}
	return events
}

func removal(key string, rev int64) event {
	return event{item: item{key: key, mod: rev}, removed: true}
}

// overlay is a snapshot and what the steps before have changed.
type overlay struct {
	snapshot
	events []event
}

func (o *overlay) step(s step, rev int64) part {
	switch s.verb {
	case put:
		before := o.scan(s.key, "")
		i := item{key: s.key, value: s.value, create: rev, mod: rev, version: 1, lease: s.lease}
		if len(before) > 0 {
			b := before[0].Value()
			i.create, i.version = b.create, b.version+1
		}
		o.events = append(o.events, event{item: i})
		if !s.prev {
			return part{}
		}
		return part{items: before}
	case remove:
		gone := o.scan(s.key, s.end)
		o.events = append(o.events, removals(gone, rev)...)
		p := part{count: int64(len(gone))}
		if s.prev {
			p.items = gone
		}
		return p
	default:
		return found(o.scan(s.key, s.end), s.limit)
	}
}

// found is what a get says of what there is.
func found(items []stored, limit int64) part {
	p := part{items: items, count: int64(len(items))}
	if limit > 0 && p.count > limit {
		p.items, p.more = items[:limit], true
	}
	return p
}

func (o *overlay) scan(key, end string) []stored {
	items := o.snapshot.scan(key, end)
	for _, e := range o.events {
		if covers(key, end, e.key) {
			items = with(items, e)
		}
	}
	return items
}

// with is a sorted list after an event. The list itself is left alone.
func with(items []stored, e event) []stored {
	i, known := slices.BinarySearchFunc(items, e.key, func(s stored, key string) int {
		return strings.Compare(s.Value().key, key)
	})
	switch {
	case e.removed && !known:
		return items
	case e.removed:
		return append(items[:i:i], items[i+1:]...)
	case known:
		items = slices.Clone(items)
		items[i] = unique.Make(e.item)
		return items
	default:
		return append(append(items[:i:i], unique.Make(e.item)), items[i:]...)
	}
}

// model is the store with all its past.
type model struct {
	revision int64    // what has been applied
	keys     []string // ever written; sorted
	states   map[string][]state
}

// state is a key's, from mod on.
type state struct {
	mod  int64
	item stored
	gone bool
}

func newModel() *model { return &model{revision: firstRevision - 1, states: map[string][]state{}} }

// firstRevision is that of a new store's first change.
const firstRevision = 2

// at is a key at a revision, if it existed.
func (m *model) at(key string, rev int64) (stored, bool) {
	states := m.states[key]
	i := sort.Search(len(states), func(i int) bool { return states[i].mod > rev })
	if i == 0 || states[i-1].gone {
		return stored{}, false
	}
	return states[i-1].item, true
}

// past is the model at a revision.
type past struct {
	*model
	rev int64
}

func (p past) scan(key, end string) []stored {
	items := []stored{}
	i, _ := slices.BinarySearch(p.keys, key)
	for ; i < len(p.keys) && covers(key, end, p.keys[i]); i++ {
		if s, ok := p.at(p.keys[i], p.rev); ok {
			items = append(items, s)
		}
	}
	return items
}

func (p past) attached(lease int64) []stored {
	return slices.DeleteFunc(p.scan(everything, everything), func(s stored) bool { return s.Value().lease != lease })
}

// apply makes a revision's events part of the model.
//
// REQUIRES: m.revision < rev.
func (m *model) apply(rev int64, events []event) {
	for _, e := range events {
		if i, known := slices.BinarySearch(m.keys, e.key); !known {
			m.keys = slices.Insert(m.keys, i, e.key)
		}
		s := state{mod: rev, gone: e.removed}
		if !e.removed {
			s.item = unique.Make(e.item)
		}
		m.states[e.key] = append(m.states[e.key], s)
	}
	m.revision = rev
}
