package gateway

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// TestEncodeRange compares with the encoding that protobuf makes, byte by byte.
func TestEncodeRange(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	number := func() int64 {
		if rnd.IntN(3) == 0 {
			return 0
		}
		return int64(rnd.Uint64()) >> rnd.IntN(64)
	}
	bytes := func(most int) []byte {
		b := make([]byte, rnd.IntN(most+1))
		for i := 0; i < len(b); i += 1 + rnd.IntN(50) {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	c := new(codec)
	check := func(m proto.Message) {
		t.Helper()
		want, err := proto.Marshal(m)
		require.NoError(t, err)
		before := c.sent.Load()
		buffers, err := c.Marshal(m)
		require.NoError(t, err)
		require.Equal(t, want, append([]byte{}, buffers.Materialize()...))
		require.EqualValues(t, len(want), c.sent.Load()-before)
		require.LessOrEqual(t, len(buffers), 1+len(want)/(listChunk-maxNumber)+2*len(want)/aliasValue)
		buffers.Free()
	}
	for range 100 {
		r := &pb.RangeResponse{More: rnd.IntN(2) == 0, Count: number()}
		if rnd.IntN(2) == 0 {
			r.Header = &pb.ResponseHeader{
				ClusterId: rnd.Uint64(), MemberId: uint64(number()), Revision: number(), RaftTerm: uint64(number()),
			}
		}
		most := []int{0, 1, 100, 5000, 2 * listChunk}[rnd.IntN(5)]
		for range rnd.IntN(30) {
			r.Kvs = append(r.Kvs, &mvccpb.KeyValue{
				Key: bytes(min(most, 300)), Value: bytes(most),
				CreateRevision: number(), ModRevision: number(), Version: number(), Lease: number(),
			})
		}
		check(r)
		check(&pb.RangeStreamResponse{RangeResponse: r})
	}
	check(&pb.RangeResponse{})
	check(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{}})
	check(&pb.RangeStreamResponse{})
	check(&pb.PutResponse{PrevKv: &mvccpb.KeyValue{Value: make([]byte, 3000)}})
	for n := listChunk - 40; n < listChunk+40; n++ {
		check(&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: make([]byte, n)}}, Count: 1})
	}
}

func TestCodecTakesItsOwnOnly(t *testing.T) {
	c := new(codec)
	_, err := c.Marshal("text")
	require.Error(t, err)
	require.Error(t, c.Unmarshal(nil, "text"))
	require.Equal(t, "proto", c.Name())

	put := &pb.PutRequest{Key: []byte("key"), Value: []byte("value")}
	data, err := proto.Marshal(put)
	require.NoError(t, err)
	got := new(pb.PutRequest)
	require.NoError(t, c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data[:4]), mem.SliceBuffer(data[4:])}, got))
	require.True(t, proto.Equal(put, got))
	require.EqualValues(t, len(data), c.received.Load())
}

func TestBufferPool(t *testing.T) {
	p := new(bufferPool)
	for _, n := range []int{0, 1, 1024, 1025, 2048, 2049, 1 << 20, 1<<20 + 1} {
		b := p.Get(n)
		require.Len(t, *b, n)
		p.Put(b)
	}
	for _, b := range [][]byte{nil, make([]byte, 3000), make([]byte, 1<<21), make([]byte, 16)} {
		p.Put(&b)
		require.Len(t, *p.Get(2500), 2500, "what is not the pool's must not come out of it")
	}
}

func BenchmarkEncodeRange(b *testing.B) {
	r := &pb.RangeResponse{Header: &pb.ResponseHeader{ClusterId: 1 << 60, MemberId: 1 << 61, Revision: 12345678, RaftTerm: 3}}
	for range 250 {
		r.Kvs = append(r.Kvs, &mvccpb.KeyValue{
			Key: make([]byte, 40), Value: make([]byte, 1000), CreateRevision: 1 << 20, ModRevision: 1 << 21, Version: 3,
		})
	}
	m := &pb.RangeStreamResponse{RangeResponse: r}
	c := new(codec)
	b.ReportAllocs()
	b.SetBytes(int64(proto.Size(m)))
	for b.Loop() {
		buffers, err := c.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		buffers.Free()
	}
}
