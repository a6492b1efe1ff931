package gateway

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// Compact drops history. A physical compaction is answered when what it freed
// has been deleted; that wait has no bound but the client's.
func (s *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	by, err := s.auth.asker(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	res, err := s.doAs(ctx, by, &evaluate.Compact{Revision: r.Revision}, admin)
	if err != nil {
		return nil, err
	}
	if r.Physical {
		if err := s.store.CompactWait(ctx, r.Revision); err != nil {
			return nil, toGRPC(err)
		}
	}
	return &pb.CompactionResponse{Header: s.header(res.Revision)}, nil
}
