package gateway

import (
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/gateway/electionpb"
)

// electionServer serves etcd's Election service, with the elections of etcd's
// client library.
type electionServer struct {
	*Server
	electionpb.UnsafeElectionServer
}

var errNoLeaderKey = errors.New(`"leader" field must be provided`)

// nobody is the lease of who does not stand for anything.
const nobody = -1

// Campaign waits until the caller leads. Who leaves does not stand any more.
func (s *electionServer) Campaign(ctx context.Context, r *electionpb.CampaignRequest) (*electionpb.CampaignResponse, error) {
	return asCaller(ctx, s.Server, func(ctx context.Context, client *clientv3.Client) (*electionpb.CampaignResponse, error) {
		session, err := orphan(ctx, client, r.Lease)
		if err != nil {
			return nil, err
		}
		e := concurrency.NewElection(session, string(r.Name))
		if err := e.Campaign(ctx, string(r.Value)); err != nil {
			return nil, err
		}
		return &electionpb.CampaignResponse{
			Header: e.Header(),
			Leader: &electionpb.LeaderKey{Name: r.Name, Key: []byte(e.Key()), Rev: e.Rev(), Lease: int64(session.Lease())},
		}, nil
	})
}

// Proclaim gives the leader another value.
func (s *electionServer) Proclaim(ctx context.Context, r *electionpb.ProclaimRequest) (*electionpb.ProclaimResponse, error) {
	return asCaller(ctx, s.Server, func(ctx context.Context, client *clientv3.Client) (*electionpb.ProclaimResponse, error) {
		e, err := resume(ctx, client, r.Leader)
		if err != nil {
			return nil, err
		}
		if err := e.Proclaim(ctx, string(r.Value)); err != nil {
			return nil, err
		}
		return &electionpb.ProclaimResponse{Header: e.Header()}, nil
	})
}

// Resign lets the next one lead.
func (s *electionServer) Resign(ctx context.Context, r *electionpb.ResignRequest) (*electionpb.ResignResponse, error) {
	return asCaller(ctx, s.Server, func(ctx context.Context, client *clientv3.Client) (*electionpb.ResignResponse, error) {
		e, err := resume(ctx, client, r.Leader)
		if err != nil {
			return nil, err
		}
		if err := e.Resign(ctx); err != nil {
			return nil, err
		}
		return &electionpb.ResignResponse{Header: e.Header()}, nil
	})
}

// Leader says who leads.
func (s *electionServer) Leader(ctx context.Context, r *electionpb.LeaderRequest) (*electionpb.LeaderResponse, error) {
	return asCaller(ctx, s.Server, func(ctx context.Context, client *clientv3.Client) (*electionpb.LeaderResponse, error) {
		session, err := orphan(ctx, client, nobody)
		if err != nil {
			return nil, err
		}
		resp, err := concurrency.NewElection(session, string(r.Name)).Leader(ctx)
		if err != nil {
			return nil, err
		}
		return &electionpb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}, nil
	})
}

// Observe tells who leads, and every value, until the caller leaves.
func (s *electionServer) Observe(r *electionpb.LeaderRequest, stream grpc.ServerStreamingServer[electionpb.LeaderResponse]) error {
	client, ctx, end, err := s.callAs(stream.Context())
	if err != nil {
		return err
	}
	defer end()
	session, err := orphan(ctx, client, nobody)
	if err != nil {
		return because(ctx, err)
	}
	// The channel is closed when ctx ends, and when the watch behind it does.
	for resp := range concurrency.NewElection(session, string(r.Name)).Observe(ctx) {
		if err := stream.Send(&electionpb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}); err != nil {
			return err
		}
	}
	return because(ctx, ctx.Err())
}

// resume is the election that key shows its owner to lead.
func resume(ctx context.Context, client *clientv3.Client, key *electionpb.LeaderKey) (*concurrency.Election, error) {
	if key == nil {
		return nil, errNoLeaderKey
	}
	session, err := orphan(ctx, client, key.Lease)
	if err != nil {
		return nil, err
	}
	return concurrency.ResumeElection(session, string(key.Name), string(key.Key), key.Rev), nil
}
