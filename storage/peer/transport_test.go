package peer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/peer"
)

// secure makes nodes speak TLS.
func secure(tb testing.TB) func(*peer.Config) {
	tb.Helper()
	server, client := certificate(tb)
	return func(c *peer.Config) {
		c.Listeners[0] = tls.NewListener(c.Listeners[0], server)
		c.DialTLS = client.Clone
	}
}

func (n *node) secureURL() string { return strings.Replace(n.url, "http:", "https:", 1) }

// TestEverythingOverTLS also has two members send to each other.
func TestEverythingOverTLS(t *testing.T) {
	got := make(chan string, 10)
	h := func() *handler {
		return &handler{
			raft: func(from uint64, group uint16, p []byte) { got <- fmt.Sprintf("raft %d %d %s", from, group, p) },
			notice: func(from uint64, p []byte) {
				got <- fmt.Sprintf("notice %d %s", from, p)
			},
			call: func(_ context.Context, from uint64, method byte, p []byte) ([]byte, error) {
				return fmt.Appendf(nil, "%d %d %s", from, method, p), nil
			},
		}
	}
	s := secure(t)
	a, b := start(t, 1, h(), s), start(t, 2, h(), s)
	a.SetPeer(2, []string{b.secureURL()})
	b.SetPeer(1, []string{a.secureURL()})
	a.expect(t, "connected 2")
	b.expect(t, "connected 1")

	a.Send(2, 7, []byte("hi"), false)
	require.Equal(t, "raft 1 7 hi", receive(t, got))
	b.Send(1, 65535, nil, true)
	require.Equal(t, "raft 2 65535 ", receive(t, got))
	a.Notify(2, []byte("news"))
	require.Equal(t, "notice 1 news", receive(t, got))
	reply, err := b.Call(t.Context(), 1, 9, []byte("what?"))
	require.NoError(t, err)
	require.Equal(t, "2 9 what?", string(reply))
	require.NoError(t, a.SendSnapshot(t.Context(), 2, nil, chunks(3, 10)))
	_, client := certificate(t)
	_, err = peer.Ask(t.Context(), []string{a.secureURL()}, client.Clone, 1, nil)
	require.ErrorIs(t, err, peer.ErrNotSent, "a certificate that nobody knows")

	require.True(t, a.Connected(2))
	require.InDelta(t, 1, a.gathered(t, "etcd_network_active_peers"), 0)
	for _, name := range []string{"etcd_network_peer_sent_bytes_total", "etcd_network_peer_received_bytes_total"} {
		require.Positive(t, a.gathered(t, name), name)
		require.Positive(t, b.gathered(t, name), name)
	}
	require.InDelta(t, 1, a.gathered(t, "etcd_network_snapshot_send_success"), 0)
	require.InDelta(t, 1, b.gathered(t, "etcd_network_snapshot_receive_success"), 0)
	eventually(t, func() bool { return a.gathered(t, "etcd_network_peer_round_trip_time_seconds") > 0 })
	require.Zero(t, a.gathered(t, "pebbledash_peer_queued_bytes"))
	require.Zero(t, a.gathered(t, "pebbledash_peer_calls"))
}

// sequence checks that each group's messages come in order, none of them twice.
type sequence struct {
	mu   sync.Mutex
	last [8]uint64
	bad  string
	got  int
	// arrived has room for one.
	arrived chan struct{}
}

func newSequence() *sequence { return &sequence{arrived: make(chan struct{}, 1)} }

func (s *sequence) raft(_ uint64, group uint16, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := binary.BigEndian.Uint64(p)
	if n <= s.last[group] {
		s.bad = fmt.Sprintf("group %d: %d after %d", group, n, s.last[group])
	}
	for _, b := range p[8:] {
		if b != byte(n) {
			s.bad = fmt.Sprintf("message %d of group %d is damaged", n, group)
		}
	}
	s.last[group] = n
	s.got++
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

func numbered(n uint64, size int) []byte {
	return append(binary.BigEndian.AppendUint64(nil, n), bytes.Repeat([]byte{byte(n)}, size)...)
}

// TestOrder has each group's sender send as fast as it can, without dropping.
func TestOrder(t *testing.T) {
	s := newSequence()
	from, to := pair(t, &handler{}, &handler{raft: s.raft})
	const each = 2000
	var senders sync.WaitGroup
	for group := range s.last {
		senders.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(group), 0))
			for n := range uint64(each) {
				size := rng.IntN(200)
				switch rng.IntN(200) {
				case 0:
					size = rng.IntN(2 << 20)
				case 1, 2:
					size = rng.IntN(20 << 10)
				}
				for n%16 == 0 && from.gathered(t, "pebbledash_peer_queued_bytes") > 20<<20 {
					<-s.arrived
				}
				from.Send(to.id, uint16(group), numbered(n+1, size), rng.IntN(3) == 0)
			}
		})
	}
	senders.Wait()
	eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.got == each*len(s.last)
	})
	require.Empty(t, s.bad)
	require.Zero(t, from.gathered(t, "etcd_network_peer_sent_failures_total"))
}

// TestNoticesWhileNothingGoesThrough holds the connection, so that notices pile up.
func TestNoticesWhileNothingGoesThrough(t *testing.T) {
	notices := make(chan string, 1000)
	a, b := start(t, 1, &handler{}), start(t, 2, &handler{notice: func(_ uint64, p []byte) { notices <- string(p[:4]) }})
	p := newProxy(t, b)
	a.SetPeer(2, []string{p.url})
	a.expect(t, "connected 2")
	p.hold(true)
	fill(a, 2)
	for n := range 500 {
		a.Notify(2, fmt.Appendf(nil, "%04d", n))
	}
	p.hold(false)
	got := receive(t, notices)
	for count := 1; got != "0499"; count++ {
		require.Less(t, count, 10, "older notices are replaced")
		next := receive(t, notices)
		require.Greater(t, next, got)
		got = next
	}

	// One that was not sent before the connection broke is sent over the next.
	p.hold(true)
	for full := a.dropped(); a.dropped() == full; {
		a.Send(2, 0, make([]byte, 1<<20), false)
	}
	a.Notify(2, []byte("left"))
	p.cut()
	p.hold(false)
	require.Equal(t, "left", receive(t, notices))

	// One that finds no connection waits for the next.
	a.await(t, "connected 2")
	p.refuse(true)
	p.cut()
	eventually(t, func() bool { return !a.Connected(2) })
	a.Notify(2, []byte("kept"))
	p.refuse(false)
	require.Equal(t, "kept", receive(t, notices))
}

// fill sends until the queue is full.
func fill(n *node, to uint64) {
	for n.dropped() == 0 {
		n.Send(to, 0, make([]byte, 1<<20), false)
	}
}

func (n *node) dropped() float64 {
	families, err := n.reg.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		if f.GetName() == "etcd_network_peer_sent_failures_total" {
			var sum float64
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
			return sum
		}
	}
	return 0
}

// TestStalledMemberHoldsUpNothing holds the connection to one member and fills its
// queue; another is reached as ever.
func TestStalledMemberHoldsUpNothing(t *testing.T) {
	got := make(chan uint16, 1)
	a, b := start(t, 1, &handler{}, patient), start(t, 2, &handler{})
	c := start(t, 3, &handler{raft: func(_ uint64, group uint16, _ []byte) { got <- group }})
	p := newProxy(t, b)
	a.SetPeer(2, []string{p.url})
	a.expect(t, "connected 2")
	connect(t, a, c)
	p.hold(true)
	fill(a, 2)
	require.LessOrEqual(t, a.gathered(t, "pebbledash_peer_queued_bytes"), float64(65<<20))

	a.Send(3, 5, nil, false)
	require.Equal(t, uint16(5), receive(t, got))
	_, err := a.Call(t.Context(), 3, 1, nil)
	require.NoError(t, err)
	_, err = a.Call(t.Context(), 2, 1, make([]byte, 2<<20))
	require.ErrorIs(t, err, peer.ErrBusy, "there is no room for the call")

	// A call that is still in the queue when its caller goes was never sent.
	eventually(t, func() bool { return a.gathered(t, "pebbledash_peer_queued_bytes") < 64<<20 })
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := a.Call(ctx, 2, 1, []byte("x"))
		result <- err
	}()
	eventually(t, func() bool { return a.gathered(t, "pebbledash_peer_calls") == 1 })
	cancel()
	err = receive(t, result)
	require.ErrorIs(t, err, peer.ErrNotSent)
	require.ErrorIs(t, err, context.Canceled)
	a.RemovePeer(2)
	_, err = a.Call(t.Context(), 2, 1, nil)
	require.ErrorIs(t, err, peer.ErrNotSent)
}

// patient makes a node not give a silent connection up.
func patient(c *peer.Config) { c.PingInterval = time.Hour }

// TestSilentConnectionIsGivenUp holds a connection that is up. Each side has to find
// out for itself; only for the dialing one can time be moved.
func TestSilentConnectionIsGivenUp(t *testing.T) {
	t.Parallel()
	c := clock.NewManual(time.Unix(1, 0))
	w := newWaiting()
	a := start(t, 1, &handler{}, func(cfg *peer.Config) { cfg.Clock = c })
	b := start(t, 2, &handler{call: w.call}, func(cfg *peer.Config) { cfg.PingInterval = 50 * time.Millisecond })
	p := newProxy(t, b)
	a.SetPeer(2, []string{p.url})
	a.expect(t, "connected 2")
	result := make(chan error, 1)
	go func() {
		_, err := a.Call(context.Background(), 2, 1, nil)
		result <- err
	}()
	receive(t, w.begun)
	p.hold(true)
	// Some of the ticks may find the ticker's last one not yet received.
	eventually(t, func() bool {
		c.Advance(time.Second)
		return a.gathered(t, "etcd_network_active_peers") == 0
	})
	require.ErrorIs(t, receive(t, result), peer.ErrUnknown)
	require.InDelta(t, 1, a.gathered(t, "etcd_network_disconnected_peers_total"), 0)
	require.ErrorIs(t, receive(t, w.ended), context.Canceled)
}

// TestIdleConnectionLives has nothing to say for many intervals.
func TestIdleConnectionLives(t *testing.T) {
	c := clock.NewManual(time.Unix(1, 0))
	a, b := start(t, 1, &handler{}, func(cfg *peer.Config) { cfg.Clock = c }), start(t, 2, &handler{})
	connect(t, a, b)
	for n := range 20 {
		eventually(t, func() bool { return a.gathered(t, "etcd_network_peer_round_trip_time_seconds") > float64(n) })
		c.Advance(time.Second)
	}
	require.Zero(t, a.gathered(t, "etcd_network_disconnected_peers_total"))
	require.Empty(t, a.h.events)
}

func TestClusterMismatch(t *testing.T) {
	a := start(t, 1, &handler{})
	b := start(t, 2, &handler{}, func(c *peer.Config) { c.ClusterID = 0xbad })
	c := start(t, 3, &handler{})
	a.SetPeer(2, []string{b.url})
	a.expect(t, "refused by 2: %v: c1, and member 2 is of bad", peer.ErrClusterMismatch)
	_, err := a.Call(t.Context(), 2, 1, nil)
	require.ErrorIs(t, err, peer.ErrNotSent)
	err = a.SendSnapshot(t.Context(), 2, nil, chunks(1, 1))
	require.ErrorIs(t, err, peer.ErrNotSent)
	require.ErrorIs(t, err, peer.ErrClusterMismatch)

	// Another member at the URL is no reason to think that we are not wanted.
	a.SetPeer(3, []string{b.url, c.url})
	a.await(t, "connected 3")
	a.SetPeer(4, []string{c.url})
	err = a.SendSnapshot(t.Context(), 4, nil, chunks(1, 1))
	require.ErrorIs(t, err, peer.ErrMemberMismatch)
	require.ErrorIs(t, err, peer.ErrNotSent)
}

func TestAdmit(t *testing.T) {
	var admitted atomic.Bool
	h := &handler{admit: func(from uint64) error {
		if !admitted.Load() {
			return fmt.Errorf("no: %w", &peer.RemoteError{Code: 42, Message: fmt.Sprintf("member %d was removed", from)})
		}
		return nil
	}}
	a, b := start(t, 1, &handler{}), start(t, 2, h)
	a.SetPeer(2, []string{b.url})
	a.expect(t, "refused by 2: member 1 was removed (code 42)")
	var remote *peer.RemoteError
	require.ErrorAs(t, a.SendSnapshot(t.Context(), 2, nil, chunks(1, 1)), &remote)
	require.Equal(t, byte(42), remote.Code)
	admitted.Store(true)
	a.await(t, "connected 2")

	// Who is removed while it is connected is cut off, and learns why.
	admitted.Store(false)
	b.RemovePeer(1)
	a.await(t, "refused by 2: member 1 was removed (code 42)")
}

// TestLost has a member go and come back, twice.
func TestLost(t *testing.T) {
	a, b := start(t, 1, &handler{}), start(t, 2, &handler{})
	connect(t, a, b)
	address := strings.TrimPrefix(b.url, "http://")
	for range 2 {
		b.Close()
		a.expect(t, "lost 2")
		b = startAt(t, address, 2, &handler{})
		a.expect(t, "connected 2")
	}
	require.Empty(t, a.h.events, "a loss is told once")
}

// TestBrokenConnectionIsNotLost breaks connections, and somebody listens all the time.
func TestBrokenConnectionIsNotLost(t *testing.T) {
	a, b := start(t, 1, &handler{}), start(t, 2, &handler{})
	p := newProxy(t, b)
	a.SetPeer(2, []string{p.url})
	a.expect(t, "connected 2")
	for range 3 {
		p.cut()
		a.expect(t, "connected 2")
	}
	require.InDelta(t, 3, a.gathered(t, "etcd_network_disconnected_peers_total"), 0)

	// Nor is it if nobody listens at one of its URLs, and no more can be said of
	// another.
	nowhere := start(t, 9, &handler{})
	nowhere.Close()
	a.SetPeer(2, []string{nowhere.url, p.url, nowhere.url})
	p.refuse(true)
	p.cut()
	for range 3 {
		receive(t, p.refused)
	}
	p.refuse(false)
	a.expect(t, "connected 2")
}

// TestOtherURLs moves a member, and has some of its URLs lead nowhere.
func TestOtherURLs(t *testing.T) {
	a := start(t, 1, &handler{}, func(c *peer.Config) { c.DialTimeout = 50 * time.Millisecond })
	moved := make(chan string, 1)
	b := start(t, 2, &handler{call: func(context.Context, uint64, byte, []byte) ([]byte, error) {
		a.SetPeer(2, []string{<-moved})
		return nil, nil
	}})
	nowhere := start(t, 9, &handler{})
	nowhere.Close()
	a.SetPeer(2, []string{nowhere.url, "ftp://x:1", "https://127.0.0.1:1", "http://nothing", silent(t), b.url})
	a.expect(t, "connected 2")
	// It stays connected, and what is under way comes about.
	p := newProxy(t, b)
	moved <- p.url
	_, err := a.Call(t.Context(), 2, 1, nil)
	require.NoError(t, err)
	require.Empty(t, a.h.events)
	// The next time it is there.
	b.RemovePeer(1)
	a.expect(t, "connected 2")
	p.cut()
	a.expect(t, "connected 2")
	a.SetPeer(1, []string{b.url}) // Itself.
	require.Empty(t, a.h.events)
}

// silent returns a URL where somebody listens and never says anything, as a process
// that is stopped.
func silent(tb testing.TB) string {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, l.Close()) })
	return "http://" + l.Addr().String()
}

// TestNoWelcome connects to a process that hears a greeting and does not answer.
func TestNoWelcome(t *testing.T) {
	release := make(chan struct{})
	stuck := start(t, 2, &handler{admit: func(uint64) error {
		<-release
		return nil
	}})
	defer close(release)
	a := start(t, 1, &handler{}, func(c *peer.Config) { c.DialTimeout = 50 * time.Millisecond })
	b := start(t, 2, &handler{})
	a.SetPeer(2, []string{stuck.url, b.url})
	a.expect(t, "connected 2")
}

func TestServeFailsWithItsListener(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := peer.New(peer.Config{ClusterID: 1, MemberID: 1, Handler: &handler{}, Listeners: []net.Listener{l}})
	defer n.Close()
	require.NoError(t, l.Close())
	require.ErrorIs(t, n.Serve(), net.ErrClosed)
}

// TestNewConnectionTakesThePlaceOfTheOld has two processes that think that they are
// the same member. What comes from the first has ended when the second begins.
func TestNewConnectionTakesThePlaceOfTheOld(t *testing.T) {
	s := newSequence()
	var reading atomic.Int32
	b := start(t, 2, &handler{
		raft: func(from uint64, group uint16, p []byte) {
			if reading.Add(1) > 1 {
				s.mu.Lock()
				s.bad = "two at once"
				s.mu.Unlock()
			}
			s.raft(from, group, p)
			reading.Add(-1)
		},
		call: func(ctx context.Context, _ uint64, _ byte, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	// They do not fight: who was replaced pauses before it connects again.
	slow := func(c *peer.Config) { c.RedialMin, c.RedialMax = time.Hour, time.Hour }
	var (
		n     atomic.Uint64
		calls chan error
	)
	for range 5 {
		a := start(t, 1, &handler{}, slow)
		connect(t, a, b)
		for range 100 {
			a.Send(2, 0, numbered(n.Add(1), 100), false)
		}
		receive(t, s.arrived)
		if calls != nil {
			require.ErrorIs(t, receive(t, calls), peer.ErrUnknown, "the call over the old connection")
		}
		calls = make(chan error, 1)
		answered := calls
		go func() {
			_, err := a.Call(context.Background(), 2, 1, nil)
			answered <- err
		}()
		eventually(t, func() bool { return a.gathered(t, "pebbledash_peer_calls") == 1 })
		eventually(t, func() bool { return a.gathered(t, "pebbledash_peer_queued_records") == 0 })
	}
	require.Empty(t, s.bad)
}

// TestOldConnectionEndsFirst has the handler still be busy with a message of the old
// connection when the new one comes.
func TestOldConnectionEndsFirst(t *testing.T) {
	begun, release, admitted := make(chan struct{}), make(chan struct{}), make(chan struct{}, 2)
	var returned atomic.Bool
	b := start(t, 2, &handler{
		raft: func(uint64, uint16, []byte) {
			close(begun)
			<-release
			returned.Store(true)
		},
		admit: func(uint64) error {
			admitted <- struct{}{}
			return nil
		},
	})
	slow := func(c *peer.Config) { c.RedialMin, c.RedialMax = time.Hour, time.Hour }
	first, second := start(t, 1, &handler{}, slow), start(t, 1, &handler{})
	connect(t, first, b)
	receive(t, admitted)
	first.Send(2, 1, nil, false)
	receive(t, begun)
	second.SetPeer(2, []string{b.url})
	receive(t, admitted)
	// It does not connect now, as far as can be seen in a while.
	select {
	case e := <-second.h.events:
		t.Errorf("%s while the old connection is there", e)
	case <-clock.Real{}.After(20 * time.Millisecond):
	}
	close(release)
	second.expect(t, "connected 2")
	require.True(t, returned.Load())
}

// TestStrangersAreLeftOut connects without the greeting, and with garbage.
func TestStrangersAreLeftOut(t *testing.T) {
	b := start(t, 2, &handler{}, func(c *peer.Config) { c.DialTimeout, c.MaxConnections = 300*time.Millisecond, 3 })
	address := strings.TrimPrefix(b.url, "http://")
	closed := func(say string) {
		c, err := net.Dial("tcp", address) //nolint:noctx // A test's.
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte(say))
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(patience))) //nolint:forbidigo // A bound.
		for buf := make([]byte, 1000); err == nil; {
			_, err = c.Read(buf)
		}
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		var timeout net.Error
		require.False(t, errors.As(err, &timeout) && timeout.Timeout(), "it was not closed")
	}
	closed("")
	closed("GET / HTTP/1.1\r\n\r\n")
	var many sync.WaitGroup
	for range 10 {
		many.Go(func() { closed("") })
	}
	many.Wait()
	a := start(t, 1, &handler{})
	connect(t, a, b)
}
