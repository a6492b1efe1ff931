package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// Handler takes what comes from other members. Its methods are called concurrently,
// but those that say so. None of them may call Close.
type Handler interface {
	// Raft takes a raft message of a group. It must not block. Messages of one
	// member come one after another. The payload is the handler's.
	Raft(from uint64, group uint16, payload []byte)
	// Notice takes the newest notice of a member, in order with its raft messages.
	// It must not block. The payload is the handler's.
	Notice(from uint64, payload []byte)
	// Call answers a call; from is 0 if it came by Ask. ctx ends when the caller
	// gives up or is lost. A *RemoteError arrives as it is, ErrBusy as ErrBusy, any
	// other error as a *RemoteError with code 0. The payload is the handler's, and
	// the reply must not be changed any more.
	Call(ctx context.Context, from uint64, method byte, payload []byte) ([]byte, error)
	// Snapshot takes a snapshot. next returns its chunks, which are the handler's,
	// and then io.EOF if the sender has finished properly, or any other error if not.
	// What Snapshot returns is what SendSnapshot returns at the other side.
	Snapshot(ctx context.Context, from uint64, header []byte, next func() ([]byte, error)) error
	// Admit is asked whether a member may connect. An error refuses it, and is told
	// to it as by Call. It must not block.
	Admit(from uint64) error

	// Connected is told that there is a connection to a member, Lost that there was
	// one, it broke, and then nobody listened at any of the member's URLs: its
	// process is gone. Lost is told once for each loss. Refused is told that a
	// member did not take our connection, each time, with what its Admit said (a
	// *RemoteError or ErrBusy) or an ErrClusterMismatch. All three are told by one
	// goroutine for each member, and must not block.
	Connected(member uint64)
	Lost(member uint64)
	Refused(by uint64, err error)
}

// Config is what a Transport is made of. Handler, ClusterID and MemberID must be
// given; what else is zero gets a default.
type Config struct {
	ClusterID, MemberID uint64
	Handler             Handler
	// Listeners are plain or TLS listeners; the Transport closes them.
	Listeners []net.Listener
	// DialTLS makes the configuration of a connection to an https URL, which may be
	// another one each time. With no ServerName the URL's host is taken.
	DialTLS    func() *tls.Config
	Logger     *slog.Logger
	Clock      clock.Clock
	Registerer prometheus.Registerer

	// DialTimeout bounds connecting and greeting.
	DialTimeout time.Duration
	// RedialMin and RedialMax bound the pause between two attempts to connect; it
	// doubles with each.
	RedialMin, RedialMax time.Duration
	// PingInterval is the time between two pings. A connection is cut when nothing
	// has come over it for three.
	PingInterval time.Duration
	// LazyDelay is how long a lazy message waits for company.
	LazyDelay time.Duration

	// MaxQueuedMessages and MaxQueuedBytes bound what waits to be sent to one
	// member.
	MaxQueuedMessages, MaxQueuedBytes int
	// MaxCalls bounds the calls to one member at once, and those from one member
	// that are handled at once or whose replies wait; it may not exceed 65536.
	// MaxCallBytes bounds the payloads of the latter, and those of the replies.
	MaxCalls, MaxCallBytes int
	// MaxIdleWorkers bounds the goroutines that wait for calls.
	MaxIdleWorkers int
	// MaxAsks and MaxSnapshots bound what is handled at once, MaxConnections the
	// connections that are accepted.
	MaxAsks, MaxSnapshots, MaxConnections int
}

// The defaults.
const (
	defaultDialTimeout       = 2 * time.Second
	defaultRedialMin         = 20 * time.Millisecond
	defaultRedialMax         = 500 * time.Millisecond
	defaultPingInterval      = time.Second
	defaultLazyDelay         = time.Millisecond
	defaultMaxQueuedMessages = 16 << 10
	defaultMaxQueuedBytes    = 64 << 20
	defaultMaxCalls          = 4096
	defaultMaxCallBytes      = 256 << 20
	defaultMaxIdleWorkers    = 256
	defaultMaxAsks           = 64
	defaultMaxSnapshots      = 16
	defaultMaxConnections    = 256
)

func (c Config) withDefaults() Config {
	setDefault(&c.Clock, clock.Clock(clock.Real{}))
	setDefault(&c.Logger, slog.New(slog.DiscardHandler))
	setDefault(&c.DialTimeout, defaultDialTimeout)
	setDefault(&c.RedialMin, defaultRedialMin)
	setDefault(&c.RedialMax, max(c.RedialMin, defaultRedialMax))
	setDefault(&c.PingInterval, defaultPingInterval)
	setDefault(&c.LazyDelay, defaultLazyDelay)
	setDefault(&c.MaxQueuedMessages, defaultMaxQueuedMessages)
	setDefault(&c.MaxQueuedBytes, defaultMaxQueuedBytes)
	setDefault(&c.MaxCalls, defaultMaxCalls)
	setDefault(&c.MaxCallBytes, defaultMaxCallBytes)
	setDefault(&c.MaxIdleWorkers, defaultMaxIdleWorkers)
	setDefault(&c.MaxAsks, defaultMaxAsks)
	setDefault(&c.MaxSnapshots, defaultMaxSnapshots)
	setDefault(&c.MaxConnections, defaultMaxConnections)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Transport is a member's connections to the others. All methods are safe for
// concurrent use.
type Transport struct {
	cfg     Config
	log     *slog.Logger
	clock   clock.Clock
	metrics *metrics
	buffers bufferPool
	calls   callPool
	dialer  dialer
	grpc    *grpc.Server
	workers *workers
	asks    chan struct{}
	snaps   chan struct{}

	// ctx ends when the Transport is closed.
	ctx    context.Context
	cancel context.CancelFunc
	// background is for the goroutines of peers.
	background sync.WaitGroup
	closed     sync.Once

	// peers are those that are dialed. The map is replaced under mu and never
	// changed.
	peers atomic.Pointer[map[uint64]*peer]
	// mu guards changes of peers, the field below, and background against a Close.
	// Nothing is taken after it.
	mu sync.Mutex
	// accepted has the newest connection from each member.
	accepted map[uint64]*inbound
}

// New returns a Transport that neither serves nor dials. Close it also if Serve was
// never called.
func New(cfg Config) *Transport {
	cfg = cfg.withDefaults()
	if cfg.MaxCalls > 1<<slotBits {
		panic(fmt.Sprintf("peer: MaxCalls is %d, and may be %d at most", cfg.MaxCalls, 1<<slotBits))
	}
	t := &Transport{
		cfg:      cfg,
		log:      cfg.Logger,
		clock:    cfg.Clock,
		asks:     make(chan struct{}, cfg.MaxAsks),
		snaps:    make(chan struct{}, cfg.MaxSnapshots),
		workers:  newWorkers(cfg.MaxIdleWorkers),
		accepted: map[uint64]*inbound{},
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.peers.Store(&map[uint64]*peer{})
	t.dialer = dialer{tls: cfg.DialTLS, timeout: cfg.DialTimeout, clock: t.clock, buffers: &t.buffers}
	t.metrics = newMetrics(cfg.Registerer, t)
	t.grpc = t.newServer()
	return t
}

// Serve takes connections until Close, and then returns nil, or until a listener
// fails.
func (t *Transport) Serve() error {
	errs := make(chan error, len(t.cfg.Listeners))
	limit := newConnLimit(t.cfg.MaxConnections)
	for _, l := range t.cfg.Listeners {
		go func() { errs <- t.grpc.Serve(&limitedListener{l, limit}) }()
	}
	for range t.cfg.Listeners {
		if err := <-errs; err != nil && t.ctx.Err() == nil {
			return fmt.Errorf("peer: %w", err)
		}
	}
	<-t.ctx.Done()
	return nil
}

// Close ends everything and returns when it has ended. The methods of the Handler
// that are under way have returned by then.
func (t *Transport) Close() {
	t.closed.Do(func() {
		t.mu.Lock()
		t.cancel()
		t.mu.Unlock()
		t.background.Wait()
		t.grpc.Stop()
		for _, l := range t.cfg.Listeners {
			_ = l.Close()
		}
		t.workers.close()
	})
}

// SetPeer adds a member, or changes its URLs, at any of which it may be. It is
// connected to in the background, and again whenever the connection breaks. A
// connection that is there stays when the URLs change.
func (t *Transport) SetPeer(id uint64, urls []string) {
	urls = slices.Clone(urls)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil || id == t.cfg.MemberID {
		return
	}
	old := *t.peers.Load()
	if p, ok := old[id]; ok {
		p.setURLs(urls)
		return
	}
	p := newPeer(t, id, urls)
	peers := maps.Clone(old)
	peers[id] = p
	t.peers.Store(&peers)
	t.background.Go(p.run)
}

// RemovePeer ends the connections to and from a member. What waits for it is dropped.
func (t *Transport) RemovePeer(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.peers.Load()
	if p, ok := old[id]; ok {
		peers := maps.Clone(old)
		delete(peers, id)
		t.peers.Store(&peers)
		p.cancel()
	}
	if in := t.accepted[id]; in != nil {
		in.cut()
	}
}

func (t *Transport) peer(id uint64) *peer { return (*t.peers.Load())[id] }

// session returns the connection to a member, or nil.
func (t *Transport) session(id uint64) *outbound {
	if p := t.peer(id); p != nil {
		return p.session.Load()
	}
	return nil
}

// Send sends a raft message, which must not be changed any more, or drops it. It does
// not block. A lazy message may wait a little for others.
func (t *Transport) Send(to uint64, group uint16, payload []byte, lazy bool) {
	p := t.peer(to)
	if p == nil {
		return
	}
	s := p.session.Load()
	if s == nil || len(payload) > MaxPayloadBytes ||
		s.out.push(record{kind: recordRaft, id: uint64(group), payload: payload}, lazy) != nil {
		p.dropped.Inc()
	}
}

// Notify sends a notice, which must not be changed any more, after what was sent
// before it. A newer one takes its place if it has not been sent. Without a connection
// it is kept for the next. REQUIRES: it is not longer than MaxNoticeBytes.
func (t *Transport) Notify(to uint64, payload []byte) {
	if len(payload) > MaxNoticeBytes {
		panic(fmt.Sprintf("peer: a notice of %d bytes", len(payload)))
	}
	if p := t.peer(to); p != nil {
		p.notify(payload)
	}
}

// Call asks a member, and returns its reply, which is the caller's. It does not wait
// for a connection. The payload must not be changed any more, even when Call has
// returned. The error is an ErrNotSent, ErrUnknown, ErrBusy or a *RemoteError; if ctx
// ended it is also ctx's.
func (t *Transport) Call(ctx context.Context, to uint64, method byte, payload []byte) ([]byte, error) {
	if len(payload) > MaxPayloadBytes {
		return nil, fmt.Errorf("%w: a payload of %d bytes", ErrNotSent, len(payload))
	}
	s := t.session(to)
	if s == nil {
		return nil, fmt.Errorf("%w: no connection to member %s", ErrNotSent, formatID(to))
	}
	return s.call(ctx, method, payload)
}
