package workload

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// fake is as much of a store as the loads need.
type fake struct {
	pb.UnimplementedKVServer

	mu  sync.Mutex
	rev int64
	kvs map[string]*mvccpb.KeyValue
	// foreign has every transaction meet a key that somebody else has written.
	foreign bool
}

func (f *fake) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: f.rev} }

func (f *fake) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(r)
	return &pb.PutResponse{Header: f.header()}, nil
}

func (f *fake) put(r *pb.PutRequest) {
	f.rev++
	f.kvs[string(r.Key)] = &mvccpb.KeyValue{Key: r.Key, Value: r.Value, ModRevision: f.rev}
}

func (f *fake) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &pb.RangeResponse{Header: f.header()}
	for _, kv := range f.kvs {
		if bytes.Equal(kv.Key, r.Key) ||
			len(r.RangeEnd) > 0 && bytes.Compare(kv.Key, r.Key) > 0 && bytes.Compare(kv.Key, r.RangeEnd) < 0 {
			resp.Kvs = append(resp.Kvs, kv)
		}
	}
	return resp, nil
}

func (f *fake) Txn(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	put := r.Success[0].GetRequestPut()
	if len(r.Compare) != 1 || r.Compare[0].GetModRevision() != 0 && r.Failure[0].GetRequestRange() == nil || !bytes.Equal(r.Compare[0].Key, put.Key) {
		return nil, context.Canceled
	}
	ok := f.kvs[string(put.Key)].GetModRevision() == r.Compare[0].GetModRevision() && !f.foreign
	if ok {
		f.put(put)
	}
	return &pb.TxnResponse{Header: f.header(), Succeeded: ok}, nil
}

func (f *fake) serve(t *testing.T) string {
	t.Helper()
	f.rev, f.kvs = 1, map[string]*mvccpb.KeyValue{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer()
	pb.RegisterKVServer(s, f)
	go func() { _ = s.Serve(l) }() // Until Stop.
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func TestRun(t *testing.T) {
	f := &fake{}
	address := f.serve(t)
	conn, err := process.Dial(address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, Prepare(t.Context(), conn))
	require.Equal(t, int64(1+readKeys), f.rev)

	for _, l := range slices.Concat(All(), All()) { // Twice: each finds what it has left.
		began, ended, before := 0, 0, f.rev
		r, err := Run(t.Context(), Config{
			Load: l, Shape: Shape{Conns: 2, Clients: 5}, Addresses: []string{address}, Warmup: time.Millisecond, Measure: 20 * time.Millisecond,
			Begin: func() error { began++; return nil },
			End:   func() error { ended++; return nil },
		})
		require.NoError(t, err, l.Name)
		require.Positive(t, r.Ops, l.Name)
		require.Len(t, r.Latencies, r.Ops)
		require.True(t, slices.IsSorted(r.Latencies))
		require.GreaterOrEqual(t, r.Elapsed, 20*time.Millisecond)
		require.Equal(t, 1, began)
		require.Equal(t, 1, ended)
		require.Equal(t, l.Writes, f.rev > before, l.Name)
	}
	f.foreign = true
	_, err = Run(t.Context(), Config{
		Load: Loads[2], Shape: Shape{Conns: 1, Clients: 1}, Addresses: []string{address}, Measure: time.Millisecond,
		Begin: func() error { return nil }, End: func() error { return nil },
	})
	require.ErrorIs(t, err, errCompare)
}

func TestKeysAndValues(t *testing.T) {
	c, _, err := newClient(t.Context(), Loads[0], nil, 7, randomBytes())
	require.NoError(t, err)
	for i, want := range map[int]string{0: "00000000", 42: "00000042", putKeys - 1: "00009999"} {
		c.setKey(i)
		require.Equal(t, "/registry/benchmark/put256/"+want, string(c.key))
	}
	c.setFolders(Grouped[0], "x")
	for i, want := range []string{"configmaps", "events", "leases", "pods", "configmaps"} {
		c.setKey(i)
		require.Equal(t, fmt.Sprintf("/registry/%s/benchmark/x/%08d", want, i), string(c.key))
	}
	c.setFolders(Loads[0], "x")
	c.setKey(1)
	require.Len(t, c.value(256), 256)
	require.False(t, bytes.Equal(c.value(256), c.value(256)))
	// What the load says is what goes over the wire.
	require.Greater(t, proto.Size(&pb.PutRequest{Key: c.key, Value: c.value(256)}), 256)
}

func TestParse(t *testing.T) {
	shapes, err := ParseShapes("1/1,8/64@leader")
	require.NoError(t, err)
	require.Equal(t, []Shape{{1, 1, false}, {8, 64, true}}, shapes)
	for _, bad := range []string{"", "1", "1/", "0/1", "2/1", "1/1,", "1/1x", " 1/1", "1/1@", "1/1@leader@leader"} {
		_, err := ParseShapes(bad)
		require.Error(t, err, bad)
	}
	loads, err := ParseLoads(Names(All()))
	require.NoError(t, err)
	require.Equal(t, All(), loads)
	require.True(t, Reads(loads))
	require.False(t, Reads(Grouped))
	_, err = ParseLoads("put256,nonsense")
	require.ErrorContains(t, err, "nonsense")
}
