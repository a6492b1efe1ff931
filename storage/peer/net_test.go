package peer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/peer"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// handler is a Handler of functions. What is nil, takes and answers nothing.
type handler struct {
	raft     func(from uint64, group uint16, payload []byte)
	notice   func(from uint64, payload []byte)
	call     func(ctx context.Context, from uint64, method byte, payload []byte) ([]byte, error)
	snapshot func(ctx context.Context, from uint64, header []byte, next func() ([]byte, error)) error
	admit    func(from uint64) error
	// events has what Connected, Lost and Refused were told.
	events chan string
}

func (h *handler) Raft(from uint64, group uint16, payload []byte) {
	if h.raft != nil {
		h.raft(from, group, payload)
	}
}

func (h *handler) Notice(from uint64, payload []byte) {
	if h.notice != nil {
		h.notice(from, payload)
	}
}

func (h *handler) Call(ctx context.Context, from uint64, method byte, payload []byte) ([]byte, error) {
	if h.call != nil {
		return h.call(ctx, from, method, payload)
	}
	return payload, nil
}

func (h *handler) Snapshot(ctx context.Context, from uint64, header []byte, next func() ([]byte, error)) error {
	if h.snapshot != nil {
		return h.snapshot(ctx, from, header, next)
	}
	for {
		if _, err := next(); err != nil {
			return ignoreEOF(err)
		}
	}
}

func (h *handler) Admit(from uint64) error {
	if h.admit != nil {
		return h.admit(from)
	}
	return nil
}

func (h *handler) Connected(member uint64) { h.event("connected %d", member) }
func (h *handler) Lost(member uint64)      { h.event("lost %d", member) }
func (h *handler) Refused(by uint64, err error) {
	h.event("refused by %d: %v", by, err)
}

// event leaves out what nobody waits for.
func (h *handler) event(format string, args ...any) {
	select {
	case h.events <- fmt.Sprintf(format, args...):
	default:
	}
}

// node is a member in a test.
type node struct {
	*peer.Transport
	id  uint64
	url string
	h   *handler
	reg *prometheus.Registry
}

const cluster = 0xc1

// start starts a member. change may change its configuration.
func start(tb testing.TB, id uint64, h *handler, change ...func(*peer.Config)) *node {
	tb.Helper()
	return startAt(tb, "127.0.0.1:0", id, h, change...)
}

func startAt(tb testing.TB, address string, id uint64, h *handler, change ...func(*peer.Config)) *node {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", address)
	require.NoError(tb, err)
	h.events = make(chan string, 1000)
	reg := prometheus.NewRegistry()
	cfg := peer.Config{
		ClusterID: cluster, MemberID: id, Handler: h, Listeners: []net.Listener{l}, Registerer: reg,
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	n := &node{Transport: peer.New(cfg), id: id, url: "http://" + l.Addr().String(), h: h, reg: reg}
	served := make(chan error, 1)
	go func() { served <- n.Serve() }()
	tb.Cleanup(func() {
		n.Close()
		require.NoError(tb, <-served)
	})
	return n
}

// connect makes a dial b, and waits until it has.
func connect(tb testing.TB, a, b *node) {
	tb.Helper()
	a.SetPeer(b.id, []string{b.url})
	a.expect(tb, "connected %d", b.id)
}

// expect waits for the next event and compares it.
func (n *node) expect(tb testing.TB, format string, args ...any) {
	tb.Helper()
	require.Equal(tb, fmt.Sprintf(format, args...), receive(tb, n.h.events))
}

// receive waits for a value.
func receive[T any](tb testing.TB, c <-chan T) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience): //nolint:forbidigo // A bound for what has failed, not a wait.
		buf := make([]byte, 1<<20)
		tb.Logf("%s", buf[:runtime.Stack(buf, true)])
		tb.Fatal("nothing came")
		panic("not reached")
	}
}

// eventually waits until ok; it is for what no channel tells.
func eventually(tb testing.TB, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !ok(); { //nolint:forbidigo // As in receive.
		if time.Now().After(deadline) { //nolint:forbidigo // As above.
			tb.Fatal("it did not become true")
		}
		yield()
	}
}

// yield lets others run between two looks at what no channel tells. Gosched alone
// would keep a scheduler with one processor from looking at the network.
func yield() { <-clock.Real{}.After(200 * time.Microsecond) }

// gathered returns the sum of a metric's values.
func (n *node) gathered(tb testing.TB, name string) float64 {
	tb.Helper()
	families, err := n.reg.Gather()
	require.NoError(tb, err)
	var sum float64
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// proxy stands between two members. It can cut the connections, hold what goes
// through them, and refuse new ones.
type proxy struct {
	l   net.Listener
	to  string
	url string

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	// heldThere is closed when nothing is held that comes from the dialing side,
	// heldBack that goes there.
	heldThere, heldBack chan struct{}
	// cutAfter cuts everything when so many bytes have come from the dialing side;
	// 0 is never.
	cutAfter int64
	refusing bool
	refused  chan struct{} // Has room for one, and gets one for each refusal.
}

func newProxy(tb testing.TB, to *node) *proxy {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	p := &proxy{
		l: l, to: strings.TrimPrefix(to.url, "http://"), url: "http://" + l.Addr().String(),
		conns: map[net.Conn]struct{}{}, refused: make(chan struct{}, 1), heldThere: make(chan struct{}), heldBack: make(chan struct{}),
	}
	close(p.heldThere)
	close(p.heldBack)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.pass(c) })
		}
	})
	tb.Cleanup(func() {
		p.hold(false)
		_ = l.Close()
		p.cut()
		running.Wait()
	})
	return p
}

func (p *proxy) pass(c net.Conn) {
	defer c.Close()
	d, err := net.Dial("tcp", p.to) //nolint:noctx // A test's.
	if err != nil {
		return
	}
	defer d.Close()
	p.mu.Lock()
	p.conns[c], p.conns[d] = struct{}{}, struct{}{}
	refusing := p.refusing
	p.mu.Unlock()
	if refusing {
		select {
		case p.refused <- struct{}{}:
		default:
		}
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.copy(d, c, true) })
	both.Go(func() { p.copy(c, d, false) })
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	delete(p.conns, d)
}

func (p *proxy) copy(to, from net.Conn, there bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		held, cut := p.heldBack, false
		if there {
			held = p.heldThere
			if p.cutAfter > 0 {
				p.cutAfter -= int64(n)
				cut = p.cutAfter <= 0
			}
		}
		p.mu.Unlock()
		if cut {
			p.cut()
			return
		}
		<-held // The end of a connection is held too.
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAfter = 0
	for c := range p.conns {
		_ = c.Close()
	}
}

// refuse makes new connections be closed at once, or not any more.
func (p *proxy) refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = on
}

// cutLater breaks all connections when so many bytes more have come.
func (p *proxy) cutLater(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAfter = bytes
}

// hold holds, or lets go, what goes through.
func (p *proxy) hold(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	setHeld(&p.heldThere, on)
	setHeld(&p.heldBack, on)
}

// holdBack is hold for what goes to the dialing side.
func (p *proxy) holdBack(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	setHeld(&p.heldBack, on)
}

func setHeld(held *chan struct{}, on bool) {
	select {
	case <-*held:
		if on {
			*held = make(chan struct{})
		}
	default:
		if !on {
			close(*held)
		}
	}
}

// pair makes a connected pair.
func pair(tb testing.TB, a, b *handler, change ...func(*peer.Config)) (from, to *node) {
	tb.Helper()
	from, to = start(tb, 1, a, change...), start(tb, 2, b, change...)
	connect(tb, from, to)
	return from, to
}

// certificate returns the TLS configurations of a server at 127.0.0.1 and of clients
// that trust it.
func certificate(tb testing.TB) (server, client *tls.Config) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	now := time.Now() //nolint:forbidigo // Certificates are of the real time.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "member"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(tb, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(tb, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	own := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	return &tls.Config{Certificates: own, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12},
		&tls.Config{Certificates: own, RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// await is expect that skips other events.
func (n *node) await(tb testing.TB, format string, args ...any) {
	tb.Helper()
	for want := fmt.Sprintf(format, args...); receive(tb, n.h.events) != want; {
		continue
	}
}
