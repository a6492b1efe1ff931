package admission

import (
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A Class has seats and queues of its own, so that none can starve another. It is
// what kube-apiserver calls a priority level.
type Class uint8

// The classes; the package's doc says why there are these.
const (
	Exempt Class = iota
	Leases
	Mutating
	ReadOnly
	Lists
	classes
)

var classNames = [classes]string{"exempt", "leases", "mutating", "readonly", "lists"}

func (c Class) String() string { return classNames[c] }

// kvService has the calls that the limits are about. What is not named below and
// is no call of this service is exempt.
const kvService = "/etcdserverpb.KV/"

// call is what the limiter knows of a request.
type call struct {
	class Class
	key   []byte
	// list is the range, if the request is a list; txn the transaction, if there
	// are lists in it.
	list *pb.RangeRequest
	txn  *pb.TxnRequest
}

// classify says what a request is. It is cheap and allocates nothing.
func (l *Limiter) classify(method string, req any) call {
	switch r := req.(type) {
	case *pb.RangeRequest:
		if len(r.RangeEnd) > 0 {
			return call{class: Lists, key: r.Key, list: r}
		}
		if l.isHealth(r.Key) {
			return call{class: Exempt, key: r.Key}
		}
		return call{class: l.pointClass(ReadOnly, r.Key), key: r.Key}
	case *pb.PutRequest:
		return call{class: l.pointClass(Mutating, r.Key), key: r.Key}
	case *pb.DeleteRangeRequest:
		if l.quotaReached() {
			return call{class: Exempt, key: r.Key}
		}
		if len(r.RangeEnd) > 0 {
			return call{class: Mutating, key: r.Key}
		}
		return call{class: l.pointClass(Mutating, r.Key), key: r.Key}
	case *pb.TxnRequest:
		return l.classifyTxn(r)
	case *pb.CompactionRequest:
		if l.quotaReached() {
			return call{class: Exempt}
		}
		return call{class: Mutating}
	case *pb.LeaseGrantRequest:
		return call{class: Mutating}
	case *pb.LeaseTimeToLiveRequest, *pb.LeaseLeasesRequest, *pb.HashRequest, *pb.HashKVRequest:
		return call{class: ReadOnly}
	}
	if strings.HasPrefix(method, kvService) {
		return call{class: Mutating}
	}
	return call{class: Exempt}
}

// classifyTxn looks at the operations of both branches: which one it will be is
// not known yet.
func (l *Limiter) classifyTxn(r *pb.TxnRequest) call {
	var key []byte
	if len(r.Compare) > 0 {
		key = r.Compare[0].GetKey()
	}
	writes, lists, frees := false, false, true
	for _, branch := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			var k []byte
			switch op := op.GetRequest().(type) {
			case *pb.RequestOp_RequestRange:
				k = op.RequestRange.GetKey()
				lists = lists || len(op.RequestRange.GetRangeEnd()) > 0
			case *pb.RequestOp_RequestPut:
				k = op.RequestPut.GetKey()
				writes, frees = true, false
			case *pb.RequestOp_RequestDeleteRange:
				k = op.RequestDeleteRange.GetKey()
				writes = true
			default: // A transaction, or nothing: who nests them is not in a hurry.
				writes, frees = true, false
			}
			if key == nil {
				key = k
			}
		}
	}
	c := call{key: key}
	if lists {
		c.txn = r
	}
	switch {
	case writes && frees && l.quotaReached():
		c.class = Exempt
	case lists && !writes:
		c.class = Lists
	case lists:
		c.class = Mutating
	case writes:
		c.class = l.pointClass(Mutating, key)
	default:
		c.class = l.pointClass(ReadOnly, key)
	}
	return c
}

// pointClass is the class of a request about one key.
func (l *Limiter) pointClass(class Class, key []byte) Class {
	for _, prefix := range l.leasePrefixes {
		if len(key) >= len(prefix) && string(key[:len(prefix)]) == prefix {
			return Leases
		}
	}
	return class
}

// isHealth says whether key is what health checks read.
func (l *Limiter) isHealth(key []byte) bool {
	return string(key) == l.healthKey || string(key) == "health"
}
