package clients

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

func TestNamespace(t *testing.T) {
	t.Parallel()
	c := one(t)
	kv, watcher, lease := namespace.NewKV(c, "mine/"), namespace.NewWatcher(c, "mine/"), namespace.NewLease(c, "mine/")
	event := watch(t, watcher, "")
	put(t, c, "a", "outside")
	put(t, kv, "a", "inside")
	require.Equal(t, "inside", get(t, c, "mine/a"))
	require.Equal(t, "a", string(event().Kv.Key))

	r, err := kv.Txn(within(t)).If(clientv3.Compare(clientv3.Value("a"), "=", "inside")).
		Then(clientv3.OpGet("", clientv3.WithFromKey()), clientv3.OpDelete("a", clientv3.WithPrevKV())).Commit()
	require.NoError(t, err)
	require.True(t, r.Succeeded)
	require.Equal(t, "a", string(r.Responses[0].GetResponseRange().Kvs[0].Key))
	require.Equal(t, "inside", string(r.Responses[1].GetResponseDeleteRange().PrevKvs[0].Value))
	require.Equal(t, "outside", get(t, c, "a"))

	granted, err := lease.Grant(within(t), 60)
	require.NoError(t, err)
	_, err = kv.Put(within(t), "leased", "x", clientv3.WithLease(granted.ID))
	require.NoError(t, err)
	ttl, err := lease.TimeToLive(within(t), granted.ID, clientv3.WithAttachedKeys())
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("leased")}, ttl.Keys)
}

// A key that a leasing client has read is served from its memory, until somebody
// else writes it, who waits for the first to let go.
func TestLeasing(t *testing.T) {
	t.Parallel()
	s := server.Run(t, server.Config{Binary: target.Path})
	plain := dial(t, s.Endpoint())
	reader, stop, err := leasing.NewKV(dial(t, s.Endpoint()), "leases/")
	require.NoError(t, err)
	defer stop()
	writer, stopWriter, err := leasing.NewKV(dial(t, s.Endpoint()), "leases/")
	require.NoError(t, err)
	defer stopWriter()

	put(t, plain, "k", "1")
	require.Equal(t, "1", get(t, reader, "k"))
	owned, err := plain.Get(within(t), "leases/k")
	require.NoError(t, err)
	require.Len(t, owned.Kvs, 1)
	// Who does without leases is not seen: it comes from memory.
	put(t, plain, "k", "behind its back")
	require.Equal(t, "1", get(t, reader, "k"))

	put(t, writer, "k", "2")
	require.Equal(t, "2", get(t, reader, "k"))
	put(t, reader, "k", "3")
	require.Equal(t, "3", get(t, writer, "k"))
	r, err := writer.Txn(within(t)).If(clientv3.Compare(clientv3.Value("k"), "=", "3")).
		Then(clientv3.OpPut("k", "4"), clientv3.OpPut("other", "1")).Commit()
	require.NoError(t, err)
	require.True(t, r.Succeeded)
	require.Equal(t, "4", get(t, reader, "k"))
	_, err = reader.Delete(within(t), "k")
	require.NoError(t, err)
	require.Equal(t, "nothing", get(t, writer, "k"))
}

func TestOrdering(t *testing.T) {
	t.Parallel()
	c := one(t)
	kv := ordering.NewKV(c, func(clientv3.Op, clientv3.OpResponse, int64) error {
		t.Error("the revision went back")
		return nil
	})
	for _, value := range []string{"1", "2", "3"} {
		written := put(t, kv, "k", value)
		r, err := kv.Get(within(t), "k", clientv3.WithSerializable())
		require.NoError(t, err)
		require.Equal(t, written.Header.Revision, r.Header.Revision)
		require.Equal(t, value, string(r.Kvs[0].Value))
	}
	r, err := kv.Txn(within(t)).Then(clientv3.OpGet("k")).Commit()
	require.NoError(t, err)
	require.Equal(t, "3", string(r.Responses[0].GetResponseRange().Kvs[0].Value))
}

func TestMirror(t *testing.T) {
	t.Parallel()
	c := one(t)
	const n = 2500 // more than the syncer asks for at a time
	for i := range n {
		put(t, c, key(i), "old")
	}
	put(t, c, "other", "x")
	syncer := mirror.NewSyncer(c, "k", 0)
	copied := base(within(t), t, syncer)
	require.Len(t, copied, n)

	put(t, c, key(0), "new")
	_, err := c.Delete(within(t), key(1))
	require.NoError(t, err)
	put(t, c, "k-end", "")
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	for r := range syncer.SyncUpdates(ctx) {
		require.NoError(t, r.Err())
		if apply(copied, r.Events) {
			break
		}
	}
	require.Equal(t, "new", copied[key(0)])
	require.NotContains(t, copied, key(1))
	require.NotContains(t, copied, "other")
	require.Len(t, copied, n) // one is gone, and the end has come
}

// base is what a syncer begins with.
func base(ctx context.Context, t *testing.T, s mirror.Syncer) map[string]string {
	t.Helper()
	copied := map[string]string{}
	responses, errs := s.SyncBase(ctx)
	for r := range responses {
		for _, kv := range r.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	require.NoError(t, <-errs)
	return copied
}

// apply has a copy follow events, and says whether k-end was among them.
func apply(copied map[string]string, events []*clientv3.Event) (end bool) {
	for _, e := range events {
		if e.Type == clientv3.EventTypeDelete {
			delete(copied, string(e.Kv.Key))
			continue
		}
		copied[string(e.Kv.Key)] = string(e.Kv.Value)
		end = end || string(e.Kv.Key) == "k-end"
	}
	return end
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	s := server.Run(t, server.Config{Binary: target.Path})
	put(t, dial(t, s.Endpoint()), "k", "v")
	path := filepath.Join(t.TempDir(), "snapshot.db")
	version, err := snapshot.SaveWithVersion(within(t), zap.NewNop(), clientv3.Config{
		Endpoints: []string{s.Endpoint()}, DialTimeout: patience, Logger: zap.NewNop(),
	}, path)
	if status.Code(err) == codes.Unimplemented {
		t.Skip("Maintenance.Snapshot is not served yet")
	}
	require.NoError(t, err)
	require.Equal(t, "3.7.0", version)
	require.FileExists(t, path) // It is renamed once its hash was found to be right.
}
