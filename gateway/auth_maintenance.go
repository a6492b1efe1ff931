package gateway

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// guardedMaintenance is the Maintenance service for those who may: all of it for
// administrators, and what only shows something for everybody who is somebody.
type guardedMaintenance struct{ *maintenanceServer }

// Alarm implements pb.MaintenanceServer.
func (s guardedMaintenance) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	may := admin
	if r.Action == pb.AlarmRequest_GET {
		may = somebody
	}
	if err := s.permitted(ctx, may); err != nil {
		return nil, err
	}
	return s.maintenanceServer.Alarm(ctx, r)
}

// Status implements pb.MaintenanceServer.
func (s guardedMaintenance) Status(ctx context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error) {
	if err := s.permitted(ctx, somebody); err != nil {
		return nil, err
	}
	return s.maintenanceServer.Status(ctx, r)
}

// Defragment implements pb.MaintenanceServer.
func (s guardedMaintenance) Defragment(ctx context.Context, r *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	return s.maintenanceServer.Defragment(ctx, r)
}

// Hash implements pb.MaintenanceServer.
func (s guardedMaintenance) Hash(ctx context.Context, r *pb.HashRequest) (*pb.HashResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	return s.maintenanceServer.Hash(ctx, r)
}

// HashKV implements pb.MaintenanceServer.
func (s guardedMaintenance) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	return s.maintenanceServer.HashKV(ctx, r)
}

// Snapshot implements pb.MaintenanceServer.
func (s guardedMaintenance) Snapshot(r *pb.SnapshotRequest, stream grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
	if err := s.permitted(stream.Context(), admin); err != nil {
		return err
	}
	return s.maintenanceServer.Snapshot(r, stream)
}

// MoveLeader implements pb.MaintenanceServer.
func (s guardedMaintenance) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	return s.maintenanceServer.MoveLeader(ctx, r)
}

// Downgrade implements pb.MaintenanceServer.
func (s guardedMaintenance) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	return s.maintenanceServer.Downgrade(ctx, r)
}
