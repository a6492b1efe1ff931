package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/migrationpb"
	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

const (
	// finishedRow is the row of member.MirrorTable that says how the last migration has
	// ended.
	finishedRow = "finished"
	// maxMirrorBytes bounds what one batch of a mirror may have: a revision is not taken
	// apart. What goes to another member must be less than peer.MaxPayloadBytes.
	maxMirrorBytes = 32 << 20
	// maxMirrors bounds the mirrors at once, and with them what batches take: one is all
	// that is needed, and another one that waits for a first to be noticed as gone.
	maxMirrors = 4
	// maxSourceName bounds the name of a source.
	maxSourceName = 4 << 10
)

// migrationServer serves the Migration service, to administrators.
type migrationServer struct {
	*Server
	migrationpb.UnsafeMigrationServer
	// mirrors has a token for each mirror that may begin.
	mirrors chan struct{}
}

func newMigrationServer(s *Server) *migrationServer {
	m := &migrationServer{Server: s, mirrors: make(chan struct{}, maxMirrors)}
	for range maxMirrors {
		m.mirrors <- struct{}{}
	}
	return m
}

// migration is a row of member.MirrorTable: a migration that is on, or that was ended.
type migration struct {
	ClusterID uint64 `json:"clusterID"`
	Name      string `json:"name"`
	// Base is the compacted revision of the snapshot that it has begun with.
	Base int64 `json:"base"`
	// Empty says that there was nothing when it began. Before that is known nothing may
	// be mirrored.
	Empty bool `json:"empty,omitempty"`
	// Revision is where it has ended.
	Revision int64 `json:"revision,omitempty"`
}

// migrations are the rows of member.MirrorTable at a version.
type migrations struct {
	version int64
	// on is nil if none is.
	on, finished *migration
}

func loadMigrations(version int64, rows map[string][]byte, err error) (migrations, error) {
	m := migrations{version: version}
	for name, to := range map[string]**migration{member.MirrorOn: &m.on, finishedRow: &m.finished} {
		if row, ok := rows[name]; ok && err == nil {
			*to = new(migration)
			err = json.Unmarshal(row, *to)
		}
	}
	return m, err
}

// migrations returns those that are applied here, migrationsNow those of now.
func (s *Server) migrations() (migrations, error) {
	return loadMigrations(s.store.Records(member.MirrorTable))
}

func (s *migrationServer) migrationsNow(ctx context.Context) (migrations, error) {
	return loadMigrations(s.store.RecordsNow(ctx, member.MirrorTable))
}

// errMigrating refuses a change while a migration is on.
func (s *Server) errMigrating() error {
	m, err := s.migrations()
	if err != nil || m.on == nil {
		return toGRPC(evaluate.ErrMirroring)
	}
	return status.Errorf(codes.FailedPrecondition,
		"pebbledash: a migration from %s (cluster %s) is on, and no other changes are taken: end it with pebbledash migrate finish, or give it up with pebbledash migrate abort",
		m.on.Name, member.FormatID(m.on.ClusterID))
}

// mayChange refuses changes of what is no key while a migration is on.
func (s *Server) mayChange(ctx context.Context) error {
	m, err := loadMigrations(s.store.RecordsNow(ctx, member.MirrorTable))
	if err == nil && m.on != nil {
		err = s.errMigrating()
	}
	return err
}

// write changes the migrations, whose version must be that of m still.
func (s *migrationServer) write(ctx context.Context, m migrations, name string, row *migration) error {
	w := mvcc.RecordWrite{Key: name}
	var err error
	if row != nil {
		if w.Value, err = json.Marshal(row); err != nil {
			return err
		}
	}
	writes := []mvcc.RecordWrite{w}
	if name == finishedRow {
		writes = append(writes, mvcc.RecordWrite{Key: member.MirrorOn})
	}
	_, err = s.store.WriteRecords(ctx, member.MirrorTable, m.version, writes)
	return err
}

// again does something until nobody has changed the migrations meanwhile.
func (s *migrationServer) again(ctx context.Context, do func(context.Context, migrations) error) error {
	if err := s.permitted(ctx, admin); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	for {
		m, err := s.migrationsNow(ctx)
		if err == nil {
			err = do(ctx, m)
		}
		if !errors.Is(err, evaluate.ErrRecordsChanged) {
			return toGRPC(err)
		}
	}
}

// Begin begins a migration, or goes on with one. The order matters: first the cluster
// takes no other changes, then those that were under way are through, and only then is
// it looked whether there is anything.
func (s *migrationServer) Begin(ctx context.Context, r *migrationpb.BeginRequest) (*migrationpb.StatusResponse, error) {
	from := r.GetSource()
	if from.GetClusterId() == 0 || len(from.GetName()) > maxSourceName || r.Base < 0 {
		return nil, status.Error(codes.InvalidArgument, "pebbledash: a migration needs the id of the source's cluster, and its name")
	}
	if from.ClusterId == s.headers.clusterID {
		return nil, status.Error(codes.InvalidArgument, "pebbledash: the source of the migration is this cluster itself")
	}
	err := s.again(ctx, func(ctx context.Context, m migrations) error {
		switch {
		case m.on == nil:
			m.on = &migration{ClusterID: from.ClusterId, Name: from.Name, Base: r.Base}
			if err := s.write(ctx, m, member.MirrorOn, m.on); err != nil {
				return err
			}
			m.version++
		case m.on.ClusterID != from.ClusterId:
			return s.errMigrating()
		case m.on.Empty:
			return nil
		}
		if _, err := s.store.Do(ctx, &evaluate.Mirror{After: mvcc.FirstRevision}); err != nil {
			return err
		}
		what, err := s.contents(ctx)
		if err != nil {
			return err
		}
		if what != "" {
			if err := s.write(ctx, m, member.MirrorOn, nil); err != nil {
				return err
			}
			return status.Errorf(codes.FailedPrecondition, "pebbledash: a migration needs a cluster that never had anything, and this one has %s", what)
		}
		m.on.Empty = true
		if err := s.write(ctx, m, member.MirrorOn, m.on); err != nil {
			return err
		}
		s.log.Info("a migration begins", slog.String("source", m.on.Name), slog.String("cluster", member.FormatID(m.on.ClusterID)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.Status(ctx, &migrationpb.StatusRequest{})
}

// contents says what the cluster has, if it has anything.
func (s *migrationServer) contents(ctx context.Context) (string, error) {
	revision, err := s.store.ReadIndex(ctx)
	if err != nil {
		return "", err
	}
	leases, err := s.store.Leases(ctx)
	if err != nil {
		return "", err
	}
	_, users, err := s.store.RecordsNow(ctx, authTable)
	switch {
	case err != nil:
		return "", err
	case revision > mvcc.FirstRevision || s.store.Compacted() > 0:
		return fmt.Sprintf("come to revision %d", revision), nil
	case len(leases) > 0:
		return fmt.Sprintf("%d leases", len(leases)), nil
	case len(users) > 0:
		return "users or roles", nil
	}
	return "", nil
}

// Status tells how far the migration is, with everything that was acknowledged.
func (s *migrationServer) Status(ctx context.Context, _ *migrationpb.StatusRequest) (*migrationpb.StatusResponse, error) {
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	revision, err := s.store.ReadIndex(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	m, err := s.migrationsNow(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	resp := &migrationpb.StatusResponse{Header: s.header(revision), CompactRevision: s.store.Compacted()}
	of := m.finished
	if m.on != nil {
		of, resp.On = m.on, true
	}
	if of != nil {
		resp.Source = &migrationpb.Source{ClusterId: of.ClusterID, Name: of.Name}
		resp.Base, resp.FinishedRevision = of.Base, of.Revision
	}
	return resp, nil
}

// mustBeFrom refuses what comes of another cluster than the one that is mirrored.
func (m *migrations) mustBeFrom(clusterID uint64) error {
	switch {
	case m.on == nil || !m.on.Empty:
		return evaluate.ErrNotMirroring
	case m.on.ClusterID != clusterID:
		return status.Errorf(codes.FailedPrecondition, "pebbledash: the migration that is on is from cluster %s, not from %s",
			member.FormatID(m.on.ClusterID), member.FormatID(clusterID))
	}
	return nil
}

// Mirror takes batches over, one after another.
func (s *migrationServer) Mirror(stream grpc.BidiStreamingServer[migrationpb.MirrorRequest, migrationpb.MirrorResponse]) error {
	// Once before anything is taken, and below for each batch.
	if err := s.permitted(stream.Context(), admin); err != nil {
		return err
	}
	select {
	case token := <-s.mirrors:
		defer func() { s.mirrors <- token }()
	default:
		return status.Errorf(codes.ResourceExhausted, "pebbledash: %d mirrors are under way already", maxMirrors)
	}
	ctx := stream.Context()
	for {
		op, clusterID, err := receiveMirror(stream)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.permitted(ctx, admin)
		}
		if err != nil {
			return err
		}
		m, err := s.migrations()
		if err == nil {
			err = m.mustBeFrom(clusterID)
		}
		if err == nil && op.Check() != nil {
			err = status.Error(codes.InvalidArgument, op.Check().Error())
		}
		if err != nil {
			return toGRPC(err)
		}
		bounded, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
		res, err := s.store.Do(bounded, op)
		cancel()
		if err != nil {
			return toGRPC(err)
		}
		if err := stream.Send(&migrationpb.MirrorResponse{Revision: res.Revision}); err != nil {
			return err
		}
	}
}

// receiveMirror puts a batch together.
func receiveMirror(stream grpc.BidiStreamingServer[migrationpb.MirrorRequest, migrationpb.MirrorResponse]) (*evaluate.Mirror, uint64, error) {
	var r migrationpb.MirrorRequest
	if err := stream.RecvMsg(&r); err != nil {
		return nil, 0, err
	}
	op := &evaluate.Mirror{After: r.After, Revokes: r.Revokes, Compact: r.CompactRevision}
	for _, g := range r.Grants {
		op.Grants = append(op.Grants, evaluate.LeaseGrant{ID: g.Id, TTL: g.Ttl})
	}
	clusterID := r.ClusterId
	for {
		appendMirrored(op, r.Revisions)
		if evaluate.Size(op) > maxMirrorBytes {
			return nil, 0, status.Errorf(codes.ResourceExhausted, "pebbledash: a batch, or one revision, of more than %d bytes can not be mirrored", maxMirrorBytes)
		}
		if !r.More {
			return op, clusterID, nil
		}
		r.Reset()
		if err := stream.RecvMsg(&r); err != nil {
			return nil, 0, err
		}
	}
}

// appendMirrored adds revisions, the first of which may go on with the last.
func appendMirrored(op *evaluate.Mirror, revisions []*migrationpb.Revision) {
	for _, rev := range revisions {
		n := len(op.Revisions)
		if n == 0 || op.Revisions[n-1].Revision != rev.Revision {
			op.Revisions = append(op.Revisions, evaluate.MirrorRevision{Revision: rev.Revision})
			n++
		}
		to := &op.Revisions[n-1]
		for _, c := range rev.Changes {
			to.Changes = append(to.Changes, evaluate.MirrorChange{
				Sub: c.Sub, Key: c.Key, Value: c.Value, Create: c.CreateRevision, Version: c.Version, Lease: c.Lease, Deleted: c.Deleted,
			})
		}
	}
}

// Finish ends the migration. If it is cut short after the users are there, it is done
// again by an administrator of theirs.
func (s *migrationServer) Finish(ctx context.Context, r *migrationpb.FinishRequest) (*migrationpb.FinishResponse, error) {
	var revision int64
	err := s.again(ctx, func(ctx context.Context, m migrations) error {
		if m.on == nil && m.finished != nil && m.finished.ClusterID == r.ClusterId && m.finished.Revision == r.Revision {
			return nil // the answer was lost
		}
		err := m.mustBeFrom(r.ClusterId)
		if err == nil {
			revision, err = s.store.ReadIndex(ctx)
		}
		if err == nil && revision != r.Revision {
			err = status.Errorf(codes.FailedPrecondition, "pebbledash: the cluster is at revision %d, not at %d", revision, r.Revision)
		}
		if err == nil {
			err = s.takeUsers(ctx, r.Users)
		}
		if err != nil {
			return err
		}
		end := *m.on
		end.Revision = revision
		if err := s.write(ctx, m, finishedRow, &end); err != nil {
			return err
		}
		s.log.Info("the migration is finished", slog.String("source", end.Name), slog.Int64("revision", revision))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &migrationpb.FinishResponse{Header: s.header(revision)}, nil
}

// takeUsers gives the cluster the source's users and roles, unless it has them.
func (s *migrationServer) takeUsers(ctx context.Context, rows []*migrationpb.Row) error {
	version, there, err := s.store.RecordsNow(ctx, authTable)
	if err != nil {
		return err
	}
	next := map[string][]byte{}
	var writes []mvcc.RecordWrite
	for _, row := range rows {
		next[row.Key] = row.Value
		if have, ok := there[row.Key]; !ok || !bytes.Equal(have, row.Value) {
			writes = append(writes, mvcc.RecordWrite{Key: row.Key, Value: append([]byte{}, row.Value...)})
		}
	}
	if len(writes) == 0 {
		return nil
	}
	if _, err := auth.Load(version+1, next); err != nil {
		return status.Errorf(codes.InvalidArgument, "pebbledash: these are no users and roles: %v", err)
	}
	if len(there) > 0 {
		return status.Error(codes.FailedPrecondition, "pebbledash: the cluster has other users than the source")
	}
	_, err = s.store.WriteRecords(ctx, authTable, version, writes)
	return err
}

// Abort ends the migration where it is.
func (s *migrationServer) Abort(ctx context.Context, _ *migrationpb.AbortRequest) (*migrationpb.AbortResponse, error) {
	err := s.again(ctx, func(ctx context.Context, m migrations) error {
		if m.on == nil {
			return evaluate.ErrNotMirroring
		}
		if err := s.write(ctx, m, member.MirrorOn, nil); err != nil {
			return err
		}
		s.log.Warn("a migration was given up", slog.String("source", m.on.Name), slog.Int64("revision", s.store.Revision()))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &migrationpb.AbortResponse{Header: s.header(0)}, nil
}
