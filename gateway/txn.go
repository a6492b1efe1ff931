package gateway

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// Txn runs a transaction. One that can change nothing is a read: it goes past
// the log.
func (s *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxn(r, s.cfg.MaxTxnOps); err != nil {
		return nil, err
	}
	call := toTxn(r)
	var res evaluate.Result
	var err error
	if call.readOnly {
		res, err = s.store.Read(ctx, &call.txn, call.serializable)
		err = toGRPC(err)
	} else {
		if err := checkTxnSize(r, s.cfg.MaxRequestBytes); err != nil {
			return nil, err
		}
		res, err = s.do(ctx, &call.txn)
	}
	if err != nil {
		return nil, err
	}
	a := new(txnAnswer)
	a.fill(&call.txn, &res)
	s.headers.fill(&a.header, res.Revision)
	return &a.resp, nil
}
