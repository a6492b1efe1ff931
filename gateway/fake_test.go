package gateway

import (
	"context"
	"io"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// fakeStore answers what a test tells it to. Functions that are nil answer
// with revision 7 and nothing else.
type fakeStore struct {
	do     func(context.Context, evaluate.Op) (evaluate.Result, error)
	read   func(context.Context, evaluate.Op, bool) (evaluate.Result, error)
	stream func(context.Context, *evaluate.Range, int, func([]*mvccpb.KeyValue) error) (evaluate.Result, error)
	// confirm waits for a quorum; nil has one.
	confirm func(context.Context) error
	leader  atomic.Uint64
	// learner says that this member is one.
	learner atomic.Bool
	// change is asked before the members, or who leads, would change.
	change func(verb string, id uint64, urls ...string) error

	snapshot func(begin func(size int64) io.Writer) error
	// bytes is what all groups have, and each.
	bytes atomic.Int64

	// different are the members that differ.
	different []uint64

	// changed is told of changes of records.
	changed   func(table string)
	recordsMu sync.Mutex // guards the fields below
	tables    map[string]map[string][]byte
	versions  map[string]int
}

var (
	_ Store = (*fakeStore)(nil)
	_ Store = (*member.Member)(nil)
	_       = raftStatus((*member.Member)(nil))
)

const (
	fakeCluster  = 0xc1
	fakeMember   = 0x3e
	fakeRevision = 7
	fakeTerm     = 3
	fakeVoter    = 0x3f
	fakeLearner  = 0x40
	fakeAdded    = 0x4d
)

func newFakeStore() *fakeStore {
	f := &fakeStore{}
	f.leader.Store(fakeMember)
	return f
}

func (f *fakeStore) Do(ctx context.Context, op evaluate.Op) (evaluate.Result, error) {
	if f.do == nil {
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	return f.do(ctx, op)
}

func (f *fakeStore) DoOn(ctx context.Context, op evaluate.Op, b member.Basis) (evaluate.Result, error) {
	if version, _, _ := f.Records(b.Table); version > b.Version {
		return evaluate.Result{}, evaluate.ErrRecordsChanged
	}
	return f.Do(ctx, op)
}

func (f *fakeStore) ReadOn(ctx context.Context, op evaluate.Op, serializable bool, b member.Basis) (evaluate.Result, error) {
	res, err := f.Read(ctx, op, serializable)
	if version, _, _ := f.Records(b.Table); version > b.Version {
		err = evaluate.ErrRecordsChanged
	}
	return res, err
}

func (f *fakeStore) Read(ctx context.Context, op evaluate.Op, serializable bool) (evaluate.Result, error) {
	if f.read == nil {
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	return f.read(ctx, op, serializable)
}

func (f *fakeStore) RangeStream(
	ctx context.Context, r *evaluate.Range, _ bool, maxBytes int, emit func([]*mvccpb.KeyValue) error,
) (evaluate.Result, error) {
	if f.stream == nil {
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	return f.stream(ctx, r, maxBytes, emit)
}

func (f *fakeStore) ReadIndex(ctx context.Context) (int64, error) {
	if f.confirm != nil {
		return fakeRevision, f.confirm(ctx)
	}
	return fakeRevision, nil
}

func (f *fakeStore) Revision() int64  { return fakeRevision }
func (f *fakeStore) Closed() int64    { return fakeRevision }
func (f *fakeStore) Compacted() int64 { return 0 }

func (f *fakeStore) Changes(context.Context, []byte, []byte, int64, int64, func(*mvccpb.Event) error) error {
	return nil
}

func (f *fakeStore) Previous([]byte, int64) (*mvccpb.KeyValue, error) { return nil, nil }

func (f *fakeStore) LeaseRenew(_ context.Context, id int64) (int64, error) {
	if id != 1 {
		return 0, lease.ErrNotFound
	}
	return 60, nil
}

func (f *fakeStore) LeaseTimeToLive(_ context.Context, id int64, keys bool) (member.LeaseInfo, error) {
	if id != 1 {
		return member.LeaseInfo{}, lease.ErrNotFound
	}
	info := member.LeaseInfo{ID: id, GrantedTTL: 60, TTL: 42}
	if keys {
		info.Keys = [][]byte{[]byte("k")}
	}
	return info, nil
}

func (f *fakeStore) LeaseKeys(id int64) ([][]byte, error) {
	if id != 1 {
		return nil, nil
	}
	return [][]byte{[]byte("k")}, nil
}

func (f *fakeStore) Leases(context.Context) ([]int64, error) { return []int64{1}, nil }

func (f *fakeStore) Status() member.Status {
	return member.Status{
		ClusterID: fakeCluster, MemberID: fakeMember, Leader: f.Leader(), Term: fakeTerm,
		Index: 11, AppliedIndex: 10, DBSize: 2000, IsLearner: f.IsLearner(),
	}
}

func (f *fakeStore) Leader() uint64  { return f.leader.Load() }
func (f *fakeStore) Term() uint64    { return fakeTerm }
func (f *fakeStore) IsLearner() bool { return f.learner.Load() }

func (f *fakeStore) changeMembers(verb string, id uint64, urls ...string) ([]member.Info, error) {
	if f.change != nil {
		if err := f.change(verb, id, urls...); err != nil {
			return nil, err
		}
	}
	return f.Members(), nil
}

func (f *fakeStore) MemberAdd(_ context.Context, urls []string, learner bool) (member.Info, []member.Info, error) {
	verb := "add"
	if learner {
		verb = "add learner"
	}
	members, err := f.changeMembers(verb, 0, urls...)
	added := member.Info{ID: fakeAdded, PeerURLs: urls, IsLearner: learner}
	return added, append(members, added), err
}

func (f *fakeStore) MemberRemove(_ context.Context, id uint64) ([]member.Info, error) {
	return f.changeMembers("remove", id)
}

func (f *fakeStore) MemberUpdate(_ context.Context, id uint64, urls []string) ([]member.Info, error) {
	return f.changeMembers("update", id, urls...)
}

func (f *fakeStore) MemberPromote(_ context.Context, id uint64) ([]member.Info, error) {
	return f.changeMembers("promote", id)
}

func (f *fakeStore) MoveLeader(_ context.Context, to uint64) error {
	_, err := f.changeMembers("move leader", to)
	return err
}

func (f *fakeStore) HashKV(_ context.Context, rev int64) (member.HashResult, error) {
	return member.HashResult{Hash: 5, Revision: fakeRevision, HashRevision: rev, CompactRevision: -1}, nil
}

func (f *fakeStore) Hash(context.Context) (uint32, int64, error) { return 5, fakeRevision, nil }

// Members returns this member, another voter and a learner.
func (f *fakeStore) Members() []member.Info {
	return []member.Info{
		{ID: fakeMember, Name: "m", PeerURLs: []string{"http://p:2380"}, ClientURLs: []string{"http://c:2379"}},
		{ID: fakeVoter, Name: "v", PeerURLs: []string{"http://q:2380"}, ClientURLs: []string{"http://d:2379"}},
		{ID: fakeLearner, PeerURLs: []string{"http://r:2380"}, IsLearner: true},
	}
}

func (f *fakeStore) Snapshot(_ context.Context, _, _ string, begin func(size int64) io.Writer) error {
	return f.snapshot(begin)
}

func (f *fakeStore) Checkpoint(context.Context) (*member.Checkpoint, error) {
	return nil, member.ErrTooManyBackups
}

func (f *fakeStore) Bytes() int64 { return f.bytes.Load() }

func (f *fakeStore) GroupBytes(mvcc.GroupID) int64 { return f.bytes.Load() }

func (f *fakeStore) Compare(context.Context) (member.Comparison, error) {
	return member.Comparison{Revision: fakeRevision, Different: f.different}, nil
}

func (f *fakeStore) Records(table string) (int64, map[string][]byte, error) {
	f.recordsMu.Lock()
	defer f.recordsMu.Unlock()
	return int64(f.versions[table]), maps.Clone(f.tables[table]), nil
}

func (f *fakeStore) RecordsNow(_ context.Context, table string) (int64, map[string][]byte, error) {
	return f.Records(table)
}

func (f *fakeStore) WriteRecords(_ context.Context, table string, version int64, writes []mvcc.RecordWrite) (int64, error) {
	f.recordsMu.Lock()
	defer f.recordsMu.Unlock()
	if int64(f.versions[table]) != version {
		return 0, evaluate.ErrRecordsChanged
	}
	if f.tables == nil {
		f.tables, f.versions = map[string]map[string][]byte{}, map[string]int{}
	}
	if f.tables[table] == nil {
		f.tables[table] = map[string][]byte{}
	}
	for _, w := range writes {
		if w.Value == nil {
			delete(f.tables[table], w.Key)
		} else {
			f.tables[table][w.Key] = w.Value
		}
	}
	f.versions[table]++
	if f.changed != nil {
		// Whoever is told reads the table.
		f.recordsMu.Unlock()
		f.changed(table)
		f.recordsMu.Lock()
	}
	return version + 1, nil
}

func (f *fakeStore) MembersNow(context.Context) ([]member.Info, error) { return f.Members(), nil }

func (f *fakeStore) CompactWait(context.Context, int64) error { return nil }

// serve runs a server of store on a loopback port for as long as the test.
func serve(t *testing.T, cfg Config, store Store) (s *Server, addr string) {
	t.Helper()
	s = New(cfg, store)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		require.NoError(t, <-served)
	})
	return s, l.Addr().String()
}

// dial connects to addr, in plain text unless told otherwise.
func dial(t *testing.T, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	if len(opts) == 0 {
		opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	cc, err := grpc.NewClient(addr, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// within is a context that ends before the test's patience.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// tapWith lets a call of a client of that version come by.
func tapWith(s *Server, version string) error {
	_, err := s.tap(context.Background(), &tap.Info{
		FullMethodName: pb.KV_Put_FullMethodName,
		Header:         metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, version),
	})
	return err
}
