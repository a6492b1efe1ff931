package watchcache

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/pkg/invariants"
)

// Watch says what a watcher wants.
type Watch struct {
	// Key and End have etcd's forms: End is empty for the one key, "\x00" for
	// every key from Key on, else the first key behind the range. They must not
	// be changed afterwards.
	Key, End []byte
	// Start is the first revision; 0 is the one after the present.
	Start int64
	// NoPut and NoDelete leave out events of one type.
	NoPut, NoDelete bool
	// Previous says that WithPrevious will be asked for the events.
	Previous bool
	// Owner is the caller's; Watcher.Owner returns it.
	Owner any
}

// Watcher is one watch of a Stream.
type Watcher struct {
	stream            *Stream
	key, end          []byte
	start             int64 // 0 if it began with the present
	noPut, noDelete   bool
	previous, removed bool
	owner             any
	at                int // in stream.watchers

	// next is the first revision that has not been given to the watcher; it
	// wants none below.
	next int64
	// given is the revision of the last delivery; it is for check.
	given int64
	// span is nil for one that is behind; begun says that it has been live or
	// caught up some way.
	span  *span
	begun bool
	// idle: it has read its span's log, unless queued.
	idle bool

	// cursor numbers the next event in the span's log. While the watcher is
	// idle the span's lock guards cursor, round and place.
	cursor int64
	// place is its place in span.idle, in the round of this number.
	round uint64
	place int

	// queued says that the hub has put the watcher into the inbox, with events
	// none of which is below queuedFrom. The stream's lock guards them.
	queued     bool
	queuedFrom int64
}

// Owner returns what Watch named.
func (w *Watcher) Owner() any { return w.owner }

func (w *Watcher) wants(e *Event) bool {
	if e.plain.Type == mvccpb.Event_DELETE {
		return !w.noDelete
	}
	return !w.noPut
}

// Delivery is what Next returns: events of a watcher, its end, or progress of
// the stream.
type Delivery struct {
	// Watcher is nil for progress: all watchers of the stream have been given
	// everything up to Revision.
	Watcher *Watcher
	// Events are whole revisions in order. The slice is valid until the next
	// call of Next.
	Events []*Event
	// Revision: the watcher has been given everything up to it.
	Revision int64
	// Compacted is set, and Events is not, if what the watcher wants next lies
	// below this compacted revision. It has been removed.
	Compacted int64
}

// Status says what Next did.
type Status int

const (
	// Idle means that there is nothing to give before Wake or RequestProgress.
	Idle Status = iota
	// Ready means that the Delivery has been filled in.
	Ready
	// More means that there may be something to give, but the caller should look
	// at other things first.
	More
)

// maxSteps is how many live watchers Next looks at before it returns More; one
// that is behind counts for several.
const maxSteps = 64

// Stream is a set of watchers that one goroutine serves: it calls Next and, when
// that is Idle, waits for Wake. All methods but Poke are for that goroutine.
//
// Watchers that have something are served in cycles, each once in a cycle, so
// that none starves beside a busy one.
type Stream struct {
	hub  *Hub
	wake chan struct{}

	watchers []*Watcher
	// behind counts the watchers that are in no span.
	behind int
	// work[workAt:] is what is left of this cycle; again is for the next one.
	// Together with inbox they hold every watcher that is not idle, once.
	work   []*Watcher
	workAt int
	again  []*Watcher

	// shown is the greatest revision that the stream has shown; latestStart is
	// not below the start of any watcher.
	shown, latestStart int64
	// need is the revision of a request for progress that is not yet answered,
	// 0 for none; asked says that nobody has looked yet whether it can be.
	need  int64
	asked bool
	// barrier, if not 0, is the revision at which watchers wait for each other
	// so that progress can be shown: see progress.go.
	barrier int64

	// events is the slice of the last Delivery, bytes what they take, roughly;
	// given of them count as pending.
	events []*Event
	bytes  int
	given  int64
	// hits and recent are scratch.
	hits   []keyed
	recent []*Event

	// mu guards the fields below and those of the watchers that say so. Nothing
	// is taken after it.
	mu sync.Mutex
	// inbox holds watchers that were idle until the hub had events for them.
	inbox []*Watcher
	// sleeping says that Next was Idle and wake has not been sent since.
	sleeping bool
	closed   bool
}

// NewStream returns a stream without watchers.
func (h *Hub) NewStream() *Stream {
	h.streams.Add(1)
	return &Stream{hub: h, wake: make(chan struct{}, 1)}
}

// Wake receives when Next may no longer be Idle, and after Poke.
func (s *Stream) Wake() <-chan struct{} { return s.wake }

// Poke wakes the stream's goroutine, now or when it next waits. Anybody may call
// it at any time.
func (s *Stream) Poke() {
	select {
	case s.wake <- struct{}{}:
	default: // it has not yet taken the last one
	}
}

// unlockAndWake ends a section under mu after which Next has something to do.
func (s *Stream) unlockAndWake() {
	sleeping := s.sleeping
	s.sleeping = false
	s.mu.Unlock()
	if sleeping {
		s.Poke()
	}
}

// Add begins a watch. The revision is the present one: a watch without a Start
// is given everything above it.
func (s *Stream) Add(watch Watch) (w *Watcher, revision int64, err error) {
	h := s.hub
	// NB: counted before the present is looked up; see Publish.
	if n := h.watchers.Add(1); n > h.cfg.MaxWatchers {
		h.watchers.Add(-1)
		return nil, 0, ErrTooManyWatchers
	}
	// Publish may not have caught up with what the store has acknowledged.
	revision = max(h.window.published.Load(), h.source.Revision())
	w = &Watcher{
		stream: s, key: watch.Key, end: watch.End, start: watch.Start, next: watch.Start,
		noPut: watch.NoPut, noDelete: watch.NoDelete, previous: watch.Previous,
		owner: watch.Owner, at: len(s.watchers),
	}
	if w.next <= 0 {
		w.start, w.next = 0, revision+1
	}
	if w.previous {
		h.countPrevious(1)
	}
	s.watchers = append(s.watchers, w)
	s.shown = max(s.shown, revision)
	s.latestStart = max(s.latestStart, w.start)
	if w.next > revision {
		w.begun = true
		if h.join(w) {
			return w, revision, nil
		}
	}
	s.fallBehind(w)
	return w, revision, nil
}

// Remove ends a watch. Removing it again does nothing.
func (s *Stream) Remove(w *Watcher) {
	if w.removed {
		return
	}
	s.forget(w)
	if w.span != nil {
		s.hub.leave(w)
	} else {
		s.behind--
		s.hub.behind.Add(-1)
	}
	last := len(s.watchers) - 1
	moved := s.watchers[last]
	s.watchers[w.at], moved.at = moved, w.at
	s.watchers[last] = nil
	s.watchers = s.watchers[:last]
}

// forget does what the end of a watch and of a stream have in common. Where w is
// queued it is skipped later.
func (s *Stream) forget(w *Watcher) {
	w.removed = true
	s.hub.watchers.Add(-1)
	if w.previous {
		s.hub.countPrevious(-1)
	}
}

// Close ends the stream and all its watches. It must not be used afterwards.
func (s *Stream) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	s.inbox = nil
	s.mu.Unlock()
	h := s.hub
	h.forget(s)
	h.behind.Add(-int64(s.behind))
	for _, w := range s.watchers {
		s.forget(w)
	}
	h.leave(s.watchers...)
	s.settle()
	h.streams.Add(-1)
	s.watchers, s.work, s.again, s.events = nil, nil, nil, nil
}

// Next gives the next events, end of a watch, or progress. It may read from the
// store and wait for its turn to do so. An error ends the stream.
func (s *Stream) Next(ctx context.Context, d *Delivery) (Status, error) {
	s.settle()
	select {
	case <-s.hub.stop:
		return Idle, ErrClosed
	default:
	}
	*d = Delivery{}
	if s.asked {
		s.asked = false
		if s.maybeProgress(d) {
			return Ready, nil
		}
	}
	for steps := 0; steps < maxSteps; steps++ {
		if s.workAt == len(s.work) {
			if s.maybeProgress(d) {
				return Ready, nil
			}
			if !s.beginCycle() {
				return Idle, nil
			}
		}
		w := s.work[s.workAt]
		s.work[s.workAt] = nil
		s.workAt++
		if w.removed {
			continue
		}
		if w.span != nil {
			d.Revision = s.read(w)
		} else {
			steps += maxSteps / 8
			var err error
			if d.Revision, d.Compacted, err = s.catchUp(ctx, w); err != nil {
				return Idle, err
			}
		}
		if len(s.events) > 0 || d.Compacted != 0 {
			d.Watcher, d.Events = w, s.events
			s.given = int64(len(s.events))
			s.hub.pending.Add(s.given)
			if len(s.events) > 0 {
				s.shown = max(s.shown, d.Revision)
			}
			if invariants.Enabled {
				w.check(d)
			}
			return Ready, nil
		}
	}
	return More, nil
}

// check panics unless d follows what w was given before, in whole revisions.
func (w *Watcher) check(d *Delivery) {
	last := w.given
	for _, e := range d.Events {
		if e.revision <= w.given || e.revision < last || e.revision < w.start {
			panic(fmt.Sprintf("watchcache: revision %d after %d, and %d before; start %d", e.revision, last, w.given, w.start))
		}
		last = e.revision
	}
	if d.Compacted == 0 && d.Revision < last {
		panic(fmt.Sprintf("watchcache: revision %d delivered as up to %d", last, d.Revision))
	}
	w.given = max(last, d.Revision)
}

// settle takes back what the last Next gave.
func (s *Stream) settle() {
	if s.given > 0 {
		s.hub.pending.Add(-s.given)
		s.hub.sent.Add(s.given)
		s.given = 0
	}
	s.dropEvents()
	if cap(s.events) > 2*s.hub.cfg.ChunkEvents {
		s.events = nil // of a very large revision
	}
}

func (s *Stream) dropEvents() {
	clear(s.events)
	s.events, s.bytes = s.events[:0], 0
}

// collectLocked moves the inbox to again.
func (s *Stream) collectLocked() {
	for i, w := range s.inbox {
		w.queued, w.idle = false, false
		w.next = max(w.next, w.queuedFrom)
		s.again = append(s.again, w)
		s.inbox[i] = nil
	}
	s.inbox = s.inbox[:0]
}

// beginCycle says whether there is something to do. If not, the hub will wake
// the stream.
func (s *Stream) beginCycle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.collectLocked()
	s.work, s.again, s.workAt = s.again, s.work[:0], 0
	if s.barrier != 0 {
		// Those who have reached the barrier wait for the others, in again.
		s.work = slices.DeleteFunc(s.work, func(w *Watcher) bool {
			held := w.next > s.barrier && !w.removed
			if held {
				s.again = append(s.again, w)
			}
			return held
		})
	}
	s.sleeping = len(s.work) == 0
	return len(s.work) > 0
}

// read takes what the log of w's span has for it. It returns the revision of the
// last event taken.
func (s *Stream) read(w *Watcher) (revision int64) {
	sp := w.span
	fanned := s.hub.fanned.Load() // before the log: invariant 4
	sp.mu.Lock()
	if w.cursor < sp.base {
		sp.mu.Unlock()
		s.hub.leave(w)
		s.fallBehind(w)
		return 0
	}
	var last int64
	more := false
	at := sp.head + int(w.cursor-sp.base)
	for ; at < len(sp.log); at++ {
		e := sp.log[at]
		if e.revision < w.next {
			continue // from before its start
		}
		if s.fullAt(e.revision, last) || s.barrier != 0 && e.revision > s.barrier {
			more = true
			break
		}
		last = e.revision
		if s.give(w, e) {
			revision = e.revision
		}
	}
	w.cursor = sp.base + int64(at-sp.head)
	switch {
	case more:
		w.next = sp.log[at].revision
		s.again = append(s.again, w)
		sp.mu.Unlock()
	case sp.ended:
		w.next = max(w.next, last+1, sp.endedAt+1)
		w.span = nil
		sp.mu.Unlock()
		s.fallBehind(w)
	default:
		w.next = max(w.next, last+1, fanned+1)
		w.idle = true
		sp.parkLocked(w)
		sp.mu.Unlock()
	}
	return revision
}

// fallBehind lets w catch up by itself.
func (s *Stream) fallBehind(w *Watcher) {
	s.behind++
	s.hub.behind.Add(1)
	s.barrier = 0
	s.again = append(s.again, w)
}
