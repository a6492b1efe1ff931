package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/pkg/throttle"
)

// gRPC and HTTP share the ports. gRPC accepts every connection and asks its
// credentials to shake hands with it; the credentials are the door, which
// looks at the first bytes and hands a connection that is not gRPC's to the
// HTTP server. So gRPC calls are served by gRPC's own transport, over TLS too.
//
// What a client speaks is told by the first bytes inside TLS, not by what was
// agreed on outside: HTTP/2 is gRPC. A client that also offers HTTP/1.1 is
// given that, because a browser, curl or a probe offers both and a gRPC client
// only the one.

// http2Preface is what an HTTP/2 client says first.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// tlsHandshake is the first byte of a TLS client's first record.
const tlsHandshake = 0x16

// A mode says what a listener takes.
type mode int8

// The modes.
const (
	// modePlain takes what comes as it is: plain text, or connections of a TLS
	// listener.
	modePlain mode = iota
	// modeSecure takes TLS.
	modeSecure
	// modeEither takes both, told apart by the first byte.
	modeEither
)

var (
	errNotOurs  = errors.New("gateway: the connection came through another door")
	errNoClient = errors.New("gateway: the door is for servers")
)

// door tells connections apart. It implements gRPC's TransportCredentials.
type door struct {
	tls      *tls.Config // Nil if only plain text is spoken.
	http     chan net.Conn
	stopping <-chan struct{}
	log      *slog.Logger
	clock    clock.Clock
	// failed bounds what is logged of handshakes that failed.
	failed throttle.Throttle

	maxOpen, maxPending int
	refused             atomic.Int64

	// mu guards the fields below; nothing is taken after it.
	mu   sync.Mutex
	open int
	// pending holds the connections that gRPC has accepted and not yet set up,
	// or handed on: when the server stops, gRPC waits for them.
	pending map[*doorConn]struct{}
	closed  bool
}

var _ credentials.TransportCredentials = (*door)(nil)

func newDoor(cfg *Config, stopping <-chan struct{}) *door {
	d := &door{
		http:       make(chan net.Conn),
		stopping:   stopping,
		log:        cfg.Logger,
		clock:      cfg.Clock,
		maxOpen:    cfg.MaxConnections,
		maxPending: cfg.MaxPendingConnections,
		pending:    map[*doorConn]struct{}{},
	}
	if cfg.TLS != nil {
		d.tls = ServerTLS(cfg.TLS)
	}
	return d
}

// ServerTLS returns a configuration that is base and agrees with each client on
// the protocol that it will be served. TLS listeners that are handed to Serve
// need it; Config.TLS gets it by itself.
func ServerTLS(base *tls.Config) *tls.Config {
	with := func(c *tls.Config, proto string) *tls.Config {
		c = c.Clone()
		c.GetConfigForClient = nil
		c.NextProtos = []string{proto}
		return c
	}
	http1, http2 := with(base, "http/1.1"), with(base, "h2")
	outer := base.Clone()
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		wantsHTTP1 := slices.Contains(hello.SupportedProtos, "http/1.1")
		if base.GetConfigForClient != nil {
			c, err := base.GetConfigForClient(hello)
			if err != nil {
				return nil, err
			}
			if c != nil {
				if wantsHTTP1 {
					return with(c, "http/1.1"), nil
				}
				return with(c, "h2"), nil
			}
		}
		if wantsHTTP1 {
			return http1, nil
		}
		return http2, nil
	}
	return outer
}

// listener makes l's connections come through the door.
func (d *door) listener(l net.Listener, mode mode) net.Listener {
	return &doorListener{Listener: l, door: d, mode: mode}
}

type doorListener struct {
	net.Listener
	door *door
	mode mode
}

func (l *doorListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		dc := &doorConn{Conn: c, raw: c, door: l.door, mode: l.mode}
		if l.door.admit(dc) {
			return dc, nil
		}
		l.door.refused.Add(1)
		_ = c.Close()
	}
}

// admit makes c one of the open and pending connections, if there is room.
func (d *door) admit(c *doorConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.open >= d.maxOpen || len(d.pending) >= d.maxPending {
		return false
	}
	d.open++
	d.pending[c] = struct{}{}
	return true
}

// settled ends c's time as a pending connection.
func (d *door) settled(c *doorConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.pending, c)
}

func (d *door) left() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
}

// close refuses what comes and closes what is pending.
func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for c := range d.pending {
		_ = c.raw.Close()
	}
}

func (d *door) connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

func (d *door) pendingConnections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pending)
}

// ServerHandshake makes a connection ready for gRPC, or hands it to the HTTP
// server. The deadline that gRPC has set bounds it.
func (d *door) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if lc, ok := c.(*loopbackConn); ok {
		return lc, lc.info, nil
	}
	dc, ok := c.(*doorConn)
	if !ok {
		return nil, nil, errNotOurs
	}
	secure := dc.mode == modeSecure
	if dc.mode == modeEither {
		first := make([]byte, 1)
		if _, err := io.ReadFull(dc, first); err != nil {
			return nil, nil, err
		}
		dc.peeked = first
		secure = d.tls != nil && first[0] == tlsHandshake
	}
	var info credentials.AuthInfo
	t, isTLS := dc.raw.(*tls.Conn) // The listener is a TLS listener.
	if secure && !isTLS {
		t = tls.Server(&unread{Conn: dc.raw, peeked: dc.peeked}, d.tls)
		dc.Conn, dc.peeked = t, nil
	}
	if t != nil {
		if err := t.Handshake(); err != nil {
			d.handshakeFailed(dc, err)
			return nil, nil, err
		}
		info = credentials.TLSInfo{
			State:          t.ConnectionState(),
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}
	}

	isGRPC, err := dc.sniff()
	if err != nil {
		return nil, nil, err
	}
	if isGRPC {
		return dc, info, nil
	}
	dc.handedOn = true
	d.settled(dc)
	if err := dc.Conn.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	var hc net.Conn = &httpConn{unread{Conn: dc.Conn, peeked: dc.peeked}, dc}
	if t != nil {
		hc = &secureHTTPConn{hc, t}
	}
	select {
	case d.http <- hc:
		return nil, nil, credentials.ErrConnDispatched
	case <-d.stopping:
		return nil, nil, io.EOF
	}
}

// handshakeFailed says who could not come in, and why: the client itself is told
// little more than that.
func (d *door) handshakeFailed(c net.Conn, err error) {
	if errors.Is(err, io.EOF) {
		return // It went away, as probes of the port do.
	}
	if skipped, ok := d.failed.Allow(d.clock.Now()); ok {
		d.log.Warn("a client's TLS handshake failed", slog.String("address", c.RemoteAddr().String()),
			slog.Any("err", err), slog.Int("suppressed", skipped))
	}
}

// ClientHandshake is not for a door.
func (d *door) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errNoClient
}

// Info names the protocol.
func (d *door) Info() credentials.ProtocolInfo {
	if d.tls == nil {
		return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
	}
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns the door itself: there is one.
func (d *door) Clone() credentials.TransportCredentials { return d }

// OverrideServerName does nothing, as for any server.
func (d *door) OverrideServerName(string) error { return nil }

// doorConn is a connection on its way through the door and, if it is gRPC's,
// from then on.
type doorConn struct {
	net.Conn // What is read and written: raw, or the TLS inside it.
	raw      net.Conn
	door     *door
	mode     mode
	// peeked was read before its time.
	peeked []byte
	// handedOn says that the HTTP server has the connection. It is set by the
	// goroutine that accepted the connection, and read by it.
	handedOn bool
	closing  sync.Once
}

// sniff says whether the client begins as HTTP/2 does. It reads no more than
// tells.
func (c *doorConn) sniff() (bool, error) {
	buf := make([]byte, len(http2Preface))
	for n := 0; n < len(buf); {
		m, err := c.Read(buf[n:])
		n += m
		if !bytes.HasPrefix([]byte(http2Preface), buf[:n]) {
			c.peeked = buf[:n]
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	c.peeked = buf
	return true, nil
}

func (c *doorConn) Read(b []byte) (int, error) {
	if len(c.peeked) > 0 {
		n := copy(b, c.peeked)
		c.peeked = c.peeked[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// SetDeadline is called by gRPC on what it has accepted: first with the time
// that the connection has to be set up, then, when that is over, with none.
func (c *doorConn) SetDeadline(t time.Time) error {
	if c.handedOn {
		return nil // The deadlines are the HTTP server's now.
	}
	if t.IsZero() {
		c.door.settled(c)
	}
	return c.Conn.SetDeadline(t)
}

func (c *doorConn) Close() error {
	c.closing.Do(func() {
		c.door.settled(c)
		c.door.left()
	})
	return c.Conn.Close()
}

// unread is a connection of which the first bytes have been read.
type unread struct {
	net.Conn
	peeked []byte
}

func (u *unread) Read(b []byte) (int, error) {
	if len(u.peeked) > 0 {
		n := copy(b, u.peeked)
		u.peeked = u.peeked[n:]
		return n, nil
	}
	return u.Conn.Read(b)
}

// httpConn is a connection that the HTTP server has.
type httpConn struct {
	unread
	dc *doorConn
}

func (c *httpConn) Close() error { return c.dc.Close() }

// secureHTTPConn is one inside TLS, which the HTTP server shows in its requests.
type secureHTTPConn struct {
	net.Conn
	tls *tls.Conn
}

// ConnectionState is what net/http asks for.
func (c *secureHTTPConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// httpListener is where the HTTP server gets its connections.
type httpListener struct{ door *door }

func (l httpListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.door.http:
		return c, nil
	case <-l.door.stopping:
		return nil, net.ErrClosed
	}
}

func (l httpListener) Close() error   { return nil }
func (l httpListener) Addr() net.Addr { return &net.TCPAddr{} }
