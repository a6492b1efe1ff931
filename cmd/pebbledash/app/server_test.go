package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

// fakeServer accepts connections and greets them.
type fakeServer struct {
	env     *Env
	ready   chan struct{}
	fail    chan error
	stopped chan struct{}
	stopErr error
}

func newFakeServer(env *Env) *fakeServer {
	return &fakeServer{env: env, ready: make(chan struct{}), fail: make(chan error, 1), stopped: make(chan struct{})}
}

func (s *fakeServer) Serve() error {
	for _, l := range slices.Concat(s.env.ClientListeners, s.env.GroupListeners, s.env.PeerListeners) {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				// A handshake that fails is the client's business.
				_, _ = io.WriteString(conn, "hello")
				_ = conn.Close()
			}
		}()
	}
	select {
	case err := <-s.fail:
		return err
	case <-s.stopped:
		return nil
	}
}

func (s *fakeServer) Ready() <-chan struct{} { return s.ready }

func (s *fakeServer) Stop(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok || ctx.Err() != nil {
		return errors.New("Stop has no time")
	}
	close(s.stopped)
	return s.stopErr
}

// lockedBuffer may be read while it is written to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is a server started by startServer.
type running struct {
	server *fakeServer
	log    *lockedBuffer
	notify *net.UnixConn
	cancel func()
	done   chan error
	cfg    *options.CompletedConfig
}

// notified returns the next message to the service manager.
func (r *running) notified(t *testing.T) string {
	t.Helper()
	b := make([]byte, 100)
	n, err := r.notify.Read(b)
	require.NoError(t, err)
	return string(b[:n])
}

func testConfig(t *testing.T, args ...string) *options.CompletedConfig {
	t.Helper()
	var cfg *options.CompletedConfig
	run := func(_ context.Context, c *options.CompletedConfig) error { cfg = c; return nil }
	args = append([]string{
		"--data-dir=" + filepath.Join(t.TempDir(), "data"),
		"--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:0",
		"--log-format=console", "--listen-metrics-urls=http://127.0.0.1:0", "--listen-peer-urls=http://127.0.0.1:0",
	}, args...)
	require.NoError(t, execute(t.Context(), run, args, nil, t.Output(), t.Output()))
	return cfg
}

func startServer(t *testing.T, cfg *options.CompletedConfig) *running {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { notify.Close() })

	r := &running{log: &lockedBuffer{}, notify: notify, done: make(chan error, 1), cfg: cfg}
	opened := make(chan *fakeServer, 1)
	rr := runner{
		open: func(env *Env) (server, error) {
			s := newFakeServer(env)
			opened <- s
			return s, nil
		},
		clock: clock.NewManual(time.Unix(0, 0)), stdout: r.log, stderr: r.log, notifySocket: socket,
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() { r.done <- rr.run(ctx, cfg) }()
	select {
	case r.server = <-opened:
	case err := <-r.done:
		t.Fatalf("the server did not start: %v", err)
	}
	return r
}

const readyLine = "ready to serve client requests"

func TestRun(t *testing.T) {
	r := startServer(t, testConfig(t, "--max-wals=1"))
	require.NotContains(t, r.log.String(), readyLine)
	close(r.server.ready)
	require.Equal(t, "READY=1", r.notified(t))
	require.Contains(t, r.log.String(), " INFO  "+readyLine+"\n")
	require.Contains(t, r.log.String(), `WARN  configuration  warning="--max-wals has no effect: `)

	address := r.server.env.ClientListeners[0].Addr().String()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	greeting, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "hello", string(greeting))

	metrics, err := r.server.env.Registry.Gather()
	require.NoError(t, err)
	require.NotEmpty(t, metrics)

	info, err := os.Stat(r.cfg.DataDir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	r.cancel()
	require.Equal(t, "STOPPING=1", r.notified(t))
	require.NoError(t, <-r.done)
	require.True(t, strings.HasSuffix(r.log.String(), " INFO  stopped\n"))
	_, err = net.Dial("tcp", address)
	require.Error(t, err, "Run leaves no listener open")
}

func TestRunStopsBeforeReady(t *testing.T) {
	r := startServer(t, testConfig(t))
	r.cancel()
	require.Equal(t, "STOPPING=1", r.notified(t))
	require.NoError(t, <-r.done)
	require.NotContains(t, r.log.String(), readyLine)
}

func TestRunFails(t *testing.T) {
	r := startServer(t, testConfig(t))
	r.server.stopErr = errors.New("cannot close the store")
	r.server.fail <- errors.New("disk on fire")
	err := <-r.done
	require.ErrorContains(t, err, "disk on fire")
	require.ErrorContains(t, err, "cannot close the store")
}

func TestRunDoesNotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))

	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"port in use", []string{"--listen-metrics-urls=http://" + taken.Addr().String()}, "cannot listen on http://127.0.0.1:"},
		{"no directory", []string{"--data-dir=" + file}, "cannot read --data-dir"},
		{"no cluster to join", []string{"--initial-cluster-state=existing"}, "--initial-cluster names only this one"},
		{
			"URLs of others",
			[]string{"--initial-cluster=default=http://10.0.0.1:2380,a=http://10.0.0.2:2380"},
			"--initial-cluster has default=http://10.0.0.1:2380 but missing from --initial-advertise-peer-urls=http://localhost:2380",
		},
		{"port in use by a peer", []string{"--listen-peer-urls=http://" + taken.Addr().String()}, "cannot listen on http://127.0.0.1:"},
		{
			"port in use by a group",
			[]string{"--group-listen-client-urls=pods=http://" + taken.Addr().String()},
			"cannot listen on http://127.0.0.1:",
		},
		{"no peer certificate", []string{"--peer-cert-file=/nonexistent/peer", "--peer-key-file=/nonexistent/key"}, "members: cannot load certificate /nonexistent/peer"},
		{"no certificate", []string{"--cert-file=/nonexistent/cert", "--key-file=/nonexistent/key"}, "/nonexistent/cert"},
		{"no log", []string{"--log-outputs=/nonexistent/log"}, "cannot open log"},
		{"store", nil, "cannot start: no store"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := runner{
				open:  func(*Env) (server, error) { return nil, errors.New("no store") },
				clock: clock.Real{}, stdout: io.Discard, stderr: io.Discard,
			}
			require.ErrorContains(t, r.run(t.Context(), testConfig(t, c.args...)), c.want)
		})
	}
}

// A member that is there may be started with the flags it once joined with, and
// with others that would be wrong for a new one.
func TestRunExistingMember(t *testing.T) {
	for _, flag := range []string{"--initial-cluster-state=existing", "--initial-cluster=default=http://10.0.0.1:2380"} {
		cfg := testConfig(t, flag)
		require.Error(t, prepareDataDir(t.Context(), cfg))
		require.NoDirExists(t, cfg.DataDir)
		require.NoError(t, os.MkdirAll(cfg.DataDir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(cfg.DataDir, "VERSION"), nil, 0o600))
		require.NoError(t, prepareDataDir(t.Context(), cfg))
	}
}

// A new member may join a cluster; what the others' URLs are is not looked at.
func TestRunJoiningMember(t *testing.T) {
	cfg := testConfig(t, "--initial-cluster-state=existing",
		"--initial-cluster=default=http://10.0.0.1:2380,a=http://10.0.0.2:2380")
	require.NoError(t, prepareDataDir(t.Context(), cfg))
	require.DirExists(t, cfg.DataDir)
}

// Whatever listens is opened, told of, and closed at the end.
func TestRunListeners(t *testing.T) {
	r := startServer(t, testConfig(t, "--group-listen-client-urls=pods=http://127.0.0.1:0,events=http://127.0.0.1:0"))
	env := r.server.env
	require.Len(t, env.GroupListeners, 2)
	require.Equal(t, "events", env.GroupListeners[0].Group)
	require.Equal(t, "pods", env.GroupListeners[1].Group)
	require.Len(t, env.PeerListeners, 1)
	require.NotNil(t, env.PeerDialTLS)
	require.Contains(t, r.log.String(), "listening for other members")
	close(r.server.ready)
	require.Equal(t, "READY=1", r.notified(t))
	require.Contains(t, r.log.String(), "group=pods")

	all := slices.Concat(env.ClientListeners, env.GroupListeners, env.PeerListeners, env.MetricsListeners)
	require.Len(t, all, 5)
	r.cancel()
	require.NoError(t, <-r.done)
	for _, l := range all {
		_, err := net.Dial("tcp", l.Addr().String())
		require.Error(t, err, "Run leaves no listener open")
	}
}
