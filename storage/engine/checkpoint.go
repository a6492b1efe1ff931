package engine

import "fmt"

// Checkpoint makes the directory dir, on db's file system, a database of its own that has
// what is flushed: everything that was committed before the last flush began, and of what
// came later a prefix, in whole batches. Its tables are hard links of db's, so that it takes
// no time to speak of, and no room before db has replaced them. Who writes does not wait.
// REQUIRES: dir is not there. db has no write-ahead log: what is in one would be copied.
func Checkpoint(db *DB, dir string) error {
	if err := db.Checkpoint(dir); err != nil {
		return fmt.Errorf("engine: checkpoint: %w", err)
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func SyncDir(fs FS, dir string) error {
	f, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
