//go:build linux

package process

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestUsage looks at a process that computes and writes.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
	file := filepath.Join(dir, "data", "file")
	// The shell tells when it has written, and then waits for its input's end.
	cmd := exec.Command("/bin/sh", "-c", `
		i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done
		dd if=/dev/zero of="$0" bs=1M count=4 conv=fsync 2>/dev/null
		echo written; read line`, file)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	exited, err := Launch(cmd)
	require.NoError(t, err)
	s := &Server{cmd: cmd, dir: dir}
	_, err = out.Read(make([]byte, len("written\n")))
	require.NoError(t, err)

	usage, err := s.Usage()
	require.NoError(t, err)
	require.Greater(t, usage.CPU, time.Millisecond)
	require.Less(t, usage.CPU, 10*time.Second)
	disk, err := s.DiskBytes()
	require.NoError(t, err)
	require.GreaterOrEqual(t, disk, int64(4<<20))
	require.NoError(t, s.ResetPeak())
	peak, err := s.PeakBytes()
	require.NoError(t, err)
	require.Positive(t, peak)

	require.NoError(t, in.Close())
	<-exited
}

func TestField(t *testing.T) {
	const text = "rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 12\nVmHWM:\t  77 kB\n"
	for name, want := range map[string]int64{"write_bytes:": 4096, "cancelled_write_bytes:": 12, "VmHWM:": 77} {
		got, err := field([]byte(text), name)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := field([]byte(text), "bytes:")
	require.Error(t, err)
}

func TestStartQuotesTheLog(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "server")
	require.NoError(t, os.WriteFile(bin, []byte("#!/bin/sh\necho no such flag: $1\n"), 0o700))
	_, err := Start(t.Context(), bin, t.TempDir(), 2)
	require.ErrorContains(t, err, "no such flag: --name=m1")
	require.ErrorContains(t, err, "no such flag: --name=m2")
}

func TestArguments(t *testing.T) {
	at := place{name: "m1", client: "127.0.0.1:1", peer: "127.0.0.1:2", initial: "m1=http://127.0.0.1:2"}
	require.Contains(t, arguments("/x/etcd-v3.7.3", "/d", at), "--data-dir=/d/data")
	kine := arguments("/x/kine-v0.17.5", "/d", at)
	require.Contains(t, kine, "--listen-address=127.0.0.1:1")
	require.Contains(t, kine[len(kine)-1], "_sync=FULL", "as durable as the others")
	require.True(t, IsEtcd("/x/etcd-v3.7.3"))
	require.False(t, IsEtcd("/etcd/pebbledash"))
}

// A server that was killed starts again at the same place; to stop one that was killed
// is no error.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "server")
	require.NoError(t, os.WriteFile(bin, []byte("#!/bin/sh\necho started $1; exec sleep 60\n"), 0o700))
	s := &Server{binary: bin, at: place{name: "m1", client: "127.0.0.1:1"}, dir: dir}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		require.ErrorContains(t, s.Restart(ctx), "gives no answer") // and was killed
		cancel()
		require.NoError(t, s.Stop())
	}
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(log), "started --name=m1"))
}
