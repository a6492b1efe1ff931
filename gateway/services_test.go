package gateway

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
)

func TestLeases(t *testing.T) {
	store := newFakeStore()
	_, addr := serve(t, Config{}, store)
	client, ctx := pb.NewLeaseClient(dial(t, addr)), within(t)

	var ids []int64
	store.do = func(_ context.Context, op evaluate.Op) (evaluate.Result, error) {
		grant := op.(*evaluate.LeaseGrant)
		ids = append(ids, grant.ID)
		if len(ids) == 1 {
			return evaluate.Result{}, lease.ErrExists
		}
		return evaluate.Result{Revision: fakeRevision, TTL: max(grant.TTL, 2)}, nil
	}
	grant, err := client.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: -3})
	require.NoError(t, err)
	requireHeader(t, grant.Header)
	require.EqualValues(t, 2, grant.TTL)
	require.Len(t, ids, 2, "an ID that is taken already is not the client's fault")
	require.Equal(t, ids[1], grant.ID)
	require.Positive(t, ids[0])
	require.Positive(t, ids[1])

	ids = nil
	_, err = client.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: -5, TTL: 10})
	requireRPC(t, rpctypes.ErrGRPCLeaseExist, err)
	require.Equal(t, []int64{-5}, ids)
	_, err = client.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: maxLeaseTTL + 1})
	requireRPC(t, rpctypes.ErrGRPCLeaseTTLTooLarge, err)

	store.do = func(_ context.Context, op evaluate.Op) (evaluate.Result, error) {
		if op.(*evaluate.LeaseRevoke).ID != 1 {
			return evaluate.Result{}, lease.ErrNotFound
		}
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	revoked, err := client.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 1})
	require.NoError(t, err)
	requireHeader(t, revoked.Header)
	_, err = client.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 2})
	requireRPC(t, rpctypes.ErrGRPCLeaseNotFound, err)

	ttl, err := client.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true})
	require.NoError(t, err)
	requireHeader(t, ttl.Header)
	require.Equal(t, []int64{1, 42, 60}, []int64{ttl.ID, ttl.TTL, ttl.GrantedTTL})
	require.Equal(t, [][]byte{[]byte("k")}, ttl.Keys)
	ttl, err = client.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 2, Keys: true})
	require.NoError(t, err)
	require.Equal(t, []int64{2, -1, 0}, []int64{ttl.ID, ttl.TTL, ttl.GrantedTTL})

	leases, err := client.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	require.NoError(t, err)
	require.Len(t, leases.Leases, 1)

	stream, err := client.LeaseKeepAlive(ctx)
	require.NoError(t, err)
	for id, want := range map[int64]int64{1: 60, 2: 0} {
		require.NoError(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: id}))
		alive, err := stream.Recv()
		require.NoError(t, err)
		requireHeader(t, alive.Header)
		require.Equal(t, []int64{id, want}, []int64{alive.ID, alive.TTL})
	}
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.ErrorContains(t, err, "EOF")
}

func TestMaintenance(t *testing.T) {
	store := newFakeStore()
	_, addr := serve(t, Config{}, store)
	client, ctx := pb.NewMaintenanceClient(dial(t, addr)), within(t)

	st, err := client.Status(ctx, &pb.StatusRequest{})
	require.NoError(t, err)
	requireHeader(t, st.Header)
	st.Header = nil
	want := &pb.StatusResponse{
		Version: "3.7.3", StorageVersion: "3.7.0", DbSize: 2000, DbSizeInUse: 1000, DbSizeQuota: 2 << 30,
		Leader: fakeMember, RaftIndex: 11, RaftAppliedIndex: 10, RaftTerm: fakeTerm, DowngradeInfo: &pb.DowngradeInfo{},
	}
	require.Equal(t, want.String(), st.String())
	store.leader.Store(0)
	st, err = client.Status(ctx, &pb.StatusRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{"etcdserver: no leader"}, st.Errors)
	store.leader.Store(fakeMember)

	for _, r := range []*pb.AlarmRequest{
		{},
		{Action: pb.AlarmRequest_ACTIVATE},
		{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: 1},
	} {
		alarms, err := client.Alarm(ctx, r)
		require.NoError(t, err)
		require.Empty(t, alarms.Alarms)
	}
	_, err = client.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	_, err = client.Alarm(ctx, &pb.AlarmRequest{Action: 9})
	require.Equal(t, codes.InvalidArgument, status.Code(err), "the action that fells etcd")

	for range 2 {
		_, err = client.Defragment(ctx, &pb.DefragmentRequest{})
		require.NoError(t, err)
	}
	hash, err := client.Hash(ctx, &pb.HashRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 5, hash.Hash)
	hashKV, err := client.HashKV(ctx, &pb.HashKVRequest{Revision: 6})
	require.NoError(t, err)
	requireHeader(t, hashKV.Header)
	require.Equal(t, []int64{6, -1}, []int64{hashKV.HashRevision, hashKV.CompactRevision})

	snapshot, err := client.Snapshot(ctx, &pb.SnapshotRequest{})
	require.NoError(t, err)
	_, err = snapshot.Recv()
	require.Equal(t, codes.Unimplemented, status.Code(err))

	_, err = client.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: fakeMember})
	require.NoError(t, err)
	_, err = client.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 1})
	requireRPC(t, rpctypes.ErrGRPCBadLeaderTransferee, err)
	store.leader.Store(1)
	_, err = client.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: fakeMember})
	requireRPC(t, rpctypes.ErrGRPCNotLeader, err)

	for version, want := range map[string]codes.Code{
		"": codes.InvalidArgument, "x": codes.InvalidArgument, "3": codes.InvalidArgument, "3.-6": codes.InvalidArgument,
		"3.6": codes.Unimplemented, "3.6.0": codes.Unimplemented,
	} {
		_, err = client.Downgrade(ctx, &pb.DowngradeRequest{Version: version})
		require.Equal(t, want, status.Code(err), version)
	}
	down, err := client.Downgrade(ctx, &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL})
	require.NoError(t, err)
	require.Equal(t, "3.7", down.Version)
	_, err = client.Downgrade(ctx, &pb.DowngradeRequest{Action: 9})
	require.Equal(t, codes.Unknown, status.Code(err))
}

func TestCluster(t *testing.T) {
	_, addr := serve(t, Config{}, newFakeStore())
	client, ctx := pb.NewClusterClient(dial(t, addr)), within(t)
	for _, linearizable := range []bool{false, true} {
		list, err := client.MemberList(ctx, &pb.MemberListRequest{Linearizable: linearizable})
		require.NoError(t, err)
		require.Equal(t, []uint64{fakeCluster, fakeMember, 0, fakeTerm},
			[]uint64{list.Header.ClusterId, list.Header.MemberId, uint64(list.Header.Revision), list.Header.RaftTerm})
		require.Len(t, list.Members, 1)
		want := &pb.Member{ID: fakeMember, Name: "m", PeerURLs: []string{"http://p:2380"}, ClientURLs: []string{"http://c:2379"}}
		require.Equal(t, want.String(), list.Members[0].String())
	}
	for _, urls := range [][]string{nil, {"nonsense"}, {"http://h"}, {"http://h:1/path"}, {"ftp://h:1"}, {"http://h:1", ":"}} {
		_, err := client.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls})
		requireRPC(t, rpctypes.ErrGRPCMemberBadURLs, err)
	}
	_, err := client.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{" http://h:1", "unix://x"}})
	require.Equal(t, codes.Unimplemented, status.Code(err))

	_, err = client.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 4})
	requireRPC(t, rpctypes.ErrGRPCMemberNotFound, err)
	_, err = client.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: fakeMember})
	requireRPC(t, rpctypes.ErrGRPCMemberNotEnoughStarted, err)
	_, err = client.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: 4})
	requireRPC(t, rpctypes.ErrGRPCMemberNotFound, err)
	_, err = client.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: fakeMember})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	_, err = client.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 4})
	requireRPC(t, rpctypes.ErrGRPCMemberNotFound, err)
	_, err = client.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: fakeMember})
	requireRPC(t, rpctypes.ErrGRPCMemberNotLearner, err)
}

func TestAuth(t *testing.T) {
	_, addr := serve(t, Config{}, newFakeStore())
	client, ctx := pb.NewAuthClient(dial(t, addr)), within(t)
	st, err := client.AuthStatus(ctx, &pb.AuthStatusRequest{})
	require.NoError(t, err)
	requireHeader(t, st.Header)
	require.False(t, st.Enabled)
	require.EqualValues(t, 1, st.AuthRevision)
	_, err = client.AuthDisable(ctx, &pb.AuthDisableRequest{})
	require.NoError(t, err)
	_, err = client.UserList(ctx, &pb.AuthUserListRequest{})
	require.NoError(t, err)
	_, err = client.RoleList(ctx, &pb.AuthRoleListRequest{})
	require.NoError(t, err)

	call := func(want error, f func() error) { t.Helper(); requireRPC(t, want, f()) }
	call(rpctypes.ErrGRPCRootUserNotExist, func() error { _, err := client.AuthEnable(ctx, &pb.AuthEnableRequest{}); return err })
	call(rpctypes.ErrGRPCAuthNotEnabled, func() error { _, err := client.Authenticate(ctx, &pb.AuthenticateRequest{}); return err })
	call(rpctypes.ErrGRPCUserEmpty, func() error { _, err := client.UserAdd(ctx, &pb.AuthUserAddRequest{}); return err })
	call(errNoUsers, func() error { _, err := client.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "u"}); return err })
	call(rpctypes.ErrGRPCRoleEmpty, func() error { _, err := client.RoleAdd(ctx, &pb.AuthRoleAddRequest{}); return err })
	call(errNoRoles, func() error { _, err := client.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "r"}); return err })
	call(rpctypes.ErrGRPCUserNotFound, func() error { _, err := client.UserGet(ctx, &pb.AuthUserGetRequest{}); return err })
	call(rpctypes.ErrGRPCUserNotFound, func() error { _, err := client.UserDelete(ctx, &pb.AuthUserDeleteRequest{}); return err })
	call(rpctypes.ErrGRPCUserNotFound, func() error { _, err := client.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{}); return err })
	call(rpctypes.ErrGRPCUserNotFound, func() error { _, err := client.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{}); return err })
	call(rpctypes.ErrGRPCUserNotFound, func() error {
		_, err := client.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{})
		return err
	})
	call(rpctypes.ErrGRPCRoleNotFound, func() error { _, err := client.RoleGet(ctx, &pb.AuthRoleGetRequest{}); return err })
	call(rpctypes.ErrGRPCRoleNotFound, func() error { _, err := client.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{}); return err })
	call(rpctypes.ErrGRPCPermissionNotGiven, func() error {
		_, err := client.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{})
		return err
	})
	call(rpctypes.ErrGRPCRoleNotFound, func() error {
		_, err := client.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{})
		return err
	})
}
