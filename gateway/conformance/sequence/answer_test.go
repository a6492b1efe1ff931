package sequence

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// sortedExactly is up to how many elements etcd's sort keeps equal ones in
// order.
const sortedExactly = 12

// normal takes out of an answer what may differ: see doc.go. It changes the
// answer.
func normal(req proto.Message, a answer) answer {
	if a.err != nil {
		return a
	}
	plainHeader(a.resp)
	switch r := a.resp.(type) {
	case *pb.RangeResponse:
		normalRange(req.(*pb.RangeRequest), r)
	case *pb.TxnResponse:
		normalTxn(req.(*pb.TxnRequest), r)
	case *pb.LeaseTimeToLiveResponse:
		if 0 < r.TTL && r.TTL <= r.GrantedTTL {
			r.TTL = r.GrantedTTL
		}
		slices.SortFunc(r.Keys, bytes.Compare)
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(r.Leases, func(a, b *pb.LeaseStatus) int { return cmp.Compare(a.ID, b.ID) })
	case *pb.WatchResponse:
		if r.CompactRevision != 0 {
			r.Header = nil
		}
	}
	return a
}

// plainHeader leaves of a header its revision.
func plainHeader(resp proto.Message) {
	m := resp.ProtoReflect()
	field := m.Descriptor().Fields().ByName("header")
	if field == nil || !m.Has(field) {
		return
	}
	h := m.Get(field).Message().Interface().(*pb.ResponseHeader)
	m.Set(field, protoreflect.ValueOfMessage((&pb.ResponseHeader{Revision: h.Revision}).ProtoReflect()))
}

func normalTxn(req *pb.TxnRequest, r *pb.TxnResponse) {
	branch := req.Failure
	if r.Succeeded {
		branch = req.Success
	}
	if len(branch) != len(r.Responses) {
		return // It will not be equal.
	}
	for i, op := range r.Responses {
		switch op := op.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			plainHeader(op.ResponseRange)
			if q := branch[i].GetRequestRange(); q != nil {
				normalRange(q, op.ResponseRange)
			}
		case *pb.ResponseOp_ResponsePut:
			plainHeader(op.ResponsePut)
		case *pb.ResponseOp_ResponseDeleteRange:
			plainHeader(op.ResponseDeleteRange)
		case *pb.ResponseOp_ResponseTxn:
			plainHeader(op.ResponseTxn)
			if q := branch[i].GetRequestTxn(); q != nil {
				normalTxn(q, op.ResponseTxn)
			}
		}
	}
}

func normalRange(req *pb.RangeRequest, r *pb.RangeResponse) {
	if req.KeysOnly && req.SortTarget != pb.RangeRequest_VALUE {
		for _, kv := range r.Kvs {
			kv.Lease = 0
		}
	}
	if target := targetOf(req.SortTarget); target != nil && r.Count > sortedExactly {
		for rest := r.Kvs; len(rest) > 0; {
			n := 1
			for n < len(rest) && target(rest[n], rest[0]) == 0 {
				n++
			}
			slices.SortFunc(rest[:n], func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
			rest = rest[n:]
		}
	}
}

// targetOf compares by what a range is sorted by, nil if that is the key.
//
// NB: an answer with keys only that is sorted by value has no values: it is
// sorted by etcd before they go, so all are equal here.
func targetOf(t pb.RangeRequest_SortTarget) func(a, b *mvccpb.KeyValue) int {
	switch t {
	case pb.RangeRequest_VERSION:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case pb.RangeRequest_CREATE:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case pb.RangeRequest_MOD:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case pb.RangeRequest_VALUE:
		return func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	default:
		return nil
	}
}
