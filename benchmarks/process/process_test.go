//go:build linux

package process

import (
	"os"
	"os/exec"
	"path/filepath"
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
	s := &Server{cmd: cmd, dir: dir, exited: make(chan struct{})}
	require.NoError(t, s.launch())
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
	<-s.exited
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
