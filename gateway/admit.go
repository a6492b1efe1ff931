package gateway

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/pebbledash/pebbledash/gateway/admission"
	"github.com/pebbledash/pebbledash/pkg/tracing"
)

// What waits for [2] is here: calls of one answer in admit, and RangeStream, of
// which the request is not known before its handler runs, in admittedKV.

// maxHold is how long a list's seats are held while its answer is sent. A client
// that does not read shall not keep others out for longer.
const maxHold = 10 * time.Second

// admit runs a call when it may come in. Its seats are held until it has been
// answered, and those of a list until the answer has been sent.
func (s *Server) admit(ctx context.Context, method string, req any, handler grpc.UnaryHandler) (any, error) {
	if s.cfg.Admission == nil {
		return handler(ctx, req)
	}
	v := s.cfg.Admission.Arrive(method, req)
	if !v.Inside() {
		if err := s.admitLater(ctx, &v, req); err != nil {
			return nil, err
		}
	}
	if v.IsList() {
		return s.list(ctx, v, req, handler)
	}
	defer v.Leave()
	return handler(ctx, req)
}

// admitLater is for calls that have to wait.
func (s *Server) admitLater(ctx context.Context, v *admission.Visit, req any) error {
	trace := s.trace(ctx)
	trace.Mark(tracing.Queued)
	err := v.Wait(ctx, req)
	if err == nil {
		trace.Mark(tracing.Admitted)
	}
	return err
}

// list answers a list. v is its own. A long one is encoded here, where it may use a
// processor.
func (s *Server) list(ctx context.Context, v admission.Visit, req any, handler grpc.UnaryHandler) (any, error) {
	held := false
	defer func() {
		if !held {
			v.Leave()
		}
	}()
	long := v.Long()
	if long {
		if err := s.compute(ctx, &v, req); err != nil {
			return nil, err
		}
		defer v.Rest()
	}
	resp, err := handler(ctx, req)
	r, ok := resp.(*pb.RangeResponse)
	if err != nil || !ok {
		return resp, err
	}
	v.Learn(r.Count, int64(len(r.Kvs)), bytesOf(r))
	if !long {
		return resp, nil
	}
	held = true
	return holdUntilSent(r, &s.codec.buffers, v), nil
}

// compute waits until a long list may use a processor. What it waits for without one, a
// quorum, comes before: where there is none, serializable lists, which need none, would
// stand behind others that wait for it in vain.
func (s *Server) compute(ctx context.Context, v *admission.Visit, req any) error {
	if r, ok := req.(*pb.RangeRequest); ok && !r.Serializable {
		if _, err := s.store.ReadIndex(ctx); err != nil {
			return toGRPC(err)
		}
	}
	return v.Compute(ctx)
}

// bytesOf is about how much of an answer's encoding is keys and values.
func bytesOf(r *pb.RangeResponse) int64 {
	var sum int
	for _, kv := range r.Kvs {
		sum += len(kv.Key) + len(kv.Value)
	}
	return int64(sum)
}

// heldAnswer is an encoded answer to a list that has its seats until it has been
// sent.
type heldAnswer struct {
	buffers mem.BufferSlice
	once    sync.Once
	timer   *time.Timer
	visit   admission.Visit
}

var _ wireMessage = (*heldAnswer)(nil)

// holdUntilSent encodes r, and puts a buffer without bytes behind: when gRPC frees
// it, the answer has been sent.
func holdUntilSent(r *pb.RangeResponse, pool *bufferPool, v admission.Visit) *heldAnswer {
	h := &heldAnswer{visit: v}
	h.buffers, _ = encodeRange(r, false, pool)
	mark := pool.Get(1 << minPooled) // Smaller ones are not given back.
	*mark = (*mark)[:0]
	h.buffers = append(h.buffers, mem.NewBuffer(mark, &markPool{h, pool}))
	// NB: gRPC does not free what it has begun to send when the connection
	// breaks, so there is no other end to wait for.
	h.timer = time.AfterFunc(maxHold, h.leave)
	return h
}

// WireBuffers implements wireMessage. gRPC asks once.
func (h *heldAnswer) WireBuffers() mem.BufferSlice { return h.buffers }

func (h *heldAnswer) leave() { h.once.Do(h.visit.Leave) }

// markPool gets the mark back.
type markPool struct {
	answer *heldAnswer
	pool   *bufferPool
}

func (p *markPool) Get(length int) *[]byte { return p.pool.Get(length) }

func (p *markPool) Put(b *[]byte) {
	p.pool.Put(b)
	p.answer.timer.Stop()
	p.answer.leave()
}

// admittedKV is the KV service behind [2].
type admittedKV struct{ *kvServer }

// RangeStream holds its seats until the last chunk has been handed on.
func (s admittedKV) RangeStream(r *pb.RangeRequest, stream grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
	if s.cfg.Admission == nil {
		return s.kvServer.RangeStream(r, stream)
	}
	v := s.cfg.Admission.Arrive(pb.KV_RangeStream_FullMethodName, r)
	if !v.Inside() {
		if err := s.admitLater(stream.Context(), &v, r); err != nil {
			return err
		}
	}
	held := &heldStream{ServerStreamingServer: stream, visit: v}
	held.timer = time.AfterFunc(maxHold, held.leave)
	defer held.leave()
	defer held.timer.Stop()
	if held.long = held.visit.Long(); held.long {
		if err := s.compute(stream.Context(), &held.visit, r); err != nil {
			return err
		}
		defer held.rest()
	}
	err := s.kvServer.RangeStream(r, held)
	if err == nil {
		held.visit.Learn(held.count, held.keys, held.bytes)
	}
	return err
}

// heldStream counts what is sent.
type heldStream struct {
	grpc.ServerStreamingServer[pb.RangeStreamResponse]
	count, keys, bytes int64

	once  sync.Once
	timer *time.Timer
	visit admission.Visit
	// long says that it is a long list, resting that it uses no processor now.
	long, resting bool
}

// rest gives the processor to the next list.
func (s *heldStream) rest() {
	if s.long && !s.resting {
		s.resting = true
		s.visit.Rest()
	}
}

func (s *heldStream) leave() { s.once.Do(s.visit.Leave) }

func (s *heldStream) Send(r *pb.RangeStreamResponse) error {
	if a := r.RangeResponse; a != nil {
		s.keys += int64(len(a.Kvs))
		s.bytes += bytesOf(a)
		s.count = max(s.count, a.Count) // The last one has it.
	}
	s.rest()
	err := s.ServerStreamingServer.Send(r)
	if err == nil && s.long {
		if err = s.visit.Compute(s.Context()); err == nil {
			s.resting = false
		}
	}
	return err
}
