package gateway

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/admission"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

func limiter(t *testing.T, wait time.Duration) *admission.Limiter {
	t.Helper()
	l, err := admission.New(admission.Config{MaxInflight: 2, MaxMutatingInflight: 2, MaxWait: wait})
	require.NoError(t, err)
	return l
}

// A call past the bounds gets etcd's error; what must come in does; and seats come
// back when a call panics or its client leaves.
func TestAdmit(t *testing.T) {
	store := newFakeStore()
	enter, leave := make(chan struct{}), make(chan string)
	store.do = func(context.Context, evaluate.Op) (evaluate.Result, error) {
		enter <- struct{}{}
		if why := <-leave; why == "panic" {
			panic("as a bug would")
		}
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	_, addr := serve(t, Config{Admission: limiter(t, 50*time.Millisecond)}, store)
	kv := pb.NewKVClient(dial(t, addr))
	put := func(ctx context.Context, ended chan<- error) {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
		ended <- err
	}
	ended := make(chan error, 1)
	for _, why := range []string{"", "panic", ""} {
		go put(within(t), ended)
		<-enter
		_, err := kv.Put(within(t), &pb.PutRequest{Key: []byte("k")})
		require.ErrorIs(t, err, rpctypes.ErrGRPCRequestTooManyRequests)
		require.Equal(t, codes.ResourceExhausted, status.Code(err))
		_, err = kv.Range(within(t), &pb.RangeRequest{Key: []byte("health")})
		require.NoError(t, err)
		leave <- why
		require.Equal(t, why == "panic", <-ended != nil)
	}
	// One that waits is served when there is a seat.
	go put(within(t), ended)
	<-enter
	ctx, cancel := context.WithTimeout(within(t), 10*time.Millisecond)
	defer cancel()
	_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	go put(within(t), ended)
	leave <- ""
	<-enter
	leave <- ""
	require.NoError(t, errors.Join(<-ended))
}

// A list holds its seats until it has been sent.
func TestListsHoldSeats(t *testing.T) {
	store := newFakeStore()
	chunk := func() []*mvccpb.KeyValue {
		return []*mvccpb.KeyValue{{Key: []byte("a"), Value: make([]byte, 1<<20)}}
	}
	store.stream = func(_ context.Context, _ *evaluate.Range, _ int, emit func([]*mvccpb.KeyValue) error) (evaluate.Result, error) {
		return evaluate.Result{Revision: fakeRevision, Count: 2}, errors.Join(emit(chunk()), emit(chunk()))
	}
	store.read = func(context.Context, evaluate.Op, bool) (evaluate.Result, error) {
		return evaluate.Result{Revision: fakeRevision, Count: 1, KVs: chunk()}, nil
	}
	for _, method := range []string{pb.KV_Range_FullMethodName, pb.KV_RangeStream_FullMethodName} {
		t.Run(method, func(t *testing.T) {
			l, err := admission.New(admission.Config{MaxInflight: 16}) // eight for lists, two for one
			require.NoError(t, err)
			_, addr := serve(t, Config{Admission: l}, store)
			all := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b")}
			free := func() bool {
				v := l.Arrive("", all)
				defer v.Leave()
				return v.Inside()
			}
			var streams []grpc.ClientStream
			ctx, leave := context.WithCancel(within(t))
			for i := range 4 {
				of := within(t)
				if i == 0 {
					of = ctx
				}
				stream, err := dial(t, addr).NewStream(of, &grpc.StreamDesc{ServerStreams: true}, method)
				require.NoError(t, err)
				require.NoError(t, stream.SendMsg(all))
				require.NoError(t, stream.CloseSend())
				streams = append(streams, stream)
			}
			require.Eventually(t, func() bool { return !free() }, 20*time.Second, time.Millisecond)
			// Nobody reads, so nothing is sent but what fits the windows.
			require.Never(t, free, 50*time.Millisecond, time.Millisecond)
			leave()
			require.Eventually(t, free, 20*time.Second, time.Millisecond)
			for _, stream := range streams[1:] {
				for err = nil; err == nil; {
					err = stream.RecvMsg(new(pb.RangeStreamResponse))
				}
				require.ErrorIs(t, err, io.EOF)
			}
			require.Eventually(t, func() bool {
				var visits []admission.Visit
				for range 4 {
					visits = append(visits, l.Arrive("", all))
				}
				inside := 0
				for i := range visits {
					if visits[i].Inside() {
						inside++
						visits[i].Leave()
					}
				}
				return inside == 4
			}, 20*time.Second, time.Millisecond)
		})
	}
}

// Without a quorum lists that need none are answered beside those that wait for one.
func TestListsWithoutQuorum(t *testing.T) {
	store := newFakeStore()
	asked := make(chan struct{}, 100)
	store.confirm = func(ctx context.Context) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	store.read = func(ctx context.Context, _ evaluate.Op, serializable bool) (evaluate.Result, error) {
		if !serializable {
			return evaluate.Result{}, store.confirm(ctx)
		}
		return evaluate.Result{Revision: fakeRevision}, nil
	}
	l, err := admission.New(admission.Config{MaxInflight: 1000})
	require.NoError(t, err)
	_, addr := serve(t, Config{Admission: l}, store)
	kv := pb.NewKVClient(dial(t, addr))
	ctx, cancel := context.WithCancel(within(t))
	var waiting sync.WaitGroup
	waiters := 2 * runtime.GOMAXPROCS(0)
	for range waiters {
		waiting.Go(func() {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b")})
			assert.Error(t, err)
		})
	}
	for range waiters {
		<-asked
	}
	_, err = kv.Range(within(t), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b"), Serializable: true})
	require.NoError(t, err)
	cancel()
	waiting.Wait()
}
