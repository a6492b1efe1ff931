//go:build linux

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a process has used since it began.
type Usage struct {
	// CPU is user and system time of all its threads, those that have ended
	// included.
	CPU time.Duration
	// WrittenBytes is what it caused to be sent to the disk: pages that it made
	// dirty, each time, less those that were thrown away before they were
	// written.
	WrittenBytes int64
}

// Since is what has been used since an earlier reading.
func (u Usage) Since(earlier Usage) Usage {
	return Usage{CPU: u.CPU - earlier.CPU, WrittenBytes: u.WrittenBytes - earlier.WrittenBytes}
}

// Usage reads the counters.
func (s *Server) Usage() (Usage, error) {
	cpu, err := cpuTime(s.cmd.Process.Pid)
	if err != nil {
		return Usage{}, fmt.Errorf("CPU time of process %d: %w", s.cmd.Process.Pid, err)
	}
	io, err := os.ReadFile(s.proc("io"))
	if err != nil {
		return Usage{}, err
	}
	written, err := field(io, "write_bytes:")
	if err != nil {
		return Usage{}, err
	}
	cancelled, err := field(io, "cancelled_write_bytes:")
	return Usage{CPU: cpu, WrittenBytes: written - cancelled}, err
}

// cpuTime reads the same counter as /proc/<pid>/stat shows, to the nanosecond
// instead of to the hundredth of a second.
func cpuTime(pid int) (time.Duration, error) {
	// From clock_getcpuclockid(3): the process's scheduler clock.
	const schedulerClock = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedulerClock, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

// OwnCPU is the CPU time of this process.
func OwnCPU() (time.Duration, error) { return cpuTime(os.Getpid()) }

// ResetPeak has PeakBytes begin anew.
func (s *Server) ResetPeak() error {
	return os.WriteFile(s.proc("clear_refs"), []byte("5"), 0o200)
}

// PeakBytes is the most memory that was resident since the last ResetPeak.
func (s *Server) PeakBytes() (int64, error) {
	status, err := os.ReadFile(s.proc("status"))
	if err != nil {
		return 0, err
	}
	kb, err := field(status, "VmHWM:")
	return kb << 10, err
}

// RSSBytes is what is resident now.
func (s *Server) RSSBytes() (int64, error) {
	status, err := os.ReadFile(s.proc("status"))
	if err != nil {
		return 0, err
	}
	kb, err := field(status, "VmRSS:")
	return kb << 10, err
}

func (s *Server) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(s.cmd.Process.Pid), name)
}

// field finds the number behind a name at the beginning of a line.
func field(text []byte, name string) (int64, error) {
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok {
			continue
		}
		words := bytes.Fields(rest)
		if len(words) == 0 {
			break
		}
		return strconv.ParseInt(string(words[0]), 10, 64)
	}
	return 0, fmt.Errorf("process: no %q in %q", name, text)
}

// DiskBytes is the space that the data directory takes.
func (s *Server) DiskBytes() (int64, error) {
	var sum int64
	err := filepath.WalkDir(filepath.Join(s.dir, "data"), func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		info, err := e.Info()
		if err != nil {
			return gone(err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() {
			const blockBytes = 512 // stat's unit, whatever the file system's
			sum += stat.Blocks * blockBytes
		}
		return nil
	})
	return sum, err
}

// gone forgives that a file was removed while we looked.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
