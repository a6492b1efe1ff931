package clients

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
)

func key(i int) string { return fmt.Sprintf("k%05d", i) }

// service starts a gRPC server that a client can find, and returns its address.
func service(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// ask says which server a client has asked.
func ask(ctx context.Context, cc *grpc.ClientConn) (string, error) {
	var p peer.Peer
	_, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&p), grpc.WaitForReady(true))
	if err != nil {
		return "", err
	}
	return p.Addr.String(), nil
}

func TestNaming(t *testing.T) {
	t.Parallel()
	c := one(t)
	first, second := service(t), service(t)
	manager, err := endpoints.NewManager(c, "service")
	require.NoError(t, err)
	require.NoError(t, manager.AddEndpoint(within(t), "service/a", endpoints.Endpoint{Addr: first, Metadata: "x"}))
	updates, err := manager.NewWatchChannel(within(t))
	require.NoError(t, err)
	u := (<-updates)[0]
	require.Equal(t, endpoints.Add, u.Op)
	require.Equal(t, endpoints.Endpoint{Addr: first, Metadata: "x"}, u.Endpoint)

	builder, err := resolver.NewBuilder(c)
	require.NoError(t, err)
	cc, err := grpc.NewClient("etcd:///service", grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer cc.Close()
	who, err := ask(within(t), cc)
	require.NoError(t, err)
	require.Equal(t, first, who)

	// Both are changed at once.
	require.NoError(t, manager.Update(within(t), []*endpoints.UpdateWithOpts{
		endpoints.NewAddUpdateOpts("service/b", endpoints.Endpoint{Addr: second}),
		endpoints.NewDeleteUpdateOpts("service/a"),
	}))
	for ctx := within(t); who != second; {
		who, err = ask(ctx, cc)
		require.NoError(t, err)
	}
	seen := map[endpoints.Operation]string{}
	for len(seen) < 2 {
		us, ok := <-updates
		require.True(t, ok)
		for _, u := range us {
			seen[u.Op] = u.Key
		}
	}
	require.Equal(t, map[endpoints.Operation]string{endpoints.Add: "service/b", endpoints.Delete: "service/a"}, seen)
	list, err := manager.List(within(t))
	require.NoError(t, err)
	require.Equal(t, endpoints.Key2EndpointMap{"service/b": {Addr: second}}, list)
}
