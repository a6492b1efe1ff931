package watchcache

import (
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
	events   []Event
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
	// bytes and events are the publisher's count of what is in the segment.
	bytes, events int64
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

	// mu guards segments. Nothing is taken after it, and it is held only to look
	// something up or to add or drop segments.
	mu       sync.Mutex
	segments []*segment
}

// publish appends a batch. For the publisher.
func (w *window) publish(events []*mvccpb.Event, revision int64) {
	if w.last == nil {
		base := revision
		if len(events) > 0 {
			base = events[0].Kv.ModRevision - 1
		}
		w.reset(base)
	}
	before := w.published.Load()
	// A batch from before the window began tells nothing new.
	for len(events) > 0 && events[0].Kv.ModRevision <= before {
		events = events[1:]
	}
	if revision <= before {
		return
	}
	b := batch{revision: revision}
	bytes := 0
	if len(events) > 0 {
		b.events = make([]Event, len(events))
		for i, ev := range events {
			b.events[i].init(ev)
			bytes += b.events[i].bytes
		}
	}

	seg := w.last
	n := seg.n.Load()
	if n == segmentBatches || n > 0 && seg.bytes >= w.maxBytes/8 {
		seg = w.extend(seg, before)
		n = 0
	}
	seg.batches[n] = b
	seg.bytes += int64(bytes)
	seg.events += int64(len(b.events))
	w.bytes.Add(int64(bytes))
	w.events.Add(int64(len(b.events)))
	w.published.Store(revision)
	seg.n.Store(n + 1)
}

// extend adds a segment behind seg and drops old ones if there is too much.
func (w *window) extend(seg *segment, base int64) *segment {
	next := &segment{base: base}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.segments = append(w.segments, next)
	drop := 0
	for bytes, events := w.bytes.Load(), w.events.Load(); drop < len(w.segments)-2 &&
		(bytes > w.maxBytes || events > w.maxEvents); drop++ {
		old := w.segments[drop]
		bytes -= old.bytes
		events -= old.events
		w.bytes.Store(bytes)
		w.events.Store(events)
		old.evicted.Store(true)
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
