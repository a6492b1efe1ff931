package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// What the messages of a snapshot begin with. It is part of the protocol, and should
// not be changed.
const (
	snapshotHeader = 1
	snapshotChunk  = 2
	snapshotEnd    = 3
)

// SendSnapshot sends the chunks that next returns until it returns io.EOF, over a
// connection of their own, and returns what the other side's Handler.Snapshot
// returned: nil, or an error as by Call. It takes no more chunks than the other side
// takes from it, but for a few MiB, and has sent or copied a chunk when it calls next
// again.
func (t *Transport) SendSnapshot(ctx context.Context, to uint64, header []byte, next func() ([]byte, error)) error {
	p := t.peer(to)
	if p == nil {
		return fmt.Errorf("%w: no member %s", ErrNotSent, formatID(to))
	}
	id, m := formatID(to), &t.metrics.snapshotSent
	start := t.clock.Now()
	m.inflight.WithLabelValues(id).Inc()
	defer m.inflight.WithLabelValues(id).Dec()
	err := p.sendSnapshot(ctx, header, next)
	m.seconds.WithLabelValues(id).Observe(t.clock.Since(start).Seconds())
	if err != nil {
		m.failures.WithLabelValues(id).Inc()
		return err
	}
	m.success.WithLabelValues(id).Inc()
	return nil
}

func (p *peer) sendSnapshot(ctx context.Context, header []byte, next func() ([]byte, error)) error {
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	l, st, err := p.dialForSnapshot(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, orContext(parent, err))
	}
	defer l.close()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		l.watch(st.Context(), p.t.clock, p.t.cfg.PingInterval, func(time.Duration) {})
	}()
	defer func() { l.cut(); <-watched }()

	out := snapshotSender{stream: st, buffers: &p.t.buffers}
	if err := out.send(snapshotHeader, header); err != nil {
		return sendingFailed(parent, err)
	}
	// io.EOF from the stream says that the other side has answered already.
	for err == nil {
		var chunk []byte
		if chunk, err = next(); errors.Is(err, io.EOF) {
			err = out.send(snapshotEnd, nil)
			break
		}
		if err != nil {
			return err // The other side sees that the connection ends too soon.
		}
		err = out.send(snapshotChunk, chunk)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return sendingFailed(parent, err)
	}
	var reply message
	if err := st.RecvMsg(&reply); err != nil {
		return sendingFailed(parent, err)
	}
	_, err = answer(reply.take())
	return err
}

func sendingFailed(ctx context.Context, err error) error {
	return fmt.Errorf("%w: %w", ErrUnknown, orContext(ctx, err))
}

// dialForSnapshot connects to the URL that is in use, or else to the first that
// answers.
func (p *peer) dialForSnapshot(ctx context.Context) (*link, grpc.ClientStream, error) {
	p.mu.Lock()
	urls := p.urls
	p.mu.Unlock()
	if s := p.session.Load(); s != nil {
		urls = append([]string{s.url}, slices.DeleteFunc(slices.Clone(urls), func(u string) bool { return u == s.url })...)
	}
	h := hello{version, oldestVersion, p.t.cfg.ClusterID, p.t.cfg.MemberID, p.id}
	err := errors.New("peer: the member has no URL")
	for _, url := range urls {
		l, st, failed := p.t.dialer.greet(ctx, url, snapshotMethod, h)
		if failed == nil {
			return l, st, nil
		}
		err = failed
	}
	return nil, nil, err
}

// snapshotSender sends the messages of a snapshot.
type snapshotSender struct {
	stream  grpc.ClientStream
	buffers *bufferPool
}

// send sends b, of which it has a copy when it returns.
func (s *snapshotSender) send(kind byte, b []byte) error {
	if len(b) > MaxPayloadBytes {
		return fmt.Errorf("peer: %d bytes of a snapshot at once", len(b))
	}
	buf := s.buffers.Get(1 + len(b))
	(*buf)[0] = kind
	copy((*buf)[1:], b)
	return s.stream.SendMsg(&message{buffers: mem.BufferSlice{mem.NewBuffer(buf, s.buffers)}})
}

// snapshot serves a connection that is for a snapshot.
func (t *Transport) snapshot(st grpc.ServerStream) error {
	h, ok, err := t.admit(st)
	if !ok {
		return err
	}
	select {
	case t.snaps <- struct{}{}:
		defer func() { <-t.snaps }()
	default:
		return st.SendMsg(outgoing(failure{class: classBusy}.append(nil)))
	}
	if err := st.SendMsg(outgoing(h.welcome())); err != nil {
		return err
	}
	id, m := formatID(h.from), &t.metrics.snapshotReceived
	start := t.clock.Now()
	m.inflight.WithLabelValues(id).Inc()
	defer m.inflight.WithLabelValues(id).Dec()
	err = t.takeSnapshot(st, h.from)
	m.seconds.WithLabelValues(id).Observe(t.clock.Since(start).Seconds())
	if err != nil {
		m.failures.WithLabelValues(id).Inc()
		t.log.Warn("a snapshot was not taken", slog.String("peer", id), slog.Any("err", err))
		return st.SendMsg(outgoing(failureOf(err).append(nil)))
	}
	m.success.WithLabelValues(id).Inc()
	return st.SendMsg(outgoing([]byte{classNone}))
}

func (t *Transport) takeSnapshot(st grpc.ServerStream, from uint64) error {
	in := snapshotReceiver{stream: st}
	header, err := in.receive(snapshotHeader)
	if err != nil {
		return err
	}
	return t.cfg.Handler.Snapshot(st.Context(), from, header, in.next)
}

// snapshotReceiver receives the messages of a snapshot.
type snapshotReceiver struct {
	stream grpc.ServerStream
	// err is what next returns from now on.
	err error
}

func (s *snapshotReceiver) next() ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	b, err := s.receive(snapshotChunk)
	s.err = err
	return b, err
}

// receive returns what follows in a message of that kind, and io.EOF if it is the
// end.
func (s *snapshotReceiver) receive(kind byte) ([]byte, error) {
	var m message
	err := s.stream.RecvMsg(&m)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // The end of the stream is not that of the snapshot.
	}
	if err != nil {
		return nil, fmt.Errorf("peer: receiving a snapshot: %w", err)
	}
	b := m.take()
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("%w: an empty message in a snapshot", ErrProtocol)
	case b[0] == snapshotEnd && kind == snapshotChunk:
		return nil, io.EOF
	case b[0] != kind:
		return nil, fmt.Errorf("%w: message %d in a snapshot", ErrProtocol, b[0])
	}
	return b[1:], nil
}
