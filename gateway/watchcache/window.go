package watchcache

import (
	"bytes"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// segmentBatches is how many batches a segment holds at most.
const segmentBatches = 256

// batch is what one Publish brought: the events of whole revisions. revision is
// the store's revision with them.
type batch struct {
	events   []*Event
	revision int64
}

// segment is a piece of the window. The publisher fills it from the front;
// whoever has found it reads it, and what follows it, without a lock.
type segment struct {
	// base is below the revision of every event in the segment and not below
	// that of any event before it.
	base    int64
	batches [segmentBatches]batch
	// n is how many batches may be read. Once next is set it does not change.
	n    atomic.Int32
	next atomic.Pointer[segment]
	// evicted is set when the segment leaves the window.
	evicted atomic.Bool
	// sorted has the events by key, once somebody wanted that.
	sorted atomic.Pointer[keyedEvents]
	// bytes and events are the publisher's count of what is in the segment.
	bytes, events int64
}

// keyed is an event with its place in its segment.
type keyed struct {
	event *Event
	place int
}

// keyedEvents are the events of a segment by key, and those of a key by place.
type keyedEvents []keyed

// byKey returns the segment's events by key.
// REQUIRES: the segment is full: next is set.
func (seg *segment) byKey() keyedEvents {
	if sorted := seg.sorted.Load(); sorted != nil {
		return *sorted
	}
	sorted := make(keyedEvents, 0, seg.events)
	for i := range seg.batches[:seg.n.Load()] {
		for j := range seg.batches[i].events {
			sorted = append(sorted, keyed{seg.batches[i].events[j], len(sorted)})
		}
	}
	slices.SortFunc(sorted, func(a, b keyed) int {
		if c := bytes.Compare(a.event.plain.Kv.Key, b.event.plain.Kv.Key); c != 0 {
			return c
		}
		return a.place - b.place
	})
	seg.sorted.Store(&sorted)
	return sorted
}

// find appends the events whose keys lie in start and end, in order.
func (k keyedEvents) find(start, end []byte, to []keyed) []keyed {
	from := sort.Search(len(k), func(i int) bool { return bytes.Compare(k[i].event.plain.Kv.Key, start) >= 0 })
	keys := 0
	for i := from; i < len(k); i++ {
		key := k[i].event.plain.Kv.Key
		if !contains(start, end, key) {
			break
		}
		if i == from || !bytes.Equal(key, k[i-1].event.plain.Kv.Key) {
			keys++
		}
		to = append(to, k[i])
	}
	if keys > 1 {
		slices.SortFunc(to, func(a, b keyed) int { return a.place - b.place })
	}
	return to
}

// window holds the recent batches in order.
type window struct {
	// maxBytes and maxEvents bound the window, except for its last segment.
	maxBytes, maxEvents int64
	// bytes and events are what the window holds. The publisher writes them.
	bytes, events atomic.Int64
	// published is the revision of the last batch. It is stored before the batch
	// can be read.
	published atomic.Int64
	// start: every event with a revision above it is in the window.
	start atomic.Int64
	// last is where the publisher appends.
	last *segment
	// keep, if not nil, is told of events before they are published.
	keep func(events []*Event)

	// mu guards segments. Nothing is taken after it, and it is held only to look
	// something up or to add or drop segments.
	mu       sync.Mutex
	segments []*segment
}

// publish appends a batch, and says whether that took a new segment. For the
// publisher.
// REQUIRES: reset was called.
func (w *window) publish(events []*mvccpb.Event, revision int64) (extended bool) {
	before := w.published.Load()
	// A batch from before the window began tells nothing new.
	for len(events) > 0 && events[0].Kv.ModRevision <= before {
		events = events[1:]
	}
	if revision <= before {
		return false
	}
	b := batch{revision: revision}
	size := 0
	if len(events) > 0 {
		b.events = make([]*Event, len(events))
		for i, ev := range events {
			b.events[i] = newEvent(ev)
			size += b.events[i].bytes
		}
		if w.keep != nil {
			w.keep(b.events)
		}
	}

	seg := w.last
	n := seg.n.Load()
	if n == segmentBatches || n > 0 && seg.bytes >= w.maxBytes/8 {
		seg = w.extend(seg, before)
		n, extended = 0, true
	}
	seg.batches[n] = b
	seg.bytes += int64(size)
	seg.events += int64(len(b.events))
	w.bytes.Add(int64(size))
	w.events.Add(int64(len(b.events)))
	w.published.Store(revision)
	seg.n.Store(n + 1)
	return extended
}

// extend adds a segment behind seg and drops old ones if there is too much.
func (w *window) extend(seg *segment, base int64) *segment {
	next := &segment{base: base}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.segments = append(w.segments, next)
	drop := 0
	for drop < len(w.segments)-2 && (w.bytes.Load() > w.maxBytes || w.events.Load() > w.maxEvents) {
		old := w.segments[drop]
		w.bytes.Add(-old.bytes)
		w.events.Add(-old.events)
		old.evicted.Store(true)
		drop++
	}
	clear(w.segments[:drop])
	w.segments = w.segments[drop:]
	w.start.Store(w.segments[0].base)
	seg.next.Store(next)
	w.last = next
	return next
}

// reset empties the window: it begins after revision base. For the publisher.
func (w *window) reset(base int64) {
	seg := &segment{base: base}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, old := range w.segments {
		old.evicted.Store(true)
	}
	w.segments = []*segment{seg}
	w.bytes.Store(0)
	w.events.Store(0)
	w.start.Store(base)
	w.published.Store(max(base, w.published.Load()))
	w.last = seg
}

// prepend puts revisions, which are everything above base up to to, before a
// window that still begins there, and says whether it does. For the publisher.
func (w *window) prepend(base, to int64, revisions []batch) (done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.start.Load() != to {
		return false
	}
	var segments []*segment
	for len(revisions) > 0 {
		n := min(len(revisions), segmentBatches)
		seg := &segment{base: base}
		copy(seg.batches[:], revisions[:n])
		seg.n.Store(int32(n))
		for _, b := range revisions[:n] {
			seg.events += int64(len(b.events))
			for i := range b.events {
				seg.bytes += int64(b.events[i].bytes)
			}
		}
		w.bytes.Add(seg.bytes)
		w.events.Add(seg.events)
		base = revisions[n-1].revision
		revisions = revisions[n:]
		segments = append(segments, seg)
	}
	if len(segments) == 0 {
		return false
	}
	for i, seg := range segments[1:] {
		segments[i].next.Store(seg)
	}
	segments[len(segments)-1].next.Store(w.segments[0])
	w.segments = append(segments, w.segments...)
	w.start.Store(segments[0].base)
	return true
}

// find returns the place of the first batch that may hold revision from; ok is
// false if the window does not reach back to it.
func (w *window) find(from int64) (p position, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	after := sort.Search(len(w.segments), func(i int) bool { return w.segments[i].base >= from })
	if after == 0 {
		return position{}, false
	}
	p.seg = w.segments[after-1]
	p.i = sort.Search(int(p.seg.n.Load()), func(i int) bool { return p.seg.batches[i].revision >= from })
	return p, true
}

// tail returns the place behind the last batch, and the revision up to which
// everything lies before it.
func (w *window) tail() (position, int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seg := w.segments[len(w.segments)-1]
	n := int(seg.n.Load())
	if n == 0 {
		return position{seg, 0}, seg.base
	}
	return position{seg, n}, seg.batches[n-1].revision
}

// position is a place between two batches.
type position struct {
	seg *segment
	i   int
}

// next returns the batch at p and steps over it, nil if there is none yet.
func (p *position) next() *batch {
	for {
		if p.i < int(p.seg.n.Load()) {
			p.i++
			return &p.seg.batches[p.i-1]
		}
		next := p.seg.next.Load()
		if next == nil {
			return nil
		}
		if p.i == int(p.seg.n.Load()) {
			*p = position{next, 0}
		}
	}
}

// more says whether there is a batch at p.
func (p *position) more() bool {
	return p.i < int(p.seg.n.Load()) || p.seg.next.Load() != nil
}
