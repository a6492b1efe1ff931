package gateway

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// streamChunkBytes is about how many bytes of keys and values a RangeStream
// sends at a time; up to two such chunks are held for a stream.
const streamChunkBytes = 256 << 10

// kvServer serves etcd's KV service.
type kvServer struct {
	*Server
	pb.UnsafeKVServer
}

// Range answers from one revision. The header shows the current one, even
// where the client chose an older one to read at.
func (s *kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	by, err := s.auth.asker(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	op := toRange(r)
	res, err := s.readAs(ctx, by, &op, r.Serializable, func(by asker) error { return by.CheckRange(by.who, r.Key, r.RangeEnd) })
	if err != nil {
		return nil, err
	}
	a := new(rangeAnswer)
	a.fill(&res)
	s.headers.fill(&a.header, res.Revision)
	return &a.resp, nil
}

// streamError marks an error of sending, which is the client's and not the
// store's, so that it can pass the store unchanged.
type streamError struct{ error }

func (e streamError) Unwrap() error { return e.error }

// RangeStream answers like Range, in chunks: header, more and count come with
// the last one only, so the chunks merged are Range's answer. One chunk is held
// back until it is known whether it is the last.
func (s *kvServer) RangeStream(r *pb.RangeRequest, stream grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
	if s.alarms.now.Load().corrupt {
		return rpctypes.ErrGRPCCorrupt
	}
	if err := checkRangeStream(r); err != nil {
		return err
	}
	by, err := s.streamAs(stream.Context(), r)
	if err != nil {
		return err
	}
	op := toRange(r)
	// checkRangeStream passes a target without an order; see there.
	op.SortTarget = evaluate.SortByKey

	var held []*mvccpb.KeyValue
	send := func(a *pb.RangeResponse) error {
		if err := s.stillMayRead(stream.Context(), by, r); err != nil {
			return streamError{err}
		}
		if err := stream.Send(&pb.RangeStreamResponse{RangeResponse: a}); err != nil {
			return streamError{err}
		}
		return nil
	}
	res, err := s.store.RangeStream(stream.Context(), &op, r.Serializable, s.cfg.StreamChunkBytes,
		func(kvs []*mvccpb.KeyValue) error {
			ready := held
			held = kvs
			if ready == nil {
				return nil
			}
			return send(&pb.RangeResponse{Kvs: ready})
		})
	if err == nil {
		last := new(rangeAnswer)
		res.KVs = held
		last.fill(&res)
		s.headers.fill(&last.header, res.Revision)
		err = send(&last.resp)
	}
	if err == nil && by.who.Revision != 0 && by.who.Revision != s.auth.current().Revision() {
		err = rpctypes.ErrGRPCAuthOldRevision // as in etcd, though all has been sent
	}
	var sending streamError
	if errors.As(err, &sending) {
		return sending.error
	}
	return toGRPC(err)
}
