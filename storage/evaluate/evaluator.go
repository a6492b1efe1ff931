package evaluate

import (
	"context"
	"errors"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

var (
	// ErrDrain says that a request can only be evaluated when nothing is in
	// flight: it reads at a revision that is not applied yet. Try again then.
	ErrDrain = errors.New("evaluate: wait until nothing is in flight")
	// ErrCrossing says that a request can't be evaluated by one group: others
	// take part in the lease that it is about. It is for a Crossing.
	ErrCrossing = errors.New("evaluate: the request needs other groups")
)

// Leases is what evaluation asks about the leases that are applied.
type Leases interface {
	Exists(id int64) bool
	// Joined says whether group g may attach keys to the lease.
	Joined(id int64, g mvcc.GroupID) bool
	// Groups returns the groups other than core that take part in the lease.
	Groups(id int64) []mvcc.GroupID
}

// Config of an Evaluator.
type Config struct {
	// Store is the group's applied state.
	Store *mvcc.Store
	// Group is the group evaluated for: CoreGroup when there is one group.
	Group  mvcc.GroupID
	Leases Leases
	// MinTTL is the least TTL that a lease is granted, in seconds.
	MinTTL int64
	// Next hands out the next revision. It is called once for each request that
	// changes a key, at its first change; few can fail after that.
	Next func() int64
	// GiveBack takes back what Next gave last: its request has failed after all.
	// nil leaves a gap.
	GiveBack func(revision int64)
	// Present is the greatest revision that may be shown now; nil if no other
	// group can have made one that is greater than all of this group's.
	Present func() int64
	// Compacted is the revision of the last compaction that core has applied
	// here, effective or not; nil if that is the store's.
	// NB: with one that is effective alone, a compaction below one that is applied
	// and not yet effective would be logged, which no replica can apply.
	Compacted func() int64
	// Panicked is told of a request whose evaluation panicked; may be nil.
	Panicked func(op Op, cause any, stack []byte)
	// Mirroring says that another cluster is being mirrored, as is applied: then nothing
	// else may be changed. nil for never.
	Mirroring func() bool
}

// Evaluator evaluates requests whose keys are all in one group into the group's
// entries, in the order of its log. It is for one goroutine: the group's.
type Evaluator struct {
	stage
	group mvcc.GroupID
	// effects are those of the entry being built, main the revision of the last
	// of its changes.
	effects *mvcc.Effects
	main    int64
}

// New makes an Evaluator that stands on the applied state.
func New(cfg Config) *Evaluator {
	e := &Evaluator{group: cfg.Group, stage: stage{
		state: cfg.Store, leases: cfg.Leases, minTTL: cfg.MinTTL,
		next: cfg.Next, giveBack: cfg.GiveBack, present: cfg.Present, compacted: cfg.Compacted,
		panicked: cfg.Panicked, records: cfg.Store.RecordsVersion, mirroring: cfg.Mirroring,
	}}
	e.init(e)
	return e
}

// Reset forgets everything in flight and stands on the applied state again.
// REQUIRES: nothing that was in flight will be applied, or all of it has been.
func (e *Evaluator) Reset() {
	e.reset()
	e.effects = nil
}

// Head returns the greatest revision of the group, with everything in flight.
func (e *Evaluator) Head() int64 { return e.newest }

// InFlight returns how many sealed entries are not applied.
func (e *Evaluator) InFlight() int { return len(e.entries) }

// Begin starts an entry whose effects are encoded onto dst.
func (e *Evaluator) Begin(dst []byte) {
	e.begin()
	e.effects, e.main = mvcc.NewEffects(dst), 0
}

// Seal ends the entry and returns its encoding; ok is false, and the entry is
// forgotten, if nothing was changed.
func (e *Evaluator) Seal(prefix int) (encoded []byte, ok bool) {
	encoded = e.effects.Bytes()
	e.effects = nil
	if len(encoded) == prefix {
		e.entries = e.entries[:len(e.entries)-1]
		return nil, false
	}
	return encoded, true
}

// Refused tells that the newest entry will not be logged. What was evaluated
// stands in the overlay until Reset, which must follow when nothing else is in
// flight; nothing may be evaluated before.
func (e *Evaluator) Refused() { e.entries = e.entries[:len(e.entries)-1] }

// Applied tells that the oldest entry in flight has been applied.
func (e *Evaluator) Applied() { e.applied() }

// Advance tells that an entry was applied which was not evaluated here: the
// group's part of a Crossing. keys are those that it has changed.
// REQUIRES: nothing is in flight.
func (e *Evaluator) Advance(keys [][]byte) {
	for _, k := range keys {
		e.w.heads.forget(k)
	}
	e.newest = max(e.newest, e.state.Revision())
}

// Do evaluates a request. Its changes are in the entry that is being built, and
// later requests see them. An error means that it changed nothing. The answer
// may be given only when everything in flight at its time is committed.
// REQUIRES: all keys and ranges of op are in the group (see Needs).
func (e *Evaluator) Do(ctx context.Context, op Op) (Result, error) { return e.do(ctx, op) }

// mayAttach implements scope. A group other than core attaches keys to leases
// that it has joined, and those are there; that it joins is for a Crossing.
func (e *Evaluator) mayAttach(id int64, _ []byte) error {
	switch {
	case e.group != mvcc.CoreGroup:
		if !e.leases.Joined(id, e.group) {
			return ErrCrossing
		}
	case !e.leaseExists(id):
		return lease.ErrNotFound
	}
	return nil
}

// mayRevoke implements scope.
func (e *Evaluator) mayRevoke(id int64) error {
	if len(e.leases.Groups(id)) > 0 {
		return ErrCrossing
	}
	return nil
}

// change implements scope.
func (e *Evaluator) change(c *change) {
	if e.main != c.main {
		e.main = c.main
		e.effects.Revision(c.main)
	}
	c.encode(e.effects)
}

// jump implements scope. Only a Crossing mirrors.
func (e *Evaluator) jump(main int64) { panic(fmt.Sprintf("evaluate: one group jumps to %d", main)) }

// core implements scope.
func (e *Evaluator) core() *mvcc.Effects { return e.effects }

// revoked implements scope: no other group takes part.
func (e *Evaluator) revoked(int64) {}
