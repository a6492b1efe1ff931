package gateway

import (
	"bytes"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// A transaction may not change a key twice: a put beside a put of the same
// key, or beside a delete that covers it, is refused, at any depth, if both can
// run. The two branches of a nested transaction exclude each other. Deletes may
// overlap: the second finds nothing.
//
// The order of the operations does not count. etcd refuses a delete in one
// nested transaction before a put in the next, but lets the put before the
// delete pass, and it takes the end "\x00", which is no end at all, for a key:
// then it fails when it applies the transaction, and again at every restart.

// A span is the keys of a delete.
type span struct {
	start, end []byte
	// point says that the span is start alone, open that it has no end; end is
	// then not set.
	point, open bool
	// owner numbers the operation of the list under examination that the span
	// is in; see write.
	owner int32
}

func spanOf(r *pb.DeleteRangeRequest, owner int32) span {
	s := span{start: r.GetKey(), owner: owner}
	switch end := r.GetRangeEnd(); {
	case len(end) == 0:
		s.point = true
	case len(end) == 1 && end[0] == 0:
		s.open = true
	default:
		s.end = end
	}
	return s
}

// reaches says whether key, which is not before s.start, is in s.
func (s *span) reaches(key []byte) bool {
	switch {
	case s.open:
		return true
	case s.point:
		return bytes.Equal(key, s.start)
	default:
		return bytes.Compare(key, s.end) < 0
	}
}

// farther says whether s ends after t.
func (s *span) farther(t *span) bool {
	if s.open || t.open {
		return s.open && !t.open
	}
	sEnd, tEnd := s.end, t.end
	if s.point {
		sEnd = s.start
	}
	if t.point {
		tEnd = t.start
	}
	if c := bytes.Compare(sEnd, tEnd); c != 0 {
		return c > 0
	}
	// A point holds its own end, a range does not.
	return s.point && !t.point
}

// A write is a key that some put may write.
type write struct {
	key []byte
	// owner numbers the operation of the list under examination that the put
	// is in. Two changes of one owner need no examination: they have had it, or
	// are in branches that exclude each other.
	owner int32
}

// changes is what a list of operations may change.
type changes struct {
	puts []write
	dels []span
}

// smallTxn is the length up to which comparing each with each is cheapest.
const smallTxn = 8

// checkOverlaps checks a branch of a transaction.
func checkOverlaps(ops []*pb.RequestOp) error {
	if len(ops) <= smallTxn && !nests(ops) {
		return checkSmall(ops)
	}
	_, err := changesOf(ops)
	return err
}

func nests(ops []*pb.RequestOp) bool {
	for _, op := range ops {
		if _, ok := op.Request.(*pb.RequestOp_RequestTxn); ok {
			return true
		}
	}
	return false
}

// checkSmall checks a short list without nested transactions, and allocates
// nothing.
func checkSmall(ops []*pb.RequestOp) error {
	for i, op := range ops {
		put, ok := op.Request.(*pb.RequestOp_RequestPut)
		if !ok {
			continue
		}
		key := put.RequestPut.GetKey()
		for j, other := range ops {
			switch o := other.Request.(type) {
			case *pb.RequestOp_RequestPut:
				if j < i && bytes.Equal(key, o.RequestPut.GetKey()) {
					return rpctypes.ErrGRPCDuplicateKey
				}
			case *pb.RequestOp_RequestDeleteRange:
				s := spanOf(o.RequestDeleteRange, 0)
				if bytes.Compare(s.start, key) <= 0 && s.reaches(key) {
					return rpctypes.ErrGRPCDuplicateKey
				}
			}
		}
	}
	return nil
}

// changesOf returns what ops may change, or an error if a key may be changed
// twice. Its time is n log n for each level of nesting.
func changesOf(ops []*pb.RequestOp) (changes, error) {
	var all changes
	for i, op := range ops {
		owner := int32(i)
		switch u := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			all.puts = append(all.puts, write{u.RequestPut.GetKey(), owner})
		case *pb.RequestOp_RequestDeleteRange:
			all.dels = append(all.dels, spanOf(u.RequestDeleteRange, owner))
		case *pb.RequestOp_RequestTxn:
			for _, branch := range [2][]*pb.RequestOp{u.RequestTxn.GetSuccess(), u.RequestTxn.GetFailure()} {
				inner, err := changesOf(branch)
				if err != nil {
					return changes{}, err
				}
				for j := range inner.puts {
					inner.puts[j].owner = owner
				}
				for j := range inner.dels {
					inner.dels[j].owner = owner
				}
				all.puts = append(all.puts, inner.puts...)
				all.dels = append(all.dels, inner.dels...)
			}
		}
	}
	return all, all.check()
}

// check sorts c, drops repeated keys of one owner, and looks for a put that
// meets a change of another owner.
func (c *changes) check() error {
	slices.SortFunc(c.puts, func(a, b write) int { return bytes.Compare(a.key, b.key) })
	slices.SortFunc(c.dels, func(a, b span) int { return bytes.Compare(a.start, b.start) })

	// Of the deletes that start at or before the key, far reaches farthest, and
	// next is the farthest of another owner than far's.
	var far, next *span
	dels, puts := c.dels, c.puts[:0]
	for _, put := range c.puts {
		if n := len(puts); n > 0 && bytes.Equal(puts[n-1].key, put.key) {
			if puts[n-1].owner != put.owner {
				return rpctypes.ErrGRPCDuplicateKey
			}
			continue
		}
		puts = append(puts, put)
		for ; len(dels) > 0 && bytes.Compare(dels[0].start, put.key) <= 0; dels = dels[1:] {
			d := &dels[0]
			switch {
			case far == nil || d.farther(far):
				if far != nil && far.owner != d.owner {
					next = far
				}
				far = d
			case d.owner != far.owner && (next == nil || d.farther(next)):
				next = d
			}
		}
		other := far
		if far != nil && far.owner == put.owner {
			other = next
		}
		if other != nil && other.reaches(put.key) {
			return rpctypes.ErrGRPCDuplicateKey
		}
	}
	c.puts = puts
	return nil
}
