package engine

import (
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// blobSuffix is how the names of files end in which Pebble keeps values apart.
const blobSuffix = ".blob"

// failStop is a file system on which a file of values that can not be written is
// the end of the database: Pebble 2.1.7 dereferences nil when it gives such a file
// up (sstable/blob.FileWriter.Close calls Abort after a Finish that has failed).
// Fatal is told, and the flush or compaction that was writing rests for ever, so
// that nothing is taken for durable that is not.
// A pointer, since Pebble compares file systems.
type failStop struct {
	vfs.FS
	fatal func(error)
}

// Create implements FS.
func (fs *failStop) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	if err != nil || !strings.HasSuffix(name, blobSuffix) {
		return f, err
	}
	return &failStopFile{File: f, name: name, fatal: fs.fatal}, nil
}

type failStopFile struct {
	vfs.File
	name  string
	fatal func(error)
}

func (f *failStopFile) check(err error) {
	if err != nil {
		f.fatal(fmt.Errorf("engine: write %s: %w", f.name, err))
		select {}
	}
}

// Write implements File.
func (f *failStopFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.check(err)
	return n, nil
}

// Sync implements File.
func (f *failStopFile) Sync() error {
	f.check(f.File.Sync())
	return nil
}

// SyncData implements File.
func (f *failStopFile) SyncData() error {
	f.check(f.File.SyncData())
	return nil
}

// SyncTo implements File.
func (f *failStopFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	f.check(err)
	return full, nil
}

// Close implements File.
func (f *failStopFile) Close() error {
	f.check(f.File.Close())
	return nil
}
