package revline

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// merge holds the events that the groups have applied, until the closed revision
// reaches them, and gives them out in revision order.
type merge struct {
	queues   []eventQueue
	held     int
	maxBytes int
	// missing, if not 0, is the greatest revision whose events were not all kept;
	// none up to it are.
	missing int64
}

// eventQueue are one group's events, in revision order.
type eventQueue struct {
	events []*mvccpb.Event
	subs   []uint32
}

// eventOverhead is about what an event takes beside its key and value.
const eventOverhead = 200

func eventBytes(e *mvccpb.Event) int { return len(e.Kv.Key) + len(e.Kv.Value) + eventOverhead }

func (m *merge) init(groups, maxBytes int) {
	m.queues = make([]eventQueue, groups)
	m.maxBytes = maxBytes
}

// missed notes that events up to revision were not seen, or will not be.
func (m *merge) missed(revision, closed int64) {
	if revision <= closed {
		return
	}
	m.missing = max(m.missing, revision)
	for i := range m.queues {
		q := &m.queues[i]
		q.drop(m, q.upTo(place{m.missing + 1, 0}))
	}
}

// add takes a group's next events.
func (m *merge) add(group int, out *mvcc.Outcome) {
	q := &m.queues[group]
	for i, e := range out.Events {
		if e.Kv.ModRevision <= m.missing {
			continue
		}
		q.events = append(q.events, e)
		q.subs = append(q.subs, out.Subs[i])
		m.held += eventBytes(e)
	}
	if m.held <= m.maxBytes {
		return
	}
	for i := range m.queues {
		if q := &m.queues[i]; len(q.events) > 0 {
			m.missing = max(m.missing, q.at(len(q.events)-1).main)
		}
		m.queues[i] = eventQueue{}
	}
	m.held = 0
}

// take returns the events up to the closed revision. restored, if not 0, is a
// revision up to which they are missing.
func (m *merge) take(closed int64) (events []*mvccpb.Event, restored int64) {
	if m.missing > 0 {
		restored = min(m.missing, closed)
		if m.missing <= closed {
			m.missing = 0
		}
	}
	// Most often one group has events, and all of them can go.
	for {
		q, upTo := m.next(closed)
		if q == nil {
			return events, restored
		}
		n := q.upTo(upTo)
		if n == 0 {
			panic(fmt.Sprintf("revline: two groups have changed something at %d.%d", upTo.main, upTo.sub))
		}
		if events == nil {
			events = q.events[:n:n]
		} else {
			events = append(events, q.events[:n]...)
		}
		q.drop(m, n)
	}
}

// place is a revision's main and sub.
type place struct {
	main int64
	sub  uint32
}

func (p place) less(q place) bool { return p.main < q.main || p.main == q.main && p.sub < q.sub }

func (q *eventQueue) at(i int) place { return place{q.events[i].Kv.ModRevision, q.subs[i]} }

// upTo returns how many of the events lie before a place.
func (q *eventQueue) upTo(end place) int {
	n := 0
	for n < len(q.events) && q.at(n).less(end) {
		n++
	}
	return n
}

// drop takes the first n events out.
func (q *eventQueue) drop(m *merge, n int) {
	for _, e := range q.events[:n] {
		m.held -= eventBytes(e)
	}
	if n == len(q.events) {
		*q = eventQueue{}
		return
	}
	q.events, q.subs = q.events[n:], q.subs[n:]
}

// next returns the queue with the least event, nil if that is not closed, and
// the place up to which its events may go before those of the others.
func (m *merge) next(closed int64) (least *eventQueue, upTo place) {
	upTo = place{closed + 1, 0}
	for i := range m.queues {
		q := &m.queues[i]
		if len(q.events) == 0 {
			continue
		}
		switch first := q.at(0); {
		case least == nil && first.less(upTo):
			least = q
		case least == nil:
		case first.less(least.at(0)):
			upTo, least = least.at(0), q
		case first.less(upTo):
			upTo = first
		}
	}
	return least, upTo
}
