package gateway

import (
	"context"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maintenanceServer serves etcd's Maintenance service.
type maintenanceServer struct {
	*Server
	pb.UnsafeMaintenanceServer
}

// Status tells how this member is doing.
func (s *maintenanceServer) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	st := s.store.Status()
	resp := &pb.StatusResponse{
		Header:           s.header(0),
		Version:          s.cfg.ServerVersion,
		DbSize:           st.DBSize,
		DbSizeInUse:      st.DBSizeInUse,
		DbSizeQuota:      s.cfg.QuotaBytes,
		Leader:           st.Leader,
		RaftIndex:        st.Index,
		RaftTerm:         st.Term,
		RaftAppliedIndex: st.AppliedIndex,
		IsLearner:        st.IsLearner,
		StorageVersion:   s.cfg.StorageVersion,
		DowngradeInfo:    &pb.DowngradeInfo{},
	}
	if st.Leader == 0 {
		resp.Errors = append(resp.Errors, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
	}
	return resp, nil
}

// Alarm lists the alarms: there are none, because nothing raises one yet. So
// there are none to put down either, which as in etcd is no error.
//
// An action that does not exist makes etcd fail for good: it is in its log.
func (s *maintenanceServer) Alarm(_ context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	switch r.Action {
	case pb.AlarmRequest_GET, pb.AlarmRequest_DEACTIVATE:
	case pb.AlarmRequest_ACTIVATE:
		if r.Alarm != pb.AlarmType_NONE {
			return nil, unimplemented("alarms can not be raised yet")
		}
	default:
		return nil, status.Error(codes.InvalidArgument, "pebbledash: no such alarm action")
	}
	return &pb.AlarmResponse{Header: s.header(0)}, nil
}

// Defragment has nothing to do: the store gives space back by itself. Cron
// jobs that defragment etcd go on working.
func (s *maintenanceServer) Defragment(context.Context, *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	s.defragmented.Do(func() {
		s.log.Info("defragmentation was requested; this store needs none, so the request is answered at once, now and later")
	})
	return &pb.DefragmentResponse{}, nil
}

// Hash hashes the whole store.
func (s *maintenanceServer) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	hash, revision, err := s.store.Hash(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.HashResponse{Header: s.header(revision), Hash: hash}, nil
}

// HashKV hashes the keys as they were at a revision.
func (s *maintenanceServer) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
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

// Snapshot sends a backup. Not yet.
func (s *maintenanceServer) Snapshot(*pb.SnapshotRequest, grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
	return unimplemented("snapshots can not be taken yet")
}

// MoveLeader hands leadership to another member; to the leader it is done already.
func (s *maintenanceServer) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
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
func (s *maintenanceServer) Downgrade(_ context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
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
