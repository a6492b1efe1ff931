package gateway

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// maxTxnDepth bounds how deep transactions may nest. With etcd's default of
	// 128 operations the rule about operations is the tighter one.
	maxTxnDepth = 128
	// maxTxnTotal times Config.MaxTxnOps bounds the operations of a transaction
	// with all that are nested in it; etcd leaves that to the request's size.
	maxTxnTotal = 64
	// maxLeaseTTL is etcd's, in seconds.
	maxLeaseTTL = 9_000_000_000
	// logOverhead is what etcd's log entry adds to a request's encoding; its
	// limit is on the entry.
	logOverhead = 18
)

// Refusals of RangeStream, with etcd's texts.
var (
	errStreamSorted   = status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	errStreamFiltered = status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
)

// checkRange checks a Range.
func checkRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if r.SortOrder < pb.RangeRequest_NONE || r.SortOrder > pb.RangeRequest_DESCEND ||
		r.SortTarget < pb.RangeRequest_KEY || r.SortTarget > pb.RangeRequest_VALUE {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

// checkRangeStream checks a RangeStream: it serves the store's own order only.
//
// etcd also lets a target without an order pass, and then sorts each chunk for
// itself, which repeats some keys and loses others. Here such a request gets
// the order of its keys, which is what it asks for: no order.
func checkRangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	byKey := r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND
	if r.SortOrder != pb.RangeRequest_NONE && !byKey {
		return errStreamSorted
	}
	if r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		return errStreamFiltered
	}
	return nil
}

// checkPut checks a Put.
func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

// checkDelete checks a DeleteRange.
func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn checks a transaction with all that is nested in it. What passes
// changes no key twice, whichever branches run.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	total := maxTxnTotal * maxOps
	if err := checkTxnOps(r, maxOps, maxTxnDepth, &total); err != nil {
		return err
	}
	if err := checkOverlaps(r.GetSuccess()); err != nil {
		return err
	}
	return checkOverlaps(r.GetFailure())
}

// checkTxnOps checks each operation of r for itself. An operation counts for
// every transaction around it: a nested one may have what the longest list
// beside it leaves of maxOps. total is what remains of the operations that all
// may have together.
func checkTxnOps(r *pb.TxnRequest, maxOps, maxDepth int, total *int) error {
	longest := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	*total -= len(r.GetCompare()) + len(r.GetSuccess()) + len(r.GetFailure())
	if longest > maxOps || maxDepth == 0 || *total < 0 {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [2][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range branch {
			if err := checkOp(op, maxOps-longest, maxDepth-1, total); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps, maxDepth int, total *int) error {
	switch u := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(u.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(u.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(u.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxnOps(u.RequestTxn, maxOps, maxDepth, total)
	default:
		// Nothing is asked for: etcd calls that a missing key.
		return rpctypes.ErrGRPCKeyNotFound
	}
}

// checkLeaseGrant checks a LeaseGrant. Any TTL below the least that the server
// grants is raised to it, negative ones too, and any ID but 0 may be chosen.
func checkLeaseGrant(r *pb.LeaseGrantRequest) error {
	if r.GetTTL() > maxLeaseTTL {
		return rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	return nil
}

// checkPutSize refuses a Put whose log entry would be larger than limit.
func checkPutSize(r *pb.PutRequest, limit int) error {
	// 64 is more than all but the key and the value can take.
	if len(r.Key)+len(r.Value)+64 <= limit {
		return nil
	}
	return checkSize(r, limit)
}

// checkTxnSize is checkPutSize for a transaction.
func checkTxnSize(r *pb.TxnRequest, limit int) error {
	// 128 is more than an operation can take beside its bytes; a branch with
	// anything but puts and plain ranges is measured.
	bound := 64
	for _, c := range r.Compare {
		v, _ := c.TargetUnion.(*pb.Compare_Value)
		bound += 128 + len(c.Key) + len(c.RangeEnd)
		if v != nil {
			bound += len(v.Value)
		}
	}
	for _, branch := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			switch u := op.Request.(type) {
			case *pb.RequestOp_RequestPut:
				bound += 128 + len(u.RequestPut.Key) + len(u.RequestPut.Value)
			case *pb.RequestOp_RequestRange:
				bound += 128 + len(u.RequestRange.Key) + len(u.RequestRange.RangeEnd)
			case *pb.RequestOp_RequestDeleteRange:
				bound += 128 + len(u.RequestDeleteRange.Key) + len(u.RequestDeleteRange.RangeEnd)
			default:
				return checkSize(r, limit)
			}
		}
	}
	if bound <= limit {
		return nil
	}
	return checkSize(r, limit)
}

// checkSize measures. It is for what is seldom sent or near the limit.
func checkSize(r proto.Message, limit int) error {
	if proto.Size(r)+logOverhead > limit {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}
