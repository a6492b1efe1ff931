//go:build linux

package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// process is one running part of the cluster. Its output goes straight into a
// file, so that nothing it says is lost with a buffer or with this test.
type process struct {
	name string
	log  string // path of the file with its stdout and stderr; a restart appends
	cmd  *exec.Cmd

	// gone is closed when the process has ended; err is set before.
	gone chan struct{}
	err  error
	// expected is set before this test ends the process.
	expected atomic.Bool
}

// startProcess starts bin, which is killed at the latest when t ends.
func startProcess(t *testing.T, dir, name, bin string, args ...string) *process {
	t.Helper()
	p := &process{name: name, log: filepath.Join(dir, name+".log"), gone: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(bin, args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	_ = out.Close()
	go func() {
		p.err = p.cmd.Wait()
		close(p.gone)
	}()
	t.Cleanup(func() { p.kill(t) })
	return p
}

// check fails the test if the process has ended without being asked to.
func (p *process) check(t *testing.T) {
	t.Helper()
	select {
	case <-p.gone:
		if !p.expected.Load() {
			t.Fatalf("%s ended by itself (%v); the end of its log:\n%s", p.name, p.err, p.tail(20))
		}
	default:
	}
}

// kill is kill -9. It returns when the process is gone.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.expected.Store(true)
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("kill %s: %v", p.name, err)
	}
	<-p.gone
}

// stop is SIGTERM, and kill -9 if that does not end it within the grace.
func (p *process) stop(t *testing.T, grace time.Duration) {
	t.Helper()
	p.check(t)
	p.expected.Store(true)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("stop %s: %v", p.name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	select {
	case <-p.gone:
	case <-ctx.Done():
		t.Logf("%s did not end within %s of SIGTERM", p.name, grace)
		p.kill(t)
	}
}

// logSize is a place in the log that readLog can start or end at.
func (p *process) logSize(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// waitLog waits until text stands in the log behind from.
func (p *process) waitLog(t *testing.T, from int64, text string, within time.Duration) {
	t.Helper()
	poll(t, within, fmt.Sprintf("%s to log %q", p.name, text), func(context.Context) bool {
		p.check(t)
		all, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(all[from:]), text)
	})
}

// tail returns the last n lines of the log.
func (p *process) tail(n int) string {
	all, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(all), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// poll asks ready every few milliseconds until it says yes; what is named in
// the failure when the time is over. It is for states that nobody announces.
func poll(t *testing.T, within time.Duration, what string, ready func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond) //nolint:forbidigo // Other processes live in real time.
	defer tick.Stop()
	for !ready(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s for %s", within, what)
		case <-tick.C:
		}
	}
}

// waitFor is poll for what takes moments and gets slow's time.
func waitFor(t *testing.T, what string, ready func() bool) {
	t.Helper()
	poll(t, slow, what, func(context.Context) bool { return ready() })
}

// pause is how long a client leaves a server alone that has just refused it.
func pause(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	<-ctx.Done()
}

// now is the only reading of the clock here.
func now() time.Time {
	return time.Now() //nolint:forbidigo // What is measured are other processes.
}
