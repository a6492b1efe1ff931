package gateway

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/pebbledash/pebbledash/gateway/lockpb"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// callerOf is the name on the certificate of who a call is made for.
func callerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			return info.State.PeerCertificates[0].Subject.CommonName
		}
	}
	return "nobody"
}

// The calls of which a lock is made are made in the name of who wants it, and nobody
// else can say that a call is.
func TestCallsInTheNameOfTheCaller(t *testing.T) {
	serverTLS, clientTLS := certify(t)
	serverTLS.ClientAuth, serverTLS.ClientCAs = tls.RequireAndVerifyClientCert, clientTLS.RootCAs
	clientTLS.Certificates = serverTLS.Certificates
	store := newFakeStore()
	type call struct{ name, token, version string }
	calls, goOn := make(chan call), make(chan struct{})
	store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
		first := func(key string) string {
			if vs := metadata.ValueFromIncomingContext(ctx, key); len(vs) > 0 {
				return vs[0]
			}
			return ""
		}
		calls <- call{callerOf(ctx), first("token"), first("client-api-version")}
		<-goOn
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	s, addr := serve(t, Config{TLS: serverTLS}, store)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = s.serveMode(plain, modePlain) }()

	locks := lockpb.NewLockClient(dial(t, addr, grpc.WithTransportCredentials(credentials.NewTLS(clientTLS))))
	ctx := metadata.AppendToOutgoingContext(within(t), "token", "secret", "client-api-version", "3.7", "other", "x")
	unlocked := make(chan error, 1)
	go func() {
		_, err := locks.Unlock(ctx, &lockpb.UnlockRequest{Key: []byte("k")})
		unlocked <- err
	}()
	require.Equal(t, call{"gateway", "secret", "3.7"}, <-calls)

	// While that goes on its name can't be borrowed.
	id := callerID(t, s)
	kv := pb.NewKVClient(dial(t, plain.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())))
	conn, err := s.json.conn.dial()
	require.NoError(t, err)
	for _, kv := range []pb.KVClient{kv, pb.NewKVClient(conn)} {
		go func() {
			_, _ = kv.DeleteRange(metadata.AppendToOutgoingContext(within(t), callerKey, id), &pb.DeleteRangeRequest{Key: []byte("k")})
		}()
		require.Equal(t, call{name: "nobody"}, <-calls)
	}
	close(goOn)
	require.NoError(t, <-unlocked)
	s.callers.peers.Range(func(any, any) bool {
		t.Error("a caller is left")
		return false
	})
}

func callerID(t *testing.T, s *Server) (id string) {
	t.Helper()
	s.callers.peers.Range(func(key, _ any) bool {
		id = key.(string)
		return false
	})
	require.NotEmpty(t, id)
	return id
}
