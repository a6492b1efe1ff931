package auth

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/pebbledash/pebbledash/gateway/conformance/certs"
	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// patience bounds every call.
const patience = 10 * time.Second

// caller is somebody who calls.
type caller struct {
	name string
	conn *grpc.ClientConn
	// metadata has the token.
	metadata []string
}

type rootKey struct{}

// isRoot says whether a call is root's, however root is recognised.
func isRoot(ctx context.Context) bool { return ctx.Value(rootKey{}) != nil }

func (c *caller) call(t *testing.T, what call) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if strings.Contains(c.name, "root") {
		ctx = context.WithValue(ctx, rootKey{}, true)
	}
	if len(c.metadata) > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, c.metadata...)
	}
	return what.do(ctx, c.conn)
}

// target is what is tested.
func target(t *testing.T) string {
	t.Helper()
	binary, err := server.Resolve(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, binary.Close()) })
	return binary.Path
}

// dial connects to a member, in plain text if config is nil.
func dial(t *testing.T, s *server.Server, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	_, address, _ := strings.Cut(s.Endpoint(), "://")
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// fill makes users, roles, keys and leases, and switches authentication on. Each
// user's password is the name.
//
//	reader  reads a to d, and x
//	writer  writes from b on
//	owner   reads and writes k to m
//	root    everything
func fill(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	auth := pb.NewAuthClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must := func(_ any, err error) {
		t.Helper()
		require.NoError(t, err)
	}
	for _, p := range []*pb.AuthRoleGrantPermissionRequest{
		permission("reader", "a", "d", authpb.Permission_READ), permission("reader", "x", "", authpb.Permission_READ),
		permission("writer", "b", fromKey, authpb.Permission_WRITE),
		// Two that meet are one.
		permission("owner", "k", "l", authpb.Permission_READWRITE), permission("owner", "l", "m", authpb.Permission_READWRITE),
	} {
		if r, _ := auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: p.Name}); r == nil {
			must(auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: p.Name}))
		}
		must(auth.RoleGrantPermission(ctx, p))
	}
	for _, u := range [][2]string{
		{"alice", "reader"}, {"bob", "writer"}, {"carol", "owner"}, {"dave", ""}, {"cert", "reader"}, {"root", "root"},
	} {
		user, role := u[0], u[1]
		r := &pb.AuthUserAddRequest{Name: user, Password: user}
		if user == "cert" {
			r.Options = &authpb.UserAddOptions{NoPassword: true}
		}
		must(auth.UserAdd(ctx, r))
		if role != "" {
			must(auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: user, Role: role}))
		}
	}
	kv, lease := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	for _, l := range []*pb.PutRequest{put("a", 7), put("k", 8)} {
		must(lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: l.Lease, TTL: 1000}))
		must(kv.Put(ctx, l))
	}
	must(kv.Put(ctx, put("d", 0)))
	must(auth.AuthEnable(ctx, &pb.AuthEnableRequest{}))
}

func token(t *testing.T, conn *grpc.ClientConn, user string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: user, Password: user})
	require.NoError(t, err)
	return r.Token
}

// TestMatrix runs testdata/matrix.txt. The commands of the script:
//
//	call name   every caller makes the call, one after another; the answers are
//	            those of the callers that are named before them
//
// A server without certificates comes first, then one that demands them.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two servers")
	}
	binary := target(t)
	plain := server.Run(t, server.Config{Binary: binary, Args: []string{"--bcrypt-cost=4"}})
	ca, err := certs.New(t.TempDir(), "authority")
	require.NoError(t, err)
	require.NoError(t, ca.Issue("server", "", "127.0.0.1"))
	with := func(cn string) *tls.Config {
		cfg, err := ca.Client(cn)
		require.NoError(t, err)
		return cfg
	}
	urls, err := server.FreeURLs(1)
	require.NoError(t, err)
	secure := server.Run(t, server.Config{
		Binary: binary, ClientURL: strings.Replace(urls[0], "http:", "https:", 1),
		Args: []string{
			"--bcrypt-cost=4", "--client-cert-auth", "--trusted-ca-file=" + ca.Path("ca.crt"),
			"--cert-file=" + ca.Path("server.crt"), "--key-file=" + ca.Path("server.key"),
		},
	})
	conn := dial(t, plain, nil)
	fill(t, conn)
	as := func(user string) caller {
		return caller{user, conn, []string{"token", token(t, conn, user)}}
	}
	callers := []caller{
		{"no token", conn, nil},
		{"a token that is none", conn, []string{"token", "made.7"}},
		{"another that is none", conn, []string{"authorization", "Bearer x"}},
		{"dave, without a role", conn, []string{"authorization", "Bearer " + token(t, conn, "dave")}},
		as("alice"), as("bob"), as("carol"), as("root"),
	}
	conn = dial(t, secure, with("root"))
	fill(t, conn)
	named := func(cn string) caller {
		return caller{fmt.Sprintf("the name %q", cn), dial(t, secure, with(cn)), nil}
	}
	callers = append(
		callers, named(""), named("mallory"), named("dave"), named("alice"), named("cert"),
		caller{`the name "root" and alice's token`, conn, []string{"token", token(t, conn, "alice")}},
		caller{`the name "root" and no good token`, conn, []string{"token", "made.7"}},
		named("root"),
	)

	called := map[string]bool{}
	datadriven.RunTest(t, "testdata/matrix.txt", func(t *testing.T, d *datadriven.TestData) string {
		t.Helper()
		require.Equal(t, "call", d.Cmd)
		require.Len(t, d.CmdArgs, 1)
		name := d.CmdArgs[0].Key
		what, ok := calls[name]
		require.True(t, ok, "there is no call %s", name)
		called[name] = true
		var out strings.Builder
		for i := range callers {
			fmt.Fprintf(&out, "%-35s %s\n", callers[i].name, callers[i].call(t, what))
		}
		return out.String()
	})
	for name := range calls {
		require.True(t, called[name], "nobody calls %s", name)
	}
}

// TestMatrixIsComplete wants every RPC to be called.
func TestMatrixIsComplete(t *testing.T) {
	var called []string
	for _, c := range calls {
		called = append(called, c.method)
	}
	for _, m := range methods() {
		if !slices.Contains(called, m) {
			t.Errorf("%s is not called", m)
		}
	}
}
