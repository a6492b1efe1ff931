package metrics

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

// collector is an OpenTelemetry collector that remembers what it is sent.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	addr string

	mu    sync.Mutex // guards the fields below; nothing is taken after it
	spans []*tracepb.Span
	// of are the attributes of who has sent spans.
	of map[string]string
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &collector{addr: l.Addr().String(), of: map[string]string{}}
	s := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(s, c)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return c
}

func (c *collector) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		for _, a := range resource.GetResource().GetAttributes() {
			c.of[a.Key] = a.Value.GetStringValue()
		}
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// call returns the span of a method, once it has come, and those within it in the
// order of their beginnings.
func (c *collector) call(t *testing.T, method string) (span *tracepb.Span, children []*tracepb.Span) {
	t.Helper()
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.IndexFunc(c.spans, func(s *tracepb.Span) bool { return s.Name == method })
		if i < 0 {
			return false
		}
		span = c.spans[i]
		return true
	}, 20*time.Second, 10*time.Millisecond, "no span of %s", method)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if string(s.ParentSpanId) == string(span.SpanId) {
			children = append(children, s)
		}
	}
	slices.SortStableFunc(children, func(a, b *tracepb.Span) int { return int(int64(a.StartTimeUnixNano - b.StartTimeUnixNano)) })
	return span, children
}

// requireStretches holds that children are what a call has gone through: one after
// another, within the call.
func requireStretches(t *testing.T, span *tracepb.Span, children []*tracepb.Span, names string) {
	t.Helper()
	var got []string
	at := span.StartTimeUnixNano
	for _, c := range children {
		got = append(got, c.Name)
		require.Equal(t, span.TraceId, c.TraceId)
		require.GreaterOrEqual(t, c.StartTimeUnixNano, at, c.Name)
		require.GreaterOrEqual(t, c.EndTimeUnixNano, c.StartTimeUnixNano, c.Name)
		at = c.StartTimeUnixNano
		require.LessOrEqual(t, c.EndTimeUnixNano, span.EndTimeUnixNano, c.Name)
		require.NotEqual(t, tracepb.Status_STATUS_CODE_ERROR, c.GetStatus().GetCode(), "%s had no end", c.Name)
	}
	require.Equal(t, names, strings.Join(got, " "))
}

const (
	traceID    = "0123456789abcdef0123456789abcdef"
	wanted     = "00-" + traceID + "-00f067aa0ba902b7-01"
	notWanted  = "00-" + traceID + "-00f067aa0ba902b7-00"
	atOnce     = "OTEL_BSP_SCHEDULE_DELAY=50" // milliseconds
	putMethod  = "etcdserverpb.KV/Put"
	getMethod  = "etcdserverpb.KV/Range"
	deleteCall = "etcdserverpb.KV/DeleteRange"
)

func within(ctx context.Context, parent string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", parent)
}

// TestTracingConfigFile has a member read kube-apiserver's file: what clients want
// to have traced is, and nothing else.
func TestTracingConfigFile(t *testing.T) {
	binary, to := resolve(t), newCollector(t)
	file := filepath.Join(t.TempDir(), "tracing.yaml")
	require.NoError(t, os.WriteFile(file, []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: "+to.addr+"\n"), 0o600))
	m := server.Run(t, server.Config{Binary: binary.Path, Name: "a", Args: []string{"--tracing-config-file=" + file}, Env: []string{atOnce}})
	c, ctx := client(t, m), t.Context()

	_, err := c.Delete(ctx, "/registry/pods/a")
	require.NoError(t, err)
	_, err = c.Delete(within(ctx, notWanted), "/registry/pods/a")
	require.NoError(t, err)
	_, err = c.Put(within(ctx, wanted), "/registry/pods/a", "v")
	require.NoError(t, err)
	_, err = c.Get(within(ctx, wanted), "/registry/pods/a")
	require.NoError(t, err)

	put, children := to.call(t, putMethod)
	require.Equal(t, "\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef", string(put.TraceId))
	require.Equal(t, "\x00\xf0\x67\xaa\x0b\xa9\x02\xb7", string(put.ParentSpanId))
	require.Equal(t, tracepb.Span_SPAN_KIND_SERVER, put.Kind)
	requireStretches(t, put, children, "pending evaluate log commit apply")
	get, children := to.call(t, getMethod)
	requireStretches(t, get, children, "point read")

	to.mu.Lock()
	defer to.mu.Unlock()
	require.Equal(t, "pebbledash", to.of["service.name"])
	require.Equal(t, "a", to.of["service.instance.id"])
	require.False(t, slices.ContainsFunc(to.spans, func(s *tracepb.Span) bool { return s.Name == deleteCall }),
		"nobody wants these to be traced")
}

// TestDistributedTracing is about etcd's flags, and what a client sees of etcd's
// tracing too: PEBBLEDASH_CONFORMANCE_TARGET=etcd runs it against etcd.
func TestDistributedTracing(t *testing.T) {
	binary, err := server.Resolve(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, binary.Close()) }()
	to := newCollector(t)
	m := server.Run(t, server.Config{Binary: binary.Path, Env: []string{atOnce}, Args: []string{
		"--enable-distributed-tracing", "--distributed-tracing-address=" + to.addr,
		"--distributed-tracing-service-name=store", "--distributed-tracing-instance-id=one",
		"--distributed-tracing-sampling-rate=1000000",
	}})
	c := client(t, m)
	_, err = c.Put(t.Context(), "k", "v")
	require.NoError(t, err)
	span, _ := to.call(t, putMethod)
	require.Empty(t, span.ParentSpanId)
	require.NotEmpty(t, span.TraceId)
	require.Subset(t, attributes(span), []string{
		"rpc.system.name=grpc", "rpc.method=etcdserverpb.KV/Put", "rpc.response.status_code=OK",
	})
	to.mu.Lock()
	require.Equal(t, "store", to.of["service.name"])
	require.Equal(t, "one", to.of["service.instance.id"])
	to.mu.Unlock()
}

func attributes(s *tracepb.Span) []string {
	var all []string
	for _, a := range s.Attributes {
		all = append(all, a.Key+"="+a.Value.GetStringValue())
	}
	return all
}

// TestTracesOfCluster traces a write that comes to a member that is not the
// sequencer, and a linearizable read there.
func TestTracesOfCluster(t *testing.T) {
	binary, to := resolve(t), newCollector(t)
	members := server.RunCluster(t, server.Config{Binary: binary.Path, Env: []string{atOnce}, Args: []string{
		"--enable-distributed-tracing", "--distributed-tracing-address=" + to.addr,
	}}, 3)
	var follower *clientv3.Client
	for _, m := range members {
		c := client(t, m)
		s, err := c.Status(t.Context(), m.Endpoint())
		require.NoError(t, err)
		if s.Leader != s.Header.MemberId {
			follower = c
		}
	}
	require.NotNil(t, follower)
	_, err := follower.Put(within(t.Context(), wanted), "/registry/pods/a", "v")
	require.NoError(t, err)
	put, children := to.call(t, putMethod)
	requireStretches(t, put, children, "forward wait")
	_, err = follower.Get(within(t.Context(), wanted), "/registry/pods/a")
	require.NoError(t, err)
	get, children := to.call(t, getMethod)
	requireStretches(t, get, children, "point wait read")
}

// TestNoCollector has a member that traces serve while nobody takes its traces, and
// stop in time.
func TestNoCollector(t *testing.T) {
	m := server.Run(t, server.Config{Binary: resolve(t).Path, Env: []string{atOnce}, Args: []string{
		"--enable-distributed-tracing", "--distributed-tracing-address=127.0.0.1:1",
		"--distributed-tracing-sampling-rate=1000000",
	}})
	c := client(t, m)
	for range 100 {
		_, err := c.Put(t.Context(), "k", "v")
		require.NoError(t, err)
	}
	wall := clock.Real{}
	began := wall.Now()
	state, err := m.Stop()
	require.NoError(t, err)
	require.Zero(t, state.ExitCode())
	require.Less(t, wall.Since(began), 10*time.Second)
}
