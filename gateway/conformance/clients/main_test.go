package clients

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc/grpclog"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// patience bounds every wait.
const patience = 30 * time.Second

// target is the program under test. It is set once, before any test runs.
var target *server.Binary

func TestMain(m *testing.M) {
	flag.Parse()
	// A server that is killed is no news here.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	var err error
	if target, err = server.Resolve(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := target.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// one starts a member, and a client of it.
func one(t *testing.T) *clientv3.Client {
	t.Helper()
	return dial(t, server.Run(t, server.Config{Binary: target.Path}).Endpoint())
}

func dial(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: patience, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// within is a context that ends before the test's patience.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func session(t *testing.T, c *clientv3.Client) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(c, concurrency.WithTTL(60))
	require.NoError(t, err)
	return s
}

func put(t *testing.T, kv clientv3.KV, key, value string) *clientv3.PutResponse {
	t.Helper()
	r, err := kv.Put(within(t), key, value)
	require.NoError(t, err)
	return r
}

// watch returns a function that waits for the next event of the keys below prefix.
func watch(t *testing.T, w clientv3.Watcher, prefix string) (next func() *clientv3.Event) {
	t.Helper()
	events := w.Watch(within(t), prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	require.True(t, (<-events).Created)
	return func() *clientv3.Event {
		t.Helper()
		r := <-events
		require.Len(t, r.Events, 1, "%v", r.Err())
		return r.Events[0]
	}
}

// get returns a key's value.
func get(t *testing.T, kv clientv3.KV, key string) string {
	t.Helper()
	r, err := kv.Get(within(t), key)
	require.NoError(t, err)
	if len(r.Kvs) == 0 {
		return "nothing"
	}
	return string(r.Kvs[0].Value)
}
