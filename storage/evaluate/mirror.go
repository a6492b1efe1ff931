package evaluate

import (
	"context"
	"errors"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

var (
	// ErrMirroring says that the cluster takes over what another one does, and that
	// nobody else may change anything until that ends.
	ErrMirroring = errors.New("evaluate: another cluster is being mirrored")
	// ErrNotMirroring refuses a Mirror while nothing is to be mirrored.
	ErrNotMirroring = errors.New("evaluate: no cluster is being mirrored")
	// ErrMirrorGap says that a Mirror does not follow on what is there: something of
	// the source is missing between them.
	ErrMirrorGap = errors.New("evaluate: changes of the mirrored cluster are missing before these")
)

// Mirror takes over what another cluster, the source, has done, at the revisions that
// it did it at: the revision jumps there. Nothing is decided here, but which group a
// change is for. All of it happens, in the order of the fields, or nothing.
//
// To mirror the same a second time changes nothing, however often, and in whatever
// pieces: revisions that are there are left out.
type Mirror struct {
	// After is the revision that Revisions follow on: of the source's changes none is
	// missing between it and the first.
	After int64
	// Grants are leases that there are, or that have another TTL.
	Grants []LeaseGrant
	// Revisions are in their order.
	Revisions []MirrorRevision
	// Revokes are leases that are gone. One that has keys here yet stays: the source
	// has deleted them at a revision that is to come.
	Revokes []int64
	// Compact is the source's compacted revision; 0 for none.
	Compact int64
}

// MirrorRevision is one revision of the source. It may have no changes: then the
// revision counts on.
type MirrorRevision struct {
	Revision int64
	Changes  []MirrorChange
}

// MirrorChange is one version of a key, or its deletion.
type MirrorChange struct {
	// Sub is the change's place in its revision. The places before it may be empty:
	// the source has compacted them.
	Sub                    int64
	Key, Value             []byte
	Create, Version, Lease int64
	Deleted                bool
}

// maxMirrorSub bounds the places in one revision.
const maxMirrorSub = 1<<32 - 2

// Check returns what makes no sense in m, whatever the state is.
func (m *Mirror) Check() error {
	if m.After < mvcc.FirstRevision {
		return fmt.Errorf("evaluate: a mirror after revision %d", m.After)
	}
	for _, g := range m.Grants {
		if g.ID == 0 || g.TTL <= 0 || g.TTL > lease.MaxTTL {
			return fmt.Errorf("evaluate: a mirrored lease %x of %d s", g.ID, g.TTL)
		}
	}
	last := m.After
	for _, rev := range m.Revisions {
		if rev.Revision <= last {
			return fmt.Errorf("evaluate: mirrored revision %d follows %d", rev.Revision, last)
		}
		last = rev.Revision
		sub := int64(-1)
		for i := range rev.Changes {
			c := &rev.Changes[i]
			if c.Sub <= sub || c.Sub > maxMirrorSub {
				return fmt.Errorf("evaluate: mirrored change %d.%d follows %d", last, c.Sub, sub)
			}
			sub = c.Sub
			if len(c.Key) == 0 || !c.Deleted && (c.Create <= 0 || c.Create > last || c.Version <= 0) {
				return fmt.Errorf("evaluate: mirrored change %d.%d makes no version of a key", last, sub)
			}
		}
	}
	return nil
}

// mayRun says whether a request of that kind may be run now.
func (s *stage) mayRun(op Op) error {
	mirroring := s.mirroring != nil && s.mirroring()
	switch op.(type) {
	case *Mirror:
		if !mirroring {
			return ErrNotMirroring
		}
	case *Put, *DeleteRange, *Txn, *Compact, *LeaseGrant, *LeaseRevoke, *LeaseCheckpoint:
		if mirroring {
			return ErrMirroring
		}
	}
	return nil
}

// mirror gathers what is to be taken over.
func (r *request) mirror(ctx context.Context, m *Mirror, res *Result) error {
	if r.s.nextAt == nil {
		return ErrCrossing // all groups must stand still
	}
	if err := m.Check(); err != nil {
		return err
	}
	if m.After > r.head {
		return ErrMirrorGap
	}
	for _, g := range m.Grants {
		r.mirrorGrant(g)
	}
	last := r.head
	for i := range m.Revisions {
		rev := &m.Revisions[i]
		if rev.Revision <= r.head {
			continue // mirrored before
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		last = rev.Revision
		for j := range rev.Changes {
			if err := r.mirrorChange(rev.Revision, &rev.Changes[j]); err != nil {
				return err
			}
		}
	}
	if m.Compact > last {
		return mvcc.ErrFutureRevision
	}
	for _, id := range m.Revokes {
		if err := r.mirrorRevoke(id); err != nil {
			return err
		}
	}
	if m.Compact > r.compacted {
		r.after = append(r.after, func(e *mvcc.Effects) { e.Compact(m.Compact) })
		r.compact = m.Compact
	}
	if last > r.head {
		r.last = last
	}
	res.Revision = last
	return nil
}

// mirrorGrant grants a lease, or gives it another TTL.
func (r *request) mirrorGrant(g LeaseGrant) {
	r.before = append(r.before, func(e *mvcc.Effects) { e.LeaseGrant(g.ID, g.TTL) })
	r.lease(g.ID, true)
}

// mirrorRevoke ends a lease that has no keys, with what is gathered.
func (r *request) mirrorRevoke(id int64) error {
	if !r.leaseExists(id) {
		return nil
	}
	keys, err := r.leaseKeys(id)
	if err != nil || len(keys) > 0 {
		return err
	}
	r.after = append(r.after, func(e *mvcc.Effects) { e.LeaseRevoke(id) })
	r.lease(id, false)
	return nil
}

func (r *request) mirrorChange(main int64, c *MirrorChange) error {
	before, _, err := r.s.w.head(c.Key)
	if err != nil {
		return err
	}
	v := &version{deleted: c.Deleted}
	if !c.Deleted {
		if c.Lease != 0 && !r.leaseExists(c.Lease) {
			return lease.ErrNotFound
		}
		v.value = c.Value
		v.head = mvcc.Head{Create: c.Create, Version: c.Version, Lease: c.Lease, Mod: main}
	}
	r.add(change{main: main, sub: c.Sub, key: c.Key, name: string(c.Key), v: v, leaseBefore: before.Lease})
	return nil
}

// takeMirrored takes the revisions that are mirrored: from the first of them on nothing
// is closed.
func (r *request) takeMirrored() {
	if len(r.changes) > 0 {
		r.s.nextAt(r.changes[0].main)
	}
	r.s.nextAt(r.last)
}
