package engine

import (
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// FS is Pebble's view of a file system; every file of a member goes through it.
type FS = vfs.FS

// File is one open file of an FS.
type File = vfs.File

// MemFS is a file system in memory, for tests.
type MemFS = vfs.MemFS

// CrashCloneCfg says how much unsynced data a crash keeps.
type CrashCloneCfg = vfs.CrashCloneCfg

// Injector decides which operations of a file system fail, for tests.
type Injector = errorfs.Injector

// OSFS returns the operating system's file system.
func OSFS() FS { return vfs.Default }

// NewMem returns an empty file system in memory.
func NewMem() *MemFS { return vfs.NewMem() }

// NewCrashableMem returns an empty file system in memory of which CrashClone
// shows what a loss of power would leave.
func NewCrashableMem() *MemFS { return vfs.NewCrashableMem() }

// SpaceLeft returns how many bytes are left on the file system of dir, and how many it
// has. known is false if it can't say.
func SpaceLeft(fs FS, dir string) (left, total uint64, known bool, err error) {
	usage, err := fs.GetDiskUsage(dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return 0, 0, false, nil
	}
	return usage.AvailBytes, usage.TotalBytes, err == nil, err
}

// WrapFaulty returns fs with operations that fail when inj says so.
func WrapFaulty(fs FS, inj Injector) FS { return errorfs.Wrap(fs, inj) }
