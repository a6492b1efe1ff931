//go:build linux

package faults

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// needs skips a test where there can be no network.
func needs(t *testing.T) {
	t.Helper()
	if why := capable(); why != "" {
		t.Skip(why)
	}
}

// inNamespace runs a function on a thread that is in a namespace meanwhile.
// Sockets that it opens stay there.
func inNamespace(t *testing.T, name string, do func() error) {
	t.Helper()
	home, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // It ends with the goroutine if it can not go home.
		err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = do()
			if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
				runtime.UnlockOSThread()
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
