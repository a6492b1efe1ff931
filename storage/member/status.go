package member

import (
	"context"
)

// Status describes the member.
type Status struct {
	ClusterID, MemberID uint64
	// Leader is the member that leads the core group, 0 if none is known.
	Leader uint64
	Term   uint64
	// Index is the last committed entry's, AppliedIndex the last applied's.
	Index, AppliedIndex uint64
	// DBSize is what the data takes on disk, DBSizeInUse an estimate of what of
	// it is not garbage.
	DBSize, DBSizeInUse int64
	IsLearner           bool
}

// Status describes the member as it is now.
func (m *Member) Status() Status {
	s := m.core.Status()
	state, logs := m.state.Metrics(), m.logs.Metrics()
	// What is not flushed yet will be on disk soon; it counts.
	size := state.DiskSpaceUsage() + state.MemTable.Size
	garbage := state.Table.ObsoleteSize + state.Table.ZombieSize
	return Status{
		ClusterID: m.id.cluster, MemberID: m.id.member,
		Leader: s.Leader, Term: s.Term, Index: s.Commit, AppliedIndex: m.core.AppliedIndex(),
		DBSize: int64(size + logs.DiskSpaceUsage()), DBSizeInUse: int64(size - min(size, garbage)),
	}
}

// Leader returns the member that leads, 0 if none is known.
func (m *Member) Leader() uint64 { return m.core.Status().Leader }

// Term returns raft's term.
func (m *Member) Term() uint64 { return m.core.Status().Term }

// HashResult is a checksum of the store; see mvcc.Store.HashKV.
type HashResult struct {
	Hash uint32
	// Revision is the store's, HashRevision the one that was hashed up to.
	Revision, HashRevision, CompactRevision int64
}

// HashKV returns a checksum of the history up to rev, 0 for the head.
func (m *Member) HashKV(ctx context.Context, rev int64) (HashResult, error) {
	if err := m.started(ctx); err != nil {
		return HashResult{}, err
	}
	hash, hashRev, compacted, err := m.store.HashKV(ctx, rev)
	if err != nil {
		return HashResult{}, err
	}
	if compacted == 0 {
		compacted = -1 // as etcd shows it before the first compaction
	}
	return HashResult{Hash: hash, Revision: m.store.Revision(), HashRevision: hashRev, CompactRevision: compacted}, nil
}

// Hash returns a checksum of all that is kept, and the store's revision.
func (m *Member) Hash(ctx context.Context) (uint32, int64, error) {
	res, err := m.HashKV(ctx, 0)
	return res.Hash, res.Revision, err
}

// Info describes a member of the cluster.
type Info struct {
	ID                   uint64
	Name                 string
	PeerURLs, ClientURLs []string
	IsLearner            bool
}

// Members returns the cluster's members.
func (m *Member) Members() []Info {
	return []Info{{
		ID: m.id.member, Name: m.cfg.Name, PeerURLs: m.cfg.PeerURLs, ClientURLs: m.cfg.ClientURLs,
	}}
}
