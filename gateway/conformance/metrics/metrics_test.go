package metrics

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net/http"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

var rewrite = flag.Bool("rewrite", false, "write the files that are compared with anew")

// scrape is one member's /metrics.
type scrape struct {
	text     []byte
	families map[string]*dto.MetricFamily
}

func read(t *testing.T, s *server.Server) scrape {
	t.Helper()
	resp, err := http.Get(s.Endpoint() + "/metrics")
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	require.NoError(t, err)
	return scrape{text, families}
}

// busy starts n members of a cluster, has them do a little of everything that is
// counted, and reads their metrics.
func busy(t *testing.T, binary *server.Binary, n int, args ...string) []scrape {
	t.Helper()
	members := server.RunCluster(t, server.Config{Binary: binary.Path, Args: append([]string{"--metrics=extensive"}, args...)}, n)
	var scrapes []scrape
	for _, m := range members {
		use(t, m)
	}
	for _, m := range members {
		c := client(t, m)
		_, err := c.Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
		require.NoError(t, err) // so that the member has applied everything
		scrapes = append(scrapes, read(t, m))
	}
	return scrapes
}

func client(t *testing.T, m *server.Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.Endpoint()}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func use(t *testing.T, m *server.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := client(t, m)

	watch := c.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	created := <-watch
	require.NoError(t, created.Err())
	lease, err := c.Grant(ctx, 600)
	require.NoError(t, err)
	_, err = c.KeepAliveOnce(ctx, lease.ID)
	require.NoError(t, err)
	for _, key := range []string{"/registry/pods/a/b", "/registry/events/a/b", "/registry/configmaps/a/b"} {
		_, err = c.Put(ctx, key, "v", clientv3.WithLease(lease.ID))
		require.NoError(t, err)
		_, err = c.Get(ctx, key)
		require.NoError(t, err)
	}
	_, err = c.Txn(ctx).If(clientv3.Compare(clientv3.Version("/registry/pods/a/b"), ">", 0)).
		Then(clientv3.OpPut("/registry/pods/a/b", "w", clientv3.WithLease(lease.ID)),
			clientv3.OpPut("/registry/events/a/b", "w", clientv3.WithLease(lease.ID))).Commit()
	require.NoError(t, err)
	_, err = c.Put(ctx, "/registry/pods/a/c", "v")
	require.NoError(t, err)
	deleted, err := c.Delete(ctx, "/registry/configmaps/", clientv3.WithPrefix())
	require.NoError(t, err)
	_, err = c.Compact(ctx, deleted.Header.Revision, clientv3.WithCompactPhysical())
	require.NoError(t, err)
	_, err = c.HashKV(ctx, m.Endpoint(), 0)
	require.NoError(t, err)
	_, err = c.Revoke(ctx, lease.ID)
	require.NoError(t, err)
	for events := 0; events < 9; {
		r, ok := <-watch
		require.True(t, ok, "the watch has ended after %d events", events)
		require.NoError(t, r.Err())
		events += len(r.Events)
	}
}

func resolve(t *testing.T) *server.Binary {
	t.Helper()
	b, err := server.Resolve(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	if b.Target == server.Etcd {
		t.Skip("is about Pebbledash")
	}
	return b
}

// TestMetrics starts one member and three, and looks at what they say in all the
// ways there are.
func TestMetrics(t *testing.T) {
	binary := resolve(t)
	one, three := busy(t, binary, 1)[0], busy(t, binary, 3)
	t.Run("etcd", func(t *testing.T) { testEtcd(t, append(three, one)) })
	t.Run("mixin", func(t *testing.T) { testMixin(t, one, three) })
	t.Run("lint", func(t *testing.T) { testLint(t, append(three, one)) })
	t.Run("page", func(t *testing.T) { testPage(t, append(three, one)) })
	t.Run("values", func(t *testing.T) { testValues(t, one, three) })
}
