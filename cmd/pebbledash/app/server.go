package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/member"
)

// stopGrace is how long requests may take to end once the server stops. etcd
// is gone within a second and a half of SIGTERM, and so are we.
const stopGrace = time.Second

// resolveTimeout is how long the names of a new cluster's members may take to
// resolve; etcd's.
const resolveTimeout = 30 * time.Second

// Env is everything that the server is given besides its configuration: what
// the process has one of. A test can make another.
type Env struct {
	Config   *options.CompletedConfig
	Logger   *slog.Logger
	Clock    clock.Clock
	Registry *prometheus.Registry
	// ClientListeners serve clients, GroupListeners too, each in the name of a
	// group, MetricsListeners only metrics and health, and PeerListeners other
	// members. The server closes them; Run closes those that it has left open.
	ClientListeners  []Listener
	GroupListeners   []Listener
	MetricsListeners []Listener
	PeerListeners    []Listener
	// PeerDialTLS is for one connection to a member whose URL asks for TLS.
	PeerDialTLS func() *tls.Config
}

func (e *Env) closeListeners() error {
	return errors.Join(closeAll(e.ClientListeners), closeAll(e.GroupListeners),
		closeAll(e.MetricsListeners), closeAll(e.PeerListeners))
}

// server is what Run asks of the gateway and the member behind it.
type server interface {
	// Serve serves until Stop is called, and then returns nil; or until it cannot
	// go on. It is called once.
	Serve() error
	// Ready is closed once requests can be answered: the log is replayed, and
	// there is a leader.
	Ready() <-chan struct{}
	// Stop ends requests and streams, at the latest when ctx does, and then closes
	// the store. Serve returns. It is called once, even if Serve has failed.
	Stop(ctx context.Context) error
}

// Run serves until ctx is done, and stops in an orderly way.
func Run(ctx context.Context, cfg *options.CompletedConfig) error {
	r := runner{
		open:         open,
		clock:        clock.Real{},
		stdout:       os.Stdout,
		stderr:       os.Stderr,
		routeKlog:    routeKlog,
		notifySocket: os.Getenv("NOTIFY_SOCKET"),
	}
	return r.run(ctx, cfg)
}

// runner is Run with what a test replaces.
type runner struct {
	open           func(*Env) (server, error)
	clock          clock.Clock
	stdout, stderr io.Writer
	// routeKlog may be nil.
	routeKlog    func(*slog.Logger)
	notifySocket string
}

func (r *runner) run(ctx context.Context, cfg *options.CompletedConfig) (err error) {
	logger, log, err := newLogger(cfg.Log, r.stdout, r.stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	if r.routeKlog != nil {
		r.routeKlog(logger)
	}

	ver, commit := Version()
	logger.Info("starting", "version", ver, "commit", commit, "name", cfg.Name, "data_dir", cfg.DataDir)
	for _, warning := range cfg.Warnings {
		logger.Warn("configuration", "warning", warning)
	}

	if err := prepareDataDir(ctx, cfg); err != nil {
		return err
	}
	certs, err := newCertificates(cfg, logger, r.clock)
	if err != nil {
		return err
	}
	env, err := r.newEnv(cfg, certs, logger)
	if err != nil {
		return err
	}
	stopFollowing := follow(certs)
	defer stopFollowing()
	defer func() { err = errors.Join(err, env.closeListeners()) }()
	for _, l := range env.PeerListeners {
		logger.Info("listening for other members", "url", l.URL.String(), "address", l.Addr().String())
	}
	srv, err := r.open(env)
	if err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	return r.serve(ctx, env, srv)
}

// follow follows the files of certificates until what it returns is called.
func follow(cs *certificates) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		cs.run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// newEnv opens everything but the store.
func (r *runner) newEnv(cfg *options.CompletedConfig, certs *certificates, logger *slog.Logger) (*Env, error) {
	env := &Env{Config: cfg, Logger: logger, Clock: r.clock, Registry: newRegistry()}
	certs.register(env.Registry)
	if err := env.listen(certs); err != nil {
		return nil, errors.Join(err, env.closeListeners())
	}
	return env, nil
}

// serve runs the server until ctx is done or it fails, and stops it.
func (r *runner) serve(ctx context.Context, env *Env, srv server) error {
	served := make(chan error, 1)
	go func() { served <- srv.Serve() }()
	ready := srv.Ready()
	var failure error
	for running := true; running; {
		select {
		case <-ready:
			ready = nil // once
			for _, l := range env.ClientListeners {
				env.Logger.Info("serving clients", "url", l.URL.String(), "address", l.Addr().String())
			}
			for _, l := range env.GroupListeners {
				env.Logger.Info("serving clients", "url", l.URL.String(), "address", l.Addr().String(), "group", l.Group)
			}
			for _, l := range env.MetricsListeners {
				env.Logger.Info("serving metrics", "url", l.URL.String(), "address", l.Addr().String())
			}
			env.Logger.Info("ready to serve client requests")
			r.notify(env.Logger, "READY=1")
		case <-ctx.Done():
			env.Logger.Info("stopping")
			running = false
		case failure = <-served:
			switch {
			case errors.Is(failure, member.ErrRemoved):
				failure = nil // it has nothing to do any more, which is no failure
			case failure == nil:
				failure = errors.New("the server ended by itself")
				fallthrough
			default:
				env.Logger.Error("stopping, because serving has failed", "error", failure)
			}
			served <- nil
			running = false
		}
	}
	r.notify(env.Logger, "STOPPING=1")
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	err := errors.Join(failure, srv.Stop(stopCtx), <-served)
	env.Logger.Info("stopped")
	return err
}

func (r *runner) notify(logger *slog.Logger, state string) {
	if err := notifySystemd(r.notifySocket, state); err != nil {
		logger.Warn("service manager", "state", state, "error", err)
	}
}

// prepareDataDir makes the data directory, for our eyes only. If it holds no
// member yet, the flags that only a first start reads are checked first.
func prepareDataDir(ctx context.Context, cfg *options.CompletedConfig) error {
	old, err := member.HoldsMember(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("cannot read --data-dir: %w", err)
	}
	if !old {
		if err := checkFirstStart(ctx, cfg); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("cannot create --data-dir: %w", err)
	}
	return nil
}

// checkFirstStart checks what etcd checks only of a member without data.
func checkFirstStart(ctx context.Context, cfg *options.CompletedConfig) error {
	initial, err := member.ParseInitialCluster(cfg.InitialCluster, cfg.InitialClusterToken)
	if err != nil {
		return err
	}
	if !cfg.NewCluster {
		if len(initial.Members) == 1 {
			return fmt.Errorf("--initial-cluster-state=existing, and %s holds no member, but --initial-cluster names only this one: name the members of the cluster that it shall join as well",
				cfg.DataDir)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	return initial.CheckAdvertised(ctx, cfg.Name, options.Strings(cfg.AdvertisePeerURLs), member.ResolveTCP)
}
