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

// inNamespace runs a function on a thread that is in a namespace. Sockets that
// it opens stay there.
func inNamespace(t *testing.T, name string, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // And never unlocked: the thread ends with the goroutine.
		done <- func() error {
			f, err := os.Open("/run/netns/" + name)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return do()
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
