package gateway

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/pebbledash/pebbledash/gateway/admission"
	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/pkg/tracing"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Traces that a client wants, and does not want, to be continued.
const (
	wantedParent   = "00-0123456789abcdef0123456789abcdef-00f067aa0ba902b7-01"
	unwantedParent = "00-0123456789abcdef0123456789abcdef-00f067aa0ba902b7-00"
)

func recorder() (*tracetest.SpanRecorder, *sdktrace.TracerProvider) {
	r := tracetest.NewSpanRecorder()
	return r, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r))
}

// steps passes steps of a request, one a millisecond.
func steps(ctx context.Context, c *clock.Manual, passed ...tracing.Step) {
	for _, s := range passed {
		c.Advance(time.Millisecond)
		tracing.From(ctx).Mark(s)
	}
}

// stretch is a span as the tests look at it, in milliseconds of its call.
type stretch struct {
	name     string
	from, to int
}

// stretchesOf returns the children of a call's span, and the span.
func stretchesOf(t *testing.T, spans []sdktrace.ReadOnlySpan) (root sdktrace.ReadOnlySpan, got []stretch) {
	t.Helper()
	require.NotEmpty(t, spans)
	root = spans[len(spans)-1]
	for _, s := range spans[:len(spans)-1] {
		require.Equal(t, root.SpanContext().SpanID(), s.Parent().SpanID(), s.Name())
		require.Equal(t, root.SpanContext().TraceID(), s.SpanContext().TraceID(), s.Name())
		since := func(at time.Time) int { return int(at.Sub(root.StartTime()) / time.Millisecond) }
		got = append(got, stretch{s.Name(), since(s.StartTime()), since(s.EndTime())})
	}
	return root, got
}

func TestSpans(t *testing.T) {
	r, provider := recorder()
	c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	store := newFakeStore()
	_, addr := serve(t, Config{TracerProvider: provider, TracesPerMillion: million, Clock: c}, store)
	kv := pb.NewKVClient(dial(t, addr))
	// spans waits for a call's span, which ends after its answer was sent.
	spans := func() []sdktrace.ReadOnlySpan {
		require.Eventually(t, func() bool {
			all := r.Ended()
			return len(all) > 0 && all[len(all)-1].SpanKind() == trace.SpanKindServer
		}, 10*time.Second, time.Millisecond)
		all := r.Ended()
		r.Reset()
		return all
	}

	store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
		steps(ctx, c, tracing.Submitted, tracing.Evaluating, tracing.Evaluated, tracing.Proposed,
			tracing.Logged, tracing.Committed, tracing.Applied)
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	_, err := kv.Put(within(t), &pb.PutRequest{Key: []byte("k")})
	require.NoError(t, err)
	root, got := stretchesOf(t, spans())
	require.Equal(t, "etcdserverpb.KV/Put", root.Name())
	require.False(t, root.Parent().IsValid())
	require.Equal(t, codes.Unset, root.Status().Code)
	require.Contains(t, root.Attributes(), attribute.String("rpc.response.status_code", "OK"))
	require.Contains(t, root.Attributes(), attribute.String("rpc.method", "etcdserverpb.KV/Put"))
	require.Equal(t, []stretch{
		{"pending", 1, 2}, {"evaluate", 2, 3}, {"log", 4, 5}, {"commit", 5, 6}, {"apply", 6, 7},
	}, got)

	// The log is another member's: nothing is known of it here.
	store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
		steps(ctx, c, tracing.Submitted, tracing.Evaluating, tracing.Evaluated, tracing.Proposed,
			tracing.Committed, tracing.Applied)
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	_, err = kv.Put(within(t), &pb.PutRequest{Key: []byte("k")})
	require.NoError(t, err)
	_, got = stretchesOf(t, spans())
	require.Equal(t, []stretch{{"pending", 1, 2}, {"evaluate", 2, 3}, {"log", 4, 5}, {"apply", 5, 6}}, got)

	// One that fails on its way shows where.
	store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
		steps(ctx, c, tracing.Submitted)
		c.Advance(time.Second)
		return evaluate.Result{}, mvcc.ErrFutureRevision
	}
	_, err = kv.Put(within(t), &pb.PutRequest{Key: []byte("k")})
	require.Error(t, err)
	all := spans()
	root, got = stretchesOf(t, all)
	require.Equal(t, []stretch{{"pending", 1, 1001}}, got)
	require.Equal(t, codes.Error, all[0].Status().Code)
	require.Equal(t, codes.Error, root.Status().Code)
	require.Equal(t, "OUT_OF_RANGE", root.Status().Description)

	store.read = func(ctx context.Context, _ evaluate.Op, _ bool) (evaluate.Result, error) {
		steps(ctx, c, tracing.Asked, tracing.Pointed, tracing.Ready, tracing.Reading, tracing.Read)
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	_, err = kv.Range(within(t), &pb.RangeRequest{Key: []byte("k")})
	require.NoError(t, err)
	root, got = stretchesOf(t, spans())
	require.Equal(t, "etcdserverpb.KV/Range", root.Name())
	require.Equal(t, []stretch{{"point", 1, 2}, {"wait", 2, 3}, {"read", 4, 5}}, got)

	// A write at a member that is not the sequencer.
	store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
		steps(ctx, c, tracing.Forwarded, tracing.Returned, tracing.Ready)
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	_, err = kv.Put(within(t), &pb.PutRequest{Key: []byte("k")})
	require.NoError(t, err)
	_, got = stretchesOf(t, spans())
	require.Equal(t, []stretch{{"forward", 1, 2}, {"wait", 2, 3}}, got)

	store.stream = func(ctx context.Context, _ *evaluate.Range, _ int, emit func([]*mvccpb.KeyValue) error) (evaluate.Result, error) {
		steps(ctx, c, tracing.Asked, tracing.Ready, tracing.Reading, tracing.Read)
		return evaluate.Result{Revision: fakeRevision}, emit(nil)
	}
	stream, err := kv.RangeStream(within(t), &pb.RangeRequest{Key: []byte("k")})
	require.NoError(t, err)
	for err == nil {
		_, err = stream.Recv()
	}
	root, got = stretchesOf(t, spans())
	require.Equal(t, "etcdserverpb.KV/RangeStream", root.Name())
	require.Equal(t, []stretch{{"point", 1, 2}, {"read", 3, 4}}, got)
}

// TestSpanOfQueue has a write wait for the one seat that there is.
func TestSpanOfQueue(t *testing.T) {
	r, provider := recorder()
	store := newFakeStore()
	reg := prometheus.NewRegistry()
	limits, err := admission.New(admission.Config{MaxInflight: 2, MaxMutatingInflight: 2, Registerer: reg})
	require.NoError(t, err)
	_, addr := serve(t, Config{TracerProvider: provider, TracesPerMillion: million, Admission: limits}, store)
	kv := pb.NewKVClient(dial(t, addr))

	release := make(chan struct{})
	store.do = func(context.Context, evaluate.Op) (evaluate.Result, error) {
		<-release
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	const writes = 4
	done := make(chan error, writes)
	for range writes {
		go func() {
			_, err := kv.Put(within(t), &pb.PutRequest{Key: []byte("/registry/pods/a/b")})
			done <- err
		}()
	}
	waits := func() bool {
		families, err := reg.Gather()
		require.NoError(t, err)
		waiting := 0.0
		for _, f := range families {
			if f.GetName() == "pebbledash_flowcontrol_current_inqueue_requests" {
				for _, m := range f.GetMetric() {
					waiting += m.GetGauge().GetValue()
				}
			}
		}
		return waiting > 0
	}
	require.Eventually(t, waits, 10*time.Second, time.Millisecond)
	close(release)
	for range writes {
		require.NoError(t, <-done)
	}
	queued := func() (n int) {
		for _, s := range r.Ended() {
			if s.Name() == "queue" && s.Status().Code == codes.Unset {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return queued() > 0 }, 10*time.Second, time.Millisecond)
	require.Less(t, queued(), writes, "the first does not wait")
}

// TestWhoIsTraced asks for calls of clients that want a trace, that do not, and that
// do not say.
func TestWhoIsTraced(t *testing.T) {
	r, provider := recorder()
	begin := func(perMillion int32, parent string) (*tracedCall, context.Context) {
		cfg := Config{TracerProvider: provider, TracesPerMillion: perMillion}.withDefaults()
		ctx := t.Context()
		if parent != "" {
			ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("traceparent", parent, "tracestate", "a=b"))
		}
		ctx, call := newTracer(&cfg).begin(ctx, "/p.S/M")
		return call, ctx
	}
	call, ctx := begin(0, wantedParent)
	require.NotNil(t, call)
	require.NotNil(t, tracing.From(ctx))
	call.end(nil)
	require.Len(t, r.Ended(), 1)
	span := r.Ended()[0]
	require.Equal(t, "0123456789abcdef0123456789abcdef", span.SpanContext().TraceID().String())
	require.Equal(t, "00f067aa0ba902b7", span.Parent().SpanID().String())
	require.True(t, span.Parent().IsRemote())
	require.Equal(t, "a=b", span.SpanContext().TraceState().String())

	for _, parent := range []string{unwantedParent, ""} {
		call, ctx = begin(0, parent)
		require.Nil(t, call)
		require.Nil(t, tracing.From(ctx))
	}
	call, _ = begin(million, unwantedParent)
	require.Nil(t, call, "the client does not want it")
	call, _ = begin(million, "")
	require.NotNil(t, call)
	call, _ = begin(0, "nonsense")
	require.Nil(t, call)
	call, _ = begin(million, "nonsense")
	require.NotNil(t, call, "what is no trace says nothing")

	n := 0
	for range 10_000 {
		if call, _ := begin(million/4, ""); call != nil {
			n++
		}
	}
	require.InDelta(t, 2500, n, 400)

	cfg := Config{}.withDefaults()
	require.Nil(t, newTracer(&cfg))
	var none *tracedCall
	none.end(errors.New("a call that is not traced"))
}

// TestNotTracedIsFree counts what calls cost that are not traced.
func TestNotTracedIsFree(t *testing.T) {
	_, provider := recorder()
	cfg := Config{TracerProvider: provider}.withDefaults()
	tr := newTracer(&cfg)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("hasleader", "true"))
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = tr.begin(ctx, "/p.S/M") }))
	ctx = metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", unwantedParent))
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { _, _ = tr.begin(ctx, "/p.S/M") }), 1.0)
}

// TestStretchesAreDocumented holds the operators' page to what there is.
func TestStretchesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../manifests/monitoring/README.md")
	require.NoError(t, err)
	_, table, _ := strings.Cut(string(page), "| span | from | to |\n| --- | --- | --- |\n")
	var names []string
	for line := range strings.Lines(table) {
		name, ok := strings.CutPrefix(line, "| ")
		if !ok {
			break
		}
		name, _, _ = strings.Cut(name, " ")
		names = append(names, name)
	}
	var want []string
	for _, s := range stretches {
		want = append(want, s.name)
	}
	require.Equal(t, want, names)
}

func BenchmarkTracing(b *testing.B) {
	provider := sdktrace.NewTracerProvider()
	for _, c := range []struct {
		name       string
		perMillion int32
		parent     string
	}{{"not sampled", 0, ""}, {"parent not sampled", 0, unwantedParent}, {"sampled", million, ""}} {
		b.Run(c.name, func(b *testing.B) {
			cfg := Config{TracerProvider: provider, TracesPerMillion: c.perMillion}.withDefaults()
			tr := newTracer(&cfg)
			md := metadata.Pairs("hasleader", "true")
			if c.parent != "" {
				md.Set("traceparent", c.parent)
			}
			ctx := metadata.NewIncomingContext(b.Context(), md)
			b.ReportAllocs()
			for b.Loop() {
				_, call := tr.begin(ctx, "/etcdserverpb.KV/Put")
				call.end(nil)
			}
		})
	}
}
