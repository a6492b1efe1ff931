package engine

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// logSuffix is how the names of write-ahead logs end.
const logSuffix = ".log"

// longLogs is a file system on which a write-ahead log is as long as the space that
// Pebble reserves for it, from its beginning, rather than as what was written. Each sync
// of a file that has grown writes its length, too, by way of the file system's journal: a
// third of the time of a sync. Pebble takes zeros for the end of a log.
// A pointer, since Pebble compares file systems.
type longLogs struct{ vfs.FS }

// Create implements FS.
func (fs *longLogs) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	return longLog(f, name, err)
}

// ReuseForWrite implements FS.
func (fs *longLogs) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(oldname, newname, category)
	return longLog(f, newname, err)
}

func longLog(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil || !strings.HasSuffix(name, logSuffix) || f.Fd() == vfs.InvalidFd {
		return f, err
	}
	return &longLogFile{f}, nil
}

type longLogFile struct{ vfs.File }

// Preallocate implements File.
func (f *longLogFile) Preallocate(offset, length int64) error {
	if err := lengthen(f.Fd(), offset, length); err != nil {
		return f.File.Preallocate(offset, length)
	}
	return nil
}
