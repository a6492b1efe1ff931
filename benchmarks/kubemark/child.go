//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// child is a process of the cluster. Its output goes to a file of its name; a restart
// appends.
type child struct {
	name, binary string
	args         []string
	dir          string // of all children; logs lie in it
	data         string // "" for none

	cmd  *exec.Cmd
	gone chan struct{}
	// use reads what the process that runs now has used.
	use *process.Server
}

// stopGrace is what a process has between SIGTERM and SIGKILL.
const stopGrace = 20 * time.Second

func (c *child) start() error {
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd = exec.Command(c.binary, c.args...)
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Dir = log, log, c.dir
	c.cmd.Env = append(process.Environ(), "HOME="+c.dir)
	// A group of its own: Ctrl-C is for us, who end it in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if c.gone, err = process.Launch(c.cmd); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	c.use, err = process.Attach(c.cmd.Process.Pid, c.data)
	return err
}

func (c *child) log() string { return filepath.Join(c.dir, c.name+".log") }

// alive is an error with the end of its log if the process has ended by itself.
func (c *child) alive() error {
	select {
	case <-c.gone:
		return fmt.Errorf("%s ended by itself (%v); its log ends:\n%s", c.name, c.cmd.ProcessState, process.LogTail(c.log()))
	default:
		return nil
	}
}

// stop ends the process as an operator would, and at the latest after the grace.
func (c *child) stop() error {
	if c.cmd == nil || c.cmd.Process == nil {
		return nil
	}
	err := c.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-c.gone:
	case <-timer.C:
		err = errors.Join(err, fmt.Errorf("%s runs %v after SIGTERM", c.name, stopGrace), c.kill())
	}
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// kill ends the process at once, and returns when it is gone.
func (c *child) kill() error {
	if c.cmd == nil || c.cmd.Process == nil {
		return nil
	}
	err := c.cmd.Process.Kill()
	<-c.gone
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// wait asks until ready says yes, ctx ends, the time is over, or the process has ended.
func (c *child) wait(ctx context.Context, within time.Duration, ready func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for !ready(ctx) {
		if err := c.alive(); err != nil {
			return err
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%s is not ready: %w; its log ends:\n%s", c.name, context.Cause(ctx), process.LogTail(c.log()))
		}
	}
	return nil
}

// pause returns false if ctx ends before the time is over.
func pause(ctx context.Context, d time.Duration) bool { return openloop.Sleep(ctx, d) == nil }
