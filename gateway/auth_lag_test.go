package gateway

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// switchOn makes the first changes of users, and does not tell of them.
func switchOn(t *testing.T, store *fakeStore) {
	t.Helper()
	for _, change := range []func(*auth.State) ([]auth.Write, error){
		func(st *auth.State) ([]auth.Write, error) { return st.AddUser(auth.Root, nil, true) },
		func(st *auth.State) ([]auth.Write, error) { return st.GrantRole(auth.Root, auth.Root) },
		func(st *auth.State) ([]auth.Write, error) { return st.Enable(newSecret()) },
	} {
		version, rows, err := store.Records(authTable)
		require.NoError(t, err)
		st, err := auth.Load(version, rows)
		require.NoError(t, err)
		writes, err := change(st)
		require.NoError(t, err)
		_, err = store.WriteRecords(t.Context(), authTable, version, records(writes))
		require.NoError(t, err)
	}
}

// TestMemberThatLags has a member that does not know yet that there are users: what it
// lets pass is refused where it is done.
func TestMemberThatLags(t *testing.T) {
	store := newFakeStore()
	done := 0
	store.do = func(context.Context, evaluate.Op) (evaluate.Result, error) {
		done++
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	s, addr := serve(t, Config{}, store)
	require.False(t, s.auth.current().Enabled())
	switchOn(t, store)
	require.False(t, s.auth.current().Enabled(), "it is not told")
	conn, ctx, key := dial(t, addr), within(t), []byte("a")
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	for name, call := range map[string]func() error{
		"put":    func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: key}); return err },
		"delete": func() error { _, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key}); return err },
		"txn": func() error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
				{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key}}},
			}})
			return err
		},
		"compact": func() error { _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 2}); return err },
		"grant":   func() error { _, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 9}); return err },
		"revoke":  func() error { _, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 1}); return err },
	} {
		t.Run(name, func(t *testing.T) {
			requireRPC(t, rpctypes.ErrGRPCUserEmpty, call())
			require.Zero(t, done)
		})
	}
}

// TestReadOfMemberThatLags has reads that learn while they wait that there are users.
func TestReadOfMemberThatLags(t *testing.T) {
	kvs := []*mvccpb.KeyValue{{Key: []byte("a"), Value: []byte("secret")}}
	r := &pb.RangeRequest{Key: []byte("a")}
	for name, call := range map[string]func(context.Context, pb.KVClient) error{
		"range": func(ctx context.Context, kv pb.KVClient) error { _, err := kv.Range(ctx, r); return err },
		"txn": func(ctx context.Context, kv pb.KVClient) error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: r}}}})
			return err
		},
		"stream": func(ctx context.Context, kv pb.KVClient) error {
			stream, err := kv.RangeStream(ctx, r)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := newFakeStore()
			s, addr := serve(t, Config{}, store)
			learn := func() {
				switchOn(t, store)
				s.RecordsChanged(authTable)
			}
			store.read = func(context.Context, evaluate.Op, bool) (evaluate.Result, error) {
				learn()
				return evaluate.Result{Revision: fakeRevision, KVs: kvs}, nil
			}
			store.stream = func(_ context.Context, _ *evaluate.Range, _ int, emit func([]*mvccpb.KeyValue) error) (evaluate.Result, error) {
				learn()
				return evaluate.Result{Revision: fakeRevision}, emit(kvs)
			}
			require.False(t, s.auth.current().Enabled())
			requireRPC(t, rpctypes.ErrGRPCUserEmpty, call(within(t), pb.NewKVClient(dial(t, addr))))
		})
	}
}
