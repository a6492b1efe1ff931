package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/pkg/throttle"
)

const (
	// maxStreams bounds the streams of one connection. A member needs two.
	maxStreams = 16
	// maxHeaderBytes bounds the headers of a stream.
	maxHeaderBytes = 16 << 10
)

func (t *Transport) newServer() *grpc.Server {
	s := grpc.NewServer(
		grpc.Creds(&doorkeeper{log: t.log, clock: t.clock}),
		grpc.ForceServerCodecV2(codec{}),
		experimental.BufferPool(&t.buffers),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(t.cfg.DialTimeout),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:    t.cfg.PingInterval,
			Timeout: silentPings * t.cfg.PingInterval,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             t.cfg.PingInterval / 2,
			PermitWithoutStream: true,
		}),
	)
	streams := func(name string, handle func(grpc.ServerStream) error) grpc.StreamDesc {
		return grpc.StreamDesc{
			StreamName:    name,
			ClientStreams: true,
			ServerStreams: true,
			Handler:       func(_ any, s grpc.ServerStream) error { return handle(s) },
		}
	}
	unary := func(name string, handle func(context.Context, []byte) ([]byte, error)) grpc.MethodDesc {
		return grpc.MethodDesc{
			MethodName: name,
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var m message
				if err := decode(&m); err != nil {
					return nil, err
				}
				b, err := handle(ctx, m.take())
				return outgoing(b), err
			},
		}
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{streams("Talk", t.talk), streams("Snapshot", t.snapshot)},
		Methods: []grpc.MethodDesc{
			unary("Ask", t.answerAsk),
			unary("Ping", func(context.Context, []byte) ([]byte, error) { return nil, nil }),
		},
	}, nil)
	return s
}

// doorkeeper finishes TLS handshakes, and lets handlers find the connection under a
// stream. It implements gRPC's TransportCredentials.
type doorkeeper struct {
	log    *slog.Logger
	clock  clock.Clock
	failed throttle.Throttle
}

var _ credentials.TransportCredentials = (*doorkeeper)(nil)

// acceptedConn is what the doorkeeper tells of a connection.
type acceptedConn struct {
	credentials.CommonAuthInfo
	raw net.Conn
}

// AuthType names the kind of information.
func (acceptedConn) AuthType() string { return "peer" }

// ServerHandshake makes a connection ready. gRPC has set a deadline.
func (d *doorkeeper) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	inner := c
	if l, ok := c.(*limitedConn); ok {
		inner = l.Conn
	}
	info := acceptedConn{raw: inner}
	info.SecurityLevel = credentials.NoSecurity
	if t, ok := inner.(*tls.Conn); ok {
		if err := t.Handshake(); err != nil {
			if skipped, ok := d.failed.Allow(d.clock.Now()); ok {
				d.log.Warn("a member's TLS handshake failed", slog.String("address", c.RemoteAddr().String()),
					slog.Any("err", err), slog.Int("suppressed", skipped))
			}
			return nil, nil, err
		}
		info.raw = t.NetConn()
		info.SecurityLevel = credentials.PrivacyAndIntegrity
	}
	return c, info, nil
}

// ClientHandshake is not for a doorkeeper.
func (*doorkeeper) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer: the doorkeeper is for servers")
}

// Info names the protocol.
func (*doorkeeper) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{} }

// Clone returns the doorkeeper itself.
func (d *doorkeeper) Clone() credentials.TransportCredentials { return d }

// OverrideServerName does nothing, as for any server.
func (*doorkeeper) OverrideServerName(string) error { return nil }

// rawConn returns the connection under a stream.
func rawConn(ctx context.Context) net.Conn {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		panic("peer: a stream without a peer")
	}
	return p.AuthInfo.(acceptedConn).raw
}

// admit takes the greeting of a stream, and answers it if it is not fine. Then it
// returns false, or an error if the stream broke.
func (t *Transport) admit(s grpc.ServerStream) (h hello, ok bool, err error) {
	raw := rawConn(s.Context())
	greeted := make(chan struct{})
	timer := t.clock.NewTimer(t.cfg.DialTimeout)
	go func() {
		select {
		case <-timer.C():
			_ = raw.Close()
		case <-greeted:
		}
	}()
	var m message
	err = s.RecvMsg(&m)
	close(greeted)
	timer.Stop()
	if err != nil {
		return hello{}, false, err
	}
	if h, err = decodeHello(m.take()); err != nil {
		return hello{}, false, err
	}
	refused := h.check(t.cfg.ClusterID, t.cfg.MemberID)
	if refused == nil {
		if err := t.cfg.Handler.Admit(h.from); err != nil {
			f := failureOf(err)
			refused = &f
		}
	}
	if refused == nil {
		return h, true, nil
	}
	t.log.Warn("a member's connection is refused", slog.String("peer", formatID(h.from)),
		slog.String("address", raw.RemoteAddr().String()), slog.Any("err", refused.err()))
	return h, false, s.SendMsg(outgoing(refused.append(nil)))
}

// inbound is a connection that another member has dialed.
type inbound struct {
	session
	// ctx ends with the connection.
	ctx context.Context
	// finished is closed when nothing of it is passed on any more, replies excepted.
	finished chan struct{}

	// mu guards the fields below. Nothing is taken after it.
	mu sync.Mutex
	// open are the calls that are being handled, bytes those of their payloads.
	open  map[uint64]*inboundCall
	bytes int
	// count is the number of calls whose answer the writer has not taken.
	count int
}

// talk serves a connection of another member.
func (t *Transport) talk(st grpc.ServerStream) error {
	h, ok, err := t.admit(st)
	if !ok {
		return err
	}
	from := h.from
	ctx, cancel := context.WithCancel(st.Context())
	raw, id := rawConn(st.Context()), formatID(from)
	in := &inbound{
		session: session{
			t:      t,
			member: from,
			stream: st,
			cut: func() {
				// In this order: what a handler returns because its context has ended
				// is no answer for the caller.
				_ = raw.Close()
				cancel()
			},
			// No caller waits for more answers, those that it is refused included.
			out:      newOutbox(2<<slotBits, t.cfg.MaxCallBytes, t.cfg.LazyDelay, t.clock),
			sent:     t.metrics.sentBytes.WithLabelValues(id),
			received: t.metrics.receivedBytes.WithLabelValues(id),
		},
		ctx:      ctx,
		finished: make(chan struct{}),
		open:     map[uint64]*inboundCall{},
	}
	defer in.cut()
	defer t.leave(in)
	if !t.enter(in) {
		return errClosed
	}
	if err := st.SendMsg(outgoing(h.welcome())); err != nil {
		return err
	}
	if p := t.peer(from); p != nil {
		p.kick() // It is up.
	}
	var writer sync.WaitGroup
	writer.Go(func() { in.write(in.repliesTaken) })
	err = in.read(in.take)
	in.cut()
	in.out.close()
	writer.Wait()
	return err
}

// enter makes in the connection from its member, once the one before has ended. It
// returns false if the Transport is closed.
func (t *Transport) enter(in *inbound) bool {
	t.mu.Lock()
	old := t.accepted[in.member]
	t.accepted[in.member] = in
	t.mu.Unlock()
	if old != nil {
		old.cut()
		<-old.finished
	}
	return t.ctx.Err() == nil
}

func (t *Transport) leave(in *inbound) {
	close(in.finished)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.accepted[in.member] == in {
		delete(t.accepted, in.member)
	}
}

// take takes what another member sends.
func (s *inbound) take(r *record) error {
	h := s.t.cfg.Handler
	switch r.kind {
	case recordRaft:
		h.Raft(s.member, uint16(r.id), r.payload)
	case recordNotice:
		h.Notice(s.member, r.payload)
	case recordCall:
		return s.begin(r)
	case recordCancel:
		s.cancelCall(r.id)
	default:
		return unexpected(r)
	}
	return nil
}

// inboundCall is a call at the side that handles it.
type inboundCall struct {
	in      *inbound
	id      uint64
	method  byte
	payload []byte
	ctx     context.Context
	cancel  context.CancelFunc
}

// begin hands a call to a worker, if there are not too many.
func (s *inbound) begin(r *record) error {
	c := &inboundCall{in: s, id: r.id, method: r.method, payload: r.payload}
	s.mu.Lock()
	s.count++
	busy := s.count > s.t.cfg.MaxCalls || s.bytes > 0 && s.bytes+len(c.payload) > s.t.cfg.MaxCallBytes
	if !busy {
		if s.open[c.id] != nil {
			s.mu.Unlock()
			return fmt.Errorf("%w: a call with the id of another", ErrProtocol)
		}
		c.ctx, c.cancel = context.WithCancel(s.ctx)
		s.open[c.id] = c
		s.bytes += len(c.payload)
	}
	s.mu.Unlock()
	if busy {
		s.t.metrics.busyCalls.Inc()
		return s.fail(c.id, failure{class: classBusy})
	}
	s.t.workers.do(c)
	return nil
}

func (s *inbound) cancelCall(id uint64) {
	s.mu.Lock()
	c := s.open[id]
	s.mu.Unlock()
	if c != nil {
		c.cancel()
	}
}

// handle is run by a worker.
func (c *inboundCall) handle() {
	s := c.in
	size := len(c.payload)
	reply, err := s.t.cfg.Handler.Call(c.ctx, s.member, c.method, c.payload)
	c.cancel()
	s.mu.Lock()
	delete(s.open, c.id)
	s.bytes -= size
	s.mu.Unlock()
	switch {
	case err != nil:
		_ = s.fail(c.id, failureOf(err))
	case len(reply) > MaxPayloadBytes:
		_ = s.fail(c.id, failure{class: classUnknown, message: "the reply is too large"})
	case s.out.push(record{kind: recordReply, id: c.id, payload: reply}, false) != nil:
		// There is no room for the reply's bytes, or no connection any more.
		_ = s.fail(c.id, failure{class: classUnknown, message: "too many bytes of replies wait"})
	}
}

// fail answers a call with an error.
func (s *inbound) fail(id uint64, f failure) error {
	err := s.out.push(record{kind: recordFailure, id: id, method: f.class, code: f.code, payload: []byte(f.message)}, false)
	if err != nil {
		s.cut() // The caller will know that it does not know.
	}
	return err
}

// repliesTaken notes that answers are on their way.
func (s *inbound) repliesTaken(batch []record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count -= len(batch)
}

// connLimit counts the connections of all listeners.
type connLimit struct{ free chan struct{} }

func newConnLimit(n int) *connLimit { return &connLimit{make(chan struct{}, n)} }

// limitedListener closes connections that are too many.
type limitedListener struct {
	net.Listener
	limit *connLimit
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.limit.free <- struct{}{}:
			return &limitedConn{Conn: c, limit: l.limit}, nil
		default:
			_ = c.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	limit *connLimit
	once  sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() { <-c.limit.free })
	return c.Conn.Close()
}
