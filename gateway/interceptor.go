package gateway

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/pebbledash/pebbledash/gateway/backuppb"
)

// A call comes by tap, before it has a goroutine, and then by unary or stream.

// patience is for how many election timeouts a stream that requires a leader
// lives without one. New calls are refused at once; to end a stream is dearer.
const patience = 3

// tap refuses calls that their metadata forbids, and counts clients' versions.
// It runs on the connection's reader and may not wait.
func (s *Server) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	m := s.metrics.methods[info.FullMethodName]
	if m == nil {
		return ctx, nil // gRPC answers that there is no such method.
	}
	ctx = s.callers.restore(ctx, info.Header)
	version := "unknown"
	if vs := info.Header[rpctypes.MetadataClientAPIVersionKey]; len(vs) > 0 {
		version = vs[0]
	}
	var err error
	if !utf8.ValidString(version) {
		err = rpctypes.ErrGRPCInvalidClientAPIVersion
	} else {
		s.metrics.countVersion(version, m.stream)
		if requiresLeader(info.Header) && s.headers.raft.Leader() == 0 {
			err = rpctypes.ErrGRPCNoLeader
		}
	}
	if err != nil {
		m.started.Inc()
		m.finish(status.Code(err))
	}
	return ctx, err
}

func requiresLeader(md metadata.MD) bool {
	vs := md[rpctypes.MetadataRequireLeaderKey]
	return len(vs) > 0 && vs[0] == rpctypes.MetadataHasLeader
}

// unary is around every call of one answer: metrics, the log of slow calls,
// and the barrier that keeps a panic from ending the server.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	m := s.metrics.methods[info.FullMethod]
	m.started.Inc()
	m.received.Inc()
	m.countResource(req)
	if s.tracer != nil {
		var call *tracedCall
		ctx, call = s.tracer.begin(ctx, info.FullMethod)
		defer func() { call.end(err) }()
	}
	start := s.clock.Now()
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, s.caught(info.FullMethod, p)
		}
		took := s.clock.Since(start)
		m.sent.Inc()
		m.finish(codeOf(err))
		m.observe(req, took, err)
		if took >= s.cfg.SlowRequest {
			s.slow(info.FullMethod, req, took, err)
		}
	}()
	if s.headers.raft.IsLearner() && !servedByLearner(req) {
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	}
	if s.alarms.now.Load().corrupt && refusedWhenCorrupt(req) {
		return nil, rpctypes.ErrGRPCCorrupt
	}
	return s.admit(ctx, info.FullMethod, req, handler)
}

// servedByLearner says whether a member that is a learner answers a request, as
// etcd has it.
func servedByLearner(req any) bool {
	switch r := req.(type) {
	case *pb.StatusRequest:
		return true
	case *pb.RangeRequest:
		return r.Serializable
	}
	return false
}

func (m *methodMetrics) observe(req any, took time.Duration, err error) {
	if m.handling != nil {
		m.handling.Observe(took.Seconds())
	}
	h := m.request
	if h == nil {
		return
	}
	if m.readonly != nil && onlyRanges(req) {
		h = m.readonly
	}
	if err != nil {
		h.failed.Observe(took.Seconds())
	} else {
		h.succeeded.Observe(took.Seconds())
	}
}

// onlyRanges says whether a transaction has none but ranges in its branches.
func onlyRanges(req any) bool {
	txn, ok := req.(*pb.TxnRequest)
	if !ok {
		return false
	}
	for _, branch := range [2][]*pb.RequestOp{txn.Success, txn.Failure} {
		for _, op := range branch {
			if _, ok := op.Request.(*pb.RequestOp_RequestRange); !ok {
				return false
			}
		}
	}
	return true
}

// stream is around every call of many messages.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	m := s.metrics.methods[info.FullMethod]
	m.started.Inc()
	start := s.clock.Now()
	wrapped := &serverStream{ServerStream: ss, metrics: m, ctx: ss.Context()}
	if s.tracer != nil && traced(info.FullMethod) {
		var call *tracedCall
		wrapped.ctx, call = s.tracer.begin(wrapped.ctx, info.FullMethod)
		defer func() { call.end(err) }()
	}
	if md, ok := metadata.FromIncomingContext(wrapped.ctx); ok && requiresLeader(md) {
		ctx, cancel := context.WithCancelCause(wrapped.ctx)
		wrapped.ctx = ctx
		s.leaderStreams.add(wrapped, cancel)
		defer func() {
			s.leaderStreams.remove(wrapped)
			cancel(nil)
		}()
	}
	defer func() {
		if p := recover(); p != nil {
			err = s.caught(info.FullMethod, p)
		}
		// The handler saw its context end and does not know why.
		if err != nil && context.Cause(wrapped.ctx) == rpctypes.ErrGRPCNoLeader { //nolint:errorlint // The cause is our own.
			err = rpctypes.ErrGRPCNoLeader
		}
		m.finish(codeOf(err))
		if m.handling != nil {
			m.handling.Observe(s.clock.Since(start).Seconds())
		}
	}()
	if s.headers.raft.IsLearner() && info.FullMethod != pb.Maintenance_Snapshot_FullMethodName && info.FullMethod != backuppb.Backup_Create_FullMethodName {
		return rpctypes.ErrGRPCNotSupportedForLearner // as etcd has it
	}
	return handler(srv, wrapped)
}

// serverStream counts messages, and may end before its connection's stream.
type serverStream struct {
	grpc.ServerStream
	metrics *methodMetrics
	ctx     context.Context
}

func (ss *serverStream) Context() context.Context { return ss.ctx }

func (ss *serverStream) SendMsg(m any) error {
	err := ss.ServerStream.SendMsg(m)
	if err == nil {
		ss.metrics.sent.Inc()
	}
	return err
}

func (ss *serverStream) RecvMsg(m any) error {
	err := ss.ServerStream.RecvMsg(m)
	if err == nil {
		ss.metrics.received.Inc()
		ss.metrics.countResource(m)
	}
	return err
}

// leaderStreams are the streams that end when there is no leader.
type leaderStreams struct {
	// mu guards streams; nothing is taken after it.
	mu      sync.Mutex
	streams map[*serverStream]context.CancelCauseFunc
}

func (l *leaderStreams) add(ss *serverStream, cancel context.CancelCauseFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams == nil {
		l.streams = map[*serverStream]context.CancelCauseFunc{}
	}
	l.streams[ss] = cancel
}

func (l *leaderStreams) remove(ss *serverStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, ss)
}

func (l *leaderStreams) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cancel := range l.streams {
		cancel(rpctypes.ErrGRPCNoLeader)
	}
	clear(l.streams)
}

// watchLeader ends the streams that require a leader when there has been none
// for too long. It returns when the server stops.
func (s *Server) watchLeader() {
	ticker := s.clock.NewTicker(s.cfg.ElectionTimeout)
	defer ticker.Stop()
	missed := 0
	for {
		select {
		case <-s.stopping:
			return
		case <-ticker.C():
		}
		if s.headers.raft.Leader() != 0 {
			missed = 0
			continue
		}
		if missed++; missed >= patience {
			s.leaderStreams.end()
		}
	}
}

// caught turns a panic of a handler into an answer. The request is not logged:
// it may hold a value.
func (s *Server) caught(method string, p any) error {
	s.log.Error("a request made the server panic; the request failed, the server goes on",
		slog.String("method", method), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	return errInternal
}

// codeOf is the code that gRPC answers err with.
func codeOf(err error) codes.Code {
	switch {
	case err == nil:
		return codes.OK
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	default:
		return status.Code(err)
	}
}
