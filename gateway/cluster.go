package gateway

import (
	"context"

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
	members := s.store.Members()
	if r.Linearizable {
		var err error
		if members, err = s.store.MembersNow(ctx); err != nil {
			return nil, toGRPC(err)
		}
	}
	if err := s.permitted(ctx, somebody); err != nil {
		return nil, err
	}
	return &pb.MemberListResponse{Header: s.memberHeader(), Members: membersOf(members)}, nil
}

// MemberAdd adds a member, which can be started then.
func (s *clusterServer) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, err := member.ParseURLs(r.PeerURLs)
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	added, members, err := s.store.MemberAdd(ctx, urls, r.IsLearner)
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.MemberAddResponse{Header: s.memberHeader(), Member: memberOf(added), Members: membersOf(members)}, nil
}

// MemberRemove removes a member, which then stops by itself.
func (s *clusterServer) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	members, err := s.store.MemberRemove(ctx, r.ID)
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.MemberRemoveResponse{Header: s.memberHeader(), Members: membersOf(members)}, nil
}

// MemberUpdate changes a member's peer URLs.
func (s *clusterServer) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	urls, err := member.ParseURLs(r.PeerURLs)
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	members, err := s.store.MemberUpdate(ctx, r.ID, urls)
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.MemberUpdateResponse{Header: s.memberHeader(), Members: membersOf(members)}, nil
}

// MemberPromote makes a learner, which must have caught up, a voter.
func (s *clusterServer) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	members, err := s.store.MemberPromote(ctx, r.ID)
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.MemberPromoteResponse{Header: s.memberHeader(), Members: membersOf(members)}, nil
}

func (s *clusterServer) memberHeader() *pb.ResponseHeader {
	return s.headers.fillMember(new(pb.ResponseHeader))
}

func memberOf(m member.Info) *pb.Member {
	return &pb.Member{
		ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner,
	}
}

func membersOf(members []member.Info) []*pb.Member {
	answer := make([]*pb.Member, len(members))
	for i, m := range members {
		answer[i] = memberOf(m)
	}
	return answer
}

func find(members []member.Info, id uint64) *member.Info {
	for i := range members {
		if members[i].ID == id {
			return &members[i]
		}
	}
	return nil
}
