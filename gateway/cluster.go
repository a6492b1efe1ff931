package gateway

import (
	"context"
	"net"
	"net/url"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/pebbledash/pebbledash/storage/member"
)

// clusterServer serves etcd's Cluster service. The headers of its answers have
// no revision.
type clusterServer struct {
	*Server
	pb.UnsafeClusterServer
}

// MemberList lists the members, as of now if the client asks for that.
func (s *clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if _, err := s.store.ReadIndex(ctx); err != nil {
			return nil, toGRPC(err)
		}
	}
	members := s.store.Members()
	answer := make([]*pb.Member, len(members))
	for i, m := range members {
		answer[i] = &pb.Member{
			ID:         m.ID,
			Name:       m.Name,
			PeerURLs:   m.PeerURLs,
			ClientURLs: m.ClientURLs,
			IsLearner:  m.IsLearner,
		}
	}
	return &pb.MemberListResponse{Header: s.headers.fillMember(new(pb.ResponseHeader)), Members: answer}, nil
}

// MemberAdd adds a member. Not yet.
func (s *clusterServer) MemberAdd(_ context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	if !peerURLs(r.PeerURLs) {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	return nil, unimplemented("members can not be added yet")
}

// MemberRemove removes a member. Not yet; the last one never.
func (s *clusterServer) MemberRemove(_ context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	members := s.store.Members()
	if find(members, r.ID) == nil {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	if len(members) == 1 {
		return nil, rpctypes.ErrGRPCMemberNotEnoughStarted
	}
	return nil, unimplemented("members can not be removed yet")
}

// MemberUpdate changes a member's peer URLs. Not yet.
func (s *clusterServer) MemberUpdate(_ context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if find(s.store.Members(), r.ID) == nil {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return nil, unimplemented("members can not be updated yet")
}

// MemberPromote makes a learner a voter. Not yet.
func (s *clusterServer) MemberPromote(_ context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	m := find(s.store.Members(), r.ID)
	switch {
	case m == nil:
		return nil, rpctypes.ErrGRPCMemberNotFound
	case !m.IsLearner:
		return nil, rpctypes.ErrGRPCMemberNotLearner
	}
	return nil, unimplemented("learners can not be promoted yet")
}

func find(members []member.Info, id uint64) *member.Info {
	for i := range members {
		if members[i].ID == id {
			return &members[i]
		}
	}
	return nil
}

// peerURLs says whether urls could be a member's.
func peerURLs(urls []string) bool {
	for _, raw := range urls {
		u, err := url.Parse(strings.TrimSpace(raw))
		if err != nil {
			return false
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" {
				return false
			}
		case "unix", "unixs":
		default:
			return false
		}
	}
	return len(urls) > 0
}
