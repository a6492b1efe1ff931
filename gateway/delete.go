package gateway

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// DeleteRange deletes keys, all at one revision. It takes none if there is
// nothing to delete.
func (s *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	by, err := s.auth.asker(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	if err := checkSize(r, s.cfg.MaxRequestBytes); err != nil {
		return nil, err
	}
	op := toDelete(r)
	res, err := s.doAs(ctx, by, &op, func(by asker) error { return mayDelete(by, r) })
	if err != nil {
		return nil, err
	}
	a := new(deleteAnswer)
	a.fill(&res)
	s.headers.fill(&a.header, res.Revision)
	return &a.resp, nil
}
