package member

import (
	"context"
	"slices"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Status describes the member.
type Status struct {
	ClusterID, MemberID uint64
	// Leader is the member that leads the core group, 0 if none is known.
	Leader uint64
	Term   uint64
	// Index is the last committed entry's, AppliedIndex the last applied's.
	Index, AppliedIndex uint64
	// DBSize is what a quota counts, Bytes, and a little for an empty store: there is
	// nothing that is not in use. What it takes on disk is less, compressed, and more
	// until Pebble has compacted it.
	DBSize    int64
	IsLearner bool
}

// Status describes the member as it is now.
func (m *Member) Status() Status {
	s := m.core.Status()
	r := m.core.Replicas()
	return Status{
		ClusterID: m.id.ClusterID, MemberID: m.id.MemberID,
		Leader: s.Leader, Term: s.Term, Index: s.Commit, AppliedIndex: m.core.AppliedIndex(),
		IsLearner: slices.Contains(r.Learners, m.id.MemberID),
		DBSize:    emptyBytes + m.Bytes(),
	}
}

// emptyBytes is the size of an etcd that holds nothing; who divides by it must not
// find 0.
const emptyBytes = 20 << 10

// Leader returns the member that leads, 0 if none is known.
func (m *Member) Leader() uint64 { return m.core.Status().Leader }

// Term returns raft's term.
func (m *Member) Term() uint64 { return m.core.Status().Term }

// IsLearner says whether the member is a learner.
func (m *Member) IsLearner() bool { return m.core.Learns() }

// HashResult is a checksum of the store; see mvcc.Store.HashKV.
type HashResult struct {
	Hash uint32
	// Revision is the store's, HashRevision the one that was hashed up to.
	Revision, HashRevision, CompactRevision int64
}

// HashKV returns a checksum of the history up to rev, 0 for the head. It is of
// what this member has, as in etcd.
func (m *Member) HashKV(ctx context.Context, rev int64) (HashResult, error) {
	began := m.cfg.Clock.Now()
	res, err := m.hashAt(ctx, rev)
	m.metrics.hashRev.Observe(m.cfg.Clock.Since(began).Seconds())
	return res, err
}

func (m *Member) hashAt(ctx context.Context, rev int64) (HashResult, error) {
	if err := m.started(ctx); err != nil {
		return HashResult{}, err
	}
	present := m.line.Present()
	switch {
	case rev > present:
		return HashResult{}, mvcc.ErrFutureRevision
	case rev <= 0:
		rev = present
	}
	// The wait is bounded; reading all keys takes as long as it takes.
	wait, cancel := m.bounded(ctx)
	defer cancel()
	if err := m.line.WaitClosed(wait, rev); err != nil {
		return HashResult{}, m.cause(wait)
	}
	hash, compacted, err := m.space.HashKV(ctx, rev)
	if err != nil {
		return HashResult{}, err
	}
	if compacted == 0 {
		compacted = -1 // as etcd shows it before the first compaction
	}
	return HashResult{Hash: hash, Revision: m.line.Present(), HashRevision: rev, CompactRevision: compacted}, nil
}

// Hash returns a checksum of all that is kept, and the store's revision.
func (m *Member) Hash(ctx context.Context) (uint32, int64, error) {
	began := m.cfg.Clock.Now()
	res, err := m.hashAt(ctx, 0)
	m.metrics.hash.Observe(m.cfg.Clock.Since(began).Seconds())
	return res.Hash, res.Revision, err
}

// Bytes returns what all versions of keys take here that no compaction has freed,
// before compression.
func (m *Member) Bytes() (n int64) {
	for _, p := range m.parts {
		n += p.store.Bytes()
	}
	return n
}

// GroupBytes is Bytes of one group.
func (m *Member) GroupBytes(group mvcc.GroupID) int64 {
	return m.parts[group-mvcc.CoreGroup].store.Bytes()
}
