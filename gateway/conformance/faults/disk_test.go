//go:build linux

package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// diskBytes is the size of a member's disk. It is a hole: only what a member
	// writes takes room on the machine.
	diskBytes = 4 << 30

	// slowWrites is how many writes a second a slow disk does. A sync needs
	// several.
	slowWrites = 40

	// throttleFile limits the writes of a whole device, whoever makes them. It
	// is there where control groups are of the first version.
	throttleFile = "/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device"

	// What linux/fs.h calls FIFREEZE and FITHAW.
	freezeRequest, thawRequest = 0xc0045877, 0xc0045878

	diskSuffix = ".disk"
)

// disk is an ext4 on a file, which can be filled, slowed down and made to hang.
type disk struct {
	folder string // where it is mounted
	device string // major:minor
}

// newDisk makes a disk under a folder that clearDisks will clear.
func newDisk(scratch, name string) (*disk, error) {
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return nil, err
	}
	d := &disk{folder: filepath.Join(scratch, name+diskSuffix)}
	image := d.folder + ".img"
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return nil, err
	}
	if err := run("mkfs.ext4", "-q", "-m", "0", "-N", "4096", "-E", "nodiscard,lazy_itable_init=0", image); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.folder, 0o700); err != nil {
		return nil, err
	}
	if err := run("mount", "-o", "loop", image, d.folder); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(d.folder, &st); err != nil {
		return nil, err
	}
	d.device = fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	// A loop device keeps the limit of whoever had it before.
	if canThrottle() {
		return d, d.throttle(0)
	}
	return d, nil
}

func canThrottle() bool {
	_, err := os.Stat(throttleFile)
	return err == nil
}

// throttle limits the writes a second; 0 is no limit.
func (d *disk) throttle(writes int) error {
	return os.WriteFile(throttleFile, fmt.Appendf(nil, "%s %d", d.device, writes), 0o600)
}

// freeze has everybody who writes wait; whoever waits can not even be killed.
func (d *disk) freeze() error { return ioctl(d.folder, freezeRequest) }

// thaw ends freeze.
func (d *disk) thaw() error { return ioctl(d.folder, thawRequest) }

func ioctl(folder string, request uint) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), request, 0)
}

func (d *disk) ballast() string { return filepath.Join(d.folder, "ballast") }

// fill leaves no block free.
func (d *disk) fill() error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	var size int64
	for chunk := int64(diskBytes); chunk >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, chunk); {
		case err == nil:
			size += chunk
		case errors.Is(err, unix.ENOSPC):
			chunk /= 2
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
	return nil
}

// empty gives the blocks back.
func (d *disk) empty() error {
	err := os.Remove(d.ballast())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// clearDisks removes all disks under a folder. Nobody may use them any more,
// but for processes that hang because a disk is frozen.
func clearDisks(scratch string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var errs []error
	for _, line := range strings.Split(string(mounts), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || filepath.Dir(fields[1]) != scratch || !strings.HasSuffix(fields[1], diskSuffix) {
			continue
		}
		// An error says that it is not frozen.
		_ = ioctl(fields[1], thawRequest)
		errs = append(errs, run("umount", "--lazy", fields[1]))
	}
	return errors.Join(append(errs, os.RemoveAll(scratch))...)
}
