package gateway

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/metadata"

	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// populate makes root and alice, who may read and write a, and switches
// authentication on.
func populate(t *testing.T, s *Server, client pb.AuthClient) {
	t.Helper()
	ctx := within(t)
	must := func(_ any, err error) {
		t.Helper()
		require.NoError(t, err)
	}
	for _, user := range []string{auth.Root, "alice"} {
		must(client.UserAdd(ctx, &pb.AuthUserAddRequest{Name: user, Password: user}))
	}
	must(client.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: auth.Root, Role: auth.Root}))
	must(client.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "a"}))
	p := &auth.Permission{Type: auth.ReadWrite, Key: []byte("a")}
	must(nil, s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) { return st.GrantPermission("a", p) }))
	must(client.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "alice", Role: "a"}))
	must(client.AuthEnable(ctx, &pb.AuthEnableRequest{}))
	s.auth.forget()
}

// revoke takes alice's role without this server being told, as where it lags.
func (f *fakeStore) revoke(t *testing.T) {
	t.Helper()
	version, rows, err := f.Records(authTable)
	require.NoError(t, err)
	st, err := auth.Load(version, rows)
	require.NoError(t, err)
	writes, err := st.RevokeRole("alice", "a")
	require.NoError(t, err)
	var records []mvcc.RecordWrite
	for _, w := range writes {
		records = append(records, mvcc.RecordWrite(w))
	}
	_, err = f.WriteRecords(t.Context(), authTable, version, records)
	require.NoError(t, err)
}

// TestRevokedWhereItLags has a server let nothing through that it takes for
// permitted, because it does not know yet that it is not.
func TestRevokedWhereItLags(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, kv pb.KVClient) error{
		"put": func(ctx context.Context, kv pb.KVClient) error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a")})
			return err
		},
		"delete": func(ctx context.Context, kv pb.KVClient) error {
			_, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("a")})
			return err
		},
		"get": func(ctx context.Context, kv pb.KVClient) error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
			return err
		},
		"stream": func(ctx context.Context, kv pb.KVClient) error {
			stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("a")})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"transaction that reads": func(ctx context.Context, kv pb.KVClient) error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a")}}})
			return err
		},
		"transaction that writes": func(ctx context.Context, kv pb.KVClient) error {
			put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a")}}}
			_, err := kv.Txn(ctx, &pb.TxnRequest{Failure: []*pb.RequestOp{put}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := newFakeStore()
			done := 0
			store.do = func(context.Context, evaluate.Op) (evaluate.Result, error) {
				done++
				return evaluate.Result{Revision: fakeRevision}, nil
			}
			s, addr := serve(t, Config{BcryptCost: bcrypt.MinCost}, store)
			conn := dial(t, addr)
			client := pb.NewAuthClient(conn)
			populate(t, s, client)
			ctx := within(t)
			r, err := client.Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "alice"})
			require.NoError(t, err)
			ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, r.Token)
			require.NoError(t, call(ctx, pb.NewKVClient(conn)))
			before := done
			store.revoke(t)
			require.True(t, s.auth.current().Enabled(), "it has read the table before the change")
			requireRPC(t, rpctypes.ErrGRPCPermissionDenied, call(ctx, pb.NewKVClient(conn)))
			require.Equal(t, before, done)
		})
	}
}

// TestUnreadableUsers lets nobody in when users and roles can not be read.
func TestUnreadableUsers(t *testing.T) {
	store := newFakeStore()
	_, err := store.WriteRecords(t.Context(), authTable, 0, []mvcc.RecordWrite{{Key: "meta", Value: []byte("?")}})
	require.NoError(t, err)
	_, addr := serve(t, Config{}, store)
	_, err = pb.NewKVClient(dial(t, addr)).Range(within(t), &pb.RangeRequest{Key: []byte("a")})
	requireRPC(t, rpctypes.ErrGRPCUserEmpty, err)
}

// TestAuthWhenOff costs a request nothing that could be measured: no allocation, and
// no look at its metadata.
func TestAuthWhenOff(t *testing.T) {
	s, _ := serve(t, Config{}, newFakeStore())
	s.auth.current()
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.TokenFieldNameGRPC, "x"))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		by, err := s.auth.asker(ctx)
		if err != nil || by.Enabled() || by.basis().Version != 0 {
			t.Error("somebody was asked for")
		}
	}))
}

// TestTokenFromElsewhere has a member that lags take the token of a user whom it does
// not know yet.
func TestTokenFromElsewhere(t *testing.T) {
	store := newFakeStore()
	s, addr := serve(t, Config{BcryptCost: bcrypt.MinCost}, store)
	client := pb.NewAuthClient(dial(t, addr))
	populate(t, s, client)
	lagging := s.auth.current()
	version, rows, err := store.Records(authTable)
	require.NoError(t, err)
	st, err := auth.Load(version, rows)
	require.NoError(t, err)
	writes, err := st.ChangePassword("alice", nil)
	require.NoError(t, err)
	var records []mvcc.RecordWrite
	for _, w := range writes {
		records = append(records, mvcc.RecordWrite(w))
	}
	_, err = store.WriteRecords(t.Context(), authTable, version, records)
	require.NoError(t, err)
	now, err := s.auth.now(t.Context())
	require.NoError(t, err)
	token, err := s.auth.tokens.Issue(now, "alice")
	require.NoError(t, err)

	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.TokenFieldNameGRPC, token))
	_, err = s.auth.as(ctx, lagging)
	require.ErrorIs(t, err, auth.ErrInvalidAuthToken)
	by, err := s.auth.asker(ctx)
	require.NoError(t, err)
	require.Equal(t, "alice", by.who.User)
}
