package gateway

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// From the wire to the storage. All that is here is total: whatever passed
// validate.go has a translation. The operations share the request's bytes,
// which nobody writes to again.

// toRange keeps a negative revision: it is the current one, but in a transaction
// it is one that a compaction has taken, if there was any.
func toRange(r *pb.RangeRequest) evaluate.Range {
	return evaluate.Range{
		Key:        r.Key,
		End:        r.RangeEnd,
		Limit:      max(r.Limit, 0),
		Revision:   r.Revision,
		SortTarget: evaluate.SortTarget(r.SortTarget),
		SortOrder:  evaluate.SortOrder(r.SortOrder),
		KeysOnly:   r.KeysOnly,
		CountOnly:  r.CountOnly,
		MinMod:     r.MinModRevision,
		MaxMod:     r.MaxModRevision,
		MinCreate:  r.MinCreateRevision,
		MaxCreate:  r.MaxCreateRevision,
	}
}

func toPut(r *pb.PutRequest) evaluate.Put {
	return evaluate.Put{
		Key:         r.Key,
		Value:       r.Value,
		Lease:       r.Lease,
		PrevKV:      r.PrevKv,
		IgnoreValue: r.IgnoreValue,
		IgnoreLease: r.IgnoreLease,
	}
}

func toDelete(r *pb.DeleteRangeRequest) evaluate.DeleteRange {
	return evaluate.DeleteRange{Key: r.Key, End: r.RangeEnd, PrevKV: r.PrevKv}
}

// A txnCall is a translated transaction, in one allocation where it has no
// more than one of each: that is what kube-apiserver sends.
type txnCall struct {
	txn evaluate.Txn
	// readOnly says that no branch can change anything, at any depth.
	readOnly bool
	// serializable says that the client asked for no more. A transaction that
	// reads nothing but what it compares did not ask, so it is linearizable;
	// in etcd it is not.
	serializable bool

	compares [1]evaluate.Compare
	success  [1]evaluate.Op
	failure  [1]evaluate.Op
	put      [1]evaluate.Put
	del      [1]evaluate.DeleteRange
	ranges   [2]evaluate.Range
	// used counts what is taken of the arrays of operations.
	usedPuts, usedDels, usedRanges int
}

func toTxn(r *pb.TxnRequest) *txnCall {
	c := &txnCall{readOnly: true, serializable: true}
	c.txn.Compare = toCompares(r.GetCompare(), c.compares[:0])
	c.txn.Success = c.ops(r.GetSuccess(), c.success[:0])
	c.txn.Failure = c.ops(r.GetFailure(), c.failure[:0])
	if len(r.GetSuccess())+len(r.GetFailure()) == 0 {
		c.serializable = false
	}
	return c
}

func (c *txnCall) ops(from []*pb.RequestOp, to []evaluate.Op) []evaluate.Op {
	if len(from) > cap(to) {
		to = make([]evaluate.Op, 0, len(from))
	}
	for _, op := range from {
		to = append(to, c.op(op))
	}
	return to
}

func (c *txnCall) op(op *pb.RequestOp) evaluate.Op {
	switch u := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		var r *evaluate.Range
		if c.usedRanges < len(c.ranges) {
			r = &c.ranges[c.usedRanges]
			c.usedRanges++
		} else {
			r = new(evaluate.Range)
		}
		*r = toRange(u.RequestRange)
		c.serializable = c.serializable && u.RequestRange.Serializable
		return r
	case *pb.RequestOp_RequestPut:
		c.readOnly = false
		var p *evaluate.Put
		if c.usedPuts < len(c.put) {
			p = &c.put[c.usedPuts]
			c.usedPuts++
		} else {
			p = new(evaluate.Put)
		}
		*p = toPut(u.RequestPut)
		return p
	case *pb.RequestOp_RequestDeleteRange:
		c.readOnly = false
		var d *evaluate.DeleteRange
		if c.usedDels < len(c.del) {
			d = &c.del[c.usedDels]
			c.usedDels++
		} else {
			d = new(evaluate.DeleteRange)
		}
		*d = toDelete(u.RequestDeleteRange)
		return d
	case *pb.RequestOp_RequestTxn:
		// As in etcd a client can not ask for less than a linearizable answer
		// of a nested transaction.
		c.serializable = false
		return &evaluate.Txn{
			Compare: toCompares(u.RequestTxn.GetCompare(), nil),
			Success: c.ops(u.RequestTxn.GetSuccess(), nil),
			Failure: c.ops(u.RequestTxn.GetFailure(), nil),
		}
	default:
		// validate.go refuses a request without an operation.
		panic("gateway: an operation that was not checked")
	}
}

func toCompares(from []*pb.Compare, to []evaluate.Compare) []evaluate.Compare {
	if len(from) > cap(to) {
		to = make([]evaluate.Compare, 0, len(from))
	}
	for _, c := range from {
		if cmp, holds := toCompare(c); !holds {
			to = append(to, cmp)
		}
	}
	return to
}

// toCompare translates a condition; holds says that it does whatever the
// store has, and needs no evaluation.
//
// Numbers that are not in the enums have a meaning too, which is etcd's. An
// unknown target is equal to everything. An unknown result always holds, only
// that no comparison with a value holds of a key that does not exist. A
// condition whose number or value belongs to another target, or is missing,
// compares with 0 or with the empty value.
func toCompare(c *pb.Compare) (cmp evaluate.Compare, holds bool) {
	cmp = evaluate.Compare{Key: c.Key, End: c.RangeEnd}
	switch c.Target {
	case pb.Compare_VERSION:
		u, _ := c.TargetUnion.(*pb.Compare_Version)
		cmp.Target = evaluate.CompareVersion
		if u != nil {
			cmp.Number = u.Version
		}
	case pb.Compare_CREATE:
		u, _ := c.TargetUnion.(*pb.Compare_CreateRevision)
		cmp.Target = evaluate.CompareCreate
		if u != nil {
			cmp.Number = u.CreateRevision
		}
	case pb.Compare_MOD:
		u, _ := c.TargetUnion.(*pb.Compare_ModRevision)
		cmp.Target = evaluate.CompareMod
		if u != nil {
			cmp.Number = u.ModRevision
		}
	case pb.Compare_LEASE:
		u, _ := c.TargetUnion.(*pb.Compare_Lease)
		cmp.Target = evaluate.CompareLease
		if u != nil {
			cmp.Number = u.Lease
		}
	case pb.Compare_VALUE:
		u, _ := c.TargetUnion.(*pb.Compare_Value)
		cmp.Target = evaluate.CompareValue
		if u != nil {
			cmp.Value = u.Value
		}
	default:
		if c.Result == pb.Compare_NOT_EQUAL || c.Result == pb.Compare_GREATER || c.Result == pb.Compare_LESS {
			return never(c.Key), false
		}
		return cmp, true
	}

	switch c.Result {
	case pb.Compare_EQUAL:
		cmp.Result = evaluate.CompareEqual
	case pb.Compare_GREATER:
		cmp.Result = evaluate.CompareGreater
	case pb.Compare_LESS:
		cmp.Result = evaluate.CompareLess
	case pb.Compare_NOT_EQUAL:
		cmp.Result = evaluate.CompareNotEqual
	default:
		if c.Target != pb.Compare_VALUE {
			return cmp, true
		}
		return evaluate.Compare{
			Target: evaluate.CompareVersion, Result: evaluate.CompareGreater, Key: c.Key, End: c.RangeEnd,
		}, false
	}
	return cmp, false
}

// never is a condition that holds of no store: no key has a version below 0.
func never(key []byte) evaluate.Compare {
	return evaluate.Compare{Target: evaluate.CompareVersion, Result: evaluate.CompareLess, Key: key}
}
