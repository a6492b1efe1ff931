package gateway

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/pebbledash/pebbledash/gateway/lockpb"
)

// lockServer serves etcd's Lock service. A lock is the one of etcd's client
// library, so that it excludes those that take it without the service.
type lockServer struct {
	*Server
	lockpb.UnsafeLockServer
}

// Lock waits for a lock. Who leaves gives up its place.
func (s *lockServer) Lock(ctx context.Context, r *lockpb.LockRequest) (*lockpb.LockResponse, error) {
	return asCaller(ctx, s.Server, func(ctx context.Context, client *clientv3.Client) (*lockpb.LockResponse, error) {
		session, err := orphan(ctx, client, r.Lease)
		if err != nil {
			return nil, err
		}
		m := concurrency.NewMutex(session, string(r.Name))
		if err := m.Lock(ctx); err != nil {
			return nil, err
		}
		return &lockpb.LockResponse{Header: m.Header(), Key: []byte(m.Key())}, nil
	})
}

// Unlock gives a lock up.
func (s *lockServer) Unlock(ctx context.Context, r *lockpb.UnlockRequest) (*lockpb.UnlockResponse, error) {
	return asCaller(ctx, s.Server, func(ctx context.Context, client *clientv3.Client) (*lockpb.UnlockResponse, error) {
		resp, err := client.Delete(ctx, string(r.Key))
		if err != nil {
			return nil, err
		}
		return &lockpb.UnlockResponse{Header: resp.Header}, nil
	})
}

// orphan is a session of somebody else's lease, which is not kept alive here. Lease
// 0 is a new one.
func orphan(ctx context.Context, client *clientv3.Client, lease int64) (*concurrency.Session, error) {
	session, err := concurrency.NewSession(client,
		concurrency.WithLease(clientv3.LeaseID(lease)), concurrency.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	session.Orphan()
	return session, nil
}
