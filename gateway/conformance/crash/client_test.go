package crash_test

import (
	"context"
	"errors"
	"net/url"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// requestTimeout bounds every wait for the server. Reaching it is a
	// violation.
	requestTimeout = 30 * time.Second

	// maxMessageBytes is more than the whole store.
	maxMessageBytes = 64 << 20
)

// dialOptions have a client find the restarted server at once, not after the
// seconds that gRPC would wait by itself.
func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2, Jitter: 0.2, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
	}
}

// dial opens a connection without a client library: nothing is repeated behind
// the test's back.
func dial(endpoint string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+u.Host, append(dialOptions(), more...)...)
}

// patient has requests wait for a connection. Those that have been sent fail
// with it all the same.
func patient() grpc.DialOption { return grpc.WithDefaultCallOptions(grpc.WaitForReady(true)) }

// client speaks to one run of the server, and notes what it is told.
type client struct {
	ledger *ledger
	conn   *grpc.ClientConn

	kv          pb.KVClient
	lease       pb.LeaseClient
	maintenance pb.MaintenanceClient
}

func newClient(l *ledger, conn *grpc.ClientConn) *client {
	return &client{l, conn, pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn)}
}

// write sends an op. After an error nobody knows whether it has happened.
func (c *client) write(ctx context.Context, o *op) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c.ledger.begin(o)
	header, err := c.send(ctx, o)
	if err != nil {
		return err
	}
	o.rev = header.Revision
	c.ledger.heard(header)
	c.ledger.done(o)
	return nil
}

// send has the op sent by the call that clients would use for it, and fills
// outcome, was and found.
func (c *client) send(ctx context.Context, o *op) (*pb.ResponseHeader, error) {
	switch {
	case o.revoke != 0:
		r, err := c.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: o.revoke})
		if err != nil {
			return nil, err
		}
		o.outcome = applied
		return r.Header, nil
	case o.guard != nil || len(o.steps) > 1:
		return c.sendTxn(ctx, o)
	case o.steps[0].remove:
		r, err := c.kv.DeleteRange(ctx, o.steps[0].deleteRequest())
		if err != nil {
			return nil, err
		}
		o.outcome = applied
		return r.Header, o.removed(r)
	default:
		r, err := c.kv.Put(ctx, o.steps[0].putRequest())
		if err != nil {
			return nil, err
		}
		o.outcome = applied
		o.replaced(r)
		return r.Header, nil
	}
}

func (c *client) sendTxn(ctx context.Context, o *op) (*pb.ResponseHeader, error) {
	r, err := c.kv.Txn(ctx, o.txnRequest())
	if err != nil {
		return nil, err
	}
	if !r.Succeeded {
		o.outcome = refused
		if o.guard == nil || len(r.Responses) != 1 || r.Responses[0].GetResponseRange() == nil {
			return nil, errAnswer
		}
		o.found = itemsOf(r.Responses[0].GetResponseRange().Kvs)
		return r.Header, nil
	}
	o.outcome = applied
	if len(r.Responses) != len(o.steps) {
		return nil, errAnswer
	}
	for i, s := range o.steps {
		put, del := r.Responses[i].GetResponsePut(), r.Responses[i].GetResponseDeleteRange()
		switch {
		case s.remove && del != nil:
			if err := o.removed(del); err != nil {
				return nil, err
			}
		case !s.remove && put != nil:
			o.replaced(put)
		default:
			return nil, errAnswer
		}
	}
	return r.Header, nil
}

// errAnswer is an answer that has not the form of the request. It is a
// violation at any time.
var errAnswer = errors.New("the answer does not fit the request")

func (o *op) removed(r *pb.DeleteRangeResponse) error {
	o.was = append(o.was, itemsOf(r.PrevKvs))
	if r.Deleted != int64(len(r.PrevKvs)) {
		return errAnswer
	}
	return nil
}

func (o *op) replaced(r *pb.PutResponse) {
	before := []item{}
	if r.PrevKv != nil {
		before = append(before, itemOf(r.PrevKv))
	}
	o.was = append(o.was, before)
}

func (s step) putRequest() *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(s.key), Value: []byte(s.value), Lease: s.lease, PrevKv: true}
}

func (s step) deleteRequest() *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: []byte(s.key), RangeEnd: []byte(s.end), PrevKv: true}
}

// txnRequest is an op as kube-apiserver would send it: whoever loses is shown
// what there is.
func (o *op) txnRequest() *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	if o.guard != nil {
		key := []byte(o.guard.key)
		txn.Compare = []*pb.Compare{{
			Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, Key: key,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: o.guard.mod},
		}}
		txn.Failure = []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}}
	}
	for _, s := range o.steps {
		part := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: s.putRequest()}}
		if s.remove {
			part = &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: s.deleteRequest()}}
		}
		txn.Success = append(txn.Success, part)
	}
	return txn
}

// read asks for a range and notes what it shows.
func (c *client) read(ctx context.Context, what string, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	toldBefore, toldBy := c.ledger.highestBy()
	if req.Serializable {
		toldBefore = 0
	}
	r, err := c.kv.Range(ctx, req)
	if err != nil {
		return nil, err
	}
	c.ledger.heard(r.Header)
	c.ledger.looked(what, req, r, toldBefore, toldBy)
	return r, nil
}

// hash asks for the hash of everything up to a revision, and notes it.
func (c *client) hash(ctx context.Context, rev int64) (hash, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := c.maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: rev})
	if err != nil {
		return hash{}, err
	}
	if r.HashRevision != rev {
		c.ledger.violation("HashKV up to revision %d is said to be of revision %d", rev, r.HashRevision)
	}
	return hash{rev: rev, compacted: r.CompactRevision, sum: r.Hash}, nil
}

// grant asks for a lease and notes it.
func (c *client) grant(ctx context.Context, l *lease) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c.ledger.granting(l)
	r, err := c.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: l.id, TTL: l.ttl})
	if err != nil {
		return err
	}
	c.ledger.heard(r.Header)
	if r.ID != l.id || r.TTL < l.ttl {
		c.ledger.violation("lease %d of %d s was granted as %d of %d s", l.id, l.ttl, r.ID, r.TTL)
	}
	c.ledger.granted(l, r.TTL)
	return nil
}

// keepAlive asks once for a lease to be kept.
func (c *client) keepAlive(ctx context.Context, l *lease) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := c.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: l.id}); err != nil {
		return err
	}
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	if r.ID != l.id || r.TTL != l.ttl {
		c.ledger.violation("lease %d of %d s was kept alive as %d of %d s", l.id, l.ttl, r.ID, r.TTL)
	}
	return nil
}
