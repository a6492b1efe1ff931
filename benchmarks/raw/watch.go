package raw

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Watch begins a watch on a stream of its own, and returns when it is there.
func Watch(ctx context.Context, conn *grpc.ClientConn, r *pb.WatchCreateRequest) (grpc.ClientStream, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		pb.Watch_Watch_FullMethodName, Option())
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
		return nil, err
	}
	var created pb.WatchResponse
	if err := stream.RecvMsg(&created); err != nil {
		return nil, err
	}
	if !created.Created || created.Canceled {
		return nil, fmt.Errorf("the watch of %s was refused: %s", r.Key, created.CancelReason)
	}
	return stream, nil
}
