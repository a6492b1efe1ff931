package gateway

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

func TestToRange(t *testing.T) {
	require.Equal(t, evaluate.Range{
		Key: []byte("k"), End: []byte("z"), Limit: 3, Revision: 4,
		SortTarget: evaluate.SortByValue, SortOrder: evaluate.SortDescend,
		KeysOnly: true, CountOnly: true, MinMod: 1, MaxMod: 2, MinCreate: 3, MaxCreate: 4,
	}, toRange(&pb.RangeRequest{
		Key: []byte("k"), RangeEnd: []byte("z"), Limit: 3, Revision: 4,
		SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_DESCEND,
		KeysOnly: true, CountOnly: true, MinModRevision: 1, MaxModRevision: 2, MinCreateRevision: 3, MaxCreateRevision: 4,
	}))
	require.Equal(t, evaluate.Range{Key: []byte("k"), Revision: -4},
		toRange(&pb.RangeRequest{Key: []byte("k"), Limit: -3, Revision: -4}), "a limit below zero is none")

	// The enums are translated by their numbers.
	for number := range pb.RangeRequest_SortTarget_name {
		require.LessOrEqual(t, evaluate.SortTarget(number), evaluate.SortByValue)
	}
	require.EqualValues(t, pb.RangeRequest_VALUE, evaluate.SortByValue)
	require.EqualValues(t, pb.RangeRequest_MOD, evaluate.SortByMod)
	require.EqualValues(t, pb.RangeRequest_CREATE, evaluate.SortByCreate)
	require.EqualValues(t, pb.RangeRequest_VERSION, evaluate.SortByVersion)
	require.EqualValues(t, pb.RangeRequest_DESCEND, evaluate.SortDescend)
	require.EqualValues(t, pb.RangeRequest_ASCEND, evaluate.SortAscend)
}

func TestToCompare(t *testing.T) {
	key, end := []byte("k"), []byte("z")
	number := func(target evaluate.CompareTarget, result evaluate.CompareResult, n int64) evaluate.Compare {
		return evaluate.Compare{Target: target, Result: result, Key: key, End: end, Number: n}
	}
	for _, c := range []struct {
		name  string
		cmp   *pb.Compare
		want  evaluate.Compare
		holds bool
	}{
		{
			"version", &pb.Compare{Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 3}},
			number(evaluate.CompareVersion, evaluate.CompareEqual, 3), false,
		},
		{
			"create", &pb.Compare{Target: pb.Compare_CREATE, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 3}},
			number(evaluate.CompareCreate, evaluate.CompareGreater, 3), false,
		},
		{
			"mod", &pb.Compare{Target: pb.Compare_MOD, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_ModRevision{ModRevision: 3}},
			number(evaluate.CompareMod, evaluate.CompareLess, 3), false,
		},
		{
			"lease", &pb.Compare{Target: pb.Compare_LEASE, Result: pb.Compare_NOT_EQUAL, TargetUnion: &pb.Compare_Lease{Lease: 3}},
			number(evaluate.CompareLease, evaluate.CompareNotEqual, 3), false,
		},
		{
			"value", &pb.Compare{Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("v")}},
			evaluate.Compare{Target: evaluate.CompareValue, Key: key, End: end, Value: []byte("v")},
			false,
		},
		{
			"a number that is another target's", &pb.Compare{Target: pb.Compare_MOD, TargetUnion: &pb.Compare_Version{Version: 3}},
			number(evaluate.CompareMod, evaluate.CompareEqual, 0), false,
		},
		{"no value", &pb.Compare{Target: pb.Compare_VALUE}, evaluate.Compare{Target: evaluate.CompareValue, Key: key, End: end}, false},
		{"unknown target, equal", &pb.Compare{Target: 9}, evaluate.Compare{}, true},
		{"unknown target, less", &pb.Compare{Target: 9, Result: pb.Compare_LESS}, never(key), false},
		{"unknown target and result", &pb.Compare{Target: -1, Result: 9}, evaluate.Compare{}, true},
		{"unknown result", &pb.Compare{Target: pb.Compare_MOD, Result: 9}, evaluate.Compare{}, true},
		{
			"unknown result of a value: that there is one", &pb.Compare{Target: pb.Compare_VALUE, Result: 9},
			number(evaluate.CompareVersion, evaluate.CompareGreater, 0), false,
		},
	} {
		c.cmp.Key, c.cmp.RangeEnd = key, end
		got, holds := toCompare(c.cmp)
		require.Equal(t, c.holds, holds, c.name)
		if !holds {
			require.Equal(t, c.want, got, c.name)
		}
	}
}

func TestToTxn(t *testing.T) {
	serializable := func(key string) *pb.RequestOp {
		op := opRange(key, "")
		op.GetRequestRange().Serializable = true
		return op
	}
	for _, c := range []struct {
		name                   string
		success, failure       ops
		readOnly, serializable bool
	}{
		{"nothing, which etcd reads without asking anybody", nil, nil, true, false},
		{"ranges", ops{opRange("a", ""), opRange("b", ""), opRange("c", "")}, ops{opRange("d", "")}, true, false},
		{"serializable", ops{serializable("a")}, ops{serializable("b"), serializable("c")}, true, true},
		{"one is not", ops{serializable("a")}, ops{opRange("b", ""), serializable("c")}, true, false},
		{"put", ops{opRange("a", "")}, ops{opPut("b")}, false, false},
		{"delete", ops{opDel("a", "")}, ops{opDel("b", ""), opDel("c", "")}, false, false},
		{"nested ranges", ops{opTxn(ops{opRange("a", "")}, nil)}, nil, true, false},
		{"nested put", ops{opTxn(nil, ops{opTxn(nil, ops{opPut("a"), opPut("b")})})}, nil, false, false},
	} {
		call := toTxn(&pb.TxnRequest{Success: c.success, Failure: c.failure})
		require.Equal(t, c.readOnly, call.readOnly, c.name)
		require.Equal(t, c.serializable && c.readOnly, call.serializable && call.readOnly, c.name)
		requireSameKeys(t, c.success, call.txn.Success)
		requireSameKeys(t, c.failure, call.txn.Failure)
	}
}

func requireSameKeys(t *testing.T, from ops, to []evaluate.Op) {
	t.Helper()
	require.Len(t, to, len(from))
	for i, op := range from {
		switch u := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			require.Equal(t, u.RequestRange.Key, to[i].(*evaluate.Range).Key)
		case *pb.RequestOp_RequestPut:
			require.Equal(t, u.RequestPut.Key, to[i].(*evaluate.Put).Key)
		case *pb.RequestOp_RequestDeleteRange:
			require.Equal(t, u.RequestDeleteRange.Key, to[i].(*evaluate.DeleteRange).Key)
		case *pb.RequestOp_RequestTxn:
			requireSameKeys(t, u.RequestTxn.Success, to[i].(*evaluate.Txn).Success)
			requireSameKeys(t, u.RequestTxn.Failure, to[i].(*evaluate.Txn).Failure)
		}
	}
}

// TestTxnAnswer has the shape that etcd 3.7.3 was seen to give: inner headers
// have a revision and nothing else, those of nested transactions nothing.
func TestTxnAnswer(t *testing.T) {
	kv := &mvccpb.KeyValue{Key: []byte("k"), ModRevision: 8}
	call := toTxn(&pb.TxnRequest{Success: ops{opRange("k", ""), opPut("k"), opDel("d", ""), opTxn(nil, ops{opPut("n")})}})
	a := new(txnAnswer)
	resp := a.fill(&call.txn, &evaluate.Result{
		Revision: 9, Succeeded: true,
		Responses: []evaluate.Result{
			{Revision: 8, KVs: []*mvccpb.KeyValue{kv}, More: true, Count: 4},
			{Revision: 9, PrevKVs: []*mvccpb.KeyValue{kv}},
			{Revision: 9, Deleted: 1, PrevKVs: []*mvccpb.KeyValue{kv}},
			{Revision: 9, Responses: []evaluate.Result{{Revision: 9}}},
		},
	})
	header := func(rev int64) *pb.ResponseHeader { return &pb.ResponseHeader{Revision: rev} }
	want := &pb.TxnResponse{
		Header: header(0), Succeeded: true,
		Responses: []*pb.ResponseOp{
			{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{
				Header: header(8), Kvs: []*mvccpb.KeyValue{kv}, More: true, Count: 4,
			}}},
			{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: header(9), PrevKv: kv}}},
			{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{
				Header: header(9), Deleted: 1, PrevKvs: []*mvccpb.KeyValue{kv},
			}}},
			{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{
				Header: header(0), Responses: []*pb.ResponseOp{
					{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: header(9)}}},
				},
			}}},
		},
	}
	require.Equal(t, want.String(), resp.String())
}
