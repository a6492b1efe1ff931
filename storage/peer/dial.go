package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	// streamWindow and connWindow are how much may be on the way, and so what the
	// other side can make us hold of a stream and of a connection. They stand
	// still, where gRPC would send pings to estimate what is right.
	streamWindow = 2 << 20
	connWindow   = 4 << 20
	// ioBuffer is the size of the buffers before the system calls.
	ioBuffer = 64 << 10
	// silentPings is how many pings in a row may pass without a byte from the
	// other side.
	silentPings = 3
)

const (
	serviceName    = "pebbledash.Peer"
	talkMethod     = "/" + serviceName + "/Talk"
	snapshotMethod = "/" + serviceName + "/Snapshot"
	askMethod      = "/" + serviceName + "/Ask"
	pingMethod     = "/" + serviceName + "/Ping"
)

// dialer opens links.
type dialer struct {
	// tls returns the configuration for one connection. It is nil if there is none.
	tls     func() *tls.Config
	timeout time.Duration
	clock   clock.Clock
	buffers *bufferPool
}

// link is a connection that we have dialed. It connects once.
type link struct {
	cc *grpc.ClientConn
	// cancel ends the stream.
	cancel context.CancelFunc
	// conn is the connection, below TLS, once there is one.
	conn atomic.Pointer[meter]
	// refused says that nobody listens.
	refused atomic.Bool
	// failed is why the handshake of TLS has failed.
	failed atomic.Pointer[error]
}

// meter counts what is read from a connection.
type meter struct {
	net.Conn
	read atomic.Int64
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.read.Add(int64(n))
	return n, err
}

// open returns a link to what is at a URL. It connects when it is used first.
func (d *dialer) open(rawURL string) (*link, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	var config *tls.Config
	switch {
	case u.Host == "" || u.Port() == "":
		return nil, fmt.Errorf("peer: the URL %q has no host and port", rawURL)
	case u.Scheme == "http":
	case u.Scheme == "https" && d.tls != nil:
		config = d.tls()
		if config.ServerName == "" {
			config.ServerName = u.Hostname()
		}
		config.NextProtos = []string{"h2"}
	case u.Scheme == "https":
		return nil, fmt.Errorf("peer: no TLS is configured for the URL %q", rawURL)
	default:
		return nil, fmt.Errorf("peer: the URL %q is neither http nor https", rawURL)
	}

	l := &link{cancel: func() {}}
	connect := func(ctx context.Context, _ string) (net.Conn, error) {
		if l.conn.Load() != nil { // gRPC would connect again for a ping.
			if err := l.failed.Load(); err != nil {
				return nil, *err
			}
			return nil, errClosed
		}
		var nd net.Dialer
		c, err := nd.DialContext(ctx, "tcp", u.Host)
		if err != nil {
			l.refused.Store(errors.Is(err, syscall.ECONNREFUSED))
			return nil, err
		}
		m := &meter{Conn: c}
		l.conn.Store(m)
		if config == nil {
			return m, nil
		}
		t := tls.Client(m, config)
		if err := t.HandshakeContext(ctx); err != nil {
			l.failed.Store(&err)
			_ = c.Close()
			return nil, err
		}
		return t, nil
	}
	l.cc, err = grpc.NewClient("passthrough:///"+u.Host,
		// TLS is ours: gRPC's would insist on a server that negotiates protocols.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(connect),
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableHealthCheck(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: d.timeout}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		experimental.WithBufferPool(d.buffers),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{}),
			grpc.MaxCallRecvMsgSize(maxMessageBytes),
			grpc.MaxCallSendMsgSize(maxMessageBytes),
		),
	)
	if err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	return l, nil
}

// cut ends the stream and closes the connection under TLS and gRPC, which would wait
// for what has not been written.
func (l *link) cut() {
	l.cancel()
	if c := l.conn.Load(); c != nil {
		_ = c.Close()
	}
}

func (l *link) close() {
	l.cut()
	_ = l.cc.Close()
}

// greet opens a link and a stream, and exchanges greetings, all within the dial
// timeout. The link's close ends the stream.
func (d *dialer) greet(ctx context.Context, url, method string, h hello) (*link, grpc.ClientStream, error) {
	l, err := d.open(url)
	if err != nil {
		return nil, nil, err
	}
	ctx, l.cancel = context.WithCancel(ctx)
	done := make(chan struct{})
	timer := d.clock.NewTimer(d.timeout)
	go func() {
		select {
		case <-timer.C():
			l.cancel()
		case <-done:
		}
	}()
	s, err := d.exchange(ctx, l, method, h)
	close(done)
	if !timer.Stop() && !errors.As(err, new(*refusedError)) {
		err = fmt.Errorf("peer: %s did not greet in %v", url, d.timeout)
	}
	if err != nil {
		l.close()
		if l.refused.Load() {
			err = &unreachableError{err}
		}
		return nil, nil, err
	}
	return l, s, nil
}

func (d *dialer) exchange(ctx context.Context, l *link, method string, h hello) (grpc.ClientStream, error) {
	s, err := l.cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	if err := s.SendMsg(outgoing(h.encode())); err != nil {
		return nil, err
	}
	var m message
	if err := s.RecvMsg(&m); err != nil {
		return nil, err
	}
	return s, h.checkAnswer(m.take())
}

// unreachableError says that nobody listens at a URL.
type unreachableError struct{ error }

func (e *unreachableError) Unwrap() error { return e.error }

// watch pings the other side, and cuts the connection when nothing has come from it
// for some pings. Anything that comes is a sign of life, for a long message in front
// of the answer would hold that up.
func (l *link) watch(ctx context.Context, c clock.Clock, interval time.Duration, answered func(time.Duration)) {
	ticker := c.NewTicker(interval)
	defer ticker.Stop()
	ctx, cancel := context.WithCancel(ctx)
	var (
		pinging = make(chan struct{}, 1)
		conn    = l.conn.Load()
		last    = conn.read.Load()
		silent  int
	)
	defer func() {
		cancel()
		pinging <- struct{}{} // The last ping has come back.
	}()
	for {
		select {
		case pinging <- struct{}{}:
			go func() {
				start := c.Now()
				if l.cc.Invoke(ctx, pingMethod, &message{}, &message{}) == nil {
					answered(c.Since(start))
				}
				<-pinging
			}()
		default:
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		switch now := conn.read.Load(); {
		case now != last:
			last, silent = now, 0
		default:
			// Ticks are counted and not time, which also passes when it is we who
			// were stopped.
			if silent++; silent >= silentPings {
				l.cut()
				return
			}
		}
	}
}
