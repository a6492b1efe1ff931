package wire

import (
	"encoding/binary"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// Flags of a mirrored change.
const (
	changeDeleted = 1 << iota
	changeFlags   = 1<<iota - 1
)

func appendMirror(b []byte, op *evaluate.Mirror) []byte {
	b = appendInt(b, op.After)
	b = binary.AppendUvarint(b, uint64(len(op.Grants)))
	for _, g := range op.Grants {
		b = appendInt(appendInt(b, g.ID), g.TTL)
	}
	b = binary.AppendUvarint(b, uint64(len(op.Revisions)))
	for i := range op.Revisions {
		rev := &op.Revisions[i]
		b = appendInt(b, rev.Revision)
		b = binary.AppendUvarint(b, uint64(len(rev.Changes)))
		for j := range rev.Changes {
			c := &rev.Changes[j]
			b = appendInt(append(b, flag(c.Deleted, changeDeleted)), c.Sub)
			b = appendBytes(b, c.Key)
			if c.Deleted {
				continue
			}
			b = appendBytes(b, c.Value)
			b = appendInt(appendInt(appendInt(b, c.Create), c.Version), c.Lease)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(op.Revokes)))
	for _, id := range op.Revokes {
		b = appendInt(b, id)
	}
	return appendInt(b, op.Compact)
}

func (d *decoder) mirror() *evaluate.Mirror {
	op := &evaluate.Mirror{After: d.int()}
	n := d.count(minGrant)
	for range n {
		op.Grants = append(grow(op.Grants, n), evaluate.LeaseGrant{ID: d.int(), TTL: d.int()})
	}
	n = d.count(minMirrorRevision)
	for range n {
		if d.err != nil {
			break
		}
		op.Revisions = append(grow(op.Revisions, n), d.mirrorRevision())
	}
	n = d.count(minLease)
	for range n {
		op.Revokes = append(grow(op.Revokes, n), d.int())
	}
	op.Compact = d.int()
	return op
}

func (d *decoder) mirrorRevision() evaluate.MirrorRevision {
	rev := evaluate.MirrorRevision{Revision: d.int()}
	n := d.count(minMirrorChange)
	for range n {
		if d.err != nil {
			break
		}
		deleted := d.flags(changeFlags)&changeDeleted != 0
		c := evaluate.MirrorChange{Sub: d.int(), Key: d.bytes(), Deleted: deleted}
		if !deleted {
			c.Value, c.Create, c.Version, c.Lease = d.bytes(), d.int(), d.int(), d.int()
		}
		rev.Changes = append(grow(rev.Changes, n), c)
	}
	return rev
}
