package watchcache

import (
	"bytes"
	"sync"
)

// span is the set of keys that one or more live watchers watch, with the log of
// its recent events. Events stay in the log until all watchers have read them,
// the log is too long, or the window has dropped them.
type span struct {
	key, end  []byte // end is empty, "\x00" or an end, as in etcd
	maxEvents int

	// fresh are the events of the hub's current pass, listed says whether the
	// span is in Hub.logs. Hub.mu guards them.
	fresh  []*Event
	listed bool
	// spare is an empty slice for idle to use. For the hub's goroutine.
	spare []*Watcher

	// mu guards the fields below, and the place in idle of each watcher. It may
	// be taken after Hub.mu; nothing is taken after it.
	mu sync.Mutex
	// log[head:] are the events numbered base, base+1 and so on.
	log  []*Event
	head int
	base int64
	// idle are the watchers that have read the whole log. round is the number
	// of times that it was emptied at once.
	idle  []*Watcher
	round uint64
	// watchers counts those that have joined and not left.
	watchers int
	// ended says that the span has left the index although it has watchers, which
	// must catch up by themselves: whoever was idle from above endedAt.
	ended   bool
	endedAt int64
}

func newSpan(key, end []byte, maxEvents int) *span {
	return &span{key: key, end: end, maxEvents: maxEvents}
}

// upper returns the first key behind the span, nil if there is none.
// REQUIRES: the span is not a single key.
func (sp *span) upper() []byte {
	if toInfinity(sp.end) {
		return nil
	}
	return sp.end
}

// contains says whether key is in the span of start and end.
func contains(start, end, key []byte) bool {
	if len(end) == 0 {
		return bytes.Equal(start, key)
	}
	return bytes.Compare(start, key) <= 0 && (toInfinity(end) || bytes.Compare(key, end) < 0)
}

func (sp *span) endLocked() int64 { return sp.base + int64(len(sp.log)-sp.head) }

// flush moves the pass's events to the log, and returns the watchers that were
// idle until now. For the hub's goroutine, under Hub.mu.
func (sp *span) flush() (idle []*Watcher) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.log = append(sp.log, sp.fresh...)
	if n := len(sp.log) - sp.head; n > sp.maxEvents {
		sp.dropLocked(n - sp.maxEvents)
	}
	clear(sp.fresh)
	sp.fresh = sp.fresh[:0]
	if cap(sp.fresh) > sp.maxEvents {
		sp.fresh = nil
	}
	return sp.takeIdleLocked()
}

func (sp *span) takeIdleLocked() []*Watcher {
	idle := sp.idle
	sp.idle, sp.spare = sp.spare[:0], nil
	sp.round++
	return idle
}

// finish ends the span, which was complete up to a revision. Its watchers will
// notice. For the hub's goroutine, under Hub.mu.
func (sp *span) finish(at int64) (idle []*Watcher) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.ended, sp.endedAt = true, at
	sp.dropLocked(len(sp.log) - sp.head)
	return sp.takeIdleLocked()
}

// dropUpTo drops the events with revisions up to rev and says whether any are
// left.
func (sp *span) dropUpTo(rev int64) bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	n := 0
	for _, e := range sp.log[sp.head:] {
		if e.revision > rev {
			break
		}
		n++
	}
	sp.dropLocked(n)
	return sp.head < len(sp.log)
}

// dropLocked drops the n oldest events. Watchers that have not read them will
// notice that their cursor is below base.
func (sp *span) dropLocked(n int) {
	clear(sp.log[sp.head : sp.head+n])
	sp.head += n
	sp.base += int64(n)
	switch {
	case sp.head == len(sp.log):
		sp.log, sp.head = sp.log[:0], 0
		if cap(sp.log) > 2*sp.maxEvents {
			sp.log = nil
		}
	case sp.head > len(sp.log)/2:
		kept := copy(sp.log, sp.log[sp.head:])
		clear(sp.log[kept:])
		sp.log, sp.head = sp.log[:kept], 0
	}
}

// parkLocked makes w idle. If nobody else is reading, the log can go.
// REQUIRES: w has read the whole log.
func (sp *span) parkLocked(w *Watcher) {
	w.cursor = sp.endLocked()
	w.round, w.place = sp.round, len(sp.idle)
	sp.idle = append(sp.idle, w)
	sp.maybeClearLocked()
}

func (sp *span) maybeClearLocked() {
	if len(sp.idle) == sp.watchers {
		sp.dropLocked(len(sp.log) - sp.head)
	}
}

// leaveLocked takes w out of the span.
func (sp *span) leaveLocked(w *Watcher, idle bool) {
	if idle && w.round == sp.round {
		last := len(sp.idle) - 1
		moved := sp.idle[last]
		sp.idle[w.place], moved.place = moved, w.place
		sp.idle[last] = nil
		sp.idle = sp.idle[:last]
	}
	sp.watchers--
	sp.maybeClearLocked()
}
