package repository

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// The names in a repository. Part of the file format.
const (
	markName       = "REPOSITORY"
	lockName       = "lock"
	createLockName = "create.lock"
	backupsName    = "backups"
	filesName      = "files"
	tempName       = "tmp"

	manifestSuffix = ".json"
	// Latest stands for the newest backup.
	Latest = "latest"
)

// dirMode and writeCategory are as those of data directories: the content is the same.
const (
	dirMode       = 0o700
	writeCategory = "pebbledash-backup"
)

// maxManifestBytes bounds what is read of a manifest: a million files take less.
const maxManifestBytes = 256 << 20

// ErrInUse means that another process uses the repository in a way that excludes this one.
var ErrInUse = errors.New("the repository is in use")

// Config says which repository.
type Config struct {
	Dir string
	// FS is the file system; nil is the operating system's, on which there are locks.
	FS engine.FS
}

// Repository is an open repository. It is for one goroutine, and must be closed.
type Repository struct {
	fs    engine.FS
	dir   string
	locks []io.Closer
	lock  func(path string, exclusive bool) (io.Closer, error)
}

// mark is what REPOSITORY says.
type mark struct {
	// Format is 1.
	Format int `json:"format"`
}

const repositoryFormat = 1

// use is what a repository is opened for.
type use int

const (
	toRead use = iota
	toCreate
	toPrune
)

// Open opens a repository to look into.
func Open(cfg Config) (*Repository, error) { return open(cfg, toRead) }

func open(cfg Config, to use) (*Repository, error) {
	if cfg.Dir == "" {
		return nil, errors.New("no repository is given; say where it is by --repository")
	}
	r := &Repository{fs: cfg.FS, dir: cfg.Dir, lock: noLock}
	if r.fs == nil {
		r.fs, r.lock = engine.OSFS(), flock
	}
	if err := r.begin(to); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Repository) begin(to use) error {
	there, err := r.look()
	if err != nil {
		return err
	}
	if !there {
		if to != toCreate {
			return fmt.Errorf("%s is no repository of backups (it has no %s)", r.dir, markName)
		}
		if err := r.make(); err != nil {
			return fmt.Errorf("can't make repository %s: %w", r.dir, err)
		}
	}
	if err := r.take(lockName, to == toPrune); err != nil {
		return err
	}
	if to == toCreate {
		return r.take(createLockName, true)
	}
	return nil
}

// look says whether there is a repository, and refuses what is something else.
func (r *Repository) look() (bool, error) {
	names, err := r.fs.List(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("can't read repository %s: %w", r.dir, err)
	}
	if !slices.Contains(names, markName) {
		for _, name := range names {
			switch name {
			case lockName, createLockName, backupsName, filesName, tempName, "lost+found":
				// A making that was broken off; there are no backups without the mark.
			default:
				return false, fmt.Errorf("%s is no repository of backups (it has no %s), and not empty either (%s): give a directory of its own", r.dir, markName, name)
			}
		}
		return false, nil
	}
	content, err := r.read(r.path(markName), 1<<10)
	if err != nil {
		return false, fmt.Errorf("can't read repository %s: %w", r.dir, err)
	}
	var m mark
	if err := json.Unmarshal(content, &m); err != nil || m.Format < 1 {
		return false, fmt.Errorf("%s is damaged: restore it from another repository, of which it is a copy, or write {\"format\":%d} into it", r.path(markName), repositoryFormat)
	}
	if m.Format > repositoryFormat {
		return false, fmt.Errorf("repository %s has format %d, and this binary knows %d: use a newer pebbledash", r.dir, m.Format, repositoryFormat)
	}
	return true, nil
}

// make makes the directory a repository. The mark is last.
func (r *Repository) make() error {
	// Directories whose names are new are durable when those that they are in are synced.
	parents := []string{r.dir}
	for at := r.dir; ; {
		if _, err := r.fs.Stat(at); err == nil {
			break
		}
		parent := r.fs.PathDir(at)
		if parents = append(parents, parent); parent == at {
			break
		}
		at = parent
	}
	for _, dir := range []string{backupsName, filesName, tempName} {
		if err := r.fs.MkdirAll(r.path(dir), dirMode); err != nil {
			return err
		}
	}
	for _, dir := range slices.Backward(parents) {
		if err := engine.SyncDir(r.fs, dir); err != nil {
			return err
		}
	}
	content, err := json.Marshal(mark{repositoryFormat})
	if err != nil {
		return err
	}
	return r.place(r.path(tempName, markName), r.path(markName), append(content, '\n'))
}

func (r *Repository) take(name string, exclusive bool) error {
	lock, err := r.lock(r.path(name), exclusive)
	if err != nil {
		return fmt.Errorf("repository %s: %w", r.dir, err)
	}
	r.locks = append(r.locks, lock)
	return nil
}

// Close gives the repository back.
func (r *Repository) Close() error {
	var errs []error
	for _, l := range slices.Backward(r.locks) {
		errs = append(errs, l.Close())
	}
	r.locks = nil
	return errors.Join(errs...)
}

func (r *Repository) path(names ...string) string {
	return r.fs.PathJoin(append([]string{r.dir}, names...)...)
}

// file is where a content lies. The first digits are a directory, so that none becomes
// too large.
func (r *Repository) file(sum Sum) string {
	name := sum.String()
	return r.path(filesName, name[:2], name)
}

func (r *Repository) manifest(id string) string { return r.path(backupsName, id+manifestSuffix) }

func (r *Repository) read(path string, most int64) ([]byte, error) {
	f, err := r.fs.Open(path)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(content)) > most {
		err = fmt.Errorf("%s is longer than %d bytes", path, most)
	}
	return content, errors.Join(err, f.Close())
}

// place writes a file by way of temp, durably.
func (r *Repository) place(temp, path string, content []byte) error {
	f, err := r.fs.Create(temp, writeCategory)
	if err != nil {
		return err
	}
	// The file system may change what it is given.
	_, err = f.Write(bytes.Clone(content))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return r.rename(temp, path)
}

func (r *Repository) rename(temp, path string) error {
	if err := r.fs.Rename(temp, path); err != nil {
		return err
	}
	return engine.SyncDir(r.fs, r.fs.PathDir(path))
}

// IDs returns the backups' names, the oldest first.
func (r *Repository) IDs() ([]string, error) {
	names, err := r.fs.List(r.path(backupsName))
	if err != nil {
		return nil, fmt.Errorf("can't read repository %s: %w", r.dir, err)
	}
	var ids []string
	for _, name := range names {
		if id, ok := strings.CutSuffix(name, manifestSuffix); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Find returns the name of a backup: id, or the newest one's if that is Latest. The newest
// of which, can't be said if the repository has backups of several clusters.
func (r *Repository) Find(id string) (string, error) {
	ids, err := r.IDs()
	if err != nil {
		return "", err
	}
	switch {
	case len(ids) == 0:
		return "", fmt.Errorf("repository %s has no backups", r.dir)
	case id != Latest && !slices.Contains(ids, id):
		return "", fmt.Errorf("repository %s has no backup %q; \"pebbledash backup list\" says which there are", r.dir, id)
	case id != Latest:
		return id, nil
	}
	cluster := ""
	for _, id := range ids {
		m, err := r.Manifest(id)
		if err != nil {
			return "", fmt.Errorf("%w; say which backup is meant by its name, rather than %q", err, Latest)
		}
		if cluster != "" && m.ClusterID != cluster {
			return "", fmt.Errorf("repository %s has backups of several clusters (%s and %s): say which backup is meant; \"pebbledash backup list\" says which there are", r.dir, cluster, m.ClusterID)
		}
		cluster = m.ClusterID
	}
	return ids[len(ids)-1], nil
}

// Manifest reads the manifest of a backup.
func (r *Repository) Manifest(id string) (*Manifest, error) {
	content, err := r.read(r.manifest(id), maxManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("can't read the manifest of backup %s: %w", id, err)
	}
	m, err := decodeManifest(content)
	if err == nil && m.ID != id {
		err = fmt.Errorf("it says that it is backup %q's", m.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("the manifest of backup %s is damaged (%s): %w", id, r.manifest(id), err)
	}
	return m, nil
}
