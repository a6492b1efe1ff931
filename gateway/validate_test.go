package gateway

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Operations, short enough for tables.

func opRange(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
		RequestRange: &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)},
	}}
}

func opPut(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
		RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("v")},
	}}
}

func opDel(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)},
	}}
}

func opTxn(success, failure []*pb.RequestOp) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{
		RequestTxn: &pb.TxnRequest{Success: success, Failure: failure},
	}}
}

type ops = []*pb.RequestOp

func TestCheckRange(t *testing.T) {
	key := []byte("k")
	for _, c := range []struct {
		name string
		req  *pb.RangeRequest
		want error
		// stream is what RangeStream says to it.
		stream error
	}{
		{"nothing", &pb.RangeRequest{}, rpctypes.ErrGRPCEmptyKey, rpctypes.ErrGRPCEmptyKey},
		{"key", &pb.RangeRequest{Key: key}, nil, nil},
		{"no key, but an end", &pb.RangeRequest{RangeEnd: key}, rpctypes.ErrGRPCEmptyKey, rpctypes.ErrGRPCEmptyKey},
		{"negative", &pb.RangeRequest{Key: key, Limit: -1, Revision: -1}, nil, nil},
		{"order", &pb.RangeRequest{Key: key, SortOrder: 3}, rpctypes.ErrGRPCInvalidSortOption, rpctypes.ErrGRPCInvalidSortOption},
		{"order below", &pb.RangeRequest{Key: key, SortOrder: -1}, rpctypes.ErrGRPCInvalidSortOption, rpctypes.ErrGRPCInvalidSortOption},
		{"target", &pb.RangeRequest{Key: key, SortTarget: 5}, rpctypes.ErrGRPCInvalidSortOption, rpctypes.ErrGRPCInvalidSortOption},
		{"ascending keys", &pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_ASCEND}, nil, nil},
		{"descending keys", &pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_DESCEND}, nil, errStreamSorted},
		{"ascending values", &pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_VALUE}, nil, errStreamSorted},
		{"values, no order", &pb.RangeRequest{Key: key, SortTarget: pb.RangeRequest_VALUE}, nil, nil},
		{"filter", &pb.RangeRequest{Key: key, MaxCreateRevision: 1}, nil, errStreamFiltered},
	} {
		require.Equal(t, c.want, checkRange(c.req), c.name)
		require.Equal(t, c.stream, checkRangeStream(c.req), c.name)
	}
	require.Equal(t, rpctypes.ErrGRPCEmptyKey, checkRange(nil))
}

func TestCheckPutAndDelete(t *testing.T) {
	key := []byte("k")
	for _, c := range []struct {
		req  *pb.PutRequest
		want error
	}{
		{nil, rpctypes.ErrGRPCEmptyKey},
		{&pb.PutRequest{Value: key}, rpctypes.ErrGRPCEmptyKey},
		{&pb.PutRequest{Key: key}, nil},
		{&pb.PutRequest{Key: key, IgnoreValue: true}, nil},
		{&pb.PutRequest{Key: key, IgnoreValue: true, Value: key}, rpctypes.ErrGRPCValueProvided},
		{&pb.PutRequest{Key: key, IgnoreLease: true, Lease: 1}, rpctypes.ErrGRPCLeaseProvided},
		{&pb.PutRequest{Key: key, IgnoreLease: true, IgnoreValue: true}, nil},
	} {
		require.Equal(t, c.want, checkPut(c.req), "%v", c.req)
	}
	require.Equal(t, rpctypes.ErrGRPCEmptyKey, checkDelete(nil))
	require.Equal(t, rpctypes.ErrGRPCEmptyKey, checkDelete(&pb.DeleteRangeRequest{RangeEnd: key}))
	require.NoError(t, checkDelete(&pb.DeleteRangeRequest{Key: key, RangeEnd: []byte("a")}), "an end before the key is no error")

	require.NoError(t, checkLeaseGrant(&pb.LeaseGrantRequest{TTL: -1}))
	require.NoError(t, checkLeaseGrant(&pb.LeaseGrantRequest{TTL: 9_000_000_000}))
	require.Equal(t, rpctypes.ErrGRPCLeaseTTLTooLarge, checkLeaseGrant(&pb.LeaseGrantRequest{TTL: 9_000_000_001}))
}

func TestCheckTxnOperations(t *testing.T) {
	many := func(n int) (all ops) {
		for i := range n {
			all = append(all, opRange(fmt.Sprint("k", i), ""))
		}
		return all
	}
	nested := func(depth int) *pb.RequestOp {
		op := opRange("k", "")
		for range depth {
			op = opTxn(ops{op}, nil)
		}
		return op
	}
	const maxOps = 128
	for _, c := range []struct {
		name string
		req  *pb.TxnRequest
		want error
	}{
		{"nothing", &pb.TxnRequest{}, nil},
		{"nil", nil, nil},
		{"nil operation", &pb.TxnRequest{Success: ops{nil}}, rpctypes.ErrGRPCKeyNotFound},
		{"empty operation", &pb.TxnRequest{Failure: ops{{}}}, rpctypes.ErrGRPCKeyNotFound},
		{"nil request", &pb.TxnRequest{Failure: ops{{Request: &pb.RequestOp_RequestPut{}}}}, rpctypes.ErrGRPCEmptyKey},
		{"compare without a key", &pb.TxnRequest{Compare: []*pb.Compare{{}}}, rpctypes.ErrGRPCEmptyKey},
		{"nil compare", &pb.TxnRequest{Compare: []*pb.Compare{nil}}, rpctypes.ErrGRPCEmptyKey},
		{"range without a key", &pb.TxnRequest{Success: ops{opRange("", "z")}}, rpctypes.ErrGRPCEmptyKey},
		{"full", &pb.TxnRequest{Success: many(128), Failure: many(128)}, nil},
		{"too full", &pb.TxnRequest{Failure: many(129)}, rpctypes.ErrGRPCTooManyOps},
		{"nested, full", &pb.TxnRequest{Success: ops{opTxn(many(127), many(127))}}, nil},
		{"nested, too full", &pb.TxnRequest{Success: ops{opTxn(many(128), nil)}}, rpctypes.ErrGRPCTooManyOps},
		{"deep", &pb.TxnRequest{Success: ops{nested(126)}}, nil},
		{"too deep", &pb.TxnRequest{Success: ops{nested(128)}}, rpctypes.ErrGRPCTooManyOps},
		{"wrong, deep inside", &pb.TxnRequest{Success: ops{opTxn(nil, ops{opTxn(ops{opPut("")}, nil)})}}, rpctypes.ErrGRPCEmptyKey},
	} {
		require.Equal(t, c.want, checkTxn(c.req, maxOps), c.name)
	}

	// etcd's rule bounds each path from the root, and leaves their number to
	// the size of the request: 64 lists of 64 lists of ... pass it.
	wide := func(n, depth int) *pb.RequestOp {
		op := opTxn(many(n), nil)
		for range depth {
			list := make(ops, n)
			for i := range list {
				list[i] = op
			}
			op = opTxn(list, nil)
		}
		return op
	}
	require.NoError(t, checkTxn(&pb.TxnRequest{Success: ops{wide(19, 2)}}, maxOps))
	require.Equal(t, rpctypes.ErrGRPCTooManyOps, checkTxn(&pb.TxnRequest{Success: ops{wide(19, 3)}}, maxOps))
	// With a higher limit of operations the depth has its own.
	require.Equal(t, rpctypes.ErrGRPCTooManyOps, checkTxn(&pb.TxnRequest{Success: ops{nested(200)}}, 1000))
}

// TestRequestSize holds the limit to the byte at which etcd 3.7.3 was seen to
// draw it: a put of a key of one byte with 1,572,838 bytes of value passes, and
// one with 1,572,840 does not.
func TestRequestSize(t *testing.T) {
	const limit = defaultMaxRequestBytes
	put := func(n int) *pb.PutRequest { return &pb.PutRequest{Key: []byte("x"), Value: make([]byte, n)} }
	require.NoError(t, checkPutSize(put(limit-26), limit))
	require.Equal(t, rpctypes.ErrGRPCRequestTooLarge, checkPutSize(put(limit-24), limit))

	for _, n := range []int{1, 1000, limit - 200, limit, 2 * limit} {
		key := strings.Repeat("k", n)
		for _, req := range []*pb.TxnRequest{
			{Success: ops{opPut(key)}},
			{Failure: ops{opRange("a", key)}},
			{Failure: ops{opDel(key, "")}},
			{Failure: ops{opTxn(ops{opPut(key)}, nil)}},
			{Compare: []*pb.Compare{{Key: []byte(key)}}},
			{Compare: []*pb.Compare{{Key: []byte("k"), TargetUnion: &pb.Compare_Value{Value: []byte(key)}}}},
		} {
			require.Equal(t, checkSize(req, limit), checkTxnSize(req, limit), "the quick look disagrees with the measure")
		}
	}
}
