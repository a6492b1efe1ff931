package listing

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// fake has some keys, in order, and remembers what it was asked.
type fake struct {
	pb.UnimplementedKVServer

	keys  [][]byte
	asked []*pb.RangeRequest
}

func (f *fake) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	f.asked = append(f.asked, r)
	answer := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 42}}
	for _, key := range f.keys {
		if bytes.Compare(key, r.Key) < 0 || bytes.Compare(key, r.RangeEnd) >= 0 {
			continue
		}
		if r.Limit > 0 && int64(len(answer.Kvs)) == r.Limit {
			answer.More = true
			break
		}
		answer.Kvs = append(answer.Kvs, &mvccpb.KeyValue{Key: key, Value: []byte("value")})
	}
	return answer, nil
}

func (f *fake) RangeStream(r *pb.RangeRequest, s pb.KV_RangeStreamServer) error {
	whole, err := f.Range(s.Context(), r)
	if err != nil {
		return err
	}
	for _, kv := range whole.Kvs {
		if err := s.Send(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv}}}); err != nil {
			return err
		}
	}
	return s.Send(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Header: whole.Header, More: whole.More}})
}

func TestList(t *testing.T) {
	f := &fake{}
	const n = 2*PageKeys + 1
	for i := range n {
		f.keys = append(f.keys, fmt.Appendf(nil, "/registry/pods/%05d", i))
	}
	f.keys = append(f.keys, []byte("/registry/podtemplates/x"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer()
	pb.RegisterKVServer(s, f)
	go func() { _ = s.Serve(l) }() // Until Stop.
	t.Cleanup(s.Stop)
	conn, err := process.Dial(l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()

	for _, how := range Methods {
		f.asked = nil
		r, err := List(t.Context(), conn, how, "/registry/pods/")
		require.NoError(t, err, how)
		require.Equal(t, n, r.Keys, how)
		require.Positive(t, r.First, how)
		require.LessOrEqual(t, r.First, r.Took, how)
		if how == Pages {
			require.Len(t, f.asked, 3)
			require.Equal(t, int64(42), f.asked[2].Revision, "all pages are of the first one's revision")
			require.Zero(t, f.asked[0].Revision)
		} else {
			require.Len(t, f.asked, 1, how)
		}
	}
	r, err := ListPage(t.Context(), conn, "/registry/pods/")
	require.NoError(t, err)
	require.Equal(t, PageKeys, r.Keys)
	_, err = List(t.Context(), conn, "backwards", "/registry/pods/")
	require.Error(t, err)
}
