package gateway

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// The fuzzers take what may come from the wire, and hold that the checks never
// panic and that whatever passes them can be translated and answered.

func seed(f *testing.F, messages ...proto.Message) {
	f.Helper()
	for _, m := range messages {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add([]byte("\xff\xff\xff\xff"))
}

// known drops fields that we do not know: they do not get into the log, so the
// quick looks at a request's size do not count them.
var known = proto.UnmarshalOptions{DiscardUnknown: true}

func FuzzRange(f *testing.F) {
	seed(f,
		&pb.RangeRequest{Key: []byte("k")},
		&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("\x00"), Limit: -1, Revision: -1, SortOrder: 2, SortTarget: 4},
		&pb.RangeRequest{Key: []byte("k"), SortOrder: -1, SortTarget: 99, MinModRevision: 3, CountOnly: true},
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		r := new(pb.RangeRequest)
		if proto.Unmarshal(data, r) != nil {
			return
		}
		if checkRangeStream(r) == nil && checkRange(r) != nil {
			t.Fatal("RangeStream takes what Range refuses")
		}
		if checkRange(r) != nil {
			return
		}
		op := toRange(r)
		if len(op.Key) == 0 || op.Limit < 0 ||
			op.SortOrder < 0 || op.SortOrder > evaluate.SortDescend || op.SortTarget < 0 || op.SortTarget > evaluate.SortByValue {
			t.Fatalf("passed the check: %+v", op)
		}
	})
}

func FuzzPut(f *testing.F) {
	seed(f,
		&pb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: 1, PrevKv: true},
		&pb.PutRequest{Key: []byte("k"), IgnoreValue: true, IgnoreLease: true},
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		r := new(pb.PutRequest)
		if known.Unmarshal(data, r) != nil || checkPut(r) != nil {
			return
		}
		if (checkPutSize(r, 100) == nil) != (checkSize(r, 100) == nil) {
			t.Fatal("the quick look disagrees with the measure")
		}
		if op := toPut(r); len(op.Key) == 0 || op.IgnoreValue && len(op.Value) > 0 || op.IgnoreLease && op.Lease != 0 {
			t.Fatalf("passed the check: %+v", op)
		}
	})
}

func FuzzDelete(f *testing.F) {
	seed(f, &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("a"), PrevKv: true})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := new(pb.DeleteRangeRequest)
		if proto.Unmarshal(data, r) != nil || checkDelete(r) != nil {
			return
		}
		if op := toDelete(r); len(op.Key) == 0 {
			t.Fatalf("passed the check: %+v", op)
		}
	})
}

func FuzzTxn(f *testing.F) {
	cmp := func(c *pb.Compare) *pb.Compare { c.Key = []byte("k"); return c }
	seed(f,
		&pb.TxnRequest{},
		&pb.TxnRequest{
			Compare: []*pb.Compare{cmp(&pb.Compare{Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: 3}})},
			Success: ops{opPut("k")}, Failure: ops{opRange("k", "")},
		},
		&pb.TxnRequest{Compare: []*pb.Compare{cmp(&pb.Compare{Target: 9, Result: 9}), cmp(&pb.Compare{Target: pb.Compare_VALUE, Result: -1})}},
		&pb.TxnRequest{Success: ops{opDel("a", "\x00"), opPut("k")}},
		&pb.TxnRequest{Success: ops{opTxn(ops{opPut("a"), opRange("a", "z")}, ops{opDel("a", "b")}), opTxn(nil, ops{opPut("b")}), opDel("c", "\x00")}},
		&pb.TxnRequest{Failure: ops{opTxn(ops{opTxn(ops{opTxn(nil, nil)}, nil)}, ops{{}})}},
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		r := new(pb.TxnRequest)
		if known.Unmarshal(data, r) != nil {
			return
		}
		const maxOps = 16
		if checkTxn(r, maxOps) != nil {
			return
		}
		for _, branch := range []ops{r.Success, r.Failure} {
			if overlapsByDefinition(branch) {
				t.Fatalf("a key can change twice: %v", r)
			}
		}
		if (checkTxnSize(r, 100) == nil) != (checkSize(r, 100) == nil) {
			t.Fatal("the quick look disagrees with the measure")
		}
		call := toTxn(r)
		if call.readOnly != readsOnly(r) {
			t.Fatalf("read-only: %t: %v", call.readOnly, r)
		}
		for _, succeeded := range []bool{true, false} {
			res := answerTo(&call.txn, succeeded)
			a := new(txnAnswer)
			resp := a.fill(&call.txn, &res)
			if _, err := proto.Marshal(resp); err != nil {
				t.Fatal(err)
			}
			if len(resp.Responses) != len(res.Responses) {
				t.Fatal("an operation has no answer")
			}
		}
	})
}

// readsOnly says that no operation of r changes anything, at any depth.
func readsOnly(r *pb.TxnRequest) bool {
	for _, branch := range []ops{r.Success, r.Failure} {
		for _, op := range branch {
			if op.GetRequestPut() != nil || op.GetRequestDeleteRange() != nil {
				return false
			}
			if nested := op.GetRequestTxn(); nested != nil && !readsOnly(nested) {
				return false
			}
		}
	}
	return true
}

// answerTo makes up an answer of the shape that txn has.
func answerTo(txn *evaluate.Txn, succeeded bool) evaluate.Result {
	res := evaluate.Result{Revision: 5, Succeeded: succeeded}
	list := txn.Failure
	if succeeded {
		list = txn.Success
	}
	kvs := []*mvccpb.KeyValue{{Key: []byte("k")}}
	for _, op := range list {
		r := evaluate.Result{Revision: 5}
		switch op := op.(type) {
		case *evaluate.Range:
			r.KVs, r.Count = kvs, 1
		case *evaluate.Put, *evaluate.DeleteRange:
			r.PrevKVs = kvs
		case *evaluate.Txn:
			r = answerTo(op, succeeded)
		}
		res.Responses = append(res.Responses, r)
	}
	return res
}

func FuzzLeaseGrant(f *testing.F) {
	seed(f, &pb.LeaseGrantRequest{TTL: -1, ID: -1}, &pb.LeaseGrantRequest{TTL: maxLeaseTTL + 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := new(pb.LeaseGrantRequest)
		if proto.Unmarshal(data, r) == nil && checkLeaseGrant(r) == nil && r.TTL > maxLeaseTTL {
			t.Fatal("passed the check")
		}
	})
}
