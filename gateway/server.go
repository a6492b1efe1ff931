package gateway

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/pebbledash/pebbledash/gateway/backuppb"
	"github.com/pebbledash/pebbledash/gateway/electionpb"
	"github.com/pebbledash/pebbledash/gateway/lockpb"
	"github.com/pebbledash/pebbledash/gateway/migrationpb"
	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/pkg/throttle"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
)

const (
	// streamWindow and connWindow are how much a client may send ahead, and so
	// what a connection can make the server hold. They stand still, where gRPC
	// would send pings to estimate what is right and go up to 16 MiB.
	streamWindow = 1 << 20
	connWindow   = 4 << 20

	httpHeaderTimeout = 30 * time.Second
	httpIdleTimeout   = 2 * time.Minute
	httpHeaderBytes   = 64 << 10
)

// Server serves etcd's protocol from a Store.
type Server struct {
	cfg     Config
	store   Store
	log     *slog.Logger
	clock   clock.Clock
	headers headers
	metrics *serverMetrics
	tracer  *tracer
	codec   *codec

	door   *door
	grpc   *grpc.Server
	health *health.Server
	// http serves what is not gRPC on the clients' ports, ops what the listeners of
	// metrics have.
	http, ops *http.Server
	pages     *Pages
	alarms    *alarms
	quota     *quota

	// auth knows who may do what.
	auth *authority

	// access is before the pages of http, of which json is one. inner carries the
	// calls of which locks and elections are made, for callers.
	access  *access
	json    *jsonGateway
	inner   *loopback
	callers callers

	slowCalls     throttle.Throttle
	leaderStreams leaderStreams
	defragmented  sync.Once

	// stopping is closed when the server begins to stop; calls that would last
	// for ever end then.
	stopping chan struct{}
	stopOnce sync.Once
	// lifetime ends when stopping is closed.
	lifetime    context.Context
	endLifetime context.CancelFunc
	// background is for the goroutines that live as long as the server.
	background sync.WaitGroup
}

// New returns a server of store, which must be open. Stop or Close it, also if
// Serve was never called.
func New(cfg Config, store Store) *Server {
	cfg = cfg.withDefaults()
	s := &Server{
		cfg:      cfg,
		store:    store,
		log:      cfg.Logger,
		clock:    cfg.Clock,
		headers:  newHeaders(store),
		codec:    new(codec),
		health:   health.NewServer(),
		stopping: make(chan struct{}),
	}
	s.lifetime, s.endLifetime = context.WithCancel(context.Background())
	s.json, s.inner = newJSONGateway(s), newLoopback(s, true)
	s.auth = newAuthority(&cfg, store)
	s.door = newDoor(&cfg, s.stopping)
	s.metrics = newServerMetrics(&cfg, s.codec, s.door)
	s.tracer = newTracer(&cfg)
	s.alarms = newAlarms(store, cfg.Routes, cfg.Logger, s.metrics.alarms)
	s.quota = newQuota(&cfg, store, s.alarms)
	s.grpc = grpc.NewServer(s.options()...)
	pb.RegisterKVServer(s.grpc, admittedKV{&kvServer{Server: s}})
	pb.RegisterWatchServer(s.grpc, newWatchServer(s))
	pb.RegisterLeaseServer(s.grpc, &leaseServer{Server: s})
	pb.RegisterClusterServer(s.grpc, &clusterServer{Server: s})
	pb.RegisterMaintenanceServer(s.grpc, &maintenanceServer{Server: s})
	pb.RegisterAuthServer(s.grpc, &authServer{Server: s})
	lockpb.RegisterLockServer(s.grpc, &lockServer{Server: s})
	electionpb.RegisterElectionServer(s.grpc, &electionServer{Server: s})
	migrationpb.RegisterMigrationServer(s.grpc, newMigrationServer(s))
	backuppb.RegisterBackupServer(s.grpc, &backupServer{Server: s})
	// As in etcd the one name that is known is the empty one: the server.
	healthpb.RegisterHealthServer(s.grpc, s.health)
	s.metrics.addMethods(&cfg, s.grpc)

	metrics := s.metricsHandler()
	s.access = newAccess(s, s.clientPages(metrics))
	s.http = newHTTPServer(s.access)
	s.pages = s.opsPages(metrics)
	s.ops = newHTTPServer(s.pages)
	s.background.Go(s.watchLeader)
	if cfg.CorruptCheckTime > 0 || cfg.CompactHashCheckTime > 0 {
		s.background.Go(s.watchMembers)
	}
	s.background.Go(func() { _ = s.http.Serve(httpListener{s.door}) })
	return s
}

// QuotaReached says whether what frees space should not have to wait.
func (s *Server) QuotaReached() bool { return s.alarms.quotaReached() }

func newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: httpHeaderTimeout,
		IdleTimeout:       httpIdleTimeout,
		MaxHeaderBytes:    httpHeaderBytes,
		ErrorLog:          log.New(io.Discard, "", 0), // Clients' mistakes are not ours to log.
	}
}

func (s *Server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(s.door),
		grpc.ForceServerCodecV2(s.codec),
		experimental.BufferPool(&s.codec.buffers),
		grpc.InTapHandle(s.tap),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(s.cfg.MaxRequestBytes + recvOverhead),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(s.cfg.MaxConcurrentStreams),
		grpc.ConnectionTimeout(s.cfg.HandshakeTimeout),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.NumStreamWorkers(s.cfg.StreamWorkers),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: s.cfg.KeepaliveMinTime,
			// kube-apiserver pings connections that have no call.
			PermitWithoutStream: true,
		}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:    s.cfg.KeepaliveInterval,
			Timeout: s.cfg.KeepaliveTimeout,
		}),
	}
}

// Serve serves gRPC and HTTP on l, over TLS if Config.TLS is set, until the
// server stops; then it returns nil. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	if s.cfg.TLS != nil {
		return s.serveMode(l, modeSecure)
	}
	return s.serveMode(l, modePlain)
}

// serveMode is Serve for a listener that says itself what it takes.
// REQUIRES: Config.TLS is set, unless mode is modePlain.
func (s *Server) serveMode(l net.Listener, mode mode) error {
	if mode != modePlain && s.cfg.TLS == nil {
		return errors.New("gateway: a secure listener needs a TLS configuration")
	}
	err := s.grpc.Serve(s.door.listener(l, mode))
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// ServeOps serves Ops on l, for probes, metrics and people; l may be a TLS
// listener. It returns nil when the server stops.
func (s *Server) ServeOps(l net.Listener) error {
	err := s.ops.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Stop refuses new calls, ends watches and keep-alives, and waits until the
// other calls are answered or ctx ends; those that remain are cut off.
func (s *Server) Stop(ctx context.Context) {
	s.beginStop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
		_ = s.http.Shutdown(ctx)
		_ = s.ops.Shutdown(ctx)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	s.Close()
}

// Close cuts off every call and returns when the server has stopped.
func (s *Server) Close() {
	s.beginStop()
	s.grpc.Stop()
	_ = s.http.Close()
	_ = s.ops.Close()
	s.json.conn.close()
	s.inner.close()
	s.background.Wait()
}

func (s *Server) beginStop() {
	s.stopOnce.Do(func() {
		s.health.Shutdown()
		close(s.stopping)
		s.endLifetime()
		s.json.conn.shut()
		s.inner.shut()
		s.door.close()
	})
}

// doOn runs a request that may change something. Its wait is bounded, whatever the
// client said. The request rests on a table of records, and evaluate.ErrRecordsChanged
// says that it does not any more.
func (s *Server) doOn(ctx context.Context, op evaluate.Op, b member.Basis) (res evaluate.Result, err error) {
	if err := s.quota.check(ctx, op); err != nil {
		return evaluate.Result{}, err
	}
	bounded := ctx
	if deadline, ok := ctx.Deadline(); !ok || deadline.Sub(s.clock.Now()) > s.cfg.RequestTimeout {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, s.cfg.RequestTimeout)
		defer cancel()
	}
	res, err = s.store.DoOn(bounded, op, b)
	if err == nil || errors.Is(err, evaluate.ErrRecordsChanged) {
		return res, err
	}
	if errors.Is(err, evaluate.ErrMirroring) {
		return res, s.errMigrating()
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		// It was our patience that ended, not the client's.
		return res, rpctypes.ErrGRPCTimeout
	}
	return res, toGRPC(err)
}

// streamFailed counts a stream that failed and was not simply left by its
// client.
func (s *Server) streamFailed(ctx context.Context, err error, failures interface{ Inc() }) {
	if ctx.Err() != nil {
		s.log.Debug("a client left its stream", slog.Any("err", err))
		return
	}
	s.log.Warn("a stream failed", slog.Any("err", err))
	failures.Inc()
}
