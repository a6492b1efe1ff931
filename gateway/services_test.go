package gateway

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/watchcache"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/member"
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
		Version: "3.7.3", StorageVersion: "3.7.0", DbSize: 2000, DbSizeInUse: 2000, DbSizeQuota: 2 << 30,
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
	for range 2 { // The second time it is raised already.
		raised, err := client.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: 7})
		require.NoError(t, err)
		require.Len(t, raised.Alarms, 1)
		require.EqualValues(t, 7, raised.Alarms[0].MemberID)
	}
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

	moved := ""
	store.change = func(verb string, id uint64, _ ...string) error {
		moved = fmt.Sprintf("%s %x", verb, id)
		return nil
	}
	_, err = client.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: fakeMember})
	require.NoError(t, err)
	for _, target := range []uint64{1, fakeLearner} {
		_, err = client.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: target})
		requireRPC(t, rpctypes.ErrGRPCBadLeaderTransferee, err)
	}
	require.Empty(t, moved)
	_, err = client.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: fakeVoter})
	require.NoError(t, err)
	require.Equal(t, "move leader 3f", moved)
	store.change = func(string, uint64, ...string) error { return group.ErrTimeout }
	_, err = client.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: fakeVoter})
	requireRPC(t, rpctypes.ErrGRPCTimeout, err)
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
	store := newFakeStore()
	_, addr := serve(t, Config{}, store)
	client, ctx := pb.NewClusterClient(dial(t, addr)), within(t)
	header := func(h *pb.ResponseHeader) {
		t.Helper()
		require.Equal(t, []uint64{fakeCluster, fakeMember, 0, fakeTerm},
			[]uint64{h.ClusterId, h.MemberId, uint64(h.Revision), h.RaftTerm})
	}
	all := []*pb.Member{
		{ID: fakeMember, Name: "m", PeerURLs: []string{"http://p:2380"}, ClientURLs: []string{"http://c:2379"}},
		{ID: fakeVoter, Name: "v", PeerURLs: []string{"http://q:2380"}, ClientURLs: []string{"http://d:2379"}},
		{ID: fakeLearner, PeerURLs: []string{"http://r:2380"}, IsLearner: true},
	}
	members := func(want, got []*pb.Member) {
		t.Helper()
		require.Equal(t, fmt.Sprint(want), fmt.Sprint(got))
	}
	for _, linearizable := range []bool{false, true} {
		list, err := client.MemberList(ctx, &pb.MemberListRequest{Linearizable: linearizable})
		require.NoError(t, err)
		header(list.Header)
		members(all, list.Members)
	}

	var asked string
	store.change = func(verb string, id uint64, urls ...string) error {
		asked = fmt.Sprintf("%s %x %v", verb, id, urls)
		return nil
	}
	for _, urls := range [][]string{nil, {"nonsense"}, {"http://h"}, {"http://h:1/path"}, {"ftp://h:1"}, {"http://h:1", ":"}} {
		_, err := client.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls})
		requireRPC(t, rpctypes.ErrGRPCMemberBadURLs, err)
		_, err = client.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: fakeVoter, PeerURLs: urls})
		requireRPC(t, rpctypes.ErrGRPCMemberBadURLs, err)
	}
	require.Empty(t, asked)

	for _, learner := range []bool{false, true} {
		added, err := client.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"unix://x", " http://h:1"}, IsLearner: learner})
		require.NoError(t, err)
		header(added.Header)
		require.Equal(t, map[bool]string{false: "add", true: "add learner"}[learner]+" 0 [http://h:1 unix://x]", asked)
		want := &pb.Member{ID: fakeAdded, PeerURLs: []string{"http://h:1", "unix://x"}, IsLearner: learner}
		members([]*pb.Member{want}, []*pb.Member{added.Member})
		members(append(all[:3:3], want), added.Members)
	}
	removed, err := client.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: fakeVoter})
	require.NoError(t, err)
	header(removed.Header)
	require.Equal(t, "remove 3f []", asked)
	members(all, removed.Members)
	updated, err := client.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: fakeVoter, PeerURLs: []string{"http://h:2"}})
	require.NoError(t, err)
	header(updated.Header)
	require.Equal(t, "update 3f [http://h:2]", asked)
	members(all, updated.Members)
	promoted, err := client.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: fakeLearner})
	require.NoError(t, err)
	header(promoted.Header)
	require.Equal(t, "promote 40 []", asked)
	members(all, promoted.Members)
}

// What the storage refuses reaches the client as etcd's error.
func TestClusterRefuses(t *testing.T) {
	store := newFakeStore()
	_, addr := serve(t, Config{}, store)
	client, ctx := pb.NewClusterClient(dial(t, addr)), within(t)
	urls := []string{"http://h:1"}
	verbs := map[string]func() error{
		"add": func() error { _, err := client.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls}); return err },
		"remove": func() error {
			_, err := client.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: fakeVoter})
			return err
		},
		"update": func() error {
			_, err := client.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: fakeVoter, PeerURLs: urls})
			return err
		},
		"promote": func() error {
			_, err := client.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: fakeLearner})
			return err
		},
	}
	for refusal, want := range map[error]error{
		member.ErrMemberNotFound:   rpctypes.ErrGRPCMemberNotFound,
		member.ErrMemberExists:     rpctypes.ErrGRPCMemberExist,
		member.ErrPeerURLExists:    rpctypes.ErrGRPCPeerURLExist,
		member.ErrNotLearner:       rpctypes.ErrGRPCMemberNotLearner,
		member.ErrLearnerNotReady:  rpctypes.ErrGRPCLearnerNotReady,
		member.ErrTooManyLearners:  rpctypes.ErrGRPCTooManyLearners,
		member.ErrNotEnoughStarted: rpctypes.ErrGRPCMemberNotEnoughStarted,
		member.ErrUnhealthy:        rpctypes.ErrGRPCUnhealthy,
		group.ErrLeaderChanged:     rpctypes.ErrGRPCLeaderChanged,
	} {
		store.change = func(string, uint64, ...string) error { return refusal }
		for _, ask := range verbs {
			requireRPC(t, want, ask())
		}
	}
}

// A learner serves no more than etcd's does: serializable ranges, its status, and
// snapshots.
func TestLearner(t *testing.T) {
	store, hub := newFakeStore(), watchcache.NewHub(watchcache.Config{})
	hub.Start(store, fakeRevision)
	t.Cleanup(hub.Close)
	_, addr := serve(t, Config{Hub: hub}, store)
	cc, ctx := dial(t, addr), within(t)
	kv, maintenance := pb.NewKVClient(cc), pb.NewMaintenanceClient(cc)
	key := []byte("k")
	calls := map[string]func() error{
		"range":   func() error { _, err := kv.Range(ctx, &pb.RangeRequest{Key: key}); return err },
		"put":     func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: key}); return err },
		"delete":  func() error { _, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key}); return err },
		"txn":     func() error { _, err := kv.Txn(ctx, &pb.TxnRequest{}); return err },
		"compact": func() error { _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 5}); return err },
		"stream": func() error {
			stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: key, Serializable: true})
			require.NoError(t, err)
			_, err = stream.Recv()
			return err
		},
		"watch": func() error {
			stream, err := pb.NewWatchClient(cc).Watch(ctx)
			require.NoError(t, err)
			_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
				CreateRequest: &pb.WatchCreateRequest{Key: key},
			}})
			_, err = stream.Recv()
			return err
		},
		"keep alive": func() error {
			stream, err := pb.NewLeaseClient(cc).LeaseKeepAlive(ctx)
			require.NoError(t, err)
			_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: 1})
			_, err = stream.Recv()
			return err
		},
		"grant": func() error {
			_, err := pb.NewLeaseClient(cc).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 1, TTL: 5})
			return err
		},
		"members": func() error {
			_, err := pb.NewClusterClient(cc).MemberList(ctx, &pb.MemberListRequest{})
			return err
		},
		"add": func() error {
			_, err := pb.NewClusterClient(cc).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://h:1"}})
			return err
		},
		"hash":   func() error { _, err := maintenance.HashKV(ctx, &pb.HashKVRequest{}); return err },
		"alarms": func() error { _, err := maintenance.Alarm(ctx, &pb.AlarmRequest{}); return err },
	}
	for name, call := range calls {
		require.NoError(t, call(), name)
	}
	store.learner.Store(true)
	for name, call := range calls {
		err := call()
		require.Error(t, err, name)
		requireRPC(t, rpctypes.ErrGRPCNotSupportedForLearner, err)
	}
	rng, err := kv.Range(ctx, &pb.RangeRequest{Key: key, Serializable: true})
	require.NoError(t, err)
	requireHeader(t, rng.Header)
	st, err := maintenance.Status(ctx, &pb.StatusRequest{})
	require.NoError(t, err)
	require.True(t, st.IsLearner)
	store.snapshot = func(func(int64) io.Writer) error { return group.ErrTimeout }
	snapshot, err := maintenance.Snapshot(ctx, &pb.SnapshotRequest{})
	require.NoError(t, err)
	_, err = snapshot.Recv()
	requireRPC(t, rpctypes.ErrGRPCTimeout, err) // not for a learner's sake
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
	call(rpctypes.ErrGRPCRoleEmpty, func() error { _, err := client.RoleAdd(ctx, &pb.AuthRoleAddRequest{}); return err })
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
