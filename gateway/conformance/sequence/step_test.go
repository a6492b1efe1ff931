package sequence

import (
	"context"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// A step is one request of a sequence.
type step struct {
	// member is which of three is asked.
	member int
	// req is a request of one of the types in send, or a WatchCreateRequest or
	// WatchCancelRequest.
	req proto.Message
	// op is the same for the model; nil if it changes nothing.
	op evaluate.Op
	// stream sends a RangeRequest as RangeStream.
	stream bool
	// watch is the number of the watch that is created or cancelled, and lane
	// which of a system's streams it is on.
	watch, lane int
}

// local says that a member answers from what it has.
func (s step) local() bool {
	switch r := s.req.(type) {
	case *pb.RangeRequest:
		return r.Serializable
	case *pb.TxnRequest:
		return serializable(r)
	case *pb.LeaseTimeToLiveRequest, *pb.LeaseLeasesRequest, *pb.LeaseKeepAliveRequest, *pb.HashKVRequest,
		*pb.WatchCreateRequest, *pb.WatchCancelRequest:
		return true
	default:
		return false
	}
}

// serializable says whether a transaction is one that etcd serves so: all of it
// reads, serializably.
func serializable(t *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range ops {
			if r := op.GetRequestRange(); r == nil || !r.Serializable {
				return false
			}
		}
	}
	return true
}

func (s step) String() string {
	text := fmt.Sprintf("%T{%s}", s.req, prototext.MarshalOptions{}.Format(s.req))
	if s.op != nil {
		text = sim.FormatOp(s.op)
	}
	switch r := s.req.(type) {
	case *pb.RangeRequest:
		if s.stream {
			text += " as RangeStream"
		}
		if r.Serializable {
			text += " serializable"
		}
	case *pb.TxnRequest:
		if serializable(r) {
			text += " serializable"
		}
	case *pb.WatchCreateRequest, *pb.WatchCancelRequest:
		text = fmt.Sprintf("watch number %d on stream %d: %s", s.watch, s.lane, text)
	}
	return fmt.Sprintf("at m%d: %s", s.member+1, text)
}

// answer is what a client gets.
type answer struct {
	resp proto.Message
	err  error
}

func (a answer) String() string {
	if a.err != nil {
		st := status.Convert(a.err)
		return fmt.Sprintf("%v: %s", st.Code(), st.Message())
	}
	return prototext.MarshalOptions{}.Format(a.resp)
}

// equal compares two answers, of which an error's code and text count.
func (a answer) equal(b answer) bool {
	if a.err != nil || b.err != nil {
		return a.err != nil && b.err != nil && a.String() == b.String()
	}
	return proto.Equal(a.resp, b.resp)
}

// give makes an answer of what a call returns.
func give[R proto.Message](r R, err error) answer {
	if err != nil {
		return answer{err: err}
	}
	return answer{resp: r}
}

// send sends a request that has one answer.
func send(ctx context.Context, conn *grpc.ClientConn, s step) answer {
	kv, lease := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	switch r := s.req.(type) {
	case *pb.RangeRequest:
		if s.stream {
			return rangeStream(ctx, kv, r)
		}
		return give(kv.Range(ctx, r))
	case *pb.PutRequest:
		return give(kv.Put(ctx, r))
	case *pb.DeleteRangeRequest:
		return give(kv.DeleteRange(ctx, r))
	case *pb.TxnRequest:
		return give(kv.Txn(ctx, r))
	case *pb.CompactionRequest:
		return give(kv.Compact(ctx, r))
	case *pb.LeaseGrantRequest:
		return give(lease.LeaseGrant(ctx, r))
	case *pb.LeaseRevokeRequest:
		return give(lease.LeaseRevoke(ctx, r))
	case *pb.LeaseTimeToLiveRequest:
		return give(lease.LeaseTimeToLive(ctx, r))
	case *pb.LeaseLeasesRequest:
		return give(lease.LeaseLeases(ctx, r))
	case *pb.LeaseKeepAliveRequest:
		return keepAlive(ctx, lease, r)
	case *pb.HashKVRequest:
		return give(pb.NewMaintenanceClient(conn).HashKV(ctx, r))
	default:
		return answer{err: fmt.Errorf("%T can not be sent", r)}
	}
}

// rangeStream puts the chunks together, as a client does.
func rangeStream(ctx context.Context, kv pb.KVClient, r *pb.RangeRequest) answer {
	stream, err := kv.RangeStream(ctx, r)
	if err != nil {
		return answer{err: err}
	}
	whole := &pb.RangeResponse{}
	for {
		chunk, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return answer{resp: whole}
		case err != nil:
			return answer{err: err}
		case whole.Header != nil:
			return answer{err: errors.New("a chunk follows the one with the header")}
		}
		proto.Merge(whole, chunk.RangeResponse)
	}
}

func keepAlive(ctx context.Context, lease pb.LeaseClient, r *pb.LeaseKeepAliveRequest) answer {
	stream, err := lease.LeaseKeepAlive(ctx)
	if err != nil {
		return answer{err: err}
	}
	if err := stream.Send(r); err != nil {
		return answer{err: err}
	}
	a := give(stream.Recv())
	if err := stream.CloseSend(); err != nil && a.err == nil {
		a.err = err
	}
	return a
}

// request writes an op in etcd's protocol.
func request(op evaluate.Op) proto.Message {
	switch op := op.(type) {
	case *evaluate.Compact:
		return &pb.CompactionRequest{Revision: op.Revision, Physical: true}
	case *evaluate.LeaseGrant:
		return &pb.LeaseGrantRequest{ID: op.ID, TTL: op.TTL}
	case *evaluate.LeaseRevoke:
		return &pb.LeaseRevokeRequest{ID: op.ID}
	case *evaluate.Range:
		return requestOp(op).GetRequestRange()
	case *evaluate.Put:
		return requestOp(op).GetRequestPut()
	case *evaluate.DeleteRange:
		return requestOp(op).GetRequestDeleteRange()
	default:
		return requestOp(op).GetRequestTxn()
	}
}

func requestOp(op evaluate.Op) *pb.RequestOp {
	switch op := op.(type) {
	case *evaluate.Range:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{
			Key: op.Key, RangeEnd: op.End, Limit: op.Limit, Revision: op.Revision,
			SortTarget: pb.RangeRequest_SortTarget(op.SortTarget), SortOrder: pb.RangeRequest_SortOrder(op.SortOrder),
			KeysOnly: op.KeysOnly, CountOnly: op.CountOnly,
			MinModRevision: op.MinMod, MaxModRevision: op.MaxMod,
			MinCreateRevision: op.MinCreate, MaxCreateRevision: op.MaxCreate,
		}}}
	case *evaluate.Put:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
			Key: op.Key, Value: op.Value, Lease: op.Lease, PrevKv: op.PrevKV,
			IgnoreValue: op.IgnoreValue, IgnoreLease: op.IgnoreLease,
		}}}
	case *evaluate.DeleteRange:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{
			Key: op.Key, RangeEnd: op.End, PrevKv: op.PrevKV,
		}}}
	case *evaluate.Txn:
		t := &pb.TxnRequest{}
		for _, c := range op.Compare {
			t.Compare = append(t.Compare, requestCompare(c))
		}
		for _, o := range op.Success {
			t.Success = append(t.Success, requestOp(o))
		}
		for _, o := range op.Failure {
			t.Failure = append(t.Failure, requestOp(o))
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
	default:
		panic(fmt.Sprintf("%T", op))
	}
}

func requestCompare(c evaluate.Compare) *pb.Compare {
	p := &pb.Compare{
		Key: c.Key, RangeEnd: c.End,
		Target: []pb.Compare_CompareTarget{
			pb.Compare_VERSION, pb.Compare_CREATE, pb.Compare_MOD, pb.Compare_VALUE, pb.Compare_LEASE,
		}[c.Target],
		Result: []pb.Compare_CompareResult{
			pb.Compare_EQUAL, pb.Compare_GREATER, pb.Compare_LESS, pb.Compare_NOT_EQUAL,
		}[c.Result],
	}
	switch c.Target {
	case evaluate.CompareVersion:
		p.TargetUnion = &pb.Compare_Version{Version: c.Number}
	case evaluate.CompareCreate:
		p.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: c.Number}
	case evaluate.CompareMod:
		p.TargetUnion = &pb.Compare_ModRevision{ModRevision: c.Number}
	case evaluate.CompareLease:
		p.TargetUnion = &pb.Compare_Lease{Lease: c.Number}
	case evaluate.CompareValue:
		p.TargetUnion = &pb.Compare_Value{Value: c.Value}
	}
	return p
}
