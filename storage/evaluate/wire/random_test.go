package wire_test

import (
	"math"
	"math/rand/v2"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// maker makes random ops and results. Byte strings and lists that are empty are
// nil, as they are decoded.
type maker struct{ *rand.Rand }

func newMaker(seed uint64) maker { return maker{rand.New(rand.NewPCG(seed, 0))} }

func (m maker) bytes() []byte {
	var n int
	switch m.IntN(8) {
	case 0:
		return nil
	case 1:
		n = 100 + m.IntN(400)
	default:
		n = 1 + m.IntN(20)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return b
}

func (m maker) int() int64 {
	switch m.IntN(6) {
	case 0:
		return 0
	case 1:
		return -1 - m.Int64N(1000)
	case 2:
		return int64(m.Uint64())
	case 3:
		return math.MaxInt64
	default:
		return m.Int64N(1 << m.IntN(40))
	}
}

func (m maker) bool() bool { return m.IntN(2) == 0 }

func (m maker) op() evaluate.Op {
	switch m.IntN(10) {
	case 5:
		return m.mirror()
	case 4:
		op := &evaluate.Records{Table: string(m.bytes()), Version: m.int()}
		for range m.IntN(5) {
			w := mvcc.RecordWrite{Key: string(m.bytes())}
			if m.bool() {
				w.Value = append([]byte{}, m.bytes()...)
			}
			op.Writes = append(op.Writes, w)
		}
		return op
	case 0:
		return &evaluate.Compact{Revision: m.int()}
	case 1:
		return &evaluate.LeaseGrant{ID: m.int(), TTL: m.int()}
	case 2:
		return &evaluate.LeaseRevoke{ID: m.int()}
	case 3:
		op := new(evaluate.LeaseCheckpoint)
		for range m.IntN(5) {
			op.Remaining = append(op.Remaining, evaluate.LeaseRemaining{ID: m.int(), Seconds: m.int()})
		}
		return op
	default:
		return m.branchOp(3)
	}
}

func (m maker) mirror() *evaluate.Mirror {
	op := &evaluate.Mirror{After: m.int(), Compact: m.int()}
	for range m.IntN(3) {
		op.Grants = append(op.Grants, evaluate.LeaseGrant{ID: m.int(), TTL: m.int()})
		op.Revokes = append(op.Revokes, m.int())
	}
	for range m.IntN(4) {
		rev := evaluate.MirrorRevision{Revision: m.int()}
		for range m.IntN(4) {
			c := evaluate.MirrorChange{Sub: m.int(), Key: m.bytes(), Deleted: m.bool()}
			if !c.Deleted {
				c.Value, c.Create, c.Version, c.Lease = m.bytes(), m.int(), m.int(), m.int()
			}
			rev.Changes = append(rev.Changes, c)
		}
		op.Revisions = append(op.Revisions, rev)
	}
	return op
}

func (m maker) branchOp(depth int) evaluate.Op {
	switch n := m.IntN(5); {
	case n == 0:
		op := &evaluate.Range{Key: m.bytes(), End: m.bytes(), KeysOnly: m.bool(), CountOnly: m.bool()}
		if m.bool() {
			op.Limit, op.Revision = m.int(), m.int()
		}
		if m.bool() {
			op.SortTarget, op.SortOrder = evaluate.SortTarget(m.Uint32()), evaluate.SortOrder(m.Uint32())
		}
		if m.bool() {
			op.MinMod, op.MaxMod, op.MinCreate, op.MaxCreate = m.int(), m.int(), m.int(), m.int()
		}
		return op
	case n == 1:
		return &evaluate.DeleteRange{Key: m.bytes(), End: m.bytes(), PrevKV: m.bool()}
	case n == 2 && depth > 0:
		op := new(evaluate.Txn)
		for range m.IntN(4) {
			op.Compare = append(op.Compare, evaluate.Compare{
				Target: evaluate.CompareTarget(m.Uint32()), Result: evaluate.CompareResult(m.Uint32()),
				Key: m.bytes(), End: m.bytes(), Number: m.int(), Value: m.bytes(),
			})
		}
		for range m.IntN(4) {
			op.Success = append(op.Success, m.branchOp(depth-1))
		}
		for range m.IntN(4) {
			op.Failure = append(op.Failure, m.branchOp(depth-1))
		}
		return op
	default:
		return &evaluate.Put{
			Key: m.bytes(), Value: m.bytes(), Lease: m.int(),
			PrevKV: m.bool(), IgnoreValue: m.bool(), IgnoreLease: m.bool(),
		}
	}
}

func (m maker) kvs() []*mvccpb.KeyValue {
	var kvs []*mvccpb.KeyValue
	n := m.IntN(4)
	if m.IntN(10) == 0 {
		n = 60 + m.IntN(80) // More than one block.
	}
	for range n {
		kvs = append(kvs, &mvccpb.KeyValue{
			Key: m.bytes(), Value: m.bytes(), Lease: m.int(),
			CreateRevision: m.int(), ModRevision: m.int(), Version: m.int(),
		})
	}
	return kvs
}

func (m maker) result(depth int) evaluate.Result {
	r := evaluate.Result{Revision: m.int(), More: m.bool(), Succeeded: m.bool()}
	if m.bool() {
		r.KVs, r.Count = m.kvs(), m.int()
	}
	if m.bool() {
		r.PrevKVs, r.Deleted = m.kvs(), m.int()
	}
	if m.bool() {
		r.TTL = m.int()
	}
	if depth > 0 {
		for range m.IntN(4) {
			r.Responses = append(r.Responses, m.result(depth-1))
		}
	}
	return r
}
