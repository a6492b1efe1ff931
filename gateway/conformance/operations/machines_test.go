package operations

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/gateway/conformance/certs"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	systemd = "../../../manifests/systemd"
	// startPatience and stopPatience bound what systemctl waits for.
	startPatience = time.Minute
	stopPatience  = 30 * time.Second
)

// machines are m1, m2, m3 and the one from which they are looked after, all in a
// folder of this machine.
type machines struct {
	root    string
	program string // what the units start

	// network stands for 10.0.0. of the pages: a part of the loopback network that no
	// other test has, so that ports can stay what they are.
	network string

	mu      sync.Mutex
	units   map[string]*unit
	writers []*writer
	// allKnown says that writers must know what became of each write.
	allKnown bool
}

// unit is a process that was started.
type unit struct {
	cmd *exec.Cmd
	// ready is closed when it has said so, exited when it is gone.
	ready, exited chan struct{}
}

// here replaces addresses and folders by what stands for them.
func (m *machines) here(text string) string {
	for _, folder := range []string{"/etc/", "/var/", "/usr/local/"} {
		text = strings.ReplaceAll(text, folder, m.root+folder)
	}
	return strings.ReplaceAll(text, "10.0.0.", m.network)
}

// newMachines installs what the README in manifests/systemd says, with certificates
// if any are wanted. program is what runs as pebbledash there.
func newMachines(t *testing.T, program string, certificates bool) *machines {
	t.Helper()
	m := &machines{root: t.TempDir(), program: program, network: fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), rand.IntN(256)), units: map[string]*unit{}}
	for _, folder := range []string{"bin", "etc/pebbledash/tls", "etc/systemd/system", "usr/local/bin", "var/lib/pebbledash", "var/backups"} {
		require.NoError(t, os.MkdirAll(filepath.Join(m.root, folder), 0o700))
	}
	require.NoError(t, os.Symlink(program, filepath.Join(m.root, "usr/local/bin/pebbledash")))
	files, err := filepath.Glob(filepath.Join(systemd, "*.env"))
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, file := range files {
		m.install(t, file, filepath.Join("etc/pebbledash", filepath.Base(file)))
	}
	m.install(t, filepath.Join(systemd, "pebbledash@.service"), "etc/systemd/system/pebbledash@.service")
	if certificates {
		m.certify(t)
	}

	socket := filepath.Join(m.root, "socket")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	served := &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	go func() { _ = served.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, served.Close())
		m.stopAll(t)
	})
	for _, name := range []string{"systemctl", "writer"} {
		m.command(t, name, `exec curl -s --fail-with-body --unix-socket `+socket+` --data-binary "$*" http://here/`+name)
	}
	// A login shell's options are not those of the page.
	m.command(t, "ssh", `shift; exec bash -c "$*"`)
	return m
}

func (m *machines) install(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(m.root, to), []byte(m.here(string(content))), 0o600))
}

func (m *machines) command(t *testing.T, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(m.root, "bin", name), []byte("#!/bin/bash\n"+text+"\n"), 0o700))
}

// certify makes the certificates that the env files name, for all machines at once.
func (m *machines) certify(t *testing.T) {
	t.Helper()
	folder := filepath.Join(m.root, "etc/pebbledash/tls")
	for authority, files := range map[string][]string{"ca": {"server", "client"}, "peer-ca": {"peer"}} {
		made := t.TempDir()
		ca, err := certs.New(made, authority)
		require.NoError(t, err)
		require.NoError(t, os.Rename(filepath.Join(made, "ca.crt"), filepath.Join(folder, authority+".crt")))
		for _, file := range files {
			require.NoError(t, ca.Issue(file, file, "127.0.0.1", m.network+"1", m.network+"2", m.network+"3"))
			for _, kind := range []string{".crt", ".key"} {
				require.NoError(t, os.Rename(filepath.Join(made, file+kind), filepath.Join(folder, file+kind)))
			}
		}
	}
}

// ServeHTTP is what the commands systemctl and writer do.
func (m *machines) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	words := strings.Fields(string(body))
	var said string
	switch {
	case err != nil:
	case r.URL.Path == "/writer":
		said, err = m.writer(words)
	default:
		err = m.systemctl(r.Context(), words)
	}
	if err != nil {
		http.Error(w, r.URL.Path[1:]+": "+err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(w, said)
}

// systemctl knows start, restart and stop, of units pebbledash@NAME, and daemon-reload.
func (m *machines) systemctl(ctx context.Context, words []string) error {
	wait := !slices.Contains(words, "--no-block")
	words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "--") })
	if len(words) == 0 {
		return errors.New("nothing to do")
	}
	for _, name := range words[1:] {
		instance, ok := strings.CutPrefix(name, "pebbledash@")
		if !ok {
			return fmt.Errorf("no unit %q", name)
		}
		switch words[0] {
		case "restart":
			if err := m.stop(ctx, instance); err != nil {
				return err
			}
			fallthrough
		case "start", "enable":
			if err := m.start(ctx, instance, wait); err != nil {
				return err
			}
		case "stop", "disable":
			if err := m.stop(ctx, instance); err != nil {
				return err
			}
		default:
			return fmt.Errorf("no command %q", words[0])
		}
	}
	return nil
}

// unitLines returns the values of a key of the unit.
func (m *machines) unitLines(key, instance string) ([]string, error) {
	content, err := os.ReadFile(filepath.Join(m.root, "etc/systemd/system/pebbledash@.service"))
	if err != nil {
		return nil, err
	}
	var values []string
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			values = append(values, strings.ReplaceAll(strings.TrimSpace(value), "%i", instance))
		}
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("the unit has no %s", key)
	}
	return values, nil
}

// environment is that of a unit.
func (m *machines) environment(instance string) ([]string, error) {
	files, err := m.unitLines("EnvironmentFile", instance)
	if err != nil {
		return nil, err
	}
	env := []string{"PATH=" + os.Getenv("PATH")}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				env = append(env, line)
			}
		}
	}
	return env, nil
}

// start starts a unit, and waits until it has notified if wait is set.
func (m *machines) start(ctx context.Context, instance string, wait bool) error {
	commands, err := m.unitLines("ExecStart", instance)
	if err != nil {
		return err
	}
	env, err := m.environment(instance)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(m.root, "var/lib/pebbledash", instance), 0o700); err != nil {
		return err // StateDirectory
	}
	words := strings.Fields(commands[0])
	u, err := m.launch(instance, exec.Command(words[0], words[1:]...), env)
	if err != nil || !wait {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	select {
	case <-u.ready:
		return nil
	case <-u.exited:
		return fmt.Errorf("%s has ended with %v:\n%s", instance, u.cmd.ProcessState, m.logTail(instance))
	case <-ctx.Done():
		return fmt.Errorf("%s is not ready:\n%s", instance, m.logTail(instance))
	}
}

func (m *machines) launch(instance string, cmd *exec.Cmd, env []string) (*unit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u := m.units[instance]; u != nil {
		select {
		case <-u.exited:
		default:
			return nil, fmt.Errorf("%s runs", instance)
		}
	}
	path := filepath.Join(m.root, instance+".notify")
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(m.logPath(instance), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(err, notified.Close())
	}
	u := &unit{cmd: cmd, ready: make(chan struct{}), exited: make(chan struct{})}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = m.root, append(env, "NOTIFY_SOCKET="+path), log, log
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, notified.Close(), log.Close())
	}
	m.units[instance] = u
	go func() {
		buffer := make([]byte, 1<<10)
		for {
			n, err := notified.Read(buffer)
			if err != nil {
				return
			}
			if bytes.Contains(buffer[:n], []byte("READY=1")) {
				close(u.ready)
				return
			}
		}
	}()
	go func() {
		_ = cmd.Wait()
		_ = notified.Close()
		_ = log.Close()
		close(u.exited)
	}()
	return u, nil
}

// stop ends a unit as systemd does. One that has ended by itself must have ended well.
func (m *machines) stop(ctx context.Context, instance string) error {
	m.mu.Lock()
	u := m.units[instance]
	m.mu.Unlock()
	if u == nil {
		return fmt.Errorf("%s was never started", instance)
	}
	if err := u.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	select {
	case <-u.exited:
	case <-ctx.Done():
		return fmt.Errorf("%s does not stop:\n%s", instance, m.logTail(instance))
	}
	status, _ := u.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if u.cmd.ProcessState.ExitCode() != 0 && status.Signal() != syscall.SIGTERM {
		return fmt.Errorf("%s has ended with %v:\n%s", instance, u.cmd.ProcessState, m.logTail(instance))
	}
	return nil
}

// stopAll ends what still runs.
func (m *machines) stopAll(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.writers {
		_, _ = w.stop(0)
	}
	for name, u := range m.units {
		_ = u.cmd.Process.Kill()
		<-u.exited
		if t.Failed() {
			t.Logf("the log of %s ends:\n%s", name, m.logTail(name))
		}
	}
}

func (m *machines) logPath(instance string) string { return filepath.Join(m.root, instance+".log") }

func (m *machines) logTail(instance string) string {
	log, err := os.ReadFile(m.logPath(instance))
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-4<<10):])
}

// run runs a script with the machines' commands.
func (m *machines) run(ctx context.Context, text string, path ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "bash", "-c", text)
	cmd.Dir = filepath.Join(m.root, "var/backups")
	cmd.Env = []string{"HOME=" + m.root, "PATH=" + strings.Join(append(path, filepath.Join(m.root, "bin"), os.Getenv("PATH")), ":")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = stopPatience
	out, err := cmd.CombinedOutput()
	// What it has left in the background.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	return string(out), err
}

var realTime = clock.Real{}
