//go:build linux

// Package process runs a server, Pebbledash or etcd, as a process of its own
// and measures what that process, and no other, has used. It needs Linux's
// /proc.
package process

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// startTimeout and stopTimeout bound a start until the first answer, and an
	// end after SIGTERM.
	// A restart of a large store takes etcd the better part of a minute.
	startTimeout = 10 * time.Minute
	stopTimeout  = 30 * time.Second
)

// Server is a running server.
type Server struct {
	// Address is the host:port that it serves clients on.
	Address string
	// Started is how long it took from the fork to the first answer to a
	// linearizable read.
	Started time.Duration

	binary string
	at     place
	args   []string

	cmd    *exec.Cmd
	dir    string
	log    *os.File
	exited chan struct{}
	killed bool // by Kill, and not started again
}

// place is where a member is in its cluster.
type place struct{ name, client, peer, initial string }

// start runs a program with etcd's flags on a new data directory below dir, and
// returns when it answers. The program's output goes to dir/log.
func start(ctx context.Context, binary, dir string, at place, args []string) (*Server, error) {
	s := &Server{Address: at.client, binary: binary, at: at, args: args, dir: dir}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Restart starts a server that has ended again, on the same data, and returns when it
// answers.
func (s *Server) Restart(ctx context.Context) error { return s.run(ctx) }

func (s *Server) run(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(s.binary, append(arguments(s.binary, s.dir, s.at), s.args...)...)
	cmd.Dir = s.dir
	cmd.Env = Environ()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.killed = false
	s.cmd, s.log = cmd, log
	begin := time.Now()
	if s.exited, err = Launch(cmd); err != nil {
		return errors.Join(err, log.Close())
	}
	if err := s.waitReady(ctx); err != nil {
		err = fmt.Errorf("%s gives no answer: %w; its log ends:\n%s", s.binary, err, LogTail(s.log.Name()))
		return errors.Join(err, s.Kill())
	}
	s.Started = time.Since(begin)
	return nil
}

// IsKine says whether a program is kine, by its name. It takes other flags, and other
// requests only.
func IsKine(binary string) bool { return strings.HasPrefix(filepath.Base(binary), "kine") }

// IsEtcd says the same of etcd.
func IsEtcd(binary string) bool { return strings.HasPrefix(filepath.Base(binary), "etcd") }

// arguments tell a program where to listen and to write.
func arguments(binary, dir string, at place) []string {
	data := filepath.Join(dir, "data")
	if IsKine(binary) {
		// As durable as the others: kine's own setting does not sync each commit.
		return []string{
			"--listen-address=" + at.client, "--metrics-bind-address=0",
			"--endpoint=sqlite://" + filepath.Join(data, "state.db") +
				"?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate&_sync=FULL",
		}
	}
	client, peer := "http://"+at.client, "http://"+at.peer
	return []string{
		"--name=" + at.name, "--data-dir=" + data,
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=" + at.initial,
	}
}

// Environ is ours without etcd's variables, which both stores would heed.
func Environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ETCD_") {
			env = append(env, kv)
		}
	}
	return env
}

// Launch starts a process, and says when it is gone; one that does not start is gone. NB:
// with Pdeathsig the kernel kills it when the thread that started it ends, so that thread
// is kept.
func Launch(cmd *exec.Cmd) (exited chan struct{}, err error) {
	exited = make(chan struct{})
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // ProcessState says it, too.
		}
		close(exited)
	}()
	return exited, <-started
}

func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	go func() {
		select {
		case <-s.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := Dial(s.Address)
	if err != nil {
		return err
	}
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("/")}, grpc.WaitForReady(true))
	return errors.Join(err, conn.Close())
}

// Dial opens a connection that finds a starting server soon.
func Dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(),
		// As in etcd's client: a slow watcher gets what it has missed in one message.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
}

// maxTailBytes bounds how much of a log an error quotes.
const maxTailBytes = 2 << 10

// LogTail is the end of a log, or why there is none.
func LogTail(name string) string {
	log, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-maxTailBytes):])
}

// Stop ends the server as an operator would.
func (s *Server) Stop() error {
	select {
	case <-s.exited:
		if s.killed {
			return nil
		}
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return errors.Join(fmt.Errorf("it has ended before: %w; its log ends:\n%s", err, LogTail(s.log.Name())), s.log.Close())
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-s.exited:
		return s.log.Close()
	case <-timer.C:
		return errors.Join(fmt.Errorf("process %d runs %v after SIGTERM", s.cmd.Process.Pid, stopTimeout), s.Kill())
	}
}

// Kill ends the server at once, and returns when it is gone. Stop does nothing more.
func (s *Server) Kill() error {
	s.killed = true
	err := s.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-s.exited
	return errors.Join(err, s.log.Close())
}

const (
	// Linux gives outgoing connections ports above these. A client waiting on
	// such a port for a server that is not there yet could connect to itself.
	firstPort, endPort = 15000, 32000

	maxPortTries = 200
)

// FreeAddrs returns loopback addresses on which nobody listens.
func FreeAddrs(n int) ([]string, error) {
	var addrs []string
	for range maxPortTries {
		if len(addrs) == n {
			return addrs, nil
		}
		port := firstPort + rand.IntN(endPort-firstPort)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close() // Held until all are chosen, so that they differ.
		addrs = append(addrs, l.Addr().String())
	}
	return nil, fmt.Errorf("process: no %d free ports in %d tries", n, maxPortTries)
}
