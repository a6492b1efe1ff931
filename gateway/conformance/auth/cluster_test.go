package auth

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// withToken is a context for calls of whom a token is.
func withToken(t *testing.T, token string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "token", token)
}

func requireIs(t *testing.T, want, err error) {
	t.Helper()
	if want == nil {
		require.NoError(t, err)
		return
	}
	require.Equal(t, rpctypes.Error(want), rpctypes.Error(err))
}

func read(t *testing.T, conn *grpc.ClientConn, token, key string) error {
	t.Helper()
	_, err := pb.NewKVClient(conn).Range(withToken(t, token), &pb.RangeRequest{Key: []byte(key)})
	return err
}

func write(t *testing.T, conn *grpc.ClientConn, token, key string) error {
	t.Helper()
	_, err := pb.NewKVClient(conn).Put(withToken(t, token), &pb.PutRequest{Key: []byte(key)})
	return err
}

// TestCluster has three members: a token of one is taken by all, and what is revoked
// through one is refused by all at once, also when one was killed meanwhile, and
// after all of them were.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three servers")
	}
	if os.Getenv(server.TargetVariable) == string(server.Etcd) {
		t.Skip("etcd may refuse a read that a revocation overtakes for its old revision")
	}
	members := server.RunCluster(t, server.Config{Binary: target(t), Args: []string{"--bcrypt-cost=4"}}, 3)
	conns := make([]*grpc.ClientConn, len(members))
	for i, m := range members {
		conns[i] = dial(t, m, nil)
	}
	// Nobody has asked the others before: they learn of users by this alone.
	fill(t, conns[0])
	for i, conn := range conns {
		requireIs(t, rpctypes.ErrGRPCUserEmpty, write(t, conn, "", "k"))
		requireIs(t, rpctypes.ErrGRPCUserEmpty, read(t, conn, "", "k"))
		require.NoError(t, read(t, conn, token(t, conn, "carol"), "k"), "member %d", i)
	}
	for i, from := range conns {
		carol := token(t, from, "carol")
		for j, to := range conns {
			require.NoError(t, read(t, to, carol, "k"), "a token of %d at %d", i, j)
			require.NoError(t, write(t, to, carol, "k"), "a token of %d at %d", i, j)
			requireIs(t, rpctypes.ErrGRPCPermissionDenied, read(t, to, carol, "a"))
			requireIs(t, rpctypes.ErrGRPCPermissionDenied, write(t, to, carol, "a"))
		}
	}

	// Each time another member is asked to revoke, and all are asked at once.
	carol := token(t, conns[1], "carol")
	for round := range 15 {
		admin := pb.NewAuthClient(conns[round%3])
		root := token(t, conns[round%3], "root")
		_, err := admin.RoleRevokePermission(withToken(t, root), &pb.AuthRoleRevokePermissionRequest{
			Role: "owner", Key: []byte("k"), RangeEnd: []byte("l"),
		})
		require.NoError(t, err)
		errs := make(chan error, 2*len(conns))
		for _, conn := range conns {
			go func() { errs <- read(t, conn, carol, "k") }()
			go func() { errs <- write(t, conn, carol, "k") }()
		}
		for range cap(errs) {
			requireIs(t, rpctypes.ErrGRPCPermissionDenied, <-errs)
		}
		_, err = admin.RoleGrantPermission(withToken(t, root), permission("owner", "k", "l", authpb.Permission_READWRITE))
		require.NoError(t, err)
		for i, conn := range slices.Backward(conns) {
			require.NoError(t, read(t, conn, carol, "k"), "member %d in round %d", i, round)
			require.NoError(t, write(t, conn, carol, "k"), "member %d in round %d", i, round)
		}
	}

	// A member that was down when a password was changed knows of it when it is back.
	require.NoError(t, members[2].Kill())
	_, err := pb.NewAuthClient(conns[0]).UserChangePassword(withToken(t, token(t, conns[0], "root")),
		&pb.AuthUserChangePasswordRequest{Name: "carol", Password: "another"})
	require.NoError(t, err)
	require.NoError(t, members[2].Restart(t.Context()))
	for _, m := range members {
		conn := dial(t, m, nil)
		requireIs(t, rpctypes.ErrGRPCInvalidAuthToken, write(t, conn, carol, "k"))
	}

	for _, m := range members {
		require.NoError(t, m.Kill())
	}
	restarted := make(chan error, len(members))
	for _, m := range members {
		go func() { restarted <- m.Restart(t.Context()) }()
	}
	for range members {
		require.NoError(t, <-restarted)
	}
	for _, m := range members {
		conn := dial(t, m, nil)
		requireIs(t, rpctypes.ErrGRPCUserEmpty, write(t, conn, "", "a"))
		requireIs(t, rpctypes.ErrGRPCUserEmpty, read(t, conn, "", "a"))
		alice := token(t, conn, "alice")
		require.NoError(t, read(t, conn, alice, "a"))
		requireIs(t, rpctypes.ErrGRPCPermissionDenied, write(t, conn, alice, "a"))
		_, err := pb.NewAuthClient(conn).Authenticate(withToken(t, ""), &pb.AuthenticateRequest{Name: "carol", Password: "carol"})
		requireIs(t, rpctypes.ErrGRPCAuthFailed, err)
	}
}
