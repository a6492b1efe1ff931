package admission

import (
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// seatBytes is how much of an answer one seat stands for: the seats of a class
	// times seatBytes is about what the answers to its lists take in memory.
	seatBytes = 256 << 10
	// seatKeys is how many keys one seat walks over and does not send.
	seatKeys = 10_000
	// keyBytes is what a key takes in an answer without values.
	keyBytes = 128
	// unknownSeats is what a list takes of which nothing is known yet.
	unknownSeats = 8
	// listShare of the class's seats is the most that one list takes, as a divisor.
	listShare = 4
)

// estimate is what lists have returned recently. It rises at once and falls
// slowly: to be wrong upwards costs a wait, downwards memory.
type estimate struct {
	// keys are those in the range, bytes the average size of one with its value.
	// Both are zero as long as nothing is known.
	keys, bytes atomic.Int64
}

// learn notes that a range has keys keys, and that some of them, sent, took
// sentBytes.
func (e *estimate) learn(keys, sent, sentBytes int64) {
	settle(&e.keys, max(keys, 1))
	if sent > 0 {
		settle(&e.bytes, max(sentBytes/sent, 1))
	}
}

// settle moves an estimate. Two that do it at once may lose one of the two.
func settle(to *atomic.Int64, seen int64) {
	if old := to.Load(); seen < old {
		seen = old - max((old-seen)/4, 1)
	}
	to.Store(seen)
}

// width is how many seats a list takes, before the bounds of the gates.
func (e *estimate) width(r *pb.RangeRequest) int {
	keys, size := e.keys.Load(), e.bytes.Load()
	// Clients may send any number.
	limit := min(max(r.Limit, 0), maxLimit)
	if keys == 0 {
		if limit == 0 {
			return unknownSeats
		}
		keys = limit
	}
	walked := keys
	if limit > 0 {
		keys = min(keys, limit)
	}
	switch {
	case r.CountOnly:
		return int(1 + walked/seatKeys)
	case r.KeysOnly:
		size = keyBytes
	case size == 0:
		size = seatBytes / 256 // A kilobyte, until more is known.
	}
	return int(1 + keys*size/seatBytes)
}

// estimateOf is what is known about a list's range.
func (l *Limiter) estimateOf(key []byte, r *resource) *estimate {
	if l.isWhole(key, r) {
		return &r.whole
	}
	return &r.part
}

// widthOf is how many seats a call takes: one, but for lists.
func (l *Limiter) widthOf(c *call, r *resource) int {
	width := 1
	switch {
	case c.list != nil:
		width = l.estimateOf(c.key, r).width(c.list)
	case c.txn != nil:
		width = 0
		for _, branch := range [2][]*pb.RequestOp{c.txn.Success, c.txn.Failure} {
			for _, op := range branch {
				if list := op.GetRequestRange(); len(list.GetRangeEnd()) > 0 {
					width += l.estimateOf(list.Key, l.resourceOf(list.Key)).width(list)
				}
			}
		}
	}
	return max(1, min(width, l.maxWidth))
}
