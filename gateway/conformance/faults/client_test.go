package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// requestTimeout is how long clients wait for an answer.
	requestTimeout = 3 * time.Second

	leaseTTL = 3600 // seconds: none ends by itself
)

// dial makes a client of one member, or of several, as kube-apiserver does. It
// finds a member that comes back at once, not after the seconds that gRPC would
// wait by itself.
func dial(endpoints ...string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second,
		})},
	})
}

// client sends requests and notes what became of them.
type client struct {
	name     string
	recorder *recorder
	library  *clientv3.Client
}

// do sends a request, waits for its outcome and notes it.
func (c *client) do(ctx context.Context, q request) *op {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	o := c.recorder.begin(c.name, q)
	a, err := c.send(ctx, &o.request)
	if err == nil {
		o.outcome, o.answer = answered, a
	} else {
		o.outcome, o.failure = classify(&o.request, err), err.Error()
	}
	c.recorder.end(o)
	return o
}

// classify says what an error proves.
func classify(q *request, err error) outcome {
	text := err.Error()
	switch {
	case status.Code(err) == codes.Unavailable && strings.Contains(text, "Error while dialing"):
		// There is no connection: gRPC has not sent it.
		return refused
	case q.revoke == 0 && strings.Contains(text, leaseNotFound):
		// The library repeats a revocation, so that this may be the second
		// answer. It does not repeat a put.
		return refused
	default:
		return unknown
	}
}

// strange says that an error is none that a fault brings about: the member
// has not understood a request, or complains of itself.
func strange(o *op) bool {
	if o.outcome != unknown {
		return false
	}
	for _, usual := range []string{
		"code = Unavailable", "code = DeadlineExceeded", "code = Canceled",
		context.DeadlineExceeded.Error(), context.Canceled.Error(), leaseNotFound,
		// gRPC's own, of a connection that breaks.
		"code = Internal desc = stream terminated", "server closed the stream without sending trailers",
		// etcd's, with the codes that it gives them.
		"etcdserver: leader changed", "etcdserver: request timed out", "etcdserver: no leader",
		"etcdserver: server stopped", "etcdserver: too many requests", "rpc not supported for learner",
		"etcdserver: not leader", "raft proposal dropped", "raft: stopped",
	} {
		if strings.Contains(o.failure, usual) {
			return false
		}
	}
	return true
}

var errAnswer = errors.New("the answer does not fit the request")

func (c *client) send(ctx context.Context, q *request) (answer, error) {
	switch {
	case q.grant:
		r, err := c.library.Grant(ctx, leaseTTL)
		if err != nil {
			return answer{}, err
		}
		return answer{rev: r.Revision, held: true, lease: int64(r.ID)}, nil
	case q.revoke != 0:
		r, err := c.library.Revoke(ctx, clientv3.LeaseID(q.revoke))
		if err != nil {
			return answer{}, err
		}
		return answer{rev: r.Header.Revision, held: true}, nil
	case q.txn:
		return c.sendTxn(ctx, q)
	}
	r, err := c.library.Do(ctx, opOf(q.then[0], q.serializable))
	if err != nil {
		return answer{}, err
	}
	switch {
	case r.Get() != nil:
		return answer{rev: r.Get().Header.Revision, held: true, parts: []part{partOfRange((*pb.RangeResponse)(r.Get()))}}, nil
	case r.Put() != nil:
		return answer{rev: r.Put().Header.Revision, held: true, parts: []part{partOfPut((*pb.PutResponse)(r.Put()))}}, nil
	default:
		return answer{rev: r.Del().Header.Revision, held: true, parts: []part{partOfDelete((*pb.DeleteRangeResponse)(r.Del()))}}, nil
	}
}

func (c *client) sendTxn(ctx context.Context, q *request) (answer, error) {
	var guards []clientv3.Cmp
	for _, g := range q.guards {
		guards = append(guards, clientv3.Compare(clientv3.ModRevision(g.key), "=", g.mod))
	}
	r, err := c.library.Txn(ctx).If(guards...).Then(opsOf(q.then)...).Else(opsOf(q.otherwise)...).Commit()
	if err != nil {
		return answer{}, err
	}
	a := answer{rev: r.Header.Revision, held: r.Succeeded}
	steps := q.branch(a.held)
	if len(r.Responses) != len(steps) {
		return answer{}, errAnswer
	}
	for i, s := range steps {
		var p part
		got, put, del := r.Responses[i].GetResponseRange(), r.Responses[i].GetResponsePut(), r.Responses[i].GetResponseDeleteRange()
		switch {
		case s.verb == get && got != nil:
			p = partOfRange(got)
		case s.verb == remove && del != nil:
			p = partOfDelete(del)
		case put != nil:
			p = partOfPut(put)
		default:
			return answer{}, errAnswer
		}
		a.parts = append(a.parts, p)
	}
	return a, nil
}

func opsOf(steps []step) []clientv3.Op {
	var all []clientv3.Op
	for _, s := range steps {
		all = append(all, opOf(s, false))
	}
	return all
}

func opOf(s step, serializable bool) clientv3.Op {
	var opts []clientv3.OpOption
	if s.end != "" {
		opts = append(opts, clientv3.WithRange(s.end))
	}
	if s.prev {
		opts = append(opts, clientv3.WithPrevKV())
	}
	switch s.verb {
	case put:
		if s.lease != 0 {
			opts = append(opts, clientv3.WithLease(clientv3.LeaseID(s.lease)))
		}
		return clientv3.OpPut(s.key, s.value, opts...)
	case remove:
		return clientv3.OpDelete(s.key, opts...)
	default:
		if serializable {
			opts = append(opts, clientv3.WithSerializable())
		}
		return clientv3.OpGet(s.key, append(opts, clientv3.WithRev(s.rev), clientv3.WithLimit(s.limit))...)
	}
}

func partOfRange(r *pb.RangeResponse) part {
	return part{items: storedAll(r.Kvs), count: r.Count, more: r.More}
}

func partOfDelete(r *pb.DeleteRangeResponse) part {
	return part{items: storedAll(r.PrevKvs), count: r.Deleted}
}

func partOfPut(r *pb.PutResponse) part {
	if r.PrevKv == nil {
		return part{}
	}
	return part{items: []stored{storedOf(r.PrevKv)}}
}

// must sends a request until it is answered, which has to be soon.
func (c *client) must(ctx context.Context, q request) (*op, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		again := q
		again.then = append([]step(nil), q.then...)
		o := c.do(ctx, again)
		if o.outcome == answered {
			return o, nil
		}
		select {
		case <-c.recorder.clk.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: no answer in %v: %s", c.name, patience, o.failure)
		}
	}
}
