package clients

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/gateway/electionpb"
	"github.com/pebbledash/pebbledash/gateway/lockpb"
)

func lease(t *testing.T, c *clientv3.Client) int64 {
	t.Helper()
	r, err := c.Grant(within(t), 60)
	require.NoError(t, err)
	return int64(r.ID)
}

// requireText wants an error as it comes from a server that calls itself.
func requireText(t *testing.T, want string, err error) {
	t.Helper()
	require.Equal(t, codes.Unknown, status.Code(err), "%v", err)
	require.Equal(t, want, status.Convert(err).Message())
}

func TestLockService(t *testing.T) {
	t.Parallel()
	c := one(t)
	locks := lockpb.NewLockClient(c.ActiveConnection())
	door := []byte("door")
	mine, yours := lease(t, c), lease(t, c)
	held, err := locks.Lock(within(t), &lockpb.LockRequest{Name: door, Lease: mine})
	require.NoError(t, err)
	again, err := locks.Lock(within(t), &lockpb.LockRequest{Name: door, Lease: mine})
	require.NoError(t, err)
	require.Equal(t, held.Key, again.Key)
	require.Equal(t, held.Header.Revision, again.Header.Revision)

	queue := watch(t, c, "door/")
	// Who leaves gives its place up.
	ctx, cancel := context.WithCancel(within(t))
	left := make(chan error, 1)
	go func() {
		_, err := locks.Lock(ctx, &lockpb.LockRequest{Name: door, Lease: yours})
		left <- err
	}()
	require.True(t, queue().IsCreate())
	cancel()
	require.Equal(t, codes.Canceled, status.Code(<-left))
	require.Equal(t, clientv3.EventTypeDelete, queue().Type)

	next := make(chan *lockpb.LockResponse, 1)
	go func() {
		r, _ := locks.Lock(within(t), &lockpb.LockRequest{Name: door, Lease: yours})
		next <- r
	}()
	require.True(t, queue().IsCreate())
	_, err = locks.Unlock(within(t), &lockpb.UnlockRequest{Key: held.Key})
	require.NoError(t, err)
	require.NotNil(t, <-next)

	// Without a lease one is made.
	r, err := locks.Lock(within(t), &lockpb.LockRequest{Name: []byte("window")})
	require.NoError(t, err)
	kv, err := c.Get(within(t), string(r.Key))
	require.NoError(t, err)
	ttl, err := c.TimeToLive(within(t), clientv3.LeaseID(kv.Kvs[0].Lease))
	require.NoError(t, err)
	require.Equal(t, int64(60), ttl.GrantedTTL)

	_, err = locks.Lock(within(t), &lockpb.LockRequest{Name: door, Lease: 77})
	requireText(t, "etcdserver: requested lease not found", err)
	_, err = locks.Unlock(within(t), &lockpb.UnlockRequest{})
	requireText(t, "etcdserver: key is not provided", err)
}

func TestElectionService(t *testing.T) {
	t.Parallel()
	c := one(t)
	elections := electionpb.NewElectionClient(c.ActiveConnection())
	bread := []byte("bread")
	_, err := elections.Leader(within(t), &electionpb.LeaderRequest{Name: bread})
	requireText(t, "election: no leader", err)

	ctx, cancel := context.WithCancel(within(t))
	seen, err := elections.Observe(ctx, &electionpb.LeaderRequest{Name: bread})
	require.NoError(t, err)
	next := func() string {
		t.Helper()
		r, err := seen.Recv()
		require.NoError(t, err)
		return string(r.Kv.Value)
	}
	mine, yours := lease(t, c), lease(t, c)
	won, err := elections.Campaign(within(t), &electionpb.CampaignRequest{Name: bread, Lease: mine, Value: []byte("rye")})
	require.NoError(t, err)
	require.Equal(t, mine, won.Leader.Lease)
	require.Equal(t, "rye", next())
	_, err = elections.Proclaim(within(t), &electionpb.ProclaimRequest{Leader: won.Leader, Value: []byte("wheat")})
	require.NoError(t, err)
	require.Equal(t, "wheat", next())
	leader, err := elections.Leader(within(t), &electionpb.LeaderRequest{Name: bread})
	require.NoError(t, err)
	require.Equal(t, won.Leader.Key, leader.Kv.Key)
	require.Equal(t, won.Leader.Rev, leader.Kv.CreateRevision)

	other := make(chan *electionpb.CampaignResponse, 1)
	go func() {
		r, _ := elections.Campaign(within(t), &electionpb.CampaignRequest{Name: bread, Lease: yours, Value: []byte("oats")})
		other <- r
	}()
	_, err = elections.Resign(within(t), &electionpb.ResignRequest{Leader: won.Leader})
	require.NoError(t, err)
	require.NotNil(t, <-other)
	require.Equal(t, "oats", next())
	_, err = elections.Proclaim(within(t), &electionpb.ProclaimRequest{Leader: won.Leader})
	requireText(t, "election: not leader", err)
	_, err = elections.Resign(within(t), &electionpb.ResignRequest{})
	requireText(t, `"leader" field must be provided`, err)
	cancel()
	_, err = seen.Recv()
	require.Equal(t, codes.Canceled, status.Code(err))
}

// Who has to say who it is gives its place up as well. etcd 3.7.3 gives it up in
// nobody's name, which is refused, and keeps the place until the lease ends.
func TestUsersGiveUpTheirPlaces(t *testing.T) {
	t.Parallel()
	if target.Target == server.Etcd {
		t.Skip("etcd 3.7.3 does not")
	}
	s := server.Run(t, server.Config{Binary: target.Path})
	c := dial(t, s.Endpoint())
	ctx := within(t)
	_, err := c.UserAdd(ctx, "root", "secret")
	require.NoError(t, err)
	_, err = c.RoleAdd(ctx, "root")
	require.NoError(t, err)
	_, err = c.UserGrantRole(ctx, "root", "root")
	require.NoError(t, err)
	_, err = c.AuthEnable(ctx)
	require.NoError(t, err)

	root, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint()}, Username: "root", Password: "secret", DialTimeout: patience})
	require.NoError(t, err)
	defer root.Close()
	locks := lockpb.NewLockClient(root.ActiveConnection())
	mine, yours := lease(t, root), lease(t, root)
	_, err = locks.Lock(ctx, &lockpb.LockRequest{Name: []byte("door"), Lease: mine})
	require.NoError(t, err)
	queue := watch(t, root, "door/")
	impatient, cancel := context.WithCancel(ctx)
	left := make(chan error, 1)
	go func() {
		_, err := locks.Lock(impatient, &lockpb.LockRequest{Name: []byte("door"), Lease: yours})
		left <- err
	}()
	require.True(t, queue().IsCreate())
	cancel()
	require.Equal(t, codes.Canceled, status.Code(<-left))
	require.Equal(t, clientv3.EventTypeDelete, queue().Type)
}
