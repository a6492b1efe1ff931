package group

import (
	"context"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// NewIdleLogWriter makes a LogWriter whose goroutine does not run: a simulation
// calls Write in its place.
func NewIdleLogWriter(db *engine.DB) *LogWriter {
	return idleWriter(db)
}

// Waiting returns how many requests wait to be written.
func (w *LogWriter) Waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue)
}

// Write writes the first n of the requests that wait in one batch, with one sync,
// and tells of it.
func (w *LogWriter) Write(n int) { w.write(w.first(n)) }

// WriteUnsynced leaves the first n of the requests that wait as a crash in the
// middle of their write may: they are in the database, but not synced, and
// nobody was told. Nothing may follow but the crash.
func (w *LogWriter) WriteUnsynced(n int) error {
	batch := w.db.NewBatch()
	for _, r := range w.first(n) {
		r.log.encode(batch, r.msg)
	}
	if batch.Empty() {
		return batch.Close()
	}
	if err := batch.Commit(engine.NoSync); err != nil {
		return err
	}
	return batch.Close()
}

func (w *LogWriter) first(n int) []appendRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	work := slices.Clone(w.queue[:n])
	w.queue = slices.Delete(w.queue, 0, n)
	return work
}

// Hand runs a Group by hand: none of its goroutines runs, and each turn of each
// of them is a call.
type Hand struct {
	*Group
	box letters
}

// OpenByHand is Open for a Group that Start is not called for.
func OpenByHand(cfg Config) (*Hand, error) {
	g, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	return &Hand{Group: g}, nil
}

// Wake is what the loop does before its first turn.
func (h *Hand) Wake() {
	if h.isAlone() {
		h.standAlone()
	}
	h.handleReady()
}

// HasMail says whether something has arrived for the loop.
func (h *Hand) HasMail() bool {
	h.inbox.mu.Lock()
	defer h.inbox.mu.Unlock()
	b := &h.inbox.box
	return len(b.applied)+len(b.calls)+len(b.proposals)+len(b.reads)+len(b.steps) > 0
}

// Turn is one turn of the loop: it takes everything that has arrived.
func (h *Hand) Turn() {
	h.inbox.take(&h.box)
	h.handle(&h.box)
	h.evaluate()
	h.handleReady()
}

// Tick is one turn of the loop for its ticker.
func (h *Hand) Tick() {
	h.tick()
	h.evaluate()
	h.handleReady()
}

// Unapplied returns how many tasks wait for the applier.
func (h *Hand) Unapplied() int {
	h.applier.mu.Lock()
	defer h.applier.mu.Unlock()
	return len(h.applier.queue)
}

// ApplyWaits says whether the applier waits for the loop in its next task.
func (h *Hand) ApplyWaits() bool {
	h.applier.mu.Lock()
	defer h.applier.mu.Unlock()
	return slices.ContainsFunc(h.applier.queue[0].m.GetEntries(), func(e *raftpb.Entry) bool {
		return e.GetType() != raftpb.EntryNormal
	})
}

// Apply does the applier's next task.
func (h *Hand) Apply() error {
	h.applier.mu.Lock()
	t := h.applier.queue[0]
	h.applier.queue = slices.Delete(h.applier.queue, 0, 1)
	h.applier.mu.Unlock()
	return h.applier.do(t)
}

// Quiet says that nothing waits in the group, and that everything that it knows
// to be committed is applied.
func (h *Hand) Quiet() bool {
	n, _ := h.applier.flight.size()
	return n == 0 && len(h.queue)+len(h.reads.waiting)+len(h.reads.asked)+len(h.incoming)+h.restoring == 0 &&
		h.rn.BasicStatus().GetCommit() == h.AppliedIndex()
}

// Die ends the group as the end of its goroutines does: everybody who waits is
// told.
func (h *Hand) Die() {
	h.failAll()
	close(h.stopped)
}

// Pending is a request that was handed to a group.
type Pending struct{ p *proposal }

// Propose is the first half of Do: it does not wait.
func (h *Hand) Propose(ctx context.Context, op evaluate.Op, size int) (Pending, error) {
	p := &proposal{ctx: ctx, op: op, size: size, done: make(chan struct{})}
	return Pending{p}, h.inbox.propose(p)
}

// Answered says whether the request is answered.
func (p Pending) Answered() bool {
	select {
	case <-p.p.done:
		return true
	default:
		return false
	}
}

// Answer returns the answer.
// REQUIRES: Answered.
func (p Pending) Answer() (evaluate.Result, error) { return p.p.res, p.p.err }
