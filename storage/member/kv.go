package member

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Do runs one request that may change something, and returns when its effects
// are committed and applied here. An error of package mvcc, evaluate or lease
// says that it changed nothing; after another the outcome is not known.
func (m *Member) Do(ctx context.Context, op evaluate.Op) (evaluate.Result, error) {
	return m.core.Do(ctx, op, evaluate.Size(op))
}

// Read answers an *evaluate.Range, or an *evaluate.Txn that can change nothing,
// from one revision. Unless serializable is set, that revision holds everything
// that was acknowledged before the call.
func (m *Member) Read(ctx context.Context, op evaluate.Op, serializable bool) (evaluate.Result, error) {
	return m.atHead(ctx, serializable, func(head int64) (evaluate.Result, error) {
		return m.readAt(ctx, op, head)
	})
}

// atHead calls read with the revision to read at. A compaction may overtake a
// read between the choice of the revision and the view of the store; then there
// is a newer revision to read at.
func (m *Member) atHead(
	ctx context.Context, serializable bool, read func(head int64) (evaluate.Result, error),
) (evaluate.Result, error) {
	for {
		head, err := m.readRevision(ctx, serializable)
		if err != nil {
			return evaluate.Result{}, err
		}
		res, err := read(head)
		if !errors.Is(err, mvcc.ErrCompacted) || m.Compacted() <= head {
			return res, err
		}
	}
}

func (m *Member) readAt(ctx context.Context, op evaluate.Op, head int64) (evaluate.Result, error) {
	switch op := op.(type) {
	case *evaluate.Range:
		return evaluate.Read(ctx, m.store, head, op)
	case *evaluate.Txn:
		return evaluate.ReadTxn(ctx, m.store, head, op)
	}
	panic("member: Read of a request that is no read")
}

// RangeStream answers r in ascending order of keys and in chunks of about
// maxBytes, for each of which it calls emit; an error of emit ends it. The
// Result has Revision, More and Count and no KVs. It holds one chunk at a time.
func (m *Member) RangeStream(
	ctx context.Context, r *evaluate.Range, serializable bool, maxBytes int,
	emit func([]*mvccpb.KeyValue) error,
) (evaluate.Result, error) {
	return m.atHead(ctx, serializable, func(head int64) (evaluate.Result, error) {
		// ErrCompacted comes before the first chunk or not at all.
		return evaluate.Stream(ctx, m.store, head, r, maxBytes, emit)
	})
}

func (m *Member) readRevision(ctx context.Context, serializable bool) (int64, error) {
	if serializable {
		if err := m.started(ctx); err != nil {
			return 0, err
		}
		return m.store.Revision(), nil
	}
	return m.ReadIndex(ctx)
}

// started waits until the member has replayed its log.
func (m *Member) started(ctx context.Context) error {
	select {
	case <-m.core.Ready():
		return nil
	default:
	}
	select {
	case <-m.core.Ready():
		return nil
	case <-m.stopCtx.Done():
		return group.ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ReadIndex returns when everything that was acknowledged before the call is
// applied here, and the revision of the state then.
func (m *Member) ReadIndex(ctx context.Context) (int64, error) {
	if m.core.Sole() {
		return m.store.Revision(), nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.requestTimeout(), group.ErrTimeout)
	defer cancel()
	if err := m.core.ReadIndex(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return 0, err
	}
	return m.store.Revision(), nil
}

// requestTimeout is etcd's: five seconds, and twice the election timeout so that
// a request survives a change of the leader.
func (m *Member) requestTimeout() time.Duration {
	return 5*time.Second + 2*time.Duration(m.cfg.ElectionTicks)*m.cfg.TickInterval
}

// Revision returns the greatest revision that may be shown.
func (m *Member) Revision() int64 { return m.store.Revision() }

// Compacted returns the compacted revision, 0 if there never was a compaction.
func (m *Member) Compacted() int64 { return m.store.Compacted() }

// Changes calls fn for every change of a key of the span (key, end) with a main
// revision from from to to, both included, in revision order and without
// PrevKv. It returns mvcc.ErrCompacted, before the first call, if from is below
// the compacted revision, and what fn returned if that ended it.
func (m *Member) Changes(
	ctx context.Context, key, end []byte, from, to int64, fn func(*mvccpb.Event) error,
) error {
	return m.store.Changes(ctx, mvcc.SpanOf(key, end), from, to, fn)
}

// Previous returns key as it was just before main revision rev, nil if it was
// not there, or mvcc.ErrCompacted.
func (m *Member) Previous(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	return m.store.Get(key, rev-1)
}
