package gateway

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Put writes one key.
func (s *kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	by, err := s.auth.asker(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	if err := checkPutSize(r, s.cfg.MaxRequestBytes); err != nil {
		return nil, err
	}
	op := toPut(r)
	res, err := s.doAs(ctx, by, &op, func(by asker) error { return s.mayPut(ctx, by, r) })
	if err != nil {
		return nil, err
	}
	a := new(putAnswer)
	a.fill(&res)
	s.headers.fill(&a.header, res.Revision)
	return &a.resp, nil
}
