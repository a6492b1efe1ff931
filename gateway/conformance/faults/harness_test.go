//go:build linux

package faults

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// A cut loses what goes one way, also of a connection that stands, and what
// goes the other way arrives. What was lost comes when it is mended.
func TestNetwork(t *testing.T) {
	needs(t)
	n := newNetwork(t, 2)
	listen := func(node int) net.Listener {
		t.Helper()
		var l net.Listener
		inNamespace(t, n.namespace(node), func() (err error) {
			l, err = net.Listen("tcp", net.JoinHostPort(n.address(node), "9000"))
			return err
		})
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	l := listen(2)
	var here net.Conn
	inNamespace(t, n.namespace(1), func() (err error) {
		here, err = net.Dial("tcp", l.Addr().String())
		return err
	})
	there, err := l.Accept()
	require.NoError(t, err)
	say := func(from, to net.Conn, words string) bool {
		_, err := from.Write([]byte(words))
		require.NoError(t, err)
		require.NoError(t, to.SetReadDeadline(clock.Real{}.Now().Add(300*time.Millisecond)))
		heard := make([]byte, len(words))
		_, err = io.ReadFull(to, heard)
		return err == nil && string(heard) == words
	}
	require.True(t, say(here, there, "hello"))
	require.True(t, say(there, here, "hello"))

	require.NoError(t, n.cut(2, 1))
	require.True(t, say(here, there, "still here"))
	require.False(t, say(there, here, "nobody hears this"))
	require.NoError(t, n.mend(2, 1))
	require.NoError(t, here.SetReadDeadline(clock.Real{}.Now().Add(10*time.Second)))
	heard := make([]byte, len("nobody hears this"))
	_, err = io.ReadFull(here, heard)
	require.NoError(t, err)
	require.Equal(t, "nobody hears this", string(heard))

	require.NoError(t, n.split(2))
	require.False(t, say(here, there, "lost"))
	// Clients are not cut off.
	conn, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, n.isolate(2))
	_, err = net.DialTimeout("tcp", l.Addr().String(), 300*time.Millisecond)
	require.Error(t, err)
	require.NoError(t, n.heal())
}

// A disk slows down, hangs and fills up, and is well again.
func TestDisk(t *testing.T) {
	needs(t)
	n := newNetwork(t, 0)
	d, err := newDisk(n.scratch(), "test")
	require.NoError(t, err)
	clk := clock.Real{}
	f, err := os.Create(filepath.Join(d.folder, "file"))
	require.NoError(t, err)
	sync := func() time.Duration {
		began := clk.Now()
		_, err := f.WriteAt([]byte(began.String()), 0)
		require.NoError(t, err)
		require.NoError(t, f.Sync())
		return clk.Since(began)
	}
	for range 10 {
		sync()
	}

	require.NoError(t, d.freeze())
	done := make(chan time.Duration)
	go func() { done <- sync() }()
	<-clk.After(300 * time.Millisecond)
	require.NoError(t, d.thaw())
	require.Greater(t, <-done, 250*time.Millisecond)

	require.NoError(t, d.fill())
	g, err := os.Create(filepath.Join(d.folder, "other"))
	if err == nil {
		_, err = g.Write(make([]byte, 1<<20))
		require.NoError(t, g.Close())
	}
	require.ErrorContains(t, err, "no space left")
	require.NoError(t, d.empty())
	require.NoError(t, os.WriteFile(g.Name(), make([]byte, 1<<20), 0o600))

	if canThrottle() {
		require.NoError(t, d.throttle(slowWrites))
		var sum time.Duration
		for range 20 {
			sum += sync()
		}
		require.NoError(t, d.throttle(0))
		require.Greater(t, sum, 20*time.Second/slowWrites/2)
	} else {
		t.Logf("there is no %s here: slow disks will be disks that stop and go", throttleFile)
	}
	require.NoError(t, f.Close())
}

// What a run leaves that was killed is cleared by the next.
func TestClear(t *testing.T) {
	needs(t)
	n := newNetwork(t, 1)
	d, err := newDisk(n.scratch(), "test")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(d.folder, "file"), []byte("x"), 0o600))
	cmd := exec.Command("nsenter", "--net=/run/netns/"+n.namespace(1), "--",
		"sh", "-c", fmt.Sprintf("while :; do echo x > %s/file; sleep 0.05; done", d.folder))
	require.NoError(t, cmd.Start())
	<-clock.Real{}.After(200 * time.Millisecond)
	require.NoError(t, d.freeze())
	require.NoError(t, n.clear())
	require.Error(t, cmd.Wait())
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), n.scratch())
	out, err := exec.Command("ip", "netns", "list").Output()
	require.NoError(t, err)
	for _, line := range strings.Split(string(out), "\n") {
		require.False(t, strings.HasPrefix(line, n.name("m")), line)
	}
}
