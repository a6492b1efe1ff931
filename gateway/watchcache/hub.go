package watchcache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Source is what the hub asks of the store. All methods may be called
// concurrently.
type Source interface {
	// Revision is the greatest revision that may be shown; Closed is the greatest
	// up to which every change can be read; Compacted is the compacted one, 0 if
	// there never was a compaction.
	Revision() int64
	Closed() int64
	Compacted() int64
	// Changes calls fn with every change of [key, end) from revision from to
	// revision to, both included, in order and without PrevKv, until fn returns
	// an error, which it returns. What it read is one view of the store; if from
	// is below the compacted revision it fails instead. The events are fn's.
	Changes(ctx context.Context, key, end []byte, from, to int64, fn func(*mvccpb.Event) error) error
	// Previous returns a key as it was just before revision rev, nil if it did
	// not exist. It may fail if rev-1 is compacted.
	Previous(key []byte, rev int64) (*mvccpb.KeyValue, error)
}

// Config of a Hub. A field that is zero has the default that it names.
type Config struct {
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
	// WindowBytes and WindowEvents bound the window: 64 MiB and 100,000.
	WindowBytes, WindowEvents int64
	// PreloadRevisions is how much of the past Start reads into the window, so
	// that watchers which come back after a restart need not each read it from
	// the store: 10,000; negative for none. It takes an eighth of the window at
	// most.
	PreloadRevisions int64
	// PreviousBytes bounds the recent events whose values are remembered as the
	// PrevKv of the next: 16 MiB. They are the window's own for the most part.
	PreviousBytes int
	// Resources says which keys belong together. Each resource has a history of its
	// own, and its objects are kept while they are listed; nil is for no resources.
	Resources Resources
	// HistoryEvents bounds the recent events of a resource: 10,000; negative keeps
	// nothing of any. HistorySizes does so for those that it names by their paths; 0
	// keeps nothing of one.
	HistoryEvents int
	HistorySizes  map[string]int
	// MaxBytes bounds all histories and objects together: 256 MiB.
	MaxBytes int64
	// MaxPendingEvents bounds the log of a span, in events: 1024. It does not
	// bound a revision: one that is larger is read from the window.
	MaxPendingEvents int
	// MaxWatchers bounds the watchers of all streams: 1,000,000.
	MaxWatchers int64
	// MaxStoreReads bounds how many streams read history from the store at the
	// same time: 4.
	MaxStoreReads int
	// ChunkEvents and ChunkBytes bound what Next returns for a watcher, except
	// that a revision is never split: 1000 and 1 MiB.
	ChunkEvents, ChunkBytes int
	// ChunkRevisions bounds how far a watcher that is behind reads before it is
	// another's turn: 10,000.
	ChunkRevisions int64
}

func (c Config) withDefaults() Config {
	orDefault(&c.WindowBytes, 64<<20)
	orDefault(&c.WindowEvents, 100_000)
	if c.PreloadRevisions == 0 {
		c.PreloadRevisions = 10_000
	}
	orDefault(&c.PreviousBytes, 16<<20)
	if c.HistoryEvents == 0 {
		c.HistoryEvents = 10_000
	}
	orDefault(&c.MaxBytes, 256<<20)
	orDefault(&c.MaxPendingEvents, 1024)
	orDefault(&c.MaxWatchers, 1_000_000)
	orDefault(&c.MaxStoreReads, 4)
	orDefault(&c.ChunkEvents, 1000)
	orDefault(&c.ChunkBytes, 1<<20)
	orDefault(&c.ChunkRevisions, 10_000)
	return c
}

func orDefault[T int | int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Errors of a Stream.
var (
	// ErrClosed ends a Stream: the hub was closed.
	ErrClosed = errors.New("watchcache: closed")
	// ErrTooManyWatchers refuses a watcher: Config.MaxWatchers is reached.
	ErrTooManyWatchers = errors.New("watchcache: too many watchers")
)

// passEvents is how many events the hub takes in one pass, if they do not come
// in larger batches.
const passEvents = 512

// Hub brings events to watchers. Publish works before Start; everything else
// comes after it.
type Hub struct {
	cfg    Config
	source Source // set by Start
	window window
	// resources are what outlasts the window.
	resources resources

	// fanned: invariant 4. It is stored under mu.
	fanned atomic.Int64
	// asleep says that the hub's goroutine waits for wake, which has room for
	// one.
	asleep atomic.Bool
	wake   chan struct{}
	stop   chan struct{}
	done   chan struct{} // closed when the goroutine has ended
	close  sync.Once

	// reads has room for Config.MaxStoreReads.
	reads chan struct{}
	// previousMu is locked, by revision, by who reads a previous value.
	previousMu [previousLocks]sync.Mutex

	counts

	// publishMu makes the callers of Publish one publisher. Only the window's
	// lock is taken after it.
	publishMu sync.Mutex

	// mu guards the fields below. The hub's goroutine holds it while it appends
	// to the logs, not while it wakes streams. Locks of spans and of the window
	// are taken after it.
	mu sync.Mutex
	// at is the hub's place in the window; what lies before it, up to revision
	// appended, has been appended to the spans.
	at       position
	appended int64
	index    index
	// passing is set from when a pass has changed the spans until all streams
	// have been told.
	passing bool
	// previousWanted counts the watchers that want PrevKv, and previous is kept
	// while there are any.
	previousWanted int
	previous       previousValues
	// logs[logsAt:] are the spans whose logs may hold events, for dropping what
	// the window has dropped. Each is there once.
	logs   []*span
	logsAt int

	// touched, found and calls are scratch of the hub's goroutine.
	touched, found []*span
	calls          []call

	// waitMu guards waiting: the streams to wake once fanned reaches a revision.
	// Nothing is taken after it.
	waitMu  sync.Mutex
	waiting map[*Stream]int64
	// waitingCount is len(waiting), for a look without the lock.
	waitingCount atomic.Int32
}

// call is a wake-up that a pass owes: the watchers that were idle in a span and
// the revision of the first event for them.
type call struct {
	sp   *span
	idle []*Watcher
	from int64
}

// NewHub returns a hub that takes events; Start lets watchers in. It panics if
// its metrics are registered already.
func NewHub(cfg Config) *Hub {
	cfg = cfg.withDefaults()
	h := &Hub{
		cfg:      cfg,
		wake:     make(chan struct{}, 1),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
		reads:    make(chan struct{}, cfg.MaxStoreReads),
		previous: previousValues{maxBytes: cfg.PreviousBytes},
		waiting:  map[*Stream]int64{},
	}
	h.window.maxBytes, h.window.maxEvents = cfg.WindowBytes, cfg.WindowEvents
	h.resources.init(&cfg, &h.window.published)
	h.window.keep = h.resources.keep
	if cfg.Registerer != nil {
		h.register(cfg.Registerer)
	}
	return h
}

// Publish tells the hub of events, in revision order and with whole revisions,
// and of the store's revision with them; there may be a revision and no events.
// It never waits for watchers. The events belong to the hub from then on, and
// nobody may change them or their bytes.
//
// REQUIRES: what the events changed can be read from the Source, and each time
// that Source.Closed grows, Publish follows.
func (h *Hub) Publish(events []*mvccpb.Event, revision int64) {
	h.publishMu.Lock()
	if h.window.last == nil {
		base := revision
		if len(events) > 0 {
			base = events[0].Kv.ModRevision - 1
		}
		h.resetLocked(base)
	}
	extended := h.window.publish(events, revision)
	h.publishMu.Unlock()
	// NB: the batch is stored before watchers is loaded, and Add does it the
	// other way round: one of them sees the other. With nobody there the hub moves
	// on all the same, now and then: its place keeps alive what follows it.
	if extended || h.watchers.Load() > 0 {
		h.rouse()
	}
}

// Restored tells the hub that the store has jumped to revision without the
// events in between being published, as it does when a member is given a
// snapshot. Watchers read them from the store.
func (h *Hub) Restored(revision int64) {
	h.publishMu.Lock()
	h.resetLocked(max(revision, h.window.published.Load()))
	h.publishMu.Unlock()
	h.rouse()
}

func (h *Hub) rouse() {
	if h.asleep.Load() && h.asleep.CompareAndSwap(true, false) {
		h.wake <- struct{}{}
	}
}

// Start lets watchers in. revision is the store's; it may be greater than what
// was published. Start may be called once.
func (h *Hub) Start(source Source, revision int64) {
	h.bind(source, revision)
	h.preload()
	go h.run()
}

// preload puts the store's last events before those that were published: an eighth of
// what the window may hold, at most. If it can not it leaves the window as it is.
func (h *Hub) preload() {
	to := h.window.start.Load()
	from := max(to-h.cfg.PreloadRevisions+1, h.source.Compacted(), 1)
	if h.cfg.PreloadRevisions < 0 || from > to {
		return
	}
	const few = 16
	budget := int(h.window.maxBytes / 8)
	var revisions []batch
	// The newest first, a few at a time: nobody knows how large they are, and what
	// does not fit should not be read.
	last, size := to, 0
	for step := int64(few); last >= from && size < budget; {
		first := max(last-step+1, from)
		part, partSize, err := h.changes(first, last)
		if err != nil {
			return
		}
		revisions = append(part, revisions...)
		size += partSize
		last = first - 1
		if partSize < (budget-size)/4 {
			step *= 2
		}
	}
	base := last
	for ; size > budget && len(revisions) > 0; revisions = revisions[1:] {
		base = revisions[0].revision
		size -= sizeOf(revisions[0].events)
	}
	h.publishMu.Lock()
	defer h.publishMu.Unlock()
	if h.window.prepend(base, to, revisions) {
		h.resources.prepend(base, to, revisions)
	}
}

// changes reads the events of [from, to] from the store, and says how large they are.
func (h *Hub) changes(from, to int64) (revisions []batch, size int, err error) {
	err = h.source.Changes(context.Background(), []byte{0}, []byte{0}, from, to, func(ev *mvccpb.Event) error {
		rev := ev.Kv.ModRevision
		if n := len(revisions); n == 0 || revisions[n-1].revision != rev {
			revisions = append(revisions, batch{revision: rev})
		}
		b := &revisions[len(revisions)-1]
		e := newEvent(ev)
		b.events = append(b.events, e)
		size += e.bytes
		return nil
	})
	return revisions, size, err
}

func sizeOf(events []*Event) int {
	size := 0
	for i := range events {
		size += events[i].bytes
	}
	return size
}

func (h *Hub) resetLocked(revision int64) {
	h.resources.reset(revision)
	h.window.reset(revision)
}

func (h *Hub) bind(source Source, revision int64) {
	if h.source != nil {
		panic("watchcache: started twice")
	}
	h.source = source
	h.publishMu.Lock()
	if h.window.last == nil || h.window.published.Load() < revision {
		h.resetLocked(revision)
	}
	h.publishMu.Unlock()
	h.mu.Lock()
	h.skipToTailLocked()
	h.mu.Unlock()
}

// Close ends the hub and its streams. Publish may still be called.
func (h *Hub) Close() {
	h.close.Do(func() { close(h.stop) })
	h.resources.close()
	if h.source != nil {
		<-h.done
	}
}

// Done is closed when the hub is being closed.
func (h *Hub) Done() <-chan struct{} { return h.stop }

func (h *Hub) run() {
	defer close(h.done)
	for {
		select {
		case <-h.stop:
			return
		default:
		}
		if h.pass() {
			continue
		}
		h.asleep.Store(true)
		if h.behindWindow() && h.asleep.CompareAndSwap(true, false) {
			continue
		}
		select {
		case <-h.wake:
		case <-h.stop:
			return
		}
	}
}

func (h *Hub) behindWindow() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at.more() || h.at.seg.evicted.Load()
}

// skipToTailLocked moves to the end of the window without a look at what lies in
// between.
// REQUIRES: nobody is in the index.
func (h *Hub) skipToTailLocked() {
	at, appended := h.window.tail()
	if appended != h.appended {
		h.previous.clear()
	}
	h.at, h.appended = at, appended
	if !h.passing {
		h.fanned.Store(h.appended)
	}
}

// pass brings the next events to the spans and wakes those who wait for them. It
// says whether there are more. For the hub's goroutine.
func (h *Hub) pass() (more bool) {
	more = h.advance()
	h.tell()
	return more
}

// advance is the first half of a pass, up to the wake-ups, which it leaves in
// calls.
func (h *Hub) advance() (more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.index.empty():
		h.dropOldLocked(len(h.logs) - h.logsAt)
		h.skipToTailLocked()
	case h.at.seg.evicted.Load():
		h.overrunLocked()
	default:
		h.appendLocked()
	}
	h.passing = true
	return h.at.more()
}

// tell is the second half: it wakes the streams, and then raises fanned.
func (h *Hub) tell() {
	for i, c := range h.calls {
		notify(c.idle, c.from)
		clear(c.idle)
		c.sp.spare = c.idle[:0]
		h.calls[i] = call{}
	}
	h.calls = h.calls[:0]

	h.mu.Lock()
	h.passing = false
	// Whoever moved appended in the meantime found the index empty.
	fanned := h.appended
	h.fanned.Store(fanned)
	h.mu.Unlock()
	if h.waitingCount.Load() > 0 {
		h.wakeWaiting(fanned)
	}
}

// appendLocked takes about passEvents from the window.
func (h *Hub) appendLocked() {
	remember := h.previousWanted > 0
	for n := 0; n < passEvents; {
		b := h.at.next()
		if b == nil {
			break
		}
		n += len(b.events)
		for _, e := range b.events {
			if remember {
				h.previous.note(e)
			}
			h.found = h.index.stab(e.plain.Kv.Key, h.found[:0])
			for _, sp := range h.found {
				if len(sp.fresh) == 0 {
					h.touched = append(h.touched, sp)
				}
				sp.fresh = append(sp.fresh, e)
			}
		}
		h.appended = b.revision
	}
	for i, sp := range h.touched {
		from := sp.fresh[0].revision
		if idle := sp.flush(); len(idle) > 0 {
			h.calls = append(h.calls, call{sp, idle, from})
		} else {
			sp.spare = idle
		}
		if !sp.listed {
			sp.listed = true
			h.logs = append(h.logs, sp)
		}
		h.touched[i] = nil
	}
	h.dropOldLocked(len(h.touched) + 2)
	h.touched = h.touched[:0]
}

// dropOldLocked looks at up to n logs for events that the window has dropped.
// Each pass looks at more logs than it filled, so that all have their turn and
// what logs keep alive is, but for a delay, what the window keeps alive.
func (h *Hub) dropOldLocked(n int) {
	start := h.window.start.Load()
	for ; n > 0 && h.logsAt < len(h.logs); n-- {
		sp := h.logs[h.logsAt]
		h.logs[h.logsAt] = nil
		h.logsAt++
		if sp.listed = sp.dropUpTo(start); sp.listed {
			h.logs = append(h.logs, sp)
		}
	}
	if h.logsAt > len(h.logs)/2 {
		kept := copy(h.logs, h.logs[h.logsAt:])
		clear(h.logs[kept:])
		h.logs, h.logsAt = h.logs[:kept], 0
	}
}

// overrunLocked gives up on what the window has dropped before the hub took it:
// the spans end where they are, and their watchers catch up by themselves.
func (h *Hub) overrunLocked() {
	h.overruns.Add(1)
	end := func(sp *span) {
		if idle := sp.finish(h.appended); len(idle) > 0 {
			h.calls = append(h.calls, call{sp, idle, h.appended + 1})
		}
	}
	for _, sp := range h.index.exact {
		end(sp)
	}
	for _, sp := range h.index.ranges {
		end(sp)
	}
	h.index.clear()
	clear(h.logs)
	h.logs, h.logsAt = h.logs[:0], 0
	h.passing = true // fanned must wait for the calls
	h.skipToTailLocked()
}

// notify queues watchers that were idle: there are events for them, none below
// revision from.
func notify(idle []*Watcher, from int64) {
	var s *Stream
	for _, w := range idle {
		if w.stream != s {
			if s != nil {
				s.unlockAndWake()
			}
			s = w.stream
			s.mu.Lock()
		}
		w.queued, w.queuedFrom = true, from
		if !s.closed {
			s.inbox = append(s.inbox, w)
		}
	}
	if s != nil {
		s.unlockAndWake()
	}
}

// await has s woken once fanned has reached revision.
func (h *Hub) await(s *Stream, revision int64) {
	h.waitMu.Lock()
	defer h.waitMu.Unlock()
	h.waiting[s] = revision
	h.waitingCount.Store(int32(len(h.waiting)))
}

func (h *Hub) forget(s *Stream) {
	h.waitMu.Lock()
	defer h.waitMu.Unlock()
	delete(h.waiting, s)
	h.waitingCount.Store(int32(len(h.waiting)))
}

func (h *Hub) wakeWaiting(fanned int64) {
	h.waitMu.Lock()
	defer h.waitMu.Unlock()
	for s, revision := range h.waiting {
		if revision <= fanned {
			delete(h.waiting, s)
			// NB: whether or not s sleeps: it may be about to.
			s.Poke()
		}
	}
	h.waitingCount.Store(int32(len(h.waiting)))
}

// join makes w live, if the hub has appended nothing that w still wants. It is
// then idle.
func (h *Hub) join(w *Watcher) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.index.empty() {
		h.skipToTailLocked()
	}
	if w.next <= h.appended {
		return false
	}
	sp := h.index.get(w.key, w.end, h.cfg.MaxPendingEvents)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.watchers++
	w.span = sp
	sp.parkLocked(w)
	w.idle = true
	return true
}

// leave takes live watchers out of their spans. It gives up the lock now and
// then.
func (h *Hub) leave(watchers ...*Watcher) {
	const atOnce = 256
	for len(watchers) > 0 {
		n := min(atOnce, len(watchers))
		h.mu.Lock()
		for _, w := range watchers[:n] {
			h.leaveLocked(w)
		}
		h.mu.Unlock()
		watchers = watchers[n:]
	}
}

func (h *Hub) leaveLocked(w *Watcher) {
	sp := w.span
	if sp == nil {
		return
	}
	w.span = nil
	sp.mu.Lock()
	sp.leaveLocked(w, w.idle)
	gone := sp.watchers == 0 && !sp.ended
	sp.mu.Unlock()
	if gone {
		h.index.remove(sp)
	}
}

// countPrevious notes that a watcher that wants PrevKv came (1) or went (-1).
// While there was none, the hub has not remembered values.
func (h *Hub) countPrevious(delta int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.previousWanted += delta; h.previousWanted <= 1 {
		h.previous.clear()
	}
}
