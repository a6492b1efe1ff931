package evaluate

import (
	"cmp"
	"context"
	"slices"

	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// CrossingConfig is the Config of a Crossing. The fields that Config has too are
// what they are there.
type CrossingConfig struct {
	// Space is the applied state of all groups.
	Space State
	// Route returns the group that owns a key.
	Route     func(key []byte) mvcc.GroupID
	Leases    Leases
	MinTTL    int64
	Next      func() int64
	GiveBack  func(revision int64)
	Present   func() int64
	Compacted func() int64
	Panicked  func(op Op, cause any, stack []byte)
	Mirroring func() bool
	// NextAt takes a revision, above all before it, that a Mirror says; nil if nothing
	// is mirrored ever.
	NextAt func(revision int64)
}

// Crossing evaluates batches of requests over several groups, core being one of
// them always. While a batch is evaluated, and until all parts of it are applied,
// the groups that it touches evaluate nothing themselves and have nothing in
// flight. It is for one goroutine.
type Crossing struct {
	stage
	route func(key []byte) mvcc.GroupID
	parts []*part
	// base is the greatest revision that any group had applied when the batch began.
	base int64
	// joined has the groups, other than core, that take part in a lease once the
	// batch is applied, for the leases for which the batch changes that.
	joined map[int64][]mvcc.GroupID
}

// part is what a batch does to one group.
type part struct {
	group     mvcc.GroupID
	effects   *mvcc.Effects
	revisions []int64
}

// Part is what a batch does to one group.
type Part struct {
	Group   mvcc.GroupID
	Effects []byte
	// Revisions are the main revisions of its changes, increasing. A part that is
	// about leases or a compaction alone has none.
	Revisions []int64
}

// NewCrossing makes a Crossing.
func NewCrossing(cfg CrossingConfig) *Crossing {
	c := &Crossing{route: cfg.Route, joined: map[int64][]mvcc.GroupID{}, stage: stage{
		state: cfg.Space, leases: cfg.Leases, minTTL: cfg.MinTTL,
		next: cfg.Next, giveBack: cfg.GiveBack, present: cfg.Present, compacted: cfg.Compacted,
		panicked: cfg.Panicked, mirroring: cfg.Mirroring, nextAt: cfg.NextAt,
	}}
	c.init(c)
	return c
}

// Begin starts a batch.
// REQUIRES: the batch before is applied, or will never be.
func (c *Crossing) Begin() {
	c.reset()
	c.base = c.newest
	if c.present != nil {
		// NB: a group that is not held may have applied what nobody is shown yet. Of those
		// that are held everything is.
		c.newest = c.present()
	}
	c.begin()
	c.parts = nil
	clear(c.joined)
}

// Do evaluates a request. Later ones of the batch see its changes; an error means
// that it changed nothing. ErrDrain says that it reads at the revision of a
// request before it: it is for the next batch.
// REQUIRES: the groups that the request touches are held, as are, for a
// LeaseRevoke, the Groups of the lease.
func (c *Crossing) Do(ctx context.Context, op Op) (Result, error) { return c.do(ctx, op) }

// Head returns the greatest revision that any group has applied when the batch began, or
// that the batch has taken.
func (c *Crossing) Head() int64 { return max(c.newest, c.base) }

// Groups returns the groups other than core that take part in a lease, as of the
// requests that were evaluated. It must not be changed.
func (c *Crossing) Groups(id int64) []mvcc.GroupID {
	if groups, ok := c.joined[id]; ok {
		return groups
	}
	return c.leases.Groups(id)
}

// Seal ends the batch and returns what it does, in the order of the groups; a
// group that it leaves as it is has no part.
func (c *Crossing) Seal() []Part {
	slices.SortFunc(c.parts, func(a, b *part) int { return cmp.Compare(a.group, b.group) })
	parts := make([]Part, 0, len(c.parts))
	for _, p := range c.parts {
		if effects := p.effects.Bytes(); len(effects) > 0 {
			parts = append(parts, Part{p.group, effects, p.revisions})
		}
	}
	c.parts = nil
	return parts
}

// mayAttach implements scope.
func (c *Crossing) mayAttach(id int64, _ []byte) error {
	if !c.leaseExists(id) {
		return lease.ErrNotFound
	}
	return nil
}

// mayRevoke implements scope.
func (c *Crossing) mayRevoke(int64) error { return nil }

func (c *Crossing) part(g mvcc.GroupID) *part {
	for _, p := range c.parts {
		if p.group == g {
			return p
		}
	}
	p := &part{group: g, effects: mvcc.NewEffects(nil)}
	c.parts = append(c.parts, p)
	return p
}

// core implements scope.
func (c *Crossing) core() *mvcc.Effects { return c.part(mvcc.CoreGroup).effects }

// change implements scope.
func (c *Crossing) change(ch *change) {
	p := c.part(c.route(ch.key))
	p.at(ch.main)
	ch.encode(p.effects)
	if id := ch.v.head.Lease; id != 0 && p.group != mvcc.CoreGroup {
		c.join(id, p.group)
	}
}

// at gives what follows in the part its revision.
func (p *part) at(main int64) {
	if n := len(p.revisions); n == 0 || p.revisions[n-1] != main {
		p.revisions = append(p.revisions, main)
		p.effects.Revision(main)
	}
}

// jump implements scope: it is core that is at a revision without changes.
func (c *Crossing) jump(main int64) { c.part(mvcc.CoreGroup).at(main) }

// join notes in core that g takes part in a lease, unless it is noted.
func (c *Crossing) join(id int64, g mvcc.GroupID) {
	before := c.Groups(id)
	if slices.Contains(before, g) {
		return
	}
	c.joined[id] = append(slices.Clip(before), g)
	c.core().LeaseJoin(id, g)
}

// revoked implements scope: nobody takes part in the lease any more.
func (c *Crossing) revoked(id int64) {
	for _, g := range slices.Sorted(slices.Values(c.Groups(id))) {
		c.core().LeaseLeave(id, g)
	}
	c.joined[id] = nil
}
