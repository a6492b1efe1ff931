package repository

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Pruned is what Prune has done.
type Pruned struct {
	// Removed are the backups that are gone.
	Removed []string
	// Files and Bytes are what no backup needed.
	Files int
	Bytes int64
}

// Prune keeps the newest backups of a repository, at least one, and removes the others,
// and all files that none needs. If it is broken off, the next one goes on.
func Prune(cfg Config, keep int) (p Pruned, err error) {
	if keep < 1 {
		return p, fmt.Errorf("to keep %d backups makes no sense: at least one is kept", keep)
	}
	r, err := open(cfg, toPrune)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	ids, err := r.IDs()
	if err != nil {
		return p, err
	}
	gone := ids[:max(0, len(ids)-keep)]
	// Before anything goes: of a manifest that can't be read nobody knows what it needs.
	needed := map[string]bool{}
	for _, id := range ids[len(gone):] {
		m, err := r.Manifest(id)
		if err != nil {
			return p, fmt.Errorf("nothing was removed: %w; if nothing of this backup is to be kept, remove its manifest and prune again", err)
		}
		for _, f := range m.Files {
			needed[f.SHA.String()] = true
		}
	}
	for _, id := range gone {
		if err := r.fs.Remove(r.manifest(id)); err != nil {
			return p, fmt.Errorf("can't write to repository %s: %w", r.dir, err)
		}
		p.Removed = append(p.Removed, id)
	}
	// No manifest may come back after a loss of power when its files are gone.
	if err := engine.SyncDir(r.fs, r.path(backupsName)); err != nil {
		return p, fmt.Errorf("can't write to repository %s: %w", r.dir, err)
	}
	if err := r.sweep(needed, &p); err != nil {
		return p, fmt.Errorf("can't write to repository %s: %w", r.dir, err)
	}
	return p, r.clean()
}

// sweep removes the files that are not needed.
func (r *Repository) sweep(needed map[string]bool, p *Pruned) error {
	dirs, err := r.fs.List(r.path(filesName))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		names, err := r.fs.List(r.path(filesName, dir))
		if err != nil {
			return err
		}
		for _, name := range names {
			path := r.path(filesName, dir, name)
			if needed[name] {
				continue
			}
			info, err := r.fs.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = r.fs.Remove(path)
			}
			if err != nil {
				return err
			}
			p.Files++
			p.Bytes += info.Size()
		}
	}
	return nil
}
