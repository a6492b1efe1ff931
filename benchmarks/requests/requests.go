// Package requests makes the transactions that kube-apiserver sends: it knows no
// others, and no plain puts and deletes.
package requests

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// Create makes an object that is not there.
func Create(key, value []byte, lease int64) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: ifMod(key, 0), Success: put(key, value, lease)}
}

// Update replaces an object that nobody has written since revision mod, or reads it.
func Update(key []byte, mod int64, value []byte, lease int64) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: ifMod(key, mod), Success: put(key, value, lease), Failure: read(key)}
}

// Delete removes an object that nobody has written since revision mod, or reads it.
func Delete(key []byte, mod int64) *pb.TxnRequest {
	return &pb.TxnRequest{
		Compare: ifMod(key, mod),
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}},
		Failure: read(key),
	}
}

// CompactKey is what the kube-apiservers agree by about who compacts.
const CompactKey = "compact_rev_key"

// Compactor takes the turn to compact, if the key still has the version.
func Compactor(version int64, value []byte) *pb.TxnRequest {
	key := []byte(CompactKey)
	return &pb.TxnRequest{
		Compare: []*pb.Compare{{
			Key: key, Result: pb.Compare_EQUAL, Target: pb.Compare_VERSION,
			TargetUnion: &pb.Compare_Version{Version: version},
		}},
		Success: put(key, value, 0), Failure: read(key),
	}
}

func ifMod(key []byte, mod int64) []*pb.Compare {
	return []*pb.Compare{{
		Key: key, Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: mod},
	}}
}

func put(key, value []byte, lease int64) []*pb.RequestOp {
	return []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value, Lease: lease}}}}
}

func read(key []byte) []*pb.RequestOp {
	return []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}}
}
