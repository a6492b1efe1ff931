package member

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// LookIn opens the data directory of a member that does not run, to be read: nothing
// in it is changed, and while it is open no member can be started in it. It returns
// ErrLocked if one runs.
func LookIn(cfg DataDirConfig) (*DataDir, error) {
	if cfg.FS == nil {
		cfg.FS = engine.OSFS()
	}
	if cfg.Dir == "" {
		return nil, errors.New("no data directory is given")
	}
	d := &DataDir{fs: engine.ReadOnlyFS(cfg.FS), dir: cfg.Dir}
	if _, err := d.fs.Stat(d.dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no data directory %s", d.dir)
	}
	// As OpenDataDir: once before LOCK is touched, and once under the lock.
	if err := d.look(); err != nil {
		return nil, err
	}
	if err := d.takeLock(); err != nil {
		if errors.Is(err, ErrLocked) {
			return nil, fmt.Errorf("%w: stop the member first, or look into a copy of the directory", err)
		}
		return nil, err
	}
	if err := d.look(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *DataDir) look() error {
	version, err := d.inspect()
	if err == nil && version == nil {
		err = fmt.Errorf("%s holds no member's data (there is no %s in it): give the --data-dir of a member", d.dir, versionName)
	}
	d.version = version
	return err
}

// StoredMembers returns the members as core's state has them, and the ids of those
// that were removed.
func StoredMembers(core *mvcc.Store) (members []Info, removed []uint64, err error) {
	var bad error
	err = core.Members(func(id uint64, row []byte) {
		if len(row) == 0 {
			removed = append(removed, id)
			return
		}
		var info Info
		if err := json.Unmarshal(row, &info); err != nil || info.ID != id {
			bad = fmt.Errorf("member: bad row of member %s: %q", FormatID(id), row)
			return
		}
		members = append(members, info)
	})
	return members, removed, errors.Join(err, bad)
}
