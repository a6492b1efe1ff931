package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// requireRPC holds that err is want, as a client sees it.
func requireRPC(t *testing.T, want, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, status.Convert(want).Code(), status.Code(err), "%v", err)
	require.Equal(t, status.Convert(want).Message(), status.Convert(err).Message())
}

func requireHeader(t *testing.T, h *pb.ResponseHeader) {
	t.Helper()
	want := &pb.ResponseHeader{ClusterId: fakeCluster, MemberId: fakeMember, Revision: fakeRevision, RaftTerm: fakeTerm}
	require.Equal(t, want.String(), h.String())
}

func TestVerbs(t *testing.T) {
	store := newFakeStore()
	_, addr := serve(t, Config{}, store)
	cc, ctx := dial(t, addr), within(t)
	kv, key := pb.NewKVClient(cc), []byte("k")

	var asked evaluate.Op
	store.do = func(_ context.Context, op evaluate.Op) (evaluate.Result, error) {
		asked = op
		return evaluate.Result{
			Revision: fakeRevision, PrevKVs: []*mvccpb.KeyValue{{Key: key}}, Deleted: 1,
			Succeeded: true, Responses: []evaluate.Result{{Revision: fakeRevision}}[:len(responsesOf(op))],
		}, nil
	}
	put, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: []byte("v")})
	require.NoError(t, err)
	requireHeader(t, put.Header)
	require.Equal(t, key, put.PrevKv.Key)
	require.Equal(t, &evaluate.Put{Key: key, Value: []byte("v")}, asked)

	del, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, RangeEnd: []byte("z"), PrevKv: true})
	require.NoError(t, err)
	requireHeader(t, del.Header)
	require.EqualValues(t, 1, del.Deleted)
	require.Equal(t, &evaluate.DeleteRange{Key: key, End: []byte("z"), PrevKV: true}, asked)

	txn, err := kv.Txn(ctx, &pb.TxnRequest{Success: ops{opPut("k")}})
	require.NoError(t, err)
	requireHeader(t, txn.Header)
	require.True(t, txn.Succeeded)
	require.EqualValues(t, fakeRevision, txn.Responses[0].GetResponsePut().Header.Revision)

	compact, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 5, Physical: true})
	require.NoError(t, err)
	requireHeader(t, compact.Header)
	require.Equal(t, &evaluate.Compact{Revision: 5}, asked)

	var serializable bool
	store.read = func(_ context.Context, op evaluate.Op, s bool) (evaluate.Result, error) {
		asked, serializable = op, s
		return evaluate.Result{Revision: fakeRevision, KVs: []*mvccpb.KeyValue{{Key: key}}, More: true, Count: 9}, nil
	}
	rng, err := kv.Range(ctx, &pb.RangeRequest{Key: key, Serializable: true})
	require.NoError(t, err)
	requireHeader(t, rng.Header)
	require.Equal(t, &evaluate.Range{Key: key}, asked)
	require.True(t, serializable)
	require.True(t, rng.More)
	require.EqualValues(t, 9, rng.Count)
	require.Len(t, rng.Kvs, 1)

	txn, err = kv.Txn(ctx, &pb.TxnRequest{})
	require.NoError(t, err)
	requireHeader(t, txn.Header)
	require.False(t, serializable, "a transaction that only compares is linearizable")
	require.IsType(t, &evaluate.Txn{}, asked)

	store.do = func(context.Context, evaluate.Op) (evaluate.Result, error) {
		return evaluate.Result{}, fmt.Errorf("compact: %w", mvcc.ErrCompacted)
	}
	_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: 5})
	requireRPC(t, rpctypes.ErrGRPCCompacted, err)
	_, err = kv.Txn(ctx, &pb.TxnRequest{Success: ops{opPut("k"), opPut("k")}})
	requireRPC(t, rpctypes.ErrGRPCDuplicateKey, err)
}

func responsesOf(op evaluate.Op) []evaluate.Op {
	if txn, ok := op.(*evaluate.Txn); ok {
		return txn.Success
	}
	return nil
}

func TestRequestTooLarge(t *testing.T) {
	_, addr := serve(t, Config{MaxRequestBytes: 1000}, newFakeStore())
	kv, ctx := pb.NewKVClient(dial(t, addr)), within(t)
	key := []byte("k")
	_, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: make([]byte, 900)})
	require.NoError(t, err)
	_, err = kv.Put(ctx, &pb.PutRequest{Key: key, Value: make([]byte, 1000)})
	requireRPC(t, rpctypes.ErrGRPCRequestTooLarge, err)
	_, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: make([]byte, 1000)})
	requireRPC(t, rpctypes.ErrGRPCRequestTooLarge, err)
	_, err = kv.Txn(ctx, &pb.TxnRequest{Success: ops{opDel(string(make([]byte, 1000)), "")}})
	requireRPC(t, rpctypes.ErrGRPCRequestTooLarge, err)
	_, err = kv.Range(ctx, &pb.RangeRequest{Key: make([]byte, 1000)})
	require.NoError(t, err, "the limit is the log's")
	_, err = kv.Put(ctx, &pb.PutRequest{Key: key, Value: make([]byte, 600<<10)})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "gRPC does not read it")
}

func TestRangeStream(t *testing.T) {
	store := newFakeStore()
	_, addr := serve(t, Config{StreamChunkBytes: 77}, store)
	kv, ctx := pb.NewKVClient(dial(t, addr)), within(t)
	keys := func(names ...string) (kvs []*mvccpb.KeyValue) {
		for _, n := range names {
			kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(n)})
		}
		return kvs
	}
	receive := func(r *pb.RangeRequest) (chunks []*pb.RangeResponse, err error) {
		stream, err := kv.RangeStream(ctx, r)
		require.NoError(t, err)
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return chunks, nil
			}
			if err != nil {
				return chunks, err
			}
			chunks = append(chunks, m.RangeResponse)
		}
	}
	req := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), SortTarget: pb.RangeRequest_VALUE}

	chunks, err := receive(req)
	require.NoError(t, err)
	require.Len(t, chunks, 1, "nothing found is one chunk too")
	requireHeader(t, chunks[0].Header)

	store.stream = func(_ context.Context, r *evaluate.Range, max int, emit func([]*mvccpb.KeyValue) error) (evaluate.Result, error) {
		require.Equal(t, 77, max)
		require.Equal(t, evaluate.SortByKey, r.SortTarget)
		for _, c := range [][]*mvccpb.KeyValue{keys("a", "b"), keys("c"), keys("d")} {
			if err := emit(c); err != nil {
				return evaluate.Result{}, err
			}
		}
		return evaluate.Result{Revision: fakeRevision, More: true, Count: 5}, nil
	}
	chunks, err = receive(req)
	require.NoError(t, err)
	require.Len(t, chunks, 3)
	for i, want := range []int{2, 1, 1} {
		require.Len(t, chunks[i].Kvs, want)
		if i < 2 {
			require.Nil(t, chunks[i].Header)
			require.False(t, chunks[i].More)
			require.Zero(t, chunks[i].Count)
		}
	}
	requireHeader(t, chunks[2].Header)
	require.True(t, chunks[2].More)
	require.EqualValues(t, 5, chunks[2].Count)

	store.stream = func(_ context.Context, _ *evaluate.Range, _ int, emit func([]*mvccpb.KeyValue) error) (evaluate.Result, error) {
		_, _ = emit(keys("a")), emit(keys("b"))
		return evaluate.Result{}, mvcc.ErrCompacted
	}
	chunks, err = receive(req)
	requireRPC(t, rpctypes.ErrGRPCCompacted, err)
	require.Len(t, chunks, 1)

	_, err = receive(&pb.RangeRequest{Key: []byte("a"), SortOrder: pb.RangeRequest_DESCEND})
	requireRPC(t, errStreamSorted, err)
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestPanicBarrier(t *testing.T) {
	store := newFakeStore()
	store.do = func(_ context.Context, op evaluate.Op) (evaluate.Result, error) { panic("evaluation failed") }
	store.stream = func(context.Context, *evaluate.Range, int, func([]*mvccpb.KeyValue) error) (evaluate.Result, error) {
		panic("streaming failed")
	}
	logged := &lockedBuffer{}
	_, addr := serve(t, Config{Logger: slog.New(slog.NewTextHandler(logged, nil))}, store)
	kv, ctx := pb.NewKVClient(dial(t, addr)), within(t)
	for range 2 {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("secret")})
		requireRPC(t, errInternal, err)
		stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("k")})
		require.NoError(t, err)
		_, err = stream.Recv()
		requireRPC(t, errInternal, err)
	}
	_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	require.NoError(t, err)
	require.Contains(t, logged.String(), "evaluation failed")
	require.Contains(t, logged.String(), "fake_test.go", "a stack")
	require.NotContains(t, logged.String(), "secret")
}

func TestWritesAreBounded(t *testing.T) {
	store := newFakeStore()
	store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
		<-ctx.Done()
		return evaluate.Result{}, ctx.Err()
	}
	_, addr := serve(t, Config{RequestTimeout: 100 * time.Millisecond}, store)
	kv := pb.NewKVClient(dial(t, addr))
	put := &pb.PutRequest{Key: []byte("k")}
	_, err := kv.Put(t.Context(), put)
	requireRPC(t, rpctypes.ErrGRPCTimeout, err)
	_, err = kv.Put(within(t), put)
	requireRPC(t, rpctypes.ErrGRPCTimeout, err)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = kv.Put(ctx, put)
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
}

func TestRequireLeader(t *testing.T) {
	store, manual := newFakeStore(), clock.NewManual(time.Unix(0, 0))
	_, addr := serve(t, Config{Clock: manual, ElectionTimeout: time.Second}, store)
	cc, ctx := dial(t, addr), within(t)
	strict := metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	kv, leases := pb.NewKVClient(cc), pb.NewLeaseClient(cc)

	_, err := kv.Range(strict, &pb.RangeRequest{Key: []byte("k")})
	require.NoError(t, err)
	stream, err := leases.LeaseKeepAlive(strict)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}))
	_, err = stream.Recv()
	require.NoError(t, err)
	lenient, err := leases.LeaseKeepAlive(ctx)
	require.NoError(t, err)

	store.leader.Store(0)
	_, err = kv.Range(strict, &pb.RangeRequest{Key: []byte("k")})
	requireRPC(t, rpctypes.ErrGRPCNoLeader, err)
	refused, err := leases.LeaseKeepAlive(strict)
	if err == nil {
		_, err = refused.Recv()
	}
	requireRPC(t, rpctypes.ErrGRPCNoLeader, err)
	_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	require.NoError(t, err, "who does not ask for a leader is not refused for want of one")

	// The stream that is there lives on for a while.
	require.NoError(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}))
	_, err = stream.Recv()
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	manual.WaitForTimers(1)
	for err = nil; err == nil; {
		manual.Advance(time.Second) // The ticker drops what nobody waits for.
		select {
		case err = <-ended:
		case <-ctx.Done():
			t.Fatal("the stream lives on")
		default:
		}
	}
	requireRPC(t, rpctypes.ErrGRPCNoLeader, err)
	require.NoError(t, lenient.Send(&pb.LeaseKeepAliveRequest{ID: 1}))
	_, err = lenient.Recv()
	require.NoError(t, err)
}

func TestBadClientVersion(t *testing.T) {
	s := New(Config{}, newFakeStore())
	t.Cleanup(s.Close)
	// gRPC's own client refuses to send such a version.
	require.Equal(t, rpctypes.ErrGRPCInvalidClientAPIVersion, tapWith(s, "\xff"))
	require.NoError(t, tapWith(s, "3.7.0"))
	for i := range 2 * maxClientVersions {
		require.NoError(t, tapWith(s, fmt.Sprint("made up ", i)))
	}
	families, err := s.cfg.Gatherer.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "etcd_server_client_requests_total" {
			require.LessOrEqual(t, len(f.Metric), 2*(maxClientVersions+1))
			require.GreaterOrEqual(t, len(f.Metric), 2*maxClientVersions)
			return
		}
	}
	t.Fatal("not counted")
}

func TestStopWaitsForCallsAndEndsStreams(t *testing.T) {
	store := newFakeStore()
	entered, leave := make(chan struct{}), make(chan struct{})
	store.do = func(context.Context, evaluate.Op) (evaluate.Result, error) {
		close(entered)
		<-leave
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	s, addr := serve(t, Config{}, store)
	cc, ctx := dial(t, addr), within(t)
	kv := pb.NewKVClient(cc)
	alive, err := pb.NewLeaseClient(cc).LeaseKeepAlive(ctx)
	require.NoError(t, err)
	require.NoError(t, alive.Send(&pb.LeaseKeepAliveRequest{ID: 1}))
	_, err = alive.Recv()
	require.NoError(t, err)
	put := make(chan error, 1)
	go func() {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
		put <- err
	}()
	<-entered
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.Stop(ctx)
	}()
	_, err = alive.Recv()
	requireRPC(t, rpctypes.ErrGRPCStopped, err)
	select {
	case <-stopped:
		t.Fatal("stopped with a call under way")
	default:
	}
	close(leave)
	require.NoError(t, <-put)
	<-stopped
}

func TestStopIsBounded(t *testing.T) {
	store := newFakeStore()
	entered := make(chan struct{})
	store.do = func(ctx context.Context, _ evaluate.Op) (evaluate.Result, error) {
		close(entered)
		<-ctx.Done() // Cut off, not timed out: the timeout is seconds away.
		return evaluate.Result{}, ctx.Err()
	}
	s, addr := serve(t, Config{}, store)
	kv := pb.NewKVClient(dial(t, addr))
	put := make(chan error, 1)
	go func() {
		_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")})
		put <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Stop(ctx)
	require.Equal(t, codes.Unavailable, status.Code(<-put))
}

func TestGRPCHealth(t *testing.T) {
	_, addr := serve(t, Config{}, newFakeStore())
	client := healthpb.NewHealthClient(dial(t, addr))
	h, err := client.Check(within(t), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, h.Status)
	_, err = client.Check(within(t), &healthpb.HealthCheckRequest{Service: "etcdserverpb.KV"})
	require.Equal(t, codes.NotFound, status.Code(err))
}

func TestSlowCallsAreLoggedOnceASecond(t *testing.T) {
	logged, manual := &lockedBuffer{}, clock.NewManual(time.Unix(0, 0))
	store := newFakeStore()
	store.do = func(context.Context, evaluate.Op) (evaluate.Result, error) {
		manual.Advance(400 * time.Millisecond)
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	_, addr := serve(t, Config{Logger: slog.New(slog.NewTextHandler(logged, nil)), Clock: manual}, store)
	kv, ctx := pb.NewKVClient(dial(t, addr)), within(t)
	for range 6 { // Logged at 0.4 s, 1.6 s; the others fall between.
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("the-key"), Value: []byte("secret")})
		require.NoError(t, err)
	}
	_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("quick")})
	require.NoError(t, err)
	require.Equal(t, 2, bytes.Count([]byte(logged.String()), []byte("slow request")), logged.String())
	require.Contains(t, logged.String(), "suppressed=2")
	require.Contains(t, logged.String(), "the-key")
	require.NotContains(t, logged.String(), "secret")
	require.NotContains(t, logged.String(), "quick")
}
