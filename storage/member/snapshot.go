package member

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/alarm"
	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/backup"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Snapshot writes a backup of the store, in etcd's file format, to what begin returns,
// which is told its length first. It is what all groups have at one revision, and has
// everything that was acknowledged before the call; or, where nobody can confirm that,
// everything that this member knows to be closed. The versions are noted in the file.
func (m *Member) Snapshot(
	ctx context.Context, storageVersion, clusterVersion string, begin func(size int64) io.Writer,
) error {
	if !m.hold() {
		return group.ErrStopped
	}
	defer m.workers.Done()
	defer m.cache.Hold()()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.stopCtx, cancel)()
	err := m.snapshot(ctx, storageVersion, clusterVersion, begin)
	if err != nil && m.stopCtx.Err() != nil {
		return group.ErrStopped
	}
	return err
}

// hold keeps the databases from being closed until workers is told; false is that they
// are already.
func (m *Member) hold() bool {
	m.starting.RLock()
	defer m.starting.RUnlock()
	if m.stopCtx.Err() != nil {
		return false
	}
	m.workers.Add(1)
	return true
}

func (m *Member) snapshot(
	ctx context.Context, storageVersion, clusterVersion string, begin func(size int64) io.Writer,
) error {
	view, err := m.newView(ctx)
	if err != nil {
		return err
	}
	defer view.Close()
	src := backup.Source{View: view, StorageVersion: storageVersion, ClusterVersion: clusterVersion}
	if err := m.describe(&src); err != nil {
		return err
	}
	b, err := backup.New(ctx, src)
	if err != nil {
		return err
	}
	return b.Write(ctx, begin(b.Size()))
}

// newView fixes a view of all groups.
func (m *Member) newView(ctx context.Context) (*mvcc.View, error) {
	stores := m.stores()
	for {
		rev, err := m.backupRevision(ctx)
		if err != nil {
			return nil, err
		}
		// A compaction may overtake it, as it may a read.
		view, err := mvcc.NewView(ctx, stores, rev, m.space.Compacted)
		if !errors.Is(err, mvcc.ErrCompacted) {
			return view, err
		}
	}
}

// describe says who is in the cluster, and who may do what.
func (m *Member) describe(src *backup.Source) error {
	version, rows, err := src.View.Records(auth.Table)
	if err != nil {
		return err
	}
	users, err := auth.Load(version, rows)
	if err != nil {
		return err
	}
	if src.Tables, err = users.Buckets(); err != nil {
		return err
	}
	_, alarms, err := src.View.Records(alarm.Table)
	if err != nil {
		return err
	}
	maps.Copy(src.Tables, alarm.Buckets(alarms))
	row, err := src.View.ConfState()
	if err != nil {
		return err
	}
	conf := &raftpb.ConfState{}
	if err := proto.Unmarshal(row, conf); err != nil {
		return fmt.Errorf("member: bad configuration: %w", err)
	}
	src.Voters, src.Learners = conf.Voters, conf.Learners
	var bad error
	err = src.View.Members(func(id uint64, row []byte) {
		if len(row) == 0 {
			src.Removed = append(src.Removed, id)
			return
		}
		var i Info
		bad = errors.Join(bad, json.Unmarshal(row, &i))
		src.Members = append(src.Members, backup.Member{
			ID: id, PeerURLs: i.PeerURLs, IsLearner: slices.Contains(conf.Learners, id),
			Name: i.Name, ClientURLs: i.ClientURLs,
		})
	})
	slices.SortFunc(src.Members, func(a, b backup.Member) int { return cmp.Compare(a.ID, b.ID) })
	return errors.Join(err, bad)
}
