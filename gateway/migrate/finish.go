package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/migrationpb"
	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/backup"
	"github.com/pebbledash/pebbledash/storage/member"
)

// ErrStillWritten says that the source has gone on while it was compared.
var ErrStillWritten = errors.New("the source is still written to: stop what writes to it, and finish again")

// Finished is what Finish has found and done.
type Finished struct {
	// Revision is that of both, Compacted where both are compacted.
	Revision, Compacted int64
	Hash                uint32
	Leases              int
	// Lost is how many revisions the source has gone on since: they are not at the
	// destination. 0 is as it should be.
	Lost int64
	// Users says that users and roles came over; authentication is as at the source.
	Users bool
	// asked says that the destination was asked to finish.
	asked bool
}

// Finish waits until the destination has what the source has now, compares the two,
// and ends the migration. It refuses if they differ, and unless force is set, if the
// source was changed meanwhile.
func Finish(ctx context.Context, cfg Config, force bool) (done Finished, err error) {
	st, err := Status(ctx, cfg.To)
	if err != nil {
		return done, fmt.Errorf("destination: %w", err)
	}
	if !st.On {
		return done, errors.New("no migration is on at the destination")
	}
	err = attempts(ctx, cfg, func(ctx context.Context, m *mirror) error {
		done, err = m.finish(ctx, force)
		return err
	})
	if errors.Is(err, ErrFinished) && done.asked {
		done.Lost, err = askLost(ctx, cfg.From, done.Revision) // only the answer was lost
	}
	return done, err
}

// askLost connects to a source for lost.
func askLost(ctx context.Context, from Endpoint, revision int64) (int64, error) {
	c, err := connect(ctx, from, 0)
	if err != nil {
		return 0, fmt.Errorf("the migration was finished, at revision %d, but the source can't be asked whether it has gone on: %w", revision, err)
	}
	defer c.close()
	return c.lost(ctx, revision), nil
}

// lost returns how many revisions a source has gone on behind the one that the migration
// was finished at. Nothing could keep it from that; where it is gone by now it can't be
// asked.
func (c *cluster) lost(ctx context.Context, revision int64) int64 {
	now, err := c.head(ctx)
	if err != nil {
		return 0
	}
	return now.Revision - revision
}

func (m *mirror) finish(ctx context.Context, force bool) (done Finished, err error) {
	// First what takes long: the clients wait.
	users, err := m.users(ctx)
	if err != nil {
		return done, err
	}
	done.Users = len(users.rows) > 0
	head, err := m.src.head(ctx)
	if err != nil {
		return done, fmt.Errorf("source: %w", err)
	}
	m.head, done.Revision = head.Revision, head.Revision
	if err := m.follow(ctx, done.Revision); err != nil {
		return done, err
	}
	if err := m.followLeases(ctx, true); err != nil {
		return done, err
	}
	if err := m.batch.drain(ctx); err != nil {
		return done, err
	}
	// More may have come with it than was there when it was asked.
	done.Revision = max(done.Revision, m.batch.answered)
	if done.Leases, err = m.compareLeases(ctx); err != nil {
		return done, err
	}
	if done.Hash, done.Compacted, err = m.compareKeys(ctx, done.Revision); err != nil {
		return done, err
	}
	now, err := m.src.head(ctx)
	if err != nil {
		return done, fmt.Errorf("source: %w", err)
	}
	if now.Revision != done.Revision && !force {
		return done, fmt.Errorf("%w (it went from revision %d to %d)", ErrStillWritten, done.Revision, now.Revision)
	}
	if revision, err := m.authRevision(ctx); err != nil || revision != users.revision {
		return done, errors.Join(err, ErrStillWritten)
	}
	done.asked = true
	_, err = m.dst.migration.Finish(ctx, &migrationpb.FinishRequest{
		ClusterId: m.source.ClusterId, Revision: done.Revision, Users: users.rows,
	})
	if err != nil {
		return done, fmt.Errorf("destination: %w", err)
	}
	done.Lost = m.src.lost(ctx, done.Revision)
	return done, nil
}

// compareKeys compares all versions of keys up to a revision. They have the same hash
// only if both are compacted at the same revision.
func (m *mirror) compareKeys(ctx context.Context, revision int64) (hash uint32, compacted int64, err error) {
	for {
		want, err := m.src.maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: revision})
		if err != nil {
			return 0, 0, fmt.Errorf("source: %w", err)
		}
		compacted = max(want.CompactRevision, 0) // before the first it is -1
		m.compacted = max(m.compacted, compacted)
		m.tellCompacted()
		if err := m.batch.drain(ctx); err != nil {
			return 0, 0, err
		}
		got, err := m.dst.maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: revision})
		switch {
		case err != nil:
			return 0, 0, fmt.Errorf("destination: %w", err)
		case max(got.CompactRevision, 0) > compacted:
			continue // the source was compacted in between, and another mirror has told
		case max(got.CompactRevision, 0) < compacted:
			return 0, 0, fmt.Errorf("the destination is compacted at revision %d, the source at %d", got.CompactRevision, compacted)
		case got.Hash != want.Hash:
			return 0, 0, fmt.Errorf("the destination differs from the source: at revision %d, compacted at %d, its hash is %x, and the source's %x; do not go over, but empty it and start over",
				revision, compacted, got.Hash, want.Hash)
		}
		return got.Hash, compacted, nil
	}
}

// compareLeases compares all leases, and returns how many there are.
func (m *mirror) compareLeases(ctx context.Context) (int, error) {
	want, err := m.src.leases(ctx)
	if err != nil {
		return 0, fmt.Errorf("source: %w", err)
	}
	got, err := m.dst.leases(ctx)
	if err != nil {
		return 0, fmt.Errorf("destination: %w", err)
	}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		wanted, err := m.src.ttl(ctx, id)
		if err != nil {
			return 0, fmt.Errorf("source: %w", err)
		}
		has, err := m.dst.ttl(ctx, id)
		if err != nil {
			return 0, fmt.Errorf("destination: %w", err)
		}
		if wanted != has {
			return 0, fmt.Errorf("%w (lease %x has a TTL of %d s, and at the destination of %d s)", ErrStillWritten, id, wanted, has)
		}
	}
	if len(got) != len(want) {
		return 0, fmt.Errorf("%w (it has %d leases, the destination %d)", ErrStillWritten, len(want), len(got))
	}
	return len(want), nil
}

// users are those of the source as the destination keeps them.
type users struct {
	rows     []*migrationpb.Row
	revision uint64
}

// authRevision counts the changes of users at the source; 0 if it does not say.
func (m *mirror) authRevision(ctx context.Context) (uint64, error) {
	st, err := m.src.auth.AuthStatus(ctx, &pb.AuthStatusRequest{})
	if status.Code(err) == codes.Unimplemented { // before etcd 3.5
		return 0, nil
	}
	return st.GetAuthRevision(), err
}

// users reads the source's users. Their passwords are in snapshots alone.
func (m *mirror) users(ctx context.Context) (u users, err error) {
	if u.revision, err = m.authRevision(ctx); err != nil {
		return u, fmt.Errorf("source: %w", err)
	}
	have, err := m.src.auth.UserList(ctx, &pb.AuthUserListRequest{})
	if err != nil {
		return u, fmt.Errorf("source: %w", err)
	}
	roles, err := m.src.auth.RoleList(ctx, &pb.AuthRoleListRequest{})
	if err != nil {
		return u, fmt.Errorf("source: %w", err)
	}
	if len(have.Users)+len(roles.Roles) == 0 {
		return u, nil
	}
	dir, err := os.MkdirTemp(m.cfg.WorkDir, "pebbledash-migrate-")
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := dir + "/" + member.FormatID(m.source.ClusterId)
	if err := m.fetch(ctx, path); err != nil {
		return u, err
	}
	file, err := backup.Open(ctx, path, false)
	if err != nil {
		return u, err
	}
	tables, err := file.Tables()
	if err = errors.Join(err, file.Close()); err != nil {
		return u, err
	}
	writes, err := auth.FromBuckets(tables)
	for _, w := range writes {
		u.rows = append(u.rows, &migrationpb.Row{Key: w.Key, Value: w.Value})
	}
	return u, err
}

// Status returns how far the destination is. It asks at the first URL alone, once; what
// that answers is a gRPC status, Unimplemented of one that is no Pebbledash.
func Status(ctx context.Context, to Endpoint) (*migrationpb.StatusResponse, error) {
	c, err := connect(ctx, to, 0)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.migration.Status(ctx, &migrationpb.StatusRequest{})
}

// Abort gives a migration up, and fails as Status does, and with FailedPrecondition if
// none is on.
func Abort(ctx context.Context, to Endpoint) error {
	c, err := connect(ctx, to, 0)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.migration.Abort(ctx, &migrationpb.AbortRequest{})
	return err
}
