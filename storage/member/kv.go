package member

import (
	"context"
	"errors"
	"math/bits"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/pkg/tracing"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/evaluate/wire"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// Do runs one request that may change something, and returns when its effects
// are committed, and applied here. An error of package mvcc, evaluate or lease
// says that it changed nothing; after another the outcome is not known.
func (m *Member) Do(ctx context.Context, op evaluate.Op) (res evaluate.Result, err error) {
	defer func() {
		if err == nil {
			m.metrics.answered(op, &res)
		}
	}()
	if m.reigning.Load() {
		res, err = m.doHere(ctx, op)
		if !errors.Is(err, group.ErrNotSequencer) {
			return res, err
		}
	}
	err = m.asSequencer(ctx, func(ctx context.Context) error {
		if m.reigning.Load() {
			res, err = m.doHere(ctx, op)
		} else {
			res, err = m.doThere(ctx, op)
		}
		return err
	})
	return res, err
}

// doHere is Do at the sequencer.
func (m *Member) doHere(ctx context.Context, op evaluate.Op) (evaluate.Result, error) {
	size := evaluate.Size(op)
	mask := m.needs(op)
	if bits.OnesCount64(uint64(mask)) == 1 {
		g := m.parts[bits.TrailingZeros64(uint64(mask))]
		res, err := g.Do(ctx, op, size)
		if !errors.Is(err, evaluate.ErrCrossing) {
			if c, ok := op.(*evaluate.Compact); ok && err == nil {
				// It is done once nobody can read below it.
				err = m.line.WaitClosed(ctx, c.Revision)
				m.compact()
			}
			return res, err
		}
	}
	return m.reign.Do(ctx, op, size)
}

// doThere has the sequencer do it, and waits until this member shows it.
func (m *Member) doThere(ctx context.Context, op evaluate.Op) (evaluate.Result, error) {
	return m.haveDone(ctx, op, methodDo, wire.AppendOp(nil, op))
}

// haveDone is doThere by one of the methods that do a request, with its payload.
func (m *Member) haveDone(ctx context.Context, op evaluate.Op, method byte, payload []byte) (evaluate.Result, error) {
	trace := m.trace(ctx)
	trace.Mark(tracing.Forwarded)
	reply, err := m.call(ctx, method, payload)
	trace.Mark(tracing.Returned)
	if err != nil {
		return evaluate.Result{}, err
	}
	res, err := wire.DecodeResult(reply)
	if err != nil {
		return evaluate.Result{}, err
	}
	m.line.Saw(res.Revision)
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	if err := m.line.WaitClosed(ctx, res.Revision); err != nil {
		return evaluate.Result{}, m.cause(ctx)
	}
	trace.Mark(tracing.Ready)
	mirror, _ := op.(*evaluate.Mirror)
	if _, ok := op.(*evaluate.Compact); ok || mirror != nil && mirror.Compact > 0 {
		_, err = m.confirmed(ctx, 0) // which waits for what is compacted
	}
	return res, err
}

// Read answers an *evaluate.Range, or an *evaluate.Txn that can change nothing,
// from one revision. Unless serializable is set, that revision holds everything
// that was acknowledged before the call.
func (m *Member) Read(ctx context.Context, op evaluate.Op, serializable bool) (evaluate.Result, error) {
	res, err := m.atHead(ctx, m.needs(op), serializable, func(head int64) (evaluate.Result, error) {
		return m.readAt(ctx, op, head)
	})
	if err == nil {
		m.metrics.answered(op, &res)
	}
	return res, err
}

// trace returns what to mark the steps of a request on, nil if it is not traced.
func (m *Member) trace(ctx context.Context) *tracing.Request {
	if !m.cfg.Traced {
		return nil
	}
	return tracing.From(ctx)
}

// atHead calls read with the revision to read at. A compaction may overtake a read
// after the choice of the revision: what was there at it may be gone, and a
// transaction may have taken its branch before the compaction that refuses what is in
// the branch. Then it begins again, at a newer revision.
func (m *Member) atHead(
	ctx context.Context, mask revline.Mask, serializable bool, read func(head int64) (evaluate.Result, error),
) (evaluate.Result, error) {
	m.metrics.reading.Add(1)
	defer m.metrics.reading.Add(-1)
	trace := m.trace(ctx)
	for {
		compacted := m.Compacted()
		trace.Mark(tracing.Asked)
		head, err := m.readRevision(ctx, mask, serializable)
		if err != nil {
			return evaluate.Result{}, err
		}
		trace.Mark(tracing.Ready)
		trace.Mark(tracing.Reading)
		res, err := read(head)
		trace.Mark(tracing.Read)
		if !errors.Is(err, mvcc.ErrCompacted) || compacted <= head && m.Compacted() == compacted {
			return res, err
		}
	}
}

func (m *Member) readAt(ctx context.Context, op evaluate.Op, head int64) (evaluate.Result, error) {
	switch op := op.(type) {
	case *evaluate.Range:
		return evaluate.Read(ctx, m.reader, head, op)
	case *evaluate.Txn:
		return evaluate.ReadTxn(ctx, m.reader, head, op)
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
	m.metrics.ranges.Add(1)
	return m.atHead(ctx, m.needs(r), serializable, func(head int64) (evaluate.Result, error) {
		// ErrCompacted comes before the first chunk or not at all.
		return evaluate.Stream(ctx, m.reader, head, r, maxBytes, emit)
	})
}

// readRevision returns the revision that a read of the groups of mask is served
// at, once everything up to it is here.
func (m *Member) readRevision(ctx context.Context, mask revline.Mask, serializable bool) (int64, error) {
	// The sequencer's own reads, where nobody could have ended its reign.
	if m.reigning.Load() && (serializable || m.core.Sole()) {
		if rev := m.line.Present(); m.line.IsSettled(mask, rev) {
			return rev, nil
		}
	}
	if serializable && !m.reigning.Load() {
		return m.closedRevision(ctx)
	}
	return m.confirmed(ctx, mask)
}

// closedRevision returns the revision of a serializable read at a member that
// does not reign. It does not go back behind what the member has shown, unless
// nothing is heard of the sequencer.
func (m *Member) closedRevision(ctx context.Context) (int64, error) {
	if err := m.started(ctx); err != nil {
		return 0, err
	}
	if shown := m.line.Present(); m.line.Closed() < shown {
		wait, cancel := context.WithTimeout(ctx, m.cfg.electionTimeout())
		defer cancel()
		if err := m.line.WaitClosed(wait, shown); err != nil && ctx.Err() != nil {
			return 0, err
		}
	}
	// Below the compacted revision nothing can be read: wait as long as it takes.
	if err := m.line.WaitClosed(ctx, m.space.Compacted()); err != nil {
		return 0, err
	}
	return m.line.Closed(), nil
}

// confirmed returns a revision that holds everything that was acknowledged
// before the call, once it is here in the groups of mask.
func (m *Member) confirmed(ctx context.Context, mask revline.Mask) (int64, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	var p revline.Point
	err := m.asSequencer(ctx, func(ctx context.Context) (err error) {
		p, err = m.point(ctx, mask)
		return err
	})
	m.trace(ctx).Mark(tracing.Pointed)
	if err == nil {
		m.line.Saw(p.Revision)
		if p.Compacted > m.space.Compacted() {
			mask |= 1
			err = m.line.WaitClosed(ctx, p.Compacted)
		}
		if err == nil {
			err = m.line.WaitPoint(ctx, mask, p)
		}
		m.compact()
	}
	if err != nil && ctx.Err() != nil {
		err = m.cause(ctx)
	}
	m.metrics.confirmation(err)
	return p.Revision, err
}

// started waits until the member knows what is closed.
func (m *Member) started(ctx context.Context) error {
	select {
	case <-m.ready:
		return nil
	default:
	}
	select {
	case <-m.ready:
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
	return m.readRevision(ctx, 1<<len(m.parts)-1, false)
}

// Revision returns the greatest revision that may be shown.
func (m *Member) Revision() int64 { return m.line.Present() }

// Closed returns the greatest revision up to which everything is applied here.
func (m *Member) Closed() int64 { return m.line.Closed() }

// Compacted returns the compacted revision, 0 if there never was a compaction.
func (m *Member) Compacted() int64 { return m.space.Compacted() }

// Changes calls fn for every change of a key of the span (key, end) with a main
// revision from from to to, both included, in revision order and without
// PrevKv. It returns mvcc.ErrCompacted, before the first call, if from is below
// the compacted revision, and what fn returned if that ended it.
// REQUIRES: to is closed.
func (m *Member) Changes(
	ctx context.Context, key, end []byte, from, to int64, fn func(*mvccpb.Event) error,
) error {
	return m.space.Changes(ctx, mvcc.SpanOf(key, end), from, to, fn)
}

// Previous returns key as it was just before main revision rev, nil if it was
// not there, or mvcc.ErrCompacted.
func (m *Member) Previous(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	return m.space.Get(key, rev-1)
}
