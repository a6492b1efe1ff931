package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

// TestJWT runs testdata/jwt.txt, whose commands are those of TestMatrix, with tokens
// that were signed outside, some of them badly, and one that the server has made.
func TestJWT(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two servers")
	}
	binary, dir := target(t), t.TempDir()
	secret := []byte("nobody knows")
	file := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(file, secret, 0o600))
	s := server.Run(t, server.Config{Binary: binary, Args: []string{
		"--bcrypt-cost=4", "--auth-token=jwt,sign-method=HS256,priv-key=" + file + ",ttl=10m",
	}})
	conn := dial(t, s, nil)
	fill(t, conn)
	status, err := pb.NewAuthClient(conn).AuthStatus(t.Context(), &pb.AuthStatusRequest{})
	require.NoError(t, err)
	now := status.AuthRevision
	later, earlier := clock.Real{}.Now().Add(time.Hour).Unix(), clock.Real{}.Now().Add(-time.Hour).Unix()
	signed := func(name string, claims jwt.MapClaims, method jwt.SigningMethod, key any) caller {
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		require.NoError(t, err)
		return caller{name, conn, []string{"token", token}}
	}
	claims := func(user string, revision uint64) jwt.MapClaims {
		return jwt.MapClaims{"username": user, "revision": revision, "exp": later}
	}
	good := func(name string, c jwt.MapClaims) caller { return signed(name, c, jwt.SigningMethodHS256, secret) }
	callers := []caller{
		good("alice", claims("alice", now)),
		{"alice, who has logged in", conn, []string{"authorization", "Bearer " + token(t, conn, "alice")}},
		good("alice as she was", claims("alice", 1)),
		good("alice as she will be", claims("alice", now+100)),
		good("alice for ever", jwt.MapClaims{"username": "alice", "revision": now}),
		good("alice too late", jwt.MapClaims{"username": "alice", "revision": now, "exp": earlier}),
		good("alice too early", jwt.MapClaims{"username": "alice", "revision": now, "exp": later, "nbf": later}),
		good("no user", jwt.MapClaims{"revision": now, "exp": later}),
		good("no revision", jwt.MapClaims{"username": "alice", "exp": later}),
		good("mallory", claims("mallory", now)),
		signed("a wrong key", claims("root", now), jwt.SigningMethodHS256, []byte("x")),
		signed("another method", claims("root", now), jwt.SigningMethodHS384, secret),
		signed("no signature", claims("root", now), jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType),
		good("root", claims("root", now)),
		good("root as he was", claims("root", 1)),
		good("root as he will be", claims("root", now+100)),
	}

	// Who only knows the public key lets nobody log in.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	public := filepath.Join(dir, "public")
	require.NoError(t, os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	verifier := server.Run(t, server.Config{Binary: binary, Args: []string{
		"--bcrypt-cost=4", "--auth-token=jwt,sign-method=ES256,pub-key=" + public,
	}})
	conn = dial(t, verifier, nil)
	fill(t, conn)
	callers = append(callers,
		signed("alice elsewhere", claims("alice", now), jwt.SigningMethodES256, key),
		caller{"nobody elsewhere", conn, nil})

	datadriven.RunTest(t, "testdata/jwt.txt", func(t *testing.T, d *datadriven.TestData) string {
		t.Helper()
		require.Equal(t, "call", d.Cmd)
		what, ok := calls[d.CmdArgs[0].Key]
		require.True(t, ok)
		var out strings.Builder
		for i := range callers {
			fmt.Fprintf(&out, "%-35s %s\n", callers[i].name, callers[i].call(t, what))
		}
		return out.String()
	})
}
