package repository

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Creation adds a backup to a repository. It is for one goroutine.
//
// The steps are, for each of the backup's files, Has and, if it has not, Write; then Finish.
// It must be closed.
type Creation struct {
	*Repository
	// dirs are those in which there are new names that are not synced yet.
	dirs     map[string]bool
	newBytes int64
	files    []File
	written  int
}

// Create opens a repository, or makes one, to add a backup.
func Create(cfg Config) (*Creation, error) {
	r, err := open(cfg, toCreate)
	if err != nil {
		return nil, err
	}
	c := &Creation{Repository: r, dirs: map[string]bool{}}
	if err := r.clean(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return c, nil
}

// clean removes what was being written when a process ended.
// REQUIRES: the lock of creates is held, or the whole one.
func (r *Repository) clean() error {
	names, err := r.fs.List(r.path(tempName))
	if errors.Is(err, fs.ErrNotExist) {
		return r.fs.MkdirAll(r.path(tempName), dirMode) // not every copy of a directory has its empty ones
	}
	for _, name := range names {
		err = errors.Join(err, r.fs.Remove(r.path(tempName, name)))
	}
	if err != nil {
		return fmt.Errorf("can't write to repository %s: %w", r.dir, err)
	}
	return nil
}

// Has says whether the repository has a file of the backup; then it is part of it.
func (c *Creation) Has(f File) (bool, error) {
	if err := f.check(); err != nil {
		return false, err
	}
	info, err := c.fs.Stat(c.file(f.SHA))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("can't read repository %s: %w", c.dir, err)
	case info.Size() != f.Size:
		return false, nil // damaged: it comes anew, and so mends older backups
	}
	// Who wrote it may have been interrupted before its name was durable.
	c.dirs[c.fs.PathDir(c.file(f.SHA))] = true
	c.files = append(c.files, f)
	return true, nil
}

// FileWriter takes the content of one file.
type FileWriter struct {
	c    *Creation
	want File
	temp string
	out  engine.File
	sum  hash.Hash
	size int64
}

// Write begins to take a file, which is part of the backup when the FileWriter is done.
func (c *Creation) Write(f File) (*FileWriter, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	c.written++
	w := &FileWriter{c: c, want: f, sum: sha256.New(), temp: c.path(tempName, fmt.Sprintf("%d-%s", c.written, f.SHA))}
	var err error
	if w.out, err = c.fs.Create(w.temp, writeCategory); err != nil {
		return nil, fmt.Errorf("can't write to repository %s: %w", c.dir, err)
	}
	return w, nil
}

// Write implements io.Writer. The file system may change p.
func (w *FileWriter) Write(p []byte) (int, error) {
	if w.size += int64(len(p)); w.size > w.want.Size {
		return 0, fmt.Errorf("file %s is longer than the %d bytes that were told", w.want.Name, w.want.Size)
	}
	w.sum.Write(p)
	n, err := w.out.Write(p)
	if err != nil {
		return n, fmt.Errorf("can't write to repository %s: %w", w.c.dir, err)
	}
	return n, nil
}

// Finish checks what has come and takes it into the repository.
func (w *FileWriter) Finish() error {
	if err := w.finish(); err != nil {
		w.Drop()
		return err
	}
	return nil
}

func (w *FileWriter) finish() error {
	c := w.c
	if got := Sum(w.sum.Sum(nil)); w.size != w.want.Size || got != w.want.SHA {
		return fmt.Errorf("file %s has come damaged: %d bytes with checksum %s, and not %d with %s", w.want.Name, w.size, got, w.want.Size, w.want.SHA)
	}
	err := w.out.Sync()
	out := w.out
	w.out = nil
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("can't write to repository %s: %w", c.dir, err)
	}
	path := c.file(w.want.SHA)
	dir := c.fs.PathDir(path)
	if !c.dirs[dir] {
		if err := c.fs.MkdirAll(dir, dirMode); err != nil {
			return fmt.Errorf("can't write to repository %s: %w", c.dir, err)
		}
		c.dirs[dir] = true
	}
	if err := c.fs.Rename(w.temp, path); err != nil {
		return fmt.Errorf("can't write to repository %s: %w", c.dir, err)
	}
	c.newBytes += w.size
	c.files = append(c.files, w.want)
	return nil
}

// Drop ends a file that is not to be.
func (w *FileWriter) Drop() {
	if w.out != nil {
		_ = w.out.Close()
		w.out = nil
	}
	_ = w.c.fs.Remove(w.temp)
}

// Finish makes the backup one of the repository's, durably. It fills in what m does not
// know: the name, the time, what there was before, and the files.
func (c *Creation) Finish(m *Manifest, now time.Time) error {
	ids, err := c.IDs()
	if err != nil {
		return err
	}
	m.Format, m.Time, m.ID = manifestFormat, now.UTC(), formatID(now)
	if n := len(ids); n > 0 {
		if m.BasedOn = ids[n-1]; m.ID <= m.BasedOn {
			// The clock was set back. The newest is the newest all the same.
			if last, err := time.Parse(idLayout, m.BasedOn); err == nil {
				m.ID = formatID(last.Add(time.Millisecond))
			}
		}
		if m.ID <= m.BasedOn {
			return fmt.Errorf("repository %s has a backup %q, which no later name follows: rename its manifest", c.dir, m.BasedOn)
		}
	}
	m.NewBytes, m.Files = c.newBytes, slices.Clone(c.files)
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	if err := m.check(); err != nil {
		return fmt.Errorf("the backup makes no sense: %w", err)
	}
	for dir := range c.dirs {
		if err := engine.SyncDir(c.fs, dir); err != nil {
			return fmt.Errorf("can't write to repository %s: %w", c.dir, err)
		}
	}
	err = engine.SyncDir(c.fs, c.path(filesName))
	var content []byte
	if err == nil {
		content, err = m.encode()
	}
	if err == nil {
		err = c.place(c.path(tempName, m.ID+manifestSuffix), c.manifest(m.ID), content)
	}
	if err != nil {
		return fmt.Errorf("can't write to repository %s: %w", c.dir, err)
	}
	return nil
}

// idLayout makes names that sort by time.
const idLayout = "20060102T150405.000Z"

func formatID(t time.Time) string { return t.UTC().Format(idLayout) }
