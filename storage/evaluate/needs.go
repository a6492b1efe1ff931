package evaluate

import "github.com/pebbledash/pebbledash/storage/mvcc"

// Router says which groups own keys; *route.Table is one.
type Router interface {
	// Of returns the owner of a key.
	Of(key []byte) mvcc.GroupID
	// Touches returns the owners of a span's keys: bit 1<<id is set for the group
	// of that id.
	Touches(span mvcc.Span) uint64
}

// Needs returns the groups whose keys a request names, in the form of
// Router.Touches: whichever branch of a transaction will be run, all of its
// compares and of both branches. Leases and compaction are core's, as is what
// names no key. Which groups take part in a lease is not seen here, but told by
// ErrCrossing.
func Needs(op Op, r Router) uint64 {
	if mask := needs(op, r); mask != 0 {
		return mask
	}
	return 1 << mvcc.CoreGroup
}

func needs(op Op, r Router) uint64 {
	switch op := op.(type) {
	case *Put:
		return 1 << r.Of(op.Key)
	case *DeleteRange:
		return touches(r, op.Key, op.End)
	case *Range:
		return touches(r, op.Key, op.End)
	case *Mirror:
		return r.Touches(mvcc.SpanOf([]byte{0}, []byte{0})) // all of them stand still
	case *Txn:
		var mask uint64
		for i := range op.Compare {
			mask |= touches(r, op.Compare[i].Key, op.Compare[i].End)
		}
		for _, o := range op.Success {
			mask |= needs(o, r)
		}
		for _, o := range op.Failure {
			mask |= needs(o, r)
		}
		return mask
	}
	return 0
}

// touches is Router.Touches of a key and an end as requests have them.
func touches(r Router, key, end []byte) uint64 {
	if len(end) == 0 {
		return 1 << r.Of(key)
	}
	return r.Touches(mvcc.SpanOf(key, end))
}
