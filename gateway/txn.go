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
	by, err := s.auth.asker(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	call := toTxn(r)
	may := func(by asker) error { return s.mayTxn(ctx, by, r) }
	var res evaluate.Result
	if call.readOnly {
		res, err = s.readAs(ctx, by, &call.txn, call.serializable, may)
	} else {
		if err := checkTxnSize(r, s.cfg.MaxRequestBytes); err != nil {
			return nil, err
		}
		res, err = s.doAs(ctx, by, &call.txn, may)
	}
	if err != nil {
		return nil, err
	}
	a := new(txnAnswer)
	a.fill(&call.txn, &res)
	s.headers.fill(&a.header, res.Revision)
	return &a.resp, nil
}
