package gateway

import (
	"context"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maintenanceServer serves etcd's Maintenance service for those who may: all of it for
// administrators, and what only shows something for everybody who is somebody.
type maintenanceServer struct {
	*Server
	pb.UnsafeMaintenanceServer
}

// Status tells how this member is doing.
func (s *maintenanceServer) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if err := s.permitted(ctx, somebody); err != nil {
		return nil, err
	}
	st := s.store.Status()
	resp := &pb.StatusResponse{
		Header:           s.header(0),
		Version:          s.cfg.ServerVersion,
		DbSize:           st.DBSize,
		DbSizeInUse:      st.DBSize,
		DbSizeQuota:      s.cfg.QuotaBytes,
		Leader:           st.Leader,
		RaftIndex:        st.Index,
		RaftTerm:         st.Term,
		RaftAppliedIndex: st.AppliedIndex,
		IsLearner:        st.IsLearner,
		StorageVersion:   s.cfg.StorageVersion,
		DowngradeInfo:    &pb.DowngradeInfo{},
	}
	for _, a := range s.alarms.now.Load().members() {
		resp.Errors = append(resp.Errors, a.String())
	}
	if st.Leader == 0 {
		resp.Errors = append(resp.Errors, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
	}
	return resp, nil
}

// Defragment has nothing to do but wait for what the last compaction frees: the store
// gives space back by itself. Cron jobs that defragment etcd go on working, and who
// compacts, defragments and disarms the alarm has the space.
func (s *maintenanceServer) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	s.defragmented.Do(func() {
		s.log.Info("defragmentation was requested; this store needs none: the request is answered when what the last compaction frees is deleted")
	})
	if err := s.store.CompactWait(ctx, s.store.Compacted()); err != nil {
		return nil, toGRPC(err)
	}
	return &pb.DefragmentResponse{}, nil
}

// Hash hashes the whole store.
func (s *maintenanceServer) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	hash, revision, err := s.store.Hash(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.HashResponse{Header: s.header(revision), Hash: hash}, nil
}

// HashKV hashes the keys as they were at a revision.
func (s *maintenanceServer) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	h, err := s.store.HashKV(ctx, r.Revision)
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.HashKVResponse{
		Header:          s.header(h.Revision),
		Hash:            h.Hash,
		CompactRevision: h.CompactRevision,
		HashRevision:    h.HashRevision,
	}, nil
}

// MoveLeader hands leadership to another member; to the leader it is done already.
func (s *maintenanceServer) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	leader := s.headers.raft.Leader()
	if leader != s.headers.memberID {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	target := find(s.store.Members(), r.TargetID)
	switch {
	case target == nil || target.IsLearner:
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	case target.ID == leader:
		return &pb.MoveLeaderResponse{}, nil
	}
	if err := s.store.MoveLeader(ctx, target.ID); err != nil {
		return nil, toGRPC(err)
	}
	return &pb.MoveLeaderResponse{}, nil
}

// Downgrade refuses: another version can not read this store in place. To
// cancel what can not be begun is no error, as in etcd.
func (s *maintenanceServer) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE:
		if !clusterVersion(r.Version) {
			return nil, rpctypes.ErrGRPCWrongDowngradeVersionFormat
		}
		return nil, unimplemented("the store can not be downgraded in place")
	case pb.DowngradeRequest_CANCEL:
		major, rest, _ := strings.Cut(s.cfg.ClusterVersion, ".")
		minor, _, _ := strings.Cut(rest, ".")
		return &pb.DowngradeResponse{Header: s.header(0), Version: major + "." + minor}, nil
	default:
		return nil, status.Error(codes.Unknown, "etcdserver: unknown method")
	}
}

// clusterVersion says whether v is major.minor or major.minor.patch.
func clusterVersion(v string) bool {
	parts := strings.Split(v, ".")
	for _, p := range parts {
		if _, err := strconv.ParseUint(p, 10, 32); err != nil {
			return false
		}
	}
	return len(parts) == 2 || len(parts) == 3
}
