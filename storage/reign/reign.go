package reign

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// Config of a Reign. All fields are required unless said.
type Config struct {
	Line *revline.Line
	// Core is core's state.
	Core *mvcc.Store
	// Crossing evaluates over all groups.
	Crossing *evaluate.Crossing
	// Needs returns the groups that a request touches, beside core.
	Needs  func(evaluate.Op) revline.Mask
	Logger *slog.Logger
	// Begun and Ended are told of the reigns; they may be nil, must not block, and
	// must not call back.
	Begun func(epoch uint64)
	Ended func()
	// Fatal is told of a state that can't be gone on from.
	Fatal func(error)
	// Traced says that the contexts of requests may have a tracing.Request.
	Traced bool
	// Clock measures for how long groups are held; nil not to.
	Clock clock.Clock
	// Go runs something on a goroutine of its own; nil for the statement. With it a
	// simulation says when.
	Go func(func())
}

// Reign is this member's part as sequencer. Methods may be called concurrently.
type Reign struct {
	cfg Config
	// groups are in the order of the line's; core is the first. Set by Start.
	groups []*group.Group

	// mu guards the fields below. The locks of the line and of the groups' inboxes
	// may be taken after it.
	mu sync.Mutex
	// epoch is the reign's, from its first fence on; 0 for none.
	epoch uint64
	begun bool
	// fenced are the groups that have applied the epoch's fence, and parts the id
	// of the last part of each then.
	fenced revline.Mask
	parts  []uint64
	// missing counts the parts of the last decision that are being completed.
	missing int
	queue   []*call
	round   *round

	counts counts
}

// New makes a Reign; Start gives it the groups.
func New(cfg Config) *Reign {
	if cfg.Go == nil {
		cfg.Go = func(f func()) { go f() }
	}
	return &Reign{cfg: cfg}
}

// Start gives it the groups, in the order of the line's, before anything else.
func (r *Reign) Start(groups []*group.Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups = groups
	r.parts = make([]uint64, len(groups))
}

// Epoch returns the epoch in which this member reigns, and whether revisions are
// handed out already; 0 if it does not reign.
func (r *Reign) Epoch() (epoch uint64, begun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch, r.begun
}

// Lead tells that this member leads core in a term, and has applied all of
// earlier terms; 0 that it does not lead any more.
func (r *Reign) Lead(term uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if term == r.epoch {
		return
	}
	r.endLocked()
	if term == 0 {
		return
	}
	r.epoch = term
	for _, g := range r.groups {
		g.Fence(term)
	}
}

// Fenced tells that the group at place i has applied the fence of an epoch; part
// is the id of its last part.
func (r *Reign) Fenced(i int, epoch, part uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.epoch == 0 || epoch < r.epoch:
		return
	case epoch > r.epoch:
		r.cfg.Logger.Info("another member has become the sequencer", "epoch", r.epoch, "other", epoch)
		r.endLocked()
		return
	case r.begun:
		return
	}
	r.parts[i] = part
	r.fenced |= 1 << i
	if r.fenced == 1<<len(r.groups)-1 {
		r.completeLocked()
	}
}

// completeLocked proposes what is missing of the last decision, and begins once
// that is applied.
func (r *Reign) completeLocked() {
	id, blob, err := r.cfg.Core.Decision()
	if err == nil {
		var parts []evaluate.Part
		if parts, err = decodeParts(blob); err == nil {
			r.proposeMissingLocked(id, parts)
			return
		}
	}
	r.cfg.Fatal(fmt.Errorf("reign: the last decision: %w", err))
}

func (r *Reign) proposeMissingLocked(id uint64, parts []evaluate.Part) {
	epoch := r.epoch
	for _, p := range parts {
		i := r.placeOf(p.Group)
		if i < 0 {
			r.cfg.Fatal(fmt.Errorf("reign: decision %d has a part of group %d, which there is not", id, p.Group))
			return
		}
		if r.parts[i] >= id {
			continue
		}
		r.missing++
		r.groups[i].Submit(epoch, group.KindPart, id, p.Effects, nil, func(uint64) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.epoch == epoch {
				r.missing--
				r.maybeBeginLocked()
			}
		})
	}
	r.maybeBeginLocked()
}

func (r *Reign) placeOf(id mvcc.GroupID) int {
	for i, g := range r.groups {
		if g.ID() == id {
			return i
		}
	}
	return -1
}

func (r *Reign) maybeBeginLocked() {
	if r.missing > 0 || r.begun {
		return
	}
	if !r.cfg.Line.Begin(r.epoch) {
		return // another epoch is on its way to Fenced
	}
	r.begun = true
	r.counts.begun.Add(1)
	for _, g := range r.groups {
		g.Begin(r.epoch)
	}
	r.cfg.Logger.Info("this member is the sequencer", "epoch", r.epoch, "revision", r.cfg.Line.Present())
	if r.cfg.Begun != nil {
		r.cfg.Begun(r.epoch)
	}
	r.stepLocked()
}

// End ends the reign, if there is one.
func (r *Reign) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked()
}

func (r *Reign) endLocked() {
	if r.epoch == 0 {
		return
	}
	for _, g := range r.groups {
		g.End()
	}
	r.cfg.Line.End()
	if r.begun && r.cfg.Ended != nil {
		r.cfg.Ended()
	}
	r.epoch, r.begun, r.fenced, r.missing = 0, false, 0, 0
	for _, c := range r.queue {
		c.fail(group.ErrNotSequencer)
	}
	r.queue = nil
	if r.round != nil {
		r.noteReleaseLocked(r.round)
		r.round.fail(group.ErrLeaderChanged)
		r.round = nil
	}
}

// ReadPoint calls fn with where a linearizable read of the groups of mask has to
// read (storage/PROTOCOL.md, 5); or with group.ErrNotSequencer.
func (r *Reign) ReadPoint(mask revline.Mask, fn func(revline.Point, error)) {
	epoch, begun := r.Epoch()
	if !begun {
		fn(revline.Point{}, group.ErrNotSequencer)
		return
	}
	r.counts.points.Add(1)
	// The revision comes first: it must hold everything that was acknowledged
	// before the call, and the confirmation must be asked for after it.
	revision := r.cfg.Line.Present()
	r.groups[0].Confirm(func(err error) {
		if err != nil {
			fn(revline.Point{}, err)
			return
		}
		r.cfg.Line.Settled(epoch, mask, revision, func(p revline.Point, err error) {
			if err != nil {
				err = group.ErrNotSequencer
			}
			fn(p, err)
		})
	})
}
