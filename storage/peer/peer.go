package peer

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// peer is a member that we dial.
type peer struct {
	t       *Transport
	id      uint64
	log     *slog.Logger
	dropped prometheus.Counter
	ctx     context.Context
	cancel  context.CancelFunc
	// kicked has room for one, and shortens a pause between two attempts.
	kicked chan struct{}

	// session is the connection, nil if there is none. It is written under mu.
	session atomic.Pointer[outbound]

	// mu guards the fields below. The outbox's lock may be taken after it.
	mu   sync.Mutex
	urls []string
	// notice waits for a connection.
	notice notice

	// failure is why the last attempt to connect failed, so that the log does not
	// fill with it. It belongs to the goroutine that runs the peer.
	failure string
}

// outbound is a connection that we have dialed.
type outbound struct {
	session
	link  *link
	url   string
	since time.Time
	calls callTable
}

func newPeer(t *Transport, id uint64, urls []string) *peer {
	p := &peer{
		t:       t,
		id:      id,
		log:     t.log.With(slog.String("peer", formatID(id))),
		dropped: t.metrics.sentFailures.WithLabelValues(formatID(id)),
		kicked:  make(chan struct{}, 1),
		urls:    urls,
	}
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	return p
}

// setURLs changes the URLs. A connection that is there stays, wherever it leads: it
// is the member's, which has proved who it is, and may carry the very call whose
// effect the new URLs are.
func (p *peer) setURLs(urls []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(p.urls, urls) {
		return
	}
	p.urls = urls
	p.kick()
}

// kick makes the peer connect soon if it pauses.
func (p *peer) kick() {
	select {
	case p.kicked <- struct{}{}:
	default:
	}
}

func (p *peer) notify(payload []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.session.Load(); s != nil && s.out.notify(payload) == nil {
		return
	}
	p.notice = notice{payload: payload, there: true}
}

// run connects, and connects again, until the peer is removed.
func (p *peer) run() {
	defer p.cancel()
	var (
		pause time.Duration
		// gone says that a connection broke, and Lost was not told.
		gone bool
	)
	for {
		s, refused := p.connect()
		switch {
		case p.ctx.Err() != nil:
			if s != nil {
				s.link.close()
			}
			return
		case s != nil:
			p.converse(s)
			if p.ctx.Err() != nil {
				return
			}
			gone = true
			if p.t.clock.Since(s.since) >= p.t.cfg.RedialMax {
				// It broke and did not just fail to begin: see at once whether
				// somebody is there.
				pause = 0
				continue
			}
		case refused && gone:
			gone = false
			p.log.Warn("a member is gone")
			p.t.cfg.Handler.Lost(p.id)
		}
		pause = min(max(2*pause, p.t.cfg.RedialMin), p.t.cfg.RedialMax)
		if !p.sleep(pause) {
			return
		}
	}
}

// sleep returns false if the peer was removed in the meantime. A kick ends it early,
// but not at once: kicks may come as fast as connections fail.
func (p *peer) sleep(d time.Duration) bool {
	select {
	case <-p.kicked:
	default:
	}
	least := min(d, p.t.cfg.RedialMin)
	timer := p.t.clock.NewTimer(least)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-p.ctx.Done():
		return false
	}
	timer.Reset(d - least)
	select {
	case <-timer.C():
	case <-p.kicked:
	case <-p.ctx.Done():
		return false
	}
	return true
}

// connect tries each URL. Without a connection it says whether nobody listened at
// any of them.
func (p *peer) connect() (s *outbound, nobody bool) {
	p.mu.Lock()
	urls := p.urls
	p.mu.Unlock()
	h := hello{version, oldestVersion, p.t.cfg.ClusterID, p.t.cfg.MemberID, p.id}
	nobody = len(urls) > 0
	for _, url := range urls {
		l, stream, err := p.t.dialer.greet(p.ctx, url, talkMethod, h)
		if err == nil {
			p.failure = ""
			return p.newSession(url, l, stream), false
		}
		if p.ctx.Err() != nil {
			return nil, false
		}
		unreachable := errors.As(err, new(*unreachableError))
		nobody = nobody && unreachable
		p.failed(url, err, unreachable)
	}
	return nil, nobody
}

// failed tells of an attempt to connect that failed.
func (p *peer) failed(url string, err error, unreachable bool) {
	kind := "failed"
	switch {
	case unreachable:
		kind = "unreachable"
	case errors.As(err, new(*refusedError)):
		kind = err.Error()
		if errors.As(err, new(*RemoteError)) || errors.Is(err, ErrBusy) || errors.Is(err, ErrClusterMismatch) {
			p.t.cfg.Handler.Refused(p.id, err)
		}
	}
	if kind != p.failure {
		p.failure = kind
		p.log.Warn("cannot connect to a member", slog.String("url", url), slog.Any("err", err))
	}
}

func (p *peer) newSession(url string, l *link, st stream) *outbound {
	id, m := formatID(p.id), p.t.metrics
	return &outbound{
		session: session{
			t:        p.t,
			member:   p.id,
			stream:   st,
			cut:      l.cut,
			out:      newOutbox(p.t.cfg.MaxQueuedMessages, p.t.cfg.MaxQueuedBytes, p.t.cfg.LazyDelay, p.t.clock),
			sent:     m.sentBytes.WithLabelValues(id),
			received: m.receivedBytes.WithLabelValues(id),
		},
		link:  l,
		url:   url,
		since: p.t.clock.Now(),
		calls: callTable{max: p.t.cfg.MaxCalls},
	}
}

// converse lets s be used, until it breaks.
func (p *peer) converse(s *outbound) {
	defer s.link.close()
	var ends sync.WaitGroup
	defer ends.Wait()
	defer s.cut()
	rtt := p.t.metrics.roundTrip.WithLabelValues(formatID(p.id))
	ends.Go(func() { s.write(nil) })
	ends.Go(func() {
		s.link.watch(s.stream.Context(), p.t.clock, p.t.cfg.PingInterval, func(d time.Duration) { rtt.Observe(d.Seconds()) })
	})

	p.begin(s)
	active := p.t.metrics.active.WithLabelValues(p.t.metrics.local, formatID(p.id))
	active.Inc()
	p.log.Info("connected to a member", slog.String("url", s.url))
	p.t.cfg.Handler.Connected(p.id)

	err := s.read(s.take)

	p.end(s, err)
	active.Dec()
	p.t.metrics.disconnected.WithLabelValues(p.t.metrics.local, formatID(p.id)).Inc()
	p.log.Warn("the connection to a member broke", slog.Any("err", err))
}

// begin makes s the peer's connection.
func (p *peer) begin(s *outbound) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.notice.there {
		_ = s.out.notify(p.notice.payload)
		p.notice = notice{}
	}
	p.session.Store(s)
}

// end fails what waits in s.
func (p *peer) end(s *outbound, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session.Store(nil)
	lost, unsent := s.out.close()
	if unsent.there {
		p.notice = unsent
	}
	p.dropped.Add(float64(lost))
	s.calls.close(cause)
}

// take takes what comes back.
func (s *outbound) take(r *record) error {
	switch r.kind {
	case recordReply, recordFailure:
		s.answered(r)
		return nil
	default:
		return unexpected(r)
	}
}
