package gateway

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
)

// maxLeaseIDs bounds how many IDs are tried for a client that chose none. Two
// of 2^63 meet so seldom that a second try is a formality.
const maxLeaseIDs = 4

// leaseServer serves etcd's Lease service.
type leaseServer struct {
	*Server
	pb.UnsafeLeaseServer
}

// LeaseGrant makes a lease, with the client's ID or one of ours.
func (s *leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	by, err := s.auth.asker(ctx)
	if err == nil {
		err = somebody(by)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	if err := checkLeaseGrant(r); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		id := r.ID
		for id == 0 {
			id = rand.Int64() // Never negative, as etcd's are not.
		}
		res, err := s.doAs(ctx, by, &evaluate.LeaseGrant{ID: id, TTL: r.TTL}, somebody)
		if err == rpctypes.ErrGRPCLeaseExist && r.ID == 0 && try < maxLeaseIDs { //nolint:errorlint // do returns the sentinel.
			continue
		}
		if err != nil {
			return nil, err
		}
		return &pb.LeaseGrantResponse{Header: s.header(res.Revision), ID: id, TTL: res.TTL}, nil
	}
}

// LeaseRevoke ends a lease and deletes its keys, all at one revision.
func (s *leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	by, err := s.auth.asker(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	res, err := s.doAs(ctx, by, &evaluate.LeaseRevoke{ID: r.ID}, func(by asker) error {
		if err := somebody(by); err != nil {
			return err
		}
		return s.mayTouchLease(ctx, by, r.ID)
	})
	if err != nil {
		return nil, err
	}
	return &pb.LeaseRevokeResponse{Header: s.header(res.Revision)}, nil
}

// LeaseTimeToLive tells what remains of a lease, -1 of one that is not there.
func (s *leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if err := s.permitted(ctx, somebody); err != nil {
		return nil, err
	}
	info, err := s.store.LeaseTimeToLive(ctx, r.ID, r.Keys)
	if err == nil && r.Keys {
		err = s.permitted(ctx, func(by asker) error { return by.mayRead(info.Keys) })
	}
	if errors.Is(err, lease.ErrNotFound) {
		return &pb.LeaseTimeToLiveResponse{Header: s.header(0), ID: r.ID, TTL: -1}, nil
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.LeaseTimeToLiveResponse{
		Header:     s.header(0),
		ID:         r.ID,
		TTL:        info.TTL,
		GrantedTTL: info.GrantedTTL,
		Keys:       info.Keys,
	}, nil
}

// LeaseLeases lists the leases.
func (s *leaseServer) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	if err := s.permitted(ctx, somebody); err != nil {
		return nil, err
	}
	ids, err := s.store.Leases(ctx)
	if err == nil {
		err = s.permitted(ctx, func(by asker) error { return s.maySeeLeases(by, ids) })
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	leases := make([]*pb.LeaseStatus, len(ids))
	for i, id := range ids {
		leases[i] = &pb.LeaseStatus{ID: id}
	}
	return &pb.LeaseLeasesResponse{Header: s.header(0), Leases: leases}, nil
}

// LeaseKeepAlive renews leases for as long as the stream lives, one after
// another in the order of the requests.
func (s *leaseServer) LeaseKeepAlive(stream grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
	// Recv ends with the stream and not before, so it has a goroutine of its
	// own; that one ends with this call, which ends the stream.
	ended := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				ended <- s.caught(pb.Lease_LeaseKeepAlive_FullMethodName, p)
			}
		}()
		ended <- s.keepAlive(stream)
	}()
	select {
	case err := <-ended:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	case <-s.stopping:
		return rpctypes.ErrGRPCStopped
	}
}

func (s *leaseServer) keepAlive(stream grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			s.streamFailed(stream.Context(), err, s.metrics.keepAliveReceive)
			return err
		}
		// The header is from before the renewal: a client must not see a
		// renewal at a revision at which the lease was gone already.
		resp := &pb.LeaseKeepAliveResponse{Header: s.header(0), ID: r.ID}
		if err := s.permitted(stream.Context(), func(by asker) error { return s.mayRenewLease(by, r.ID) }); err != nil {
			return err
		}
		resp.TTL, err = s.store.LeaseRenew(stream.Context(), r.ID)
		switch {
		case errors.Is(err, lease.ErrNotFound):
			resp.TTL = 0
		case err != nil:
			return toGRPC(err)
		}
		if err := stream.Send(resp); err != nil {
			s.streamFailed(stream.Context(), err, s.metrics.keepAliveSend)
			return err
		}
	}
}
