package gateway

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// From the storage to the wire. An answer and its header are one allocation.

type rangeAnswer struct {
	resp   pb.RangeResponse
	header pb.ResponseHeader
}

func (a *rangeAnswer) fill(res *evaluate.Result) *pb.RangeResponse {
	a.resp.Header = &a.header
	a.resp.Kvs = res.KVs
	a.resp.More = res.More
	a.resp.Count = res.Count
	return &a.resp
}

type putAnswer struct {
	resp   pb.PutResponse
	header pb.ResponseHeader
}

func (a *putAnswer) fill(res *evaluate.Result) *pb.PutResponse {
	a.resp.Header = &a.header
	if len(res.PrevKVs) > 0 {
		a.resp.PrevKv = res.PrevKVs[0]
	}
	return &a.resp
}

type deleteAnswer struct {
	resp   pb.DeleteRangeResponse
	header pb.ResponseHeader
}

func (a *deleteAnswer) fill(res *evaluate.Result) *pb.DeleteRangeResponse {
	a.resp.Header = &a.header
	a.resp.Deleted = res.Deleted
	a.resp.PrevKvs = res.PrevKVs
	return &a.resp
}

type txnAnswer struct {
	resp   pb.TxnResponse
	header pb.ResponseHeader
	// ops and opPtrs have room for the answer of a transaction of one operation.
	ops    [1]pb.ResponseOp
	opPtrs [1]*pb.ResponseOp
}

// fill answers txn with res, but for the header. The operations inside have
// headers of their own, with nothing but the revision that the operation saw
// or made; those of nested transactions are empty. That is how etcd has it.
func (a *txnAnswer) fill(txn *evaluate.Txn, res *evaluate.Result) *pb.TxnResponse {
	a.resp.Header = &a.header
	a.resp.Succeeded = res.Succeeded
	ops := txn.Failure
	if res.Succeeded {
		ops = txn.Success
	}
	switch n := len(res.Responses); n {
	case 0:
	case 1:
		a.opPtrs[0] = &a.ops[0]
		a.resp.Responses = a.opPtrs[:]
	default:
		answers, ptrs := make([]pb.ResponseOp, n), make([]*pb.ResponseOp, n)
		for i := range answers {
			ptrs[i] = &answers[i]
		}
		a.resp.Responses = ptrs
	}
	for i, to := range a.resp.Responses {
		fillOp(to, ops[i], &res.Responses[i])
	}
	return &a.resp
}

func fillOp(to *pb.ResponseOp, op evaluate.Op, res *evaluate.Result) {
	switch op := op.(type) {
	case *evaluate.Range:
		a := &struct {
			op pb.ResponseOp_ResponseRange
			rangeAnswer
		}{}
		a.op.ResponseRange = a.fill(res)
		a.header.Revision = res.Revision
		to.Response = &a.op
	case *evaluate.Put:
		a := &struct {
			op pb.ResponseOp_ResponsePut
			putAnswer
		}{}
		a.op.ResponsePut = a.fill(res)
		a.header.Revision = res.Revision
		to.Response = &a.op
	case *evaluate.DeleteRange:
		a := &struct {
			op pb.ResponseOp_ResponseDeleteRange
			deleteAnswer
		}{}
		a.op.ResponseDeleteRange = a.fill(res)
		a.header.Revision = res.Revision
		to.Response = &a.op
	case *evaluate.Txn:
		a := &struct {
			op pb.ResponseOp_ResponseTxn
			txnAnswer
		}{}
		a.op.ResponseTxn = a.fill(op, res)
		to.Response = &a.op
	default:
		// toTxn makes no other operations.
		panic("gateway: an answer to an operation that was not asked for")
	}
}
