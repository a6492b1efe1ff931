package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/migrationpb"
	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/backup"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

const (
	// lookInterval is how often the source is asked how far it is.
	lookInterval = time.Second
	// followLooks is how many of these go by between two looks at leases and
	// compactions.
	followLooks = 5
	// retryInterval is how long after a failure of a connection the next is made.
	retryInterval = time.Second
)

// Config of a migration.
type Config struct {
	From, To Endpoint
	// WorkDir is where the snapshot is, and what was watched.
	WorkDir string
	Clock   clock.Clock
	// Report is told how far it is, often, and Retrying of each failure after which it
	// is tried again.
	Report   func(Progress)
	Retrying func(error)
}

// Phase is what a migration does.
type Phase string

// The phases, in order.
const (
	Fetching  Phase = "fetching the snapshot"
	Replaying Phase = "replaying the snapshot"
	CatchUp   Phase = "catching up"
	InStep    Phase = "in step"
)

// Progress is how far a migration is.
type Progress struct {
	Phase Phase
	// Revision is the destination's, Source the source's; 0 is not known.
	Revision, Source int64
	// Bytes of the snapshot have come, Of is how many it has.
	Bytes, Of int64
	// Lag is the time from when a change was seen at the source until it was there at
	// the destination, for the last that were.
	Lag time.Duration
}

// mirror is one attempt: connections to both sides, and what is under way.
type mirror struct {
	cfg      Config
	src, dst *cluster
	source   *migrationpb.Source
	watch    pb.Watch_WatchClient
	spool    *spool
	batch    *batch
	workers  sync.WaitGroup
	cancel   context.CancelFunc

	// ours says that the source is a Pebbledash, whose revisions may have gaps.
	ours bool
	// head is what the source was at when it was looked at, compacted where it is
	// compacted as far as is known, and told up to where the destination was told of it.
	head, compacted, told int64
	lag                   time.Duration
	// revision is that of the last change which was watched, sub its place there.
	revision, sub int64
}

// Run mirrors until ctx ends, or something fails that will not be mended by trying
// again.
func Run(ctx context.Context, cfg Config) error {
	return attempts(ctx, cfg, func(ctx context.Context, m *mirror) error { return m.follow(ctx, 0) })
}

// attempts calls do with a mirror that is at the end of what was watched or replayed,
// and again after failures of the network and of members.
func attempts(ctx context.Context, cfg Config, do func(context.Context, *mirror) error) error {
	for n := 0; ; n++ {
		err := attempt(ctx, cfg, n, do)
		// Authentication may be switched on meanwhile, which asks for a token: the end of a
		// migration does that.
		unknown := cfg.To.User != "" && err != nil && strings.HasSuffix(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty))
		if err == nil || ctx.Err() != nil || !isPassing(err) && !unknown {
			return err
		}
		cfg.Retrying(err)
		timer := cfg.Clock.NewTimer(retryInterval)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// isPassing says that an error is one of a connection, or of a moment.
func isPassing(err error) bool {
	if errors.Is(err, io.EOF) {
		return true
	}
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.Unauthenticated,
		codes.NotFound, codes.Internal:
		// NotFound is a lease that another mirror has taken away: it is granted again.
		return true
	default:
		return false
	}
}

func attempt(ctx context.Context, cfg Config, n int, do func(context.Context, *mirror) error) (err error) {
	m, ctx, err := open(ctx, cfg, n)
	if err != nil {
		return err
	}
	defer m.close()
	if err := m.begin(ctx); err != nil {
		return err
	}
	return do(ctx, m)
}

// open connects to both sides.
func open(ctx context.Context, cfg Config, n int) (*mirror, context.Context, error) {
	m := &mirror{cfg: cfg}
	ctx, m.cancel = context.WithCancel(ctx)
	err := func() (err error) {
		if m.src, err = connect(ctx, cfg.From, n); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if m.dst, err = connect(ctx, cfg.To, n); err != nil {
			return fmt.Errorf("destination: %w", err)
		}
		head, err := m.src.head(ctx)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		m.head = head.Revision
		m.source = &migrationpb.Source{ClusterId: head.ClusterId, Name: cfg.From.URLs[0]}
		if m.ours, err = m.src.isPebbledash(ctx); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		m.spool, err = newSpool(cfg.WorkDir)
		return err
	}()
	if err != nil {
		m.close()
		return nil, nil, err
	}
	return m, ctx, nil
}

func (m *mirror) close() {
	m.cancel()
	m.workers.Wait()
	for _, c := range []*cluster{m.src, m.dst} {
		if c != nil {
			c.close()
		}
	}
	if m.spool != nil {
		m.spool.close()
	}
}

// begin begins a migration, or finds where one stands, and has the destination at the
// first revision that is watched.
func (m *mirror) begin(ctx context.Context) error {
	st, err := m.dst.migration.Status(ctx, &migrationpb.StatusRequest{})
	if err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	if err := m.isFinished(st); err != nil {
		return err
	}
	at := st.GetHeader().GetRevision()
	if st.On && st.Source.GetClusterId() == m.source.ClusterId && at > mvcc.FirstRevision && at >= st.Base {
		// What is missing is all in the source's history, as far as it has it.
		if st, err = m.dst.migration.Begin(ctx, &migrationpb.BeginRequest{Source: m.source, Base: st.Base}); err != nil {
			return fmt.Errorf("destination: %w", err)
		}
		m.told = st.CompactRevision
		if err := m.watchFrom(ctx, at+1); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		m.batch, err = m.newBatch(ctx, at)
		return err
	}
	return m.beginWithSnapshot(ctx, st)
}

// ErrFinished says that a migration has come to its end.
var ErrFinished = errors.New("the migration was finished")

// isFinished returns ErrFinished if the migration from this source is.
func (m *mirror) isFinished(st *migrationpb.StatusResponse) error {
	if st.On || st.FinishedRevision == 0 || st.Source.GetClusterId() != m.source.ClusterId {
		return nil
	}
	return fmt.Errorf("%w, at revision %d: there is nothing to mirror any more", ErrFinished, st.FinishedRevision)
}

// beginWithSnapshot replays a snapshot of the source.
func (m *mirror) beginWithSnapshot(ctx context.Context, st *migrationpb.StatusResponse) error {
	path := m.snapshotPath()
	file, err := m.snapshot(ctx, path, st.On)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	base, _, err := file.Compacted()
	if err != nil {
		return err
	}
	st, err = m.dst.migration.Begin(ctx, &migrationpb.BeginRequest{Source: m.source, Base: base})
	if err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	at := st.GetHeader().GetRevision()
	if at > mvcc.FirstRevision && base != st.Base {
		// Keys that are there may have been deleted since, and nothing says so any more.
		return errLeftBehind
	}
	m.told = st.CompactRevision
	if m.batch, err = m.newBatch(ctx, at); err != nil {
		return err
	}
	if err := m.replay(ctx, file, base); err != nil {
		return err
	}
	return removeSnapshot(path)
}

// replay has the destination take over the history that a snapshot has.
func (m *mirror) replay(ctx context.Context, file *backup.File, compacted int64) error {
	err := file.Leases(ctx, func(l backup.Lease) error {
		m.batch.ttls[l.ID] = l.TTL
		return nil
	})
	if err != nil {
		return err
	}
	var failed error
	last, err := file.Versions(ctx, func(v *mvcc.Version) error {
		kv := &mvccpb.KeyValue{
			Key: bytes.Clone(v.Key), Value: bytes.Clone(v.Value),
			CreateRevision: v.Head.Create, Version: v.Head.Version, Lease: v.Head.Lease,
		}
		if failed = m.batch.add(ctx, v.Rev.Main, v.Rev.Sub, kv, v.Tombstone, time.Time{}); failed == nil {
			m.report(Replaying)
		}
		return failed
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	last = max(last, compacted)
	if last > m.batch.after {
		if err := m.batch.jump(ctx, last); err != nil {
			return err
		}
	}
	m.head = max(m.head, last)
	m.compacted = compacted
	m.tellCompacted()
	return m.batch.drain(ctx)
}

// tellCompacted has the destination follow a compaction, once it is there.
func (m *mirror) tellCompacted() {
	if m.compacted > m.told && m.compacted <= m.batch.after {
		m.batch.next.CompactRevision, m.told = m.compacted, m.compacted
	}
}

// follow mirrors what is watched, until the destination is at revision until; 0 is for
// ever.
func (m *mirror) follow(ctx context.Context, until int64) error {
	ticker := m.cfg.Clock.NewTicker(lookInterval)
	defer ticker.Stop()
	for looks := 0; ; {
		if err := m.mirrorWatched(ctx); err != nil {
			return err
		}
		if until > 0 && m.batch.answered >= until {
			return nil
		}
		m.report(m.phase())
		select {
		case <-m.spool.news:
			continue
		case <-ticker.C():
		case <-ctx.Done():
			return ctx.Err()
		}
		head, err := m.src.head(ctx)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		m.head = head.Revision
		if m.ours && m.head > m.batch.answered {
			// Revisions without changes are told by nothing else.
			err := m.watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{}})
			if err != nil {
				return err
			}
		}
		if looks++; looks%followLooks == 0 {
			if err := m.followOthers(ctx); err != nil {
				return err
			}
		}
	}
}

func (m *mirror) phase() Phase {
	if m.batch.answered >= m.head {
		return InStep
	}
	return CatchUp
}

// mirrorWatched mirrors everything that was watched so far.
func (m *mirror) mirrorWatched(ctx context.Context) error {
	for {
		r, came, err := m.spool.take()
		if err != nil {
			return err
		}
		if r == nil {
			return m.batch.drain(ctx)
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision == m.revision {
				m.sub++
			} else {
				m.revision, m.sub = e.Kv.ModRevision, 0
			}
			if err := m.batch.add(ctx, m.revision, m.sub, e.Kv, e.Type == mvccpb.Event_DELETE, came); err != nil {
				return err
			}
		}
		// NB: an etcd's progress may be told before the last events were (etcd 15220); but
		// its revisions have no gaps.
		if at := r.Header.GetRevision(); m.ours && len(r.Events) == 0 && at > max(m.batch.after, m.batch.answered) {
			if err := m.batch.jump(ctx, at); err != nil {
				return err
			}
		}
		m.report(m.phase())
	}
}

// followOthers follows what has no events: leases and compactions.
func (m *mirror) followOthers(ctx context.Context) error {
	st, err := m.dst.migration.Status(ctx, &migrationpb.StatusRequest{})
	if err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	if err := m.isFinished(st); err != nil {
		return err
	}
	compacted, err := m.src.compacted(ctx, m.compacted)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	m.compacted = max(m.compacted, compacted)
	m.tellCompacted()
	if err := m.followLeases(ctx, false); err != nil {
		return err
	}
	return m.batch.drain(ctx)
}

// followLeases grants and revokes what was at the source. With all it also asks for
// the TTL of leases that the destination has: one may have been granted anew.
func (m *mirror) followLeases(ctx context.Context, all bool) error {
	there, err := m.dst.leases(ctx)
	if err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	want, err := m.src.leases(ctx)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	for id := range want {
		if there[id] && !all {
			continue
		}
		ttl, err := m.src.ttl(ctx, id)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if ttl > 0 {
			m.batch.grant(id, ttl)
		}
	}
	for id := range there {
		if !want[id] {
			m.batch.revoke(id)
		}
	}
	return nil
}

func (m *mirror) report(phase Phase) {
	m.cfg.Report(Progress{Phase: phase, Revision: m.batch.answered, Source: m.head, Lag: m.lag})
}
