package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/storage/backup"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// snapshotPath is where the snapshot of the source is kept until it is replayed. One
// that is there when a migration goes on is the one that it has begun with.
func (m *mirror) snapshotPath() string {
	return filepath.Join(m.cfg.WorkDir, "pebbledash-migrate-"+member.FormatID(m.source.ClusterId)+".db")
}

// snapshot opens the snapshot that the migration is to begin with or, where it has
// begun and kept it, go on with; and watches what comes after it.
func (m *mirror) snapshot(ctx context.Context, path string, kept bool) (*backup.File, error) {
	if _, err := os.Stat(path); kept && err == nil {
		return m.keptSnapshot(ctx, path)
	}
	// The watch begins before: the source may compact meanwhile.
	if err := m.watchFrom(ctx, m.head+1); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if err := m.fetch(ctx, path); err != nil {
		return nil, err
	}
	return backup.Open(ctx, path, false)
}

func (m *mirror) keptSnapshot(ctx context.Context, path string) (*backup.File, error) {
	file, err := backup.Open(ctx, path, false)
	if err != nil {
		return nil, fmt.Errorf("%w (%s is what was kept of the source: remove it to go on with another)", err, path)
	}
	compacted, _, err := file.Compacted()
	var last int64
	if err == nil {
		last, err = file.Versions(ctx, func(*mvcc.Version) error { return nil })
	}
	if err == nil {
		err = m.watchFrom(ctx, max(last, compacted, mvcc.FirstRevision)+1)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// fetch writes a snapshot of the source, which is whole once it has its name.
func (m *mirror) fetch(ctx context.Context, path string) (err error) {
	stream, err := m.src.maintenance.Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	part := path + ".part"
	file, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("can't keep the snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part)
		}
	}()
	var came int64
	for err == nil {
		var r *pb.SnapshotResponse
		if r, err = stream.Recv(); err != nil {
			break
		}
		_, err = file.Write(r.Blob)
		came += int64(len(r.Blob))
		m.cfg.Report(Progress{Phase: Fetching, Source: m.head, Bytes: came, Of: came + int64(r.RemainingBytes)})
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(part, path)
	}
	return err
}

func removeSnapshot(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
