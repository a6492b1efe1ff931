package gateway

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

func requireRefusal(t *testing.T, want, err error) {
	t.Helper()
	require.Equal(t, status.Code(want), status.Code(err), "%v", err)
	require.Equal(t, status.Convert(want).Message(), status.Convert(err).Message())
}

// TestCorrupt: a member that differs raises an alarm when the members are compared, and
// then keys are neither read nor written, as in etcd.
func TestCorrupt(t *testing.T) {
	clk := clock.NewManual(time.Unix(0, 0))
	store := newFakeStore()
	store.leader.Store(fakeMember)
	s, addr := serve(t, Config{Clock: clk, CorruptCheckTime: time.Hour}, store)
	store.changed = s.RecordsChanged
	cc := dial(t, addr)
	kv, maintenance := pb.NewKVClient(cc), pb.NewMaintenanceClient(cc)
	alarmsNow := func() []*pb.AlarmMember {
		r, err := maintenance.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
		require.NoError(t, err)
		return r.Alarms
	}
	require.Empty(t, alarmsNow())
	require.NoError(t, s.dataCorruption().run(t.Context()))

	s.compareMembers(t.Context())
	require.Empty(t, alarmsNow(), "nobody differs")
	store.different = []uint64{fakeVoter}
	s.compareMembers(t.Context())
	s.compareMembers(t.Context()) // is no second alarm
	got := alarmsNow()
	require.Len(t, got, 1)
	require.EqualValues(t, fakeVoter, got[0].MemberID)
	require.Equal(t, pb.AlarmType_CORRUPT, got[0].Alarm)

	_, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
	requireRefusal(t, rpctypes.ErrGRPCCorrupt, err)
	_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
	requireRefusal(t, rpctypes.ErrGRPCCorrupt, err)
	_, err = kv.Txn(t.Context(), &pb.TxnRequest{})
	requireRefusal(t, rpctypes.ErrGRPCCorrupt, err)
	_, err = pb.NewLeaseClient(cc).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 5})
	requireRefusal(t, rpctypes.ErrGRPCCorrupt, err)
	stream, err := kv.RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("a")})
	require.NoError(t, err)
	_, err = stream.Recv()
	requireRefusal(t, rpctypes.ErrGRPCCorrupt, err)
	require.Error(t, s.dataCorruption().run(t.Context()))
	st, err := maintenance.Status(t.Context(), &pb.StatusRequest{})
	require.NoError(t, err)
	require.Len(t, st.Errors, 1)
	require.Contains(t, st.Errors[0], "CORRUPT")

	r, err := maintenance.Alarm(t.Context(), &pb.AlarmRequest{
		Action: pb.AlarmRequest_DEACTIVATE, MemberID: fakeVoter, Alarm: pb.AlarmType_CORRUPT,
	})
	require.NoError(t, err)
	require.Len(t, r.Alarms, 1)
	require.Empty(t, alarmsNow())
	_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
	require.NoError(t, err)
}

// TestQuota: who reaches the quota raises the alarm, and what frees space goes on.
func TestQuota(t *testing.T) {
	store := newFakeStore()
	store.leader.Store(fakeMember)
	s, addr := serve(t, Config{QuotaBytes: 10_000}, store)
	store.changed = s.RecordsChanged
	cc := dial(t, addr)
	kv := pb.NewKVClient(cc)
	put := func() error {
		_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: make([]byte, 1000)})
		return err
	}
	health := func(query string) (int, string) { return ask(s, http.MethodGet, "/health"+query) }
	require.NoError(t, put())
	require.False(t, s.QuotaReached())
	store.bytes.Store(9000)
	requireRefusal(t, rpctypes.ErrGRPCNoSpace, put())
	require.True(t, s.QuotaReached())
	// The alarm stands, whatever there is space for, until it is disarmed.
	store.bytes.Store(0)
	requireRefusal(t, rpctypes.ErrGRPCNoSpace, put())
	_, err := kv.Txn(t.Context(), &pb.TxnRequest{Failure: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a")}}},
	}})
	requireRefusal(t, rpctypes.ErrGRPCNoSpace, err)
	_, err = pb.NewLeaseClient(cc).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 5})
	requireRefusal(t, rpctypes.ErrGRPCNoSpace, err)
	for _, free := range []func() error{
		func() error {
			_, err := kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("a")})
			return err
		},
		func() error { _, err := kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 2}); return err },
		func() error {
			_, err := kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
				{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}},
			}})
			return err
		},
		func() error {
			_, err := pb.NewLeaseClient(cc).LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 5})
			return err
		},
	} {
		require.NoError(t, free())
	}
	code, body := health("")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, `"reason":"ALARM NOSPACE"`)
	code, _ = health("?exclude=NOSPACE")
	require.Equal(t, http.StatusOK, code)

	_, err = pb.NewMaintenanceClient(cc).Alarm(t.Context(), &pb.AlarmRequest{
		Action: pb.AlarmRequest_DEACTIVATE, MemberID: fakeMember, Alarm: pb.AlarmType_NOSPACE,
	})
	require.NoError(t, err)
	require.NoError(t, put())
}
