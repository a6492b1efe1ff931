//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// envInside tells this program that it is inside of its namespace.
const envInside = "PEBBLEDASH_KUBEMARK_INSIDE"

// runInside runs this program with the same arguments in a new network namespace, and
// returns its exit code.
func runInside() (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("root is needed, for a network namespace; try sudo -E")
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	// The one inside hears of Ctrl-C as well, cleans up, and ends; we wait for that.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	// The kernel sends Pdeathsig when the thread that started the child ends.
	runtime.LockOSThread()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // so that it hears of a signal once, from us
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("a new network namespace: %w", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// raiseLoopback brings the new namespace's only interface up.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
