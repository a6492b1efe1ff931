package peer

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// stream is what the two sides of a gRPC stream have in common.
type stream interface {
	Context() context.Context
	SendMsg(m any) error
	RecvMsg(m any) error
}

// session is one connection over which frames go, at one of its ends.
type session struct {
	t *Transport
	// member is the other side.
	member uint64
	stream stream
	// cut closes the connection under TLS, so that nothing waits for the other side
	// any more, and ends the stream's context. It may be called more than once.
	cut func()
	out *outbox

	sent, received prometheus.Counter
}

// write is the writer: it sends what is in the outbox until that is closed or the
// connection is lost.
func (s *session) write(taken func(batch []record)) {
	var (
		batch []record
		frame message
	)
	for s.out.wait() {
		// Those who are about to queue something, do it first: one frame for many
		// costs little more than one frame for one.
		runtime.Gosched()
		batch = s.out.take(batch[:0])
		if len(batch) == 0 {
			continue
		}
		if taken != nil {
			taken(batch)
		}
		frame.buffers = encode(batch, &s.t.buffers)
		clear(batch)
		s.sent.Add(float64(frame.buffers.Len()))
		if err := s.stream.SendMsg(&frame); err != nil {
			// The reader finds out why.
			s.cut()
			return
		}
	}
}

// read is the reader: it passes the records on to handle until the connection is
// lost.
func (s *session) read(handle func(r *record) error) error {
	var (
		m message
		d decoder
		r record
	)
	for {
		if err := s.stream.RecvMsg(&m); err != nil {
			return err
		}
		s.received.Add(float64(m.buffers.Len()))
		err := error(nil)
		for d.begin(&m); err == nil && d.next(&r); {
			err = handle(&r)
		}
		m.free()
		if err = errors.Join(err, d.err); err != nil {
			return err
		}
	}
}

func unexpected(r *record) error {
	return fmt.Errorf("%w: a record of kind %d on the wrong way", ErrProtocol, r.kind)
}
