package member

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/pebbledash/pebbledash/storage/alarm"
	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/backup"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/repository"
	"github.com/pebbledash/pebbledash/storage/route"
)

// RestoreConfig says what to restore, and to whom it shall belong.
type RestoreConfig struct {
	// File is a backup in etcd's format, Files one of a repository; one of them is set.
	File  *backup.File
	Files *BackupFiles
	// Dir is the data directory to make: not there, or empty.
	Dir string
	// FS is the file system; nil is the operating system's.
	FS engine.FS
	// Name, PeerURLs, InitialCluster, ClusterToken and Routes are as in Config.
	Name           string
	PeerURLs       []string
	InitialCluster string
	ClusterToken   string
	// Routes must be those of Files, if they are set.
	Routes *route.Table
	// BumpRevision is added to the revision of the backup, and what there is then is
	// compacted: clients that have seen later revisions than those of the backup see
	// that what they know is gone.
	BumpRevision int64
	// Version is as in Config.
	Version string
	Logger  *slog.Logger
}

// Restored is what Restore has made.
type Restored struct {
	ClusterID, MemberID uint64
	// Revision and Compacted are those that the member begins with.
	Revision, Compacted int64
	// Versions and Leases are how many there are, of File.
	Versions, Leases int64
}

// BackupFiles is a backup of a repository.
type BackupFiles struct {
	Repository *repository.Repository
	Manifest   *repository.Manifest
	// Progress is told how many bytes were written.
	Progress func(n int64)
}

// Restore makes a data directory of a backup: that of a member of a new cluster, of
// which each member is to be restored from the same file. Of its keys everything comes
// over, their revisions too; who was in the cluster does not. If it fails, it leaves
// nothing behind.
//
// VERSION is made last, as for a new member. The logs have not begun then: the first
// start begins them over the state that it finds, as it does over an empty one. When
// the disk has failed, File is still being read, and must not be closed.
func Restore(ctx context.Context, cfg RestoreConfig) (_ Restored, err error) {
	if cfg.FS == nil {
		cfg.FS = engine.OSFS()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Routes == nil {
		cfg.Routes = route.CoreOnly()
	}
	if f := cfg.Files; f != nil && f.Manifest.Routes != cfg.Routes.String() {
		return Restored{}, fmt.Errorf("the backup has other routes than the flags say, and its rows lie by them: leave out --resource-groups and --etcd-prefix; to change the routes, restore it so, take an \"etcdctl snapshot save\" of that, and restore this (pebbledash snapshot restore) with others; the backup has %q, the flags say %q",
			f.Manifest.Routes, cfg.Routes.String())
	}
	initial, err := ParseInitialCluster(cfg.InitialCluster, cfg.ClusterToken)
	if err != nil {
		return Restored{}, err
	}
	self, err := initial.Member(cfg.Name)
	if err != nil {
		return Restored{}, err
	}
	if err := initial.CheckAdvertised(ctx, cfg.Name, cfg.PeerURLs, ResolveTCP); err != nil {
		return Restored{}, err
	}
	remove, err := leftovers(cfg.FS, cfg.Dir)
	if err != nil {
		return Restored{}, err
	}
	dir, err := OpenDataDir(DataDirConfig{Dir: cfg.Dir, FS: cfg.FS, Logger: cfg.Logger})
	if errors.Is(err, ErrLocked) {
		return Restored{}, err // somebody has come in between, whose it is
	}
	if err != nil {
		return Restored{}, errors.Join(err, remove())
	}
	defer func() {
		err = errors.Join(err, dir.Close())
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	id := Identity{
		Name: cfg.Name, ClusterID: initial.ID, MemberID: self.ID,
		Routes: cfg.Routes.String(), Voters: initial.Members,
	}
	res, err := restoreState(ctx, cfg, dir)
	if err != nil {
		return Restored{}, err
	}
	if _, _, err := dir.Bind(id, cfg.Version); err != nil {
		return Restored{}, fmt.Errorf("member: %w", err)
	}
	res.ClusterID, res.MemberID = id.ClusterID, id.MemberID
	return res, nil
}

// leftovers refuses a directory that is not empty, and returns what removes all that
// is made of it from now on.
func leftovers(fsys engine.FS, dir string) (remove func() error, err error) {
	names, err := fsys.List(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("can't read data directory %s: %w", dir, err)
	default:
		for _, name := range names {
			if name != "lost+found" { // the root of a file system
				return nil, fmt.Errorf("data directory %s is not empty (%s): a snapshot is restored into a new directory; give another --data-dir, or move this one out of the way", dir, enumerate(names))
			}
		}
		return func() error {
			var errs []error
			for _, name := range []string{versionName, tempName, logName, stateName, lockName, holderName} {
				errs = append(errs, fsys.RemoveAll(fsys.PathJoin(dir, name)))
			}
			return errors.Join(errs...)
		}, nil
	}
	// Its parents, too, may not be there. By the end they may hold what is somebody
	// else's: they go only if they are empty.
	var made []string
	for parent := fsys.PathDir(dir); parent != fsys.PathDir(parent); parent = fsys.PathDir(parent) {
		if _, err := fsys.Stat(parent); err == nil {
			break
		}
		made = append(made, parent)
	}
	return func() error {
		err := fsys.RemoveAll(dir)
		for _, parent := range made {
			if fsys.Remove(parent) != nil {
				break
			}
		}
		return err
	}, nil
}

const (
	restoreCacheBytes    = 64 << 20
	restoreMemTableBytes = 32 << 20
)

// restoreState makes the state. Nobody comes back from a database that has failed, nor
// from opening or closing it, and some failures of the disk make Pebble panic; hence
// the goroutine.
func restoreState(ctx context.Context, cfg RestoreConfig, dir *DataDir) (Restored, error) {
	if err := cfg.FS.MkdirAll(dir.StateDir(), dirMode); err != nil {
		return Restored{}, err
	}
	type outcome struct {
		Restored
		error
	}
	if f := cfg.Files; f != nil {
		if err := f.Repository.Copy(ctx, f.Manifest, cfg.FS, dir.StateDir(), f.Progress); err != nil {
			return Restored{}, err
		}
	}
	done, failed := make(chan outcome, 1), make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default: // the first says it
		}
	}
	go func() {
		defer func() {
			if p := recover(); p != nil {
				fail(fmt.Errorf("%v", p))
			}
		}()
		var o outcome
		o.error = func() error {
			db, err := engine.Open(engine.Config{
				Dir: dir.StateDir(), FS: cfg.FS, CacheBytes: restoreCacheBytes, MemTableBytes: restoreMemTableBytes,
				Logger: cfg.Logger, Fatal: fail,
			})
			if err != nil {
				return err
			}
			return errors.Join(restoreRows(ctx, cfg, db, &o.Restored), db.Close())
		}()
		done <- o
	}()
	select {
	case o := <-done:
		return o.Restored, o.error
	case err := <-failed:
		return Restored{}, fmt.Errorf("%w: %w", errUnwritable, err)
	}
}

// errUnwritable says that the state could not be written.
var errUnwritable = errors.New("can't write to the data directory")

func restoreRows(ctx context.Context, cfg RestoreConfig, db *engine.DB, res *Restored) error {
	var groups []mvcc.GroupID
	for _, g := range cfg.Routes.Groups() {
		groups = append(groups, g.ID)
	}
	if cfg.Files != nil {
		return adopt(ctx, cfg, db, groups, res)
	}
	to := mvcc.NewRestore(db, groups, cfg.Routes.Of)
	defer to.Drop()
	compacted, scrubbed, err := cfg.File.Compacted()
	if err != nil {
		return err
	}
	last, err := cfg.File.Versions(ctx, func(v *mvcc.Version) error {
		res.Versions++
		return to.Version(v)
	})
	if err != nil {
		return err
	}
	err = cfg.File.Leases(ctx, func(l backup.Lease) error {
		res.Leases++
		return to.Lease(l.ID, l.TTL, l.Remaining)
	})
	if err != nil {
		return err
	}
	if err := restoreRecords(cfg.File, to); err != nil {
		return err
	}
	revision := max(last, compacted, mvcc.FirstRevision)
	if cfg.BumpRevision > 0 {
		revision += cfg.BumpRevision
		compacted = revision
	}
	res.Revision, res.Compacted = revision, compacted
	return to.Finish(revision, compacted, scrubbed)
}

// adopt makes the state that was copied the new member's. What is kept of records is what
// restoreRecords restores.
func adopt(ctx context.Context, cfg RestoreConfig, db *engine.DB, groups []mvcc.GroupID, res *Restored) error {
	m := cfg.Files.Manifest
	res.Revision, res.Compacted = m.Revision, m.Compacted
	if cfg.BumpRevision > 0 {
		res.Revision += cfg.BumpRevision
		res.Compacted = res.Revision
	}
	_, err := mvcc.Adopt(ctx, db, groups, mvcc.Adoption{
		At: m.Revision, Revision: res.Revision, Compacted: res.Compacted, Records: []string{auth.Table, alarm.Table},
	})
	return err
}

// restoreRecords restores users and roles, and alarms, as etcd does: what was forbidden
// stays so until it is disarmed, also if the member that raised it is not there any more.
func restoreRecords(file *backup.File, to *mvcc.Restore) error {
	tables, err := file.Tables()
	if err != nil {
		return err
	}
	users, err := auth.FromBuckets(tables)
	if err != nil {
		return err
	}
	alarms, err := alarm.FromBuckets(tables)
	if err != nil {
		return err
	}
	rows := map[string][]mvcc.RecordWrite{}
	for _, w := range users {
		rows[auth.Table] = append(rows[auth.Table], mvcc.RecordWrite(w))
	}
	for _, row := range alarms {
		rows[alarm.Table] = append(rows[alarm.Table], mvcc.RecordWrite{Key: row, Value: []byte{}})
	}
	for table, writes := range rows {
		if err := to.Records(table, writes); err != nil {
			return err
		}
	}
	return nil
}
