package repository

import (
	"context"
	"errors"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Copy writes the files of a backup into a directory, which is there, durably, and checks
// them on the way. It tells progress how many bytes were written. They are copies, and no
// links: what a member does to its files, or its disk, is not to reach the backup.
func (r *Repository) Copy(ctx context.Context, m *Manifest, fs engine.FS, dir string, progress func(n int64)) error {
	for _, f := range m.Files {
		if err := r.copyFile(ctx, f, fs, fs.PathJoin(dir, f.Name), progress); err != nil {
			return fmt.Errorf("backup %s: file %s: %w", m.ID, f.Name, err)
		}
	}
	return engine.SyncDir(fs, dir)
}

func (r *Repository) copyFile(ctx context.Context, f File, fs engine.FS, path string, progress func(int64)) error {
	out, err := fs.Create(path, writeCategory)
	if err != nil {
		return err
	}
	err = r.readFile(ctx, f, func(p []byte) error {
		n, err := out.Write(p)
		progress(int64(n))
		return err
	})
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}
