package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	// startTimeout bounds the time a member may take to be ready.
	startTimeout = time.Minute
	// stopTimeout bounds the time a member may take to end after SIGTERM.
	stopTimeout = 30 * time.Second
)

// Config says how to run a member. Only Binary and DataDir are needed.
type Config struct {
	// Binary is the path of the program.
	Binary string
	// DataDir becomes --data-dir. It is created if it is missing, and is
	// neither emptied nor removed.
	DataDir string
	// LogPath is the file that takes the program's output, appended. It is
	// DataDir with ".log" behind it if empty.
	LogPath string
	// Name is the member's name, "default" if empty.
	Name string
	// ClientURL and PeerURL are listened on and advertised. If one is empty it
	// is a free loopback port, in plain text.
	ClientURL, PeerURL string
	// InitialCluster is --initial-cluster; a cluster of this member alone if
	// empty.
	InitialCluster string
	// Args are more flags, such as --watch-progress-notify-interval=100ms.
	Args []string
	// Env is added to this program's environment, from which etcd's own
	// variables (ETCD_...) are taken out.
	Env []string
}

func (c *Config) complete() error {
	if c.Binary == "" || c.DataDir == "" {
		return errors.New("server: Config needs Binary and DataDir")
	}
	if c.Name == "" {
		c.Name = "default"
	}
	if c.LogPath == "" {
		c.LogPath = strings.TrimRight(c.DataDir, "/") + ".log"
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		return err
	}
	if c.ClientURL == "" {
		c.ClientURL = "http://" + addrs[0]
	}
	if c.PeerURL == "" {
		c.PeerURL = "http://" + addrs[1]
	}
	if c.InitialCluster == "" {
		c.InitialCluster = c.Name + "=" + c.PeerURL
	}
	return nil
}

func (c *Config) args() []string {
	return append([]string{
		"--name=" + c.Name,
		"--data-dir=" + c.DataDir,
		"--listen-client-urls=" + c.ClientURL,
		"--advertise-client-urls=" + c.ClientURL,
		"--listen-peer-urls=" + c.PeerURL,
		"--initial-advertise-peer-urls=" + c.PeerURL,
		"--initial-cluster=" + c.InitialCluster,
	}, c.Args...)
}

func (c *Config) environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ETCD_") {
			env = append(env, kv)
		}
	}
	return append(env, c.Env...)
}

// Server is a member and its process. The process may end and be started
// again; the data directory and the ports stay the same.
type Server struct {
	cfg Config
	clk clock.Clock

	// mu guards the fields below. It is not held while waiting.
	mu      sync.Mutex
	proc    *process
	startup time.Duration
}

// Start starts a member and returns when it serves clients. If it ends before,
// or is not ready within a minute or before ctx ends, the error quotes the end
// of its log.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, clk: clock.Real{}}
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Restart starts the process again after Kill, Stop or an end of its own, and
// returns when it serves clients.
func (s *Server) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	begin := s.clk.Now()
	p, err := s.launch()
	if err != nil {
		return fmt.Errorf("server: start %s: %w", s.cfg.Binary, err)
	}
	select {
	case <-p.log.ready:
		s.mu.Lock()
		s.startup = s.clk.Since(begin)
		s.mu.Unlock()
		return nil
	case <-p.exited:
		err = errors.New(p.state.String())
	case <-ctx.Done():
		err = errors.Join(ctx.Err(), p.kill())
	}
	return fmt.Errorf("server: %s was not ready: %w; its log ends:\n%s",
		s.cfg.Binary, err, logTail(s.cfg.LogPath))
}

func (s *Server) launch() (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		select {
		case <-s.proc.exited:
		default:
			return nil, fmt.Errorf("process %d still runs", s.proc.cmd.Process.Pid)
		}
	}
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return nil, err
	}
	p, err := startProcess(s.cfg.Binary, s.cfg.args(), s.cfg.environ(), s.cfg.LogPath)
	if err != nil {
		return nil, err
	}
	s.proc = p
	return p, nil
}

func (s *Server) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// Endpoint is the URL that clients use.
func (s *Server) Endpoint() string { return s.cfg.ClientURL }

// PeerURL is the URL that other members use.
func (s *Server) PeerURL() string { return s.cfg.PeerURL }

// DataDir is the member's data directory.
func (s *Server) DataDir() string { return s.cfg.DataDir }

// LogPath is the file with everything that the process has written.
func (s *Server) LogPath() string { return s.cfg.LogPath }

// LogTail returns the end of the log.
func (s *Server) LogTail() string { return logTail(s.cfg.LogPath) }

// Pid is the id of the process, which may be gone.
func (s *Server) Pid() int { return s.current().cmd.Process.Pid }

// StartDuration is how long the latest start took, from the fork until the
// member served clients.
func (s *Server) StartDuration() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startup
}

// Exited is closed when the process that runs now is gone. After a Restart
// there is a new channel.
func (s *Server) Exited() <-chan struct{} { return s.current().exited }

// Signal sends the process a signal, such as SIGSTOP, and does not wait. It is
// no error if the process is gone.
func (s *Server) Signal(sig os.Signal) error { return s.current().signal(sig) }

// Kill ends the process with SIGKILL and waits until it is gone.
func (s *Server) Kill() error { return s.current().kill() }

// Stop asks the process to end with SIGTERM, waits until it has, and returns
// how it ended. etcd ends by that same signal; see the state's Sys. If it takes
// more than half a minute it is killed and Stop returns an error.
func (s *Server) Stop() (*os.ProcessState, error) {
	p := s.current()
	if err := p.signal(syscall.SIGTERM); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	select {
	case <-p.exited:
		return p.state, nil
	case <-ctx.Done():
		err := errors.Join(fmt.Errorf("server: process %d still runs %v after SIGTERM",
			p.cmd.Process.Pid, stopTimeout), p.kill())
		return p.state, err
	}
}
