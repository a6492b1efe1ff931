package conformance

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"golang.org/x/sync/errgroup"
)

// etcd's client library knows the server's errors by their texts.
func TestClientErrors(t *testing.T) {
	t.Parallel()
	once(t)
	client := start(t).client(t)
	ctx := within(t)
	for range 5 {
		_, err := client.Put(ctx, "k", "v")
		require.NoError(t, err)
	}
	_, err := client.Compact(ctx, 4)
	require.NoError(t, err)

	_, err = client.Put(ctx, "", "v")
	require.Equal(t, rpctypes.ErrEmptyKey, err)
	_, err = client.Put(ctx, "none", "", clientv3.WithIgnoreValue())
	require.Equal(t, rpctypes.ErrKeyNotFound, err)
	_, err = client.Put(ctx, "k", "v", clientv3.WithLease(77))
	require.Equal(t, rpctypes.ErrLeaseNotFound, err)
	_, err = client.Get(ctx, "k", clientv3.WithRev(3))
	require.Equal(t, rpctypes.ErrCompacted, err)
	_, err = client.Get(ctx, "k", clientv3.WithRev(99))
	require.Equal(t, rpctypes.ErrFutureRev, err)
	_, err = client.Compact(ctx, 4)
	require.Equal(t, rpctypes.ErrCompacted, err)
	_, err = client.Compact(ctx, 99)
	require.Equal(t, rpctypes.ErrFutureRev, err)
	_, err = client.Txn(ctx).Then(clientv3.OpPut("k", "1"), clientv3.OpPut("k", "2")).Commit()
	require.Equal(t, rpctypes.ErrDuplicateKey, err)
	_, err = client.Revoke(ctx, 77)
	require.Equal(t, rpctypes.ErrLeaseNotFound, err)
	_, err = client.Grant(ctx, 10_000_000_000)
	require.Equal(t, rpctypes.ErrLeaseTTLTooLarge, err)
	_, err = client.Put(ctx, "k", string(make([]byte, 3<<19)))
	require.Equal(t, rpctypes.ErrRequestTooLarge, err)

	w := <-client.Watch(ctx, "k", clientv3.WithRev(2))
	require.True(t, w.Canceled)
	require.Equal(t, int64(4), w.CompactRevision)
	require.Equal(t, rpctypes.ErrCompacted, w.Err())
}

func TestClientWatch(t *testing.T) {
	t.Parallel()
	once(t)
	client := start(t).client(t)
	ctx := clientv3.WithRequireLeader(t.Context()) // As kube-apiserver does.
	events := client.Watch(ctx, "/registry/pods/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	first := <-events
	require.True(t, first.Created)
	require.Equal(t, int64(1), first.Header.Revision)

	_, err := client.Put(ctx, "/registry/pods", "not under the prefix")
	require.NoError(t, err)
	_, err = client.Put(ctx, "/registry/pods/a", "1")
	require.NoError(t, err)
	w := <-events
	require.Len(t, w.Events, 1)
	require.True(t, w.Events[0].IsCreate())
	_, err = client.Put(ctx, "/registry/pods/a", "2")
	require.NoError(t, err)
	w = <-events
	require.True(t, w.Events[0].IsModify())
	require.Equal(t, "1", string(w.Events[0].PrevKv.Value))

	require.NoError(t, client.RequestProgress(ctx))
	w = <-events
	require.True(t, w.IsProgressNotify())
	require.Equal(t, int64(4), w.Header.Revision)
}

// A watch of the client library begins again where it was when the server
// comes back.
func TestClientWatchResumes(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	client := m.client(t)
	events := client.Watch(t.Context(), "k", clientv3.WithCreatedNotify())
	require.True(t, (<-events).Created)
	_, err := client.Put(within(t), "k", "2")
	require.NoError(t, err)
	require.Equal(t, "2", string((<-events).Events[0].Kv.Value))

	require.NoError(t, m.Kill())
	require.NoError(t, m.Restart(t.Context()))
	other := m.client(t)
	for rev := 3; rev < 10; rev++ {
		_, err := other.Put(within(t), "k", fmt.Sprint(rev))
		require.NoError(t, err)
	}
	for rev := int64(3); rev < 10; {
		for _, e := range (<-events).Events {
			require.Equal(t, rev, e.Kv.ModRevision)
			require.Equal(t, fmt.Sprint(rev), string(e.Kv.Value))
			rev++
		}
	}
}

func TestClientKeepAlive(t *testing.T) {
	t.Parallel()
	once(t)
	client := start(t).client(t)
	lease, err := client.Grant(within(t), 5)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	alive, err := client.KeepAlive(ctx, lease.ID)
	require.NoError(t, err)
	require.Equal(t, int64(5), (<-alive).TTL)
	cancel()
	for range alive { // It is closed then.
	}
	_, err = client.KeepAliveOnce(within(t), 77)
	require.Equal(t, rpctypes.ErrLeaseNotFound, err)
}

// The library's lock, election and software transactional memory stand on
// transactions, leases and watches as they are here.
func TestClientConcurrency(t *testing.T) {
	t.Parallel()
	client := start(t).client(t)
	session := func(t *testing.T) *concurrency.Session {
		t.Helper()
		s, err := concurrency.NewSession(client, concurrency.WithTTL(60))
		require.NoError(t, err)
		return s
	}
	t.Run("a lock", func(t *testing.T) {
		once(t)
		const holders, rounds = 4, 10
		var g errgroup.Group
		held := 0 // Guarded by nothing but the lock.
		for range holders {
			s := session(t)
			g.Go(func() error {
				mu := concurrency.NewMutex(s, "/lock")
				for range rounds {
					if err := mu.Lock(t.Context()); err != nil {
						return err
					}
					held++
					if err := mu.Unlock(t.Context()); err != nil {
						return err
					}
				}
				return s.Close()
			})
		}
		require.NoError(t, g.Wait())
		require.Equal(t, holders*rounds, held)
	})
	t.Run("an election", func(t *testing.T) {
		once(t)
		one, two := session(t), session(t)
		first, second := concurrency.NewElection(one, "/election"), concurrency.NewElection(two, "/election")
		require.NoError(t, first.Campaign(within(t), "one"))
		leader, err := second.Leader(within(t))
		require.NoError(t, err)
		require.Equal(t, "one", string(leader.Kvs[0].Value))
		won := make(chan error)
		go func() { won <- second.Campaign(t.Context(), "two") }()
		require.NoError(t, one.Close()) // Its lease is revoked.
		require.NoError(t, <-won)
		leader, err = first.Leader(within(t))
		require.NoError(t, err)
		require.Equal(t, "two", string(leader.Kvs[0].Value))
		require.NoError(t, two.Close())
	})
	t.Run("transactional memory", func(t *testing.T) {
		once(t)
		const workers, rounds = 4, 25
		var g errgroup.Group
		for range workers {
			g.Go(func() error {
				for range rounds {
					_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
						var n int
						_, _ = fmt.Sscan(stm.Get("/counter"), &n)
						stm.Put("/counter", fmt.Sprint(n+1))
						return nil
					})
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		require.NoError(t, g.Wait())
		r, err := client.Get(within(t), "/counter")
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(workers*rounds), string(r.Kvs[0].Value))
	})
}
