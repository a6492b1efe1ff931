package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ReadConfig of a database that is only looked at.
type ReadConfig struct {
	// Dir is the database's directory. It must be there.
	Dir string
	// FS is the file system; nil is the operating system's. Nothing is changed on it.
	FS FS
	// CacheBytes bounds the block cache.
	CacheBytes int64
	// Fatal is called when the database can't go on; the goroutine that has met it
	// ends after that.
	// REQUIRES: not nil.
	Fatal func(err error)
}

// OpenReadOnly opens a database that nobody else has open, and changes nothing: what
// is only in its write-ahead log is read into memory.
func OpenReadOnly(cfg ReadConfig) (*DB, error) {
	if cfg.Fatal == nil {
		return nil, errors.New("engine: ReadConfig.Fatal must be set")
	}
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	opts := &pebble.Options{
		FS:                 ReadOnlyFS(cfg.FS),
		ReadOnly:           true,
		FormatMajorVersion: formatVersion,
		CacheSize:          cfg.CacheBytes,
		MaxOpenFiles:       4096,
		Logger:             logger{slog.New(slog.DiscardHandler), cfg.Fatal},
	}
	setTableOptions(opts)
	db, err := pebble.Open(cfg.Dir, opts)
	if err != nil {
		return nil, fmt.Errorf("engine: open %s: %w", cfg.Dir, err)
	}
	return db, nil
}

// CheckLevels reads everything that the database has, also what newer rows hide, and
// returns an error if a block's checksum is wrong, or if the tables are not in the
// order that they must be in.
func CheckLevels(db *DB) error {
	if err := db.CheckLevels(nil); err != nil {
		return fmt.Errorf("engine: check: %w", err)
	}
	return nil
}

// ReadOnlyFS returns fs without what would change it: such calls fail with
// [io/fs.ErrPermission]. A lock is taken only where its file is there, and where it
// could be taken for writing: elsewhere nobody can have it.
func ReadOnlyFS(fs FS) FS { return readOnlyFS{fs} }

type readOnlyFS struct{ vfs.FS }

func readOnlyError(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrPermission}
}

func (r readOnlyFS) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, readOnlyError("create", name)
}

func (r readOnlyFS) Link(_, newname string) error { return readOnlyError("link", newname) }

func (r readOnlyFS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	return nil, readOnlyError("open", name)
}

func (r readOnlyFS) Remove(name string) error    { return readOnlyError("remove", name) }
func (r readOnlyFS) RemoveAll(name string) error { return readOnlyError("remove", name) }

func (r readOnlyFS) Rename(oldname, _ string) error { return readOnlyError("rename", oldname) }

func (r readOnlyFS) ReuseForWrite(oldname, _ string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, readOnlyError("rename", oldname)
}

func (r readOnlyFS) MkdirAll(dir string, perm fs.FileMode) error {
	if _, err := r.Stat(dir); err == nil {
		return nil
	}
	return readOnlyError("mkdir", dir)
}

func (r readOnlyFS) Lock(name string) (io.Closer, error) {
	if _, err := r.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return noLock{}, nil
	}
	lock, err := r.FS.Lock(name)
	if errors.Is(err, syscall.EROFS) {
		return noLock{}, nil
	}
	return lock, err
}

func (r readOnlyFS) Unwrap() vfs.FS { return r.FS }

type noLock struct{}

func (noLock) Close() error { return nil }
