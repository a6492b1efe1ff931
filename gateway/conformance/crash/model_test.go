package crash_test

import (
	"slices"
	"sort"
)

// model is the store as it has to be: every state that every key ever had. A
// compaction takes nothing from it.
type model struct {
	revision int64    // what has been applied
	keys     []string // ever written; sorted
	states   map[string][]state
}

// state is a key's from item.mod on.
type state struct {
	item
	gone bool
}

func newModel() *model { return &model{revision: 1, states: map[string][]state{}} }

// at is a key's state at a revision, if it existed.
func (m *model) at(key string, rev int64) (item, bool) {
	states := m.states[key]
	i := sort.Search(len(states), func(i int) bool { return states[i].mod > rev })
	if i == 0 || states[i-1].gone {
		return item{}, false
	}
	return states[i-1].item, true
}

// scan is what a range request for key and end answers at a revision.
func (m *model) scan(key, end string, rev int64) []item {
	return m.filter(rev, func(i item) bool { return covers(key, end, i.key) })
}

// attached are the keys of a lease.
func (m *model) attached(lease, rev int64) []item {
	return m.filter(rev, func(i item) bool { return i.lease == lease })
}

func (m *model) filter(rev int64, want func(item) bool) []item {
	items := []item{}
	for _, key := range m.keys {
		if i, ok := m.at(key, rev); ok && want(i) {
			items = append(items, i)
		}
	}
	return items
}

// effects are the events that an op must make as revision rev, and what each of
// its steps must say was there before.
//
// REQUIRES: m.revision == rev-1.
func (m *model) effects(o *op, rev int64) (events []event, was [][]item) {
	for _, s := range o.steps {
		before := m.scan(s.key, s.end, m.revision)
		was = append(was, before)
		if s.remove {
			events = append(events, removals(before, rev)...)
			continue
		}
		i := item{key: s.key, value: s.value, create: rev, mod: rev, version: 1, lease: s.lease}
		if len(before) > 0 {
			i.create, i.version = before[0].create, before[0].version+1
		}
		events = append(events, event{item: i})
	}
	if o.revoke != 0 {
		events = removals(m.attached(o.revoke, m.revision), rev)
	}
	return events, was
}

// holds says that an op's guard lets it pass.
func (m *model) holds(o *op) bool {
	if o.guard == nil {
		return true
	}
	i, _ := m.at(o.guard.key, m.revision) // mod is 0 if there is none.
	return i.mod == o.guard.mod
}

func removals(items []item, rev int64) []event {
	var events []event
	for _, i := range items {
		events = append(events, event{item: item{key: i.key, mod: rev}, removed: true})
	}
	return events
}

// apply makes events part of the model.
//
// REQUIRES: m.revision < rev.
func (m *model) apply(rev int64, events []event) {
	for _, e := range events {
		if i, known := slices.BinarySearch(m.keys, e.key); !known {
			m.keys = slices.Insert(m.keys, i, e.key)
		}
		s := state{item: e.item, gone: e.removed}
		s.mod = rev // Whatever the event says: at orders by it.
		m.states[e.key] = append(m.states[e.key], s)
	}
	m.revision = rev
}
