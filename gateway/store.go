package gateway

import (
	"context"
	"io"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Store is what the gateway asks of the storage: the part of *member.Member
// that it uses. All methods may be called concurrently.
type Store interface {
	// Do runs a request that may change something and returns when its effects
	// are committed and applied here.
	Do(ctx context.Context, op evaluate.Op) (evaluate.Result, error)
	// DoOn and ReadOn are Do and Read of a request that rests on a table of records:
	// evaluate.ErrRecordsChanged says that there is a newer version, and that nothing
	// was done.
	DoOn(ctx context.Context, op evaluate.Op, b member.Basis) (evaluate.Result, error)
	ReadOn(ctx context.Context, op evaluate.Op, serializable bool, b member.Basis) (evaluate.Result, error)
	// Read answers a *evaluate.Range, or a *evaluate.Txn that can change
	// nothing. The wait for a linearizable read's confirmation is bounded by
	// the store, with group.ErrTimeout, if ctx has no earlier deadline.
	Read(ctx context.Context, op evaluate.Op, serializable bool) (evaluate.Result, error)
	// RangeStream calls emit with the chunks of a range, in key order; what
	// emit was given belongs to it. The Result closes the stream: it has
	// Revision, More and Count and no KVs.
	RangeStream(ctx context.Context, r *evaluate.Range, serializable bool, maxBytes int,
		emit func([]*mvccpb.KeyValue) error) (evaluate.Result, error)
	// ReadIndex waits until everything that was acknowledged before the call
	// has been applied here.
	ReadIndex(ctx context.Context) (revision int64, err error)

	// Revision is the greatest revision that may be shown; Closed is the greatest
	// up to which every change can be read here; Compacted is the compacted one, 0
	// if there never was a compaction.
	Revision() int64
	Closed() int64
	Compacted() int64
	// Changes calls fn with every change of [key, end) from revision from to
	// revision to, both included, in order. to must be closed.
	Changes(ctx context.Context, key, end []byte, from, to int64, fn func(*mvccpb.Event) error) error
	// Previous returns a key as it was just before revision rev, or nil.
	Previous(key []byte, rev int64) (*mvccpb.KeyValue, error)

	LeaseRenew(ctx context.Context, id int64) (ttl int64, err error)
	LeaseTimeToLive(ctx context.Context, id int64, keys bool) (member.LeaseInfo, error)
	Leases(ctx context.Context) ([]int64, error)
	// LeaseKeys are the keys that are attached to a lease here.
	LeaseKeys(id int64) ([][]byte, error)

	Status() member.Status
	HashKV(ctx context.Context, rev int64) (member.HashResult, error)
	Hash(ctx context.Context) (hash uint32, revision int64, err error)
	// Members are the members as far as this one knows; MembersNow has every change
	// that was acknowledged before the call.
	Members() []member.Info
	MembersNow(ctx context.Context) ([]member.Info, error)
	// The changes of the members return those that there are after it.
	MemberAdd(ctx context.Context, peerURLs []string, learner bool) (added member.Info, members []member.Info, err error)
	MemberRemove(ctx context.Context, id uint64) ([]member.Info, error)
	MemberUpdate(ctx context.Context, id uint64, peerURLs []string) ([]member.Info, error)
	MemberPromote(ctx context.Context, id uint64) ([]member.Info, error)
	// Records are a table of the cluster's records and its version, as applied here;
	// RecordsNow has everything that was acknowledged before the call. WriteRecords
	// changes a table if its version is still that one (evaluate.ErrRecordsChanged).
	Records(table string) (version int64, rows map[string][]byte, err error)
	RecordsNow(ctx context.Context, table string) (version int64, rows map[string][]byte, err error)
	WriteRecords(ctx context.Context, table string, version int64, writes []mvcc.RecordWrite) (now int64, err error)
	// Bytes are what all versions of keys take that no compaction has freed,
	// GroupBytes those of one group.
	Bytes() int64
	GroupBytes(group mvcc.GroupID) int64
	// Snapshot writes a backup in etcd's file format to what begin returns, which is
	// told its length first. It has everything that was acknowledged before the call,
	// if anybody can confirm that. The versions are noted in the file.
	Snapshot(ctx context.Context, storageVersion, clusterVersion string, begin func(size int64) io.Writer) error
	// Checkpoint fixes the state in files, for a backup, with what Snapshot would have.
	Checkpoint(ctx context.Context) (*member.Checkpoint, error)
	// Compare compares what the members have.
	Compare(ctx context.Context) (member.Comparison, error)
	// MoveLeader hands this member's lead to another voter.
	MoveLeader(ctx context.Context, to uint64) error
	// CompactWait returns when what a compaction at rev freed has been deleted.
	CompactWait(ctx context.Context, rev int64) error
}

// raftStatus is what every answer shows of raft. A Store should have it, made
// of atomic loads: without it each answer asks for the whole Status.
type raftStatus interface {
	Leader() uint64
	Term() uint64
	IsLearner() bool
}

// statusOnly gives a Store without a raftStatus one.
type statusOnly struct{ Store }

func (s statusOnly) Leader() uint64  { return s.Status().Leader }
func (s statusOnly) Term() uint64    { return s.Status().Term }
func (s statusOnly) IsLearner() bool { return s.Status().IsLearner }

func raftStatusOf(store Store) raftStatus {
	if r, ok := store.(raftStatus); ok {
		return r
	}
	return statusOnly{store}
}
