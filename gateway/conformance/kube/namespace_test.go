//go:build linux

package kube

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The environment that the tests read. README.md explains each.
const (
	envRun     = "PEBBLEDASH_KUBE"
	envBinary  = "PEBBLEDASH_BINARY"
	envTarget  = "PEBBLEDASH_CONFORMANCE_TARGET"
	envRewrite = "PEBBLEDASH_KUBE_REWRITE"
	envKeep    = "PEBBLEDASH_KUBE_KEEP"
	envTLS     = "PEBBLEDASH_KUBE_TLS"

	// envInside carries the binaries to the process inside the namespace, and
	// tells it that it is there.
	envInside = "PEBBLEDASH_KUBE_INSIDE"
)

// binaries are the absolute paths of what the cluster is made of.
type binaries struct {
	store, apiserver, controllers, scheduler, hollowNode, kubectl string
}

// TestMain runs the tests as they are, unless the session was asked for: then
// it runs this same test binary again in a new network namespace.
func TestMain(m *testing.M) {
	if os.Getenv(envRun) != "1" {
		os.Exit(m.Run())
	}
	if os.Getenv(envInside) != "" {
		if err := raiseLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, "kube: cannot raise the loopback interface:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := runInside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kube:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// runInside runs this test binary with the same arguments in a new network
// namespace, and returns its exit code. Binaries are looked for, and built if
// need be, before: inside there is no network.
func runInside() (int, error) {
	b, err := findBinaries()
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	// The kernel sends Pdeathsig when the thread that started the child ends.
	runtime.LockOSThread()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envInside+"="+b.encode())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("cannot enter a new network namespace, which needs root or "+
			"unprivileged user namespaces: %w", err)
	}
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

// moduleRoot is found from the folder that `go test` starts tests in.
func moduleRoot() (string, error) {
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		return "", fmt.Errorf("this test runs from its own folder: %w", err)
	}
	return root, nil
}

// targetIsEtcd reports whether the session runs against etcd instead.
func targetIsEtcd() bool { return os.Getenv(envTarget) == "etcd" }

// findBinaries has missing peers built, which takes long the first time.
func findBinaries() (binaries, error) {
	root, err := moduleRoot()
	if err != nil {
		return binaries{}, err
	}
	names := []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubemark"}
	switch target := os.Getenv(envTarget); target {
	case "", "pebbledash":
	case "etcd":
		names = append(names, "etcd")
	default:
		return binaries{}, fmt.Errorf("%s=%q: want pebbledash or etcd", envTarget, target)
	}
	build := exec.Command(filepath.Join(root, "benchmarks", "peers", "build.sh"), names...)
	build.Stderr = os.Stderr
	out, err := build.Output()
	if err != nil {
		return binaries{}, fmt.Errorf("%s: %w", build, err)
	}
	paths := strings.Fields(string(out))
	if len(paths) != len(names) {
		return binaries{}, fmt.Errorf("%s printed %d paths, want %d: %q", build, len(paths), len(names), out)
	}
	b := binaries{apiserver: paths[0], controllers: paths[1], scheduler: paths[2], hollowNode: paths[3]}
	switch {
	case targetIsEtcd():
		b.store = paths[4]
	case os.Getenv(envBinary) != "":
		b.store = os.Getenv(envBinary)
	default:
		b.store = filepath.Join(root, "bin", "pebbledash")
	}
	if b.store, err = filepath.Abs(b.store); err != nil {
		return binaries{}, err
	}
	if _, err := os.Stat(b.store); err != nil {
		return binaries{}, fmt.Errorf("the store's binary (run `make build`, or set %s): %w", envBinary, err)
	}
	if b.kubectl, err = exec.LookPath("kubectl"); err != nil {
		return binaries{}, fmt.Errorf("kubectl has to be in PATH: %w", err)
	}
	return b, nil
}

// encode joins the paths for envInside; decodeBinaries splits them again.
func (b binaries) encode() string {
	return strings.Join([]string{b.store, b.apiserver, b.controllers, b.scheduler, b.hollowNode, b.kubectl}, "\n")
}

func decodeBinaries(s string) (binaries, error) {
	p := strings.Split(s, "\n")
	if len(p) != 6 {
		return binaries{}, fmt.Errorf("%s holds %d paths, want 6", envInside, len(p))
	}
	return binaries{p[0], p[1], p[2], p[3], p[4], p[5]}, nil
}
