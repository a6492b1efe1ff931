package gateway

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"
	"unicode"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/pkg/tracing"
)

// Calls of one answer, and RangeStream, may be traced. A call that is has a
// tracing.Request in its context, on which the rooms mark their steps; when it ends
// it becomes a span, with a child for each stretch of its way. Other streams live as
// long as their clients, and are not traced.

// tracer makes the spans. A nil tracer makes none.
type tracer struct {
	tracer trace.Tracer
	clock  clock.Clock
	// perMillion is how many calls of a million are traced of those whose client
	// does not say.
	perMillion uint64
}

func newTracer(cfg *Config) *tracer {
	if cfg.TracerProvider == nil {
		return nil
	}
	return &tracer{
		tracer:     cfg.TracerProvider.Tracer("github.com/pebbledash/pebbledash/gateway"),
		clock:      cfg.Clock,
		perMillion: uint64(cfg.TracesPerMillion),
	}
}

// tracedCall is a call that is traced. Its methods may be called on nil, which is
// one that is not.
type tracedCall struct {
	*tracer
	ctx   context.Context
	span  trace.Span
	marks *tracing.Request
}

// begin begins a call's span, if it is to be traced: its client says so, or says
// nothing and chance does.
func (t *tracer) begin(ctx context.Context, method string) (context.Context, *tracedCall) {
	parents := metadata.ValueFromIncomingContext(ctx, "traceparent")
	if len(parents) > 0 && isUnwanted(parents[0]) {
		return ctx, nil
	}
	ctx, ok := t.withParent(ctx, parents)
	if !ok && rand.Uint64N(million) >= t.perMillion {
		return ctx, nil
	}
	name := strings.TrimPrefix(method, "/")
	ctx, span := t.tracer.Start(ctx, name,
		trace.WithSpanKind(trace.SpanKindServer),
		trace.WithTimestamp(t.clock.Now()),
		trace.WithAttributes(
			// Name and attributes are etcd's.
			attribute.String("rpc.system.name", "grpc"),
			attribute.String("rpc.method", name),
		))
	if !span.IsRecording() {
		span.End()
		return ctx, nil
	}
	c := &tracedCall{tracer: t, ctx: ctx, span: span, marks: tracing.New(t.clock)}
	return tracing.NewContext(ctx, c.marks), c
}

const million = 1_000_000

// isUnwanted says whether a client has a trace and does not want this call in it.
// Clients that trace send it with every call, most of which are not traced: they
// should cost no more than this look at version and flags.
func isUnwanted(parent string) bool {
	const version, length = "00-", 55
	return len(parent) == length && strings.HasPrefix(parent, version) && strings.IndexByte("02468ace", parent[length-1]) >= 0
}

// withParent puts the span in which the client has sent the call into ctx, if it
// has: the W3C's traceparent.
func (t *tracer) withParent(ctx context.Context, parents []string) (context.Context, bool) {
	if len(parents) == 0 {
		return ctx, false
	}
	carrier := propagation.MapCarrier{"traceparent": parents[0]}
	if states := metadata.ValueFromIncomingContext(ctx, "tracestate"); len(states) > 0 {
		carrier["tracestate"] = strings.Join(states, ",")
	}
	ctx = propagation.TraceContext{}.Extract(ctx, carrier)
	return ctx, trace.SpanContextFromContext(ctx).IsValid()
}

// stretches are the parts of a call's way that become spans of their own: from the
// first step of from that it has passed to the first of to. One whose end it has
// not passed ends with the call: that is where it failed.
var stretches = []struct {
	name     string
	from, to []tracing.Step
}{
	{"queue", []tracing.Step{tracing.Queued}, []tracing.Step{tracing.Admitted}},
	{"forward", []tracing.Step{tracing.Forwarded}, []tracing.Step{tracing.Returned}},
	{"pending", []tracing.Step{tracing.Submitted}, []tracing.Step{tracing.Evaluating}},
	{"evaluate", []tracing.Step{tracing.Evaluating}, []tracing.Step{tracing.Evaluated}},
	{"log", []tracing.Step{tracing.Proposed}, []tracing.Step{tracing.Logged, tracing.Committed, tracing.Applied}},
	{"commit", []tracing.Step{tracing.Logged}, []tracing.Step{tracing.Committed}},
	{"apply", []tracing.Step{tracing.Committed}, []tracing.Step{tracing.Applied}},
	{"confirm", []tracing.Step{tracing.Confirming}, []tracing.Step{tracing.Confirmed}},
	{"point", []tracing.Step{tracing.Asked}, []tracing.Step{tracing.Pointed, tracing.Ready}},
	{"wait", []tracing.Step{tracing.Pointed, tracing.Returned}, []tracing.Step{tracing.Ready}},
	{"read", []tracing.Step{tracing.Reading}, []tracing.Step{tracing.Read}},
}

// end ends the call's span and makes those of its stretches.
func (c *tracedCall) end(err error) {
	if c == nil {
		return
	}
	now := c.clock.Now()
	for _, s := range stretches {
		from, ok := c.first(s.from)
		if !ok {
			continue
		}
		to, ok := c.first(s.to)
		if !ok {
			to = now
		}
		if to.Before(from) {
			continue // the others have committed it before it was logged here
		}
		_, span := c.tracer.tracer.Start(c.ctx, s.name, trace.WithTimestamp(from))
		if !ok {
			span.SetStatus(codes.Error, "the call ended here")
		}
		span.End(trace.WithTimestamp(to))
	}
	code := canonical(codeOf(err).String())
	c.span.SetAttributes(attribute.String("rpc.response.status_code", code))
	if err != nil {
		c.span.SetStatus(codes.Error, code)
	}
	c.span.End(trace.WithTimestamp(now))
}

// canonical writes the name of a gRPC code as gRPC's specification does:
// DeadlineExceeded as DEADLINE_EXCEEDED.
func canonical(code string) string {
	switch code {
	case "OK":
		return code
	case "Canceled":
		return "CANCELLED"
	}
	var b strings.Builder
	for i, r := range code {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

func (c *tracedCall) first(steps []tracing.Step) (at time.Time, ok bool) {
	for _, s := range steps {
		if at, ok = c.marks.At(s); ok {
			return at, true
		}
	}
	return at, false
}

// traced says whether a stream may be traced.
func traced(method string) bool { return method == pb.KV_RangeStream_FullMethodName }

// trace returns what to mark the steps of a call on, nil if it is not traced.
func (s *Server) trace(ctx context.Context) *tracing.Request {
	if s.tracer == nil {
		return nil
	}
	return tracing.From(ctx)
}
