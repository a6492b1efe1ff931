package group

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
)

// LogWriter writes the logs of all groups of a member. What several groups, or
// one, ask for while it is syncing goes into its next batch, with one sync.
type LogWriter struct {
	db    *engine.DB
	clock clock.Clock
	// seconds observes what each synced write takes; may be nil.
	seconds prometheus.Observer
	// began is when the write under way began, nil if none is.
	began atomic.Pointer[time.Time]
	// writing is held during a write. It comes before mu, and guards failed: a commit has
	// not returned, and nothing may be written behind it.
	writing sync.Mutex
	failed  bool

	mu      sync.Mutex // guards the fields below; nothing is taken after it
	queue   []appendRequest
	closed  bool
	wake    chan struct{}
	stopped chan struct{}
}

// appendRequest is one raft message to the log.
type appendRequest struct {
	log *Log
	msg *raftpb.Message
	// done is called when the message's writes are durable.
	done func(*raftpb.Message)
}

// NewLogWriter starts the writer over db, which must have a write-ahead log.
// seconds, if not nil, observes what each synced write takes by clk.
func NewLogWriter(db *engine.DB, clk clock.Clock, seconds prometheus.Observer) *LogWriter {
	w := &LogWriter{db: db, clock: clk, seconds: seconds, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	go w.run()
	return w
}

// Close writes what is queued and stops the writer.
func (w *LogWriter) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.signal()
	<-w.stopped
}

// Stalled returns for how long the write under way has been, 0 if none is.
func (w *LogWriter) Stalled() time.Duration {
	if began := w.began.Load(); began != nil {
		return w.clock.Since(*began)
	}
	return 0
}

func (w *LogWriter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// submit queues one message of a log. Messages of one log are written, and
// done is called, in their order.
func (w *LogWriter) submit(r appendRequest) {
	w.mu.Lock()
	w.queue = append(w.queue, r)
	w.mu.Unlock()
	w.signal()
}

// writeNow is submit and the wait for done, on the caller's goroutine; false says that
// another write is under way, or others wait for theirs, and that nothing was done.
// REQUIRES: nothing of the log is queued.
func (w *LogWriter) writeNow(r appendRequest) bool {
	if !w.writing.TryLock() {
		return false
	}
	defer w.writing.Unlock() // also if a failed commit ends this goroutine
	w.mu.Lock()
	waiting := len(w.queue) > 0
	w.mu.Unlock()
	if waiting {
		return false
	}
	w.write([]appendRequest{r})
	return true
}

func (w *LogWriter) run() {
	// Deferred, because a failed commit ends this goroutine (engine.Config.Fatal).
	defer close(w.stopped)
	var work []appendRequest
	for range w.wake {
		var closed bool
		if work, closed = w.writeQueued(work); closed {
			return
		}
	}
}

// writeQueued writes what is queued by now. It returns the memory of it, to be used again.
func (w *LogWriter) writeQueued(free []appendRequest) (work []appendRequest, closed bool) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	work, w.queue = w.queue, free[:0]
	closed = w.closed
	w.mu.Unlock()
	if len(work) > 0 {
		w.write(work)
	}
	clear(work)
	return work, closed
}

// write writes and syncs, unless a write has failed.
func (w *LogWriter) write(work []appendRequest) {
	if w.failed {
		return
	}
	batch := w.db.NewBatch()
	for _, r := range work {
		r.log.encode(batch, r.msg)
	}
	if !batch.Empty() {
		w.commit(batch)
	}
	_ = batch.Close()
	for _, r := range work {
		r.log.stable(r.msg)
		r.done(r.msg)
	}
}

func (w *LogWriter) commit(batch *engine.Batch) {
	if w.clock != nil {
		began := w.clock.Now()
		w.began.Store(&began)
		defer func() {
			w.began.Store(nil)
			if w.seconds != nil {
				w.seconds.Observe(w.clock.Since(began).Seconds())
			}
		}()
	}
	// An error of Commit does not come back: see engine.Config.Fatal.
	w.failed = true
	if err := batch.Commit(engine.Sync); err != nil {
		panic(err)
	}
	w.failed = false
}
