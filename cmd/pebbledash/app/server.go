package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

// stopGrace is how long requests may take to end once the server stops. etcd
// is gone within a second and a half of SIGTERM, and so are we.
const stopGrace = time.Second

// Env is everything that the server is given besides its configuration: what
// the process has one of. A test can make another.
type Env struct {
	Config   *options.CompletedConfig
	Logger   *slog.Logger
	Clock    clock.Clock
	Registry *prometheus.Registry
	// ClientListeners serve clients, MetricsListeners only metrics and health.
	// The server closes them; Run closes those that it has left open.
	ClientListeners  []Listener
	MetricsListeners []Listener
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
		notifySocket: os.Getenv("NOTIFY_SOCKET"),
	}
	return r.run(ctx, cfg)
}

// runner is Run with what a test replaces.
type runner struct {
	open           func(*Env) (server, error)
	clock          clock.Clock
	stdout, stderr io.Writer
	notifySocket   string
}

func (r *runner) run(ctx context.Context, cfg *options.CompletedConfig) (err error) {
	logger, log, err := newLogger(cfg.Log, r.stdout, r.stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	ver, commit := Version()
	logger.Info("starting", "version", ver, "commit", commit, "name", cfg.Name, "data_dir", cfg.DataDir)
	for _, warning := range cfg.Warnings {
		logger.Warn("configuration", "warning", warning)
	}

	if err := prepareDataDir(cfg); err != nil {
		return err
	}
	env, err := r.newEnv(cfg, logger)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, closeAll(env.ClientListeners), closeAll(env.MetricsListeners))
	}()
	srv, err := r.open(env)
	if err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	return r.serve(ctx, env, srv)
}

// newEnv opens everything but the store.
func (r *runner) newEnv(cfg *options.CompletedConfig, logger *slog.Logger) (*Env, error) {
	tlsConfig, err := newTLSConfig(cfg.TLS, logger)
	if err != nil {
		return nil, err
	}
	env := &Env{Config: cfg, Logger: logger, Clock: r.clock, Registry: prometheus.NewRegistry()}
	env.Registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	if env.ClientListeners, err = listen(cfg.ListenClientURLs, tlsConfig); err != nil {
		return nil, err
	}
	if env.MetricsListeners, err = listen(cfg.ListenMetricsURLs, tlsConfig); err != nil {
		return nil, errors.Join(err, closeAll(env.ClientListeners))
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
			for _, l := range env.MetricsListeners {
				env.Logger.Info("serving metrics", "url", l.URL.String(), "address", l.Addr().String())
			}
			env.Logger.Info("ready to serve client requests")
			r.notify(env.Logger, "READY=1")
		case <-ctx.Done():
			env.Logger.Info("stopping")
			running = false
		case failure = <-served:
			if failure == nil {
				failure = errors.New("the server ended by itself")
			}
			env.Logger.Error("stopping, because serving has failed", "error", failure)
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

// prepareDataDir makes the data directory, for our eyes only.
func prepareDataDir(cfg *options.CompletedConfig) error {
	entries, err := os.ReadDir(cfg.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read --data-dir: %w", err)
	}
	if len(entries) == 0 && !cfg.NewCluster {
		return fmt.Errorf("--initial-cluster-state=existing, but %s holds no member: joining a cluster is not yet supported",
			cfg.DataDir)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("cannot create --data-dir: %w", err)
	}
	return nil
}
