package engine

import (
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// MappedFS returns a view of fs in which there is one directory more, dir, whose files
// lie elsewhere: paths has, for the names in dir, where. It is to be read only.
func MappedFS(fs FS, dir string, paths map[string]string) FS {
	return &mappedFS{FS: fs, dir: dir, paths: paths}
}

type mappedFS struct {
	vfs.FS
	dir   string
	paths map[string]string
}

// real returns where a file is; false if it is one of dir's that there is not.
func (m *mappedFS) real(name string) (string, bool) {
	if m.PathDir(name) != m.dir {
		return name, true
	}
	path, ok := m.paths[m.PathBase(name)]
	return path, ok
}

func (m *mappedFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	path, ok := m.real(name)
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return m.FS.Open(path, opts...)
}

func (m *mappedFS) Stat(name string) (vfs.FileInfo, error) {
	path, ok := m.real(name)
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return m.FS.Stat(path)
}

func (m *mappedFS) List(dir string) ([]string, error) {
	if dir != m.dir {
		return m.FS.List(dir)
	}
	names := make([]string, 0, len(m.paths))
	for name := range m.paths {
		names = append(names, name)
	}
	return names, nil
}

// OpenDir stands for a directory of which nothing is asked but to be there.
func (m *mappedFS) OpenDir(name string) (vfs.File, error) {
	if name != m.dir {
		return m.FS.OpenDir(name)
	}
	return m.FS.OpenDir(m.PathDir(m.dir))
}

func (m *mappedFS) Unwrap() vfs.FS { return m.FS }
