package watchcache

import (
	"sort"
	"sync"
	"sync/atomic"
)

// history are the recent events of one resource, in order. It outlasts the window
// where other resources have storms of events.
type history struct {
	maxEvents int
	// total counts the bytes of all resources.
	total *atomic.Int64

	// mu guards the fields below, of which end and bytes may be loaded without it.
	// Nothing is taken after it, and it is held for moments only.
	mu sync.Mutex
	// events[head:] are numbered first, first+1 and so on.
	events []*Event
	head   int
	first  int64
	// start: every event with a revision above it is there.
	start int64
	// end is the number of the next event; bytes is what the events take.
	end, bytes atomic.Int64
}

// add appends events, and drops old ones if there are too many. For the publisher.
func (h *history) add(events []*Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, events...)
	h.end.Add(int64(len(events)))
	h.growLocked(bytesOf(events))
	h.dropLocked(len(h.events) - h.head - h.maxEvents)
}

// shrink drops the older half of the events, and says whether there were any.
func (h *history) shrink() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.events) - h.head
	h.dropLocked((n + 1) / 2)
	return n > 0
}

func (h *history) growLocked(delta int64) {
	h.bytes.Add(delta)
	h.total.Add(delta)
}

func bytesOf(events []*Event) (n int64) {
	for _, e := range events {
		n += int64(e.bytes)
	}
	return n
}

// dropLocked drops the n oldest events, if n is positive.
func (h *history) dropLocked(n int) {
	if n <= 0 {
		return
	}
	old := h.events[h.head : h.head+n]
	h.growLocked(-bytesOf(old))
	h.start = old[n-1].revision
	clear(old)
	h.head += n
	h.first += int64(n)
	if h.head > len(h.events)/2 {
		kept := copy(h.events, h.events[h.head:])
		clear(h.events[kept:])
		h.events, h.head = h.events[:kept], 0
	}
}

// reset forgets everything up to revision.
func (h *history) reset(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked(len(h.events) - h.head)
	h.start = revision
}

// prepend puts events, which are all above base up to to, before the others, unless
// some of those behind to are gone already.
func (h *history) prepend(base, to int64, events []*Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.start != to {
		return
	}
	if over := min(len(events)+len(h.events)-h.head-h.maxEvents, len(events)); over > 0 {
		base, events = events[over-1].revision, events[over:]
	}
	h.events, h.head = append(events[:len(events):len(events)], h.events[h.head:]...), 0
	h.first -= int64(len(events))
	h.start = base
	h.growLocked(bytesOf(events))
}

// fromLocked returns a place in events from which on all have revisions of at least
// revision; ok is false if there were some that are gone.
func (h *history) fromLocked(revision int64) (at int, ok bool) {
	if revision <= h.start {
		return 0, false
	}
	rest := h.events[h.head:]
	return h.head + sort.Search(len(rest), func(i int) bool { return rest[i].revision >= revision }), true
}

// read appends up to n events with revisions of at least revision.
func (h *history) read(revision int64, n int, to []*Event) (events []*Event, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.fromLocked(revision)
	if !ok {
		return to, false
	}
	return append(to, h.events[at:min(at+n, len(h.events))]...), true
}

// since appends the events from a number on; ok is false if some of them are gone.
func (h *history) since(number int64, to []*Event) (events []*Event, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if number < h.first {
		return to, false
	}
	return append(to, h.events[h.head+int(number-h.first):]...), true
}

// numberAfter returns the number of the first event above revision; ok is false if
// it may be gone.
func (h *history) numberAfter(revision int64) (number int64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.fromLocked(revision + 1)
	return h.first + int64(at-h.head), ok
}

// oldest returns the number of the oldest event that is there.
func (h *history) oldest() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.first
}
