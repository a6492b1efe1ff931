package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/gateway/watchcache"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	// minProgressInterval is the least of Config.WatchProgressInterval.
	minProgressInterval = 100 * time.Millisecond
	// maxWatchRequests bounds the requests of a stream that have been received
	// and not handled. A client that sends more without reading the answers is
	// not read from.
	maxWatchRequests = 16
	// maxEndedIDs bounds the ids of watches which a compaction ended and which
	// their client has not canceled.
	maxEndedIDs = 1 << 16

	// autoWatchID in a request asks for an id; noWatchID in an answer is for no
	// watch or for all.
	autoWatchID = 0
	noWatchID   = -1
)

// The reasons of etcd that have no error code.
const (
	reasonEmptyRange  = "mvcc: watcher range is empty"
	reasonDuplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
)

// watchServer serves etcd's Watch service (room [9] of the drawing in doc.go).
// Which events a watch gets and when is the business of gateway/watchcache; here
// requests become watchers, and what they are given becomes responses.
type watchServer struct {
	*Server
	pb.UnsafeWatchServer
	interval                  time.Duration
	receiveFailed, sendFailed prometheus.Counter

	// mu guards streams, which are told when the server or the hub stops.
	// Nothing is taken after it.
	mu      sync.Mutex
	streams map[*watchStream]struct{}
}

func newWatchServer(s *Server) pb.WatchServer {
	if s.cfg.Hub == nil {
		return pb.UnimplementedWatchServer{}
	}
	ws := &watchServer{Server: s, interval: s.cfg.WatchProgressInterval, streams: map[*watchStream]struct{}{}}
	if ws.interval < minProgressInterval {
		s.log.Warn("the interval of progress notifications is too short; the least that is possible is taken",
			slog.Duration("interval", ws.interval), slog.Duration("least", minProgressInterval))
		ws.interval = minProgressInterval
	}
	// The keep-alives of leases have the same counter.
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "network", Name: "server_stream_failures_total",
		Help: "The total number of stream failures from the local server.",
	}, []string{"Type", "API"})
	if err := s.cfg.Registerer.Register(failures); err != nil {
		var registered prometheus.AlreadyRegisteredError
		if errors.As(err, &registered) {
			failures, _ = registered.ExistingCollector.(*prometheus.CounterVec)
		}
	}
	ws.receiveFailed = failures.WithLabelValues("receive", "watch")
	ws.sendFailed = failures.WithLabelValues("send", "watch")
	s.background.Go(ws.tellStop)
	return ws
}

// tellStop wakes every stream when the server stops, so that none has to listen
// for that all the time.
func (s *watchServer) tellStop() {
	select {
	case <-s.stopping:
	case <-s.cfg.Hub.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for ws := range s.streams {
		ws.call()
	}
}

func (s *watchServer) add(ws *watchStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[ws] = struct{}{}
}

func (s *watchServer) remove(ws *watchStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, ws)
}

// watchRPC is the server's end of a Watch call.
type watchRPC = grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]

// Watch serves one stream, on two goroutines: one receives, and this one does
// everything else. While it waits for a client that does not read, its watchers
// fall behind, which costs nothing; they catch up from then on.
func (s *watchServer) Watch(rpc watchRPC) error {
	ws := &watchStream{
		server:   s,
		rpc:      rpc,
		requests: make(chan *pb.WatchRequest, maxWatchRequests),
		received: make(chan error, 1),
		events:   s.cfg.Hub.NewStream(),
		watches:  map[int64]*watch{},
		ended:    map[int64]struct{}{},
		notified: map[*watch]struct{}{},
	}
	defer ws.events.Close()
	ws.called.Store(true) // the server may have stopped by now
	s.add(ws)
	defer s.remove(ws)
	defer context.AfterFunc(rpc.Context(), ws.call)()
	go ws.receive()
	err := ws.serve(rpc.Context())
	if ws.ticker != nil {
		ws.ticker.Stop()
	}
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

// watch is one watch of a stream.
type watch struct {
	id       int64
	watcher  *watchcache.Watcher
	prevKV   bool
	fragment bool
	notify   bool
	// quiet says that no events have been sent since the last tick.
	quiet bool
}

// watchStream is one Watch call. Except for the channels it is for the goroutine
// of serve.
type watchStream struct {
	server   *watchServer
	rpc      watchRPC
	requests chan *pb.WatchRequest
	received chan error // why receive ended

	// called says that attend should have a look; see call.
	called atomic.Bool
	// turn counts how often attend was there.
	turn    uint
	events  *watchcache.Stream
	watches map[int64]*watch
	nextID  int64
	// ended has the ids of the watches that a compaction has ended. As in etcd
	// such an id is in use until the client cancels it.
	ended map[int64]struct{}
	// notified are the watches with progress notifications; ticker runs, and
	// ticks is its channel, once there has been one.
	notified map[*watch]struct{}
	ticker   clock.Ticker
	ticks    <-chan time.Time

	// message is reused for every response with events.
	message eventsMessage
}

// call makes serve have a look at what is not a delivery. Anybody may call it.
func (ws *watchStream) call() {
	ws.called.Store(true)
	ws.events.Poke()
}

// receive hands requests to serve. It ends with the call.
func (ws *watchStream) receive() {
	defer ws.call()
	defer func() {
		if p := recover(); p != nil {
			ws.received <- ws.server.caught(pb.Watch_Watch_FullMethodName, p)
		}
	}()
	ctx := ws.rpc.Context()
	for {
		r, err := ws.rpc.Recv()
		if errors.Is(err, io.EOF) {
			return // The client has no more requests, and goes on listening.
		}
		if err != nil {
			ws.server.streamFailed(ctx, err, ws.server.receiveFailed)
			ws.received <- err
			return
		}
		select {
		case ws.requests <- r:
			ws.call()
		case <-ctx.Done():
			return
		}
	}
}

// serve answers requests and brings events until the call ends.
func (ws *watchStream) serve(ctx context.Context) error {
	var d watchcache.Delivery
	for {
		// Between two deliveries there is a look at everything else.
		if err := ws.attend(ctx); err != nil {
			return err
		}
		status, err := ws.events.Next(ctx, &d)
		switch {
		case errors.Is(err, watchcache.ErrClosed):
			return rpctypes.ErrGRPCStopped
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			ws.server.log.Warn("a watch stream ends because its events can not be read", slog.Any("err", err))
			return toGRPC(err)
		case status == watchcache.Ready:
			err = ws.deliver(&d)
		case status == watchcache.Idle:
			err = ws.wait()
		}
		if err != nil {
			return err
		}
	}
}

// wait returns when there may be something for attend or Next. It waits for as
// few channels as possible: each one that a goroutine waits for is paid for at
// every event.
func (ws *watchStream) wait() error {
	if ws.ticks == nil {
		<-ws.events.Wake()
		return nil
	}
	select {
	case <-ws.events.Wake():
		return nil
	case <-ws.ticks:
		return ws.tick()
	}
}

// deliveriesPerTick is how many deliveries may pass before there is a look at
// the ticker.
const deliveriesPerTick = 16

// attend does what is not a delivery, if call was called.
func (ws *watchStream) attend(ctx context.Context) error {
	if ws.turn++; ws.ticks != nil && ws.turn%deliveriesPerTick == 0 {
		select {
		case <-ws.ticks:
			if err := ws.tick(); err != nil {
				return err
			}
		default:
		}
	}
	if !ws.called.Load() {
		return nil
	}
	ws.called.Store(false) // NB: before the look; who comes after it calls again.
	for range len(ws.requests) {
		if err := ws.handle(<-ws.requests); err != nil {
			return err
		}
	}
	select {
	case err := <-ws.received:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-ws.server.stopping:
		return rpctypes.ErrGRPCStopped
	default:
		return nil
	}
}

func (ws *watchStream) handle(r *pb.WatchRequest) error {
	switch u := r.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		if u.CreateRequest != nil {
			return ws.create(u.CreateRequest)
		}
	case *pb.WatchRequest_CancelRequest:
		if u.CancelRequest != nil {
			return ws.cancel(u.CancelRequest.WatchId)
		}
	case *pb.WatchRequest_ProgressRequest:
		ws.events.RequestProgress()
	default:
		// As in etcd a request that nobody knows does not end the stream.
		ws.server.log.Info("a watch request is of no known kind; it is ignored")
	}
	return nil
}

// create begins a watch. Unless it is refused, everything in its range above the
// revision of the answer's header will be sent, if it has no start of its own.
func (ws *watchStream) create(r *pb.WatchCreateRequest) error {
	key, end := r.Key, r.RangeEnd
	if len(key) == 0 {
		key = []byte{0} // The smallest key.
	}
	fromKey := len(end) == 1 && end[0] == 0
	if r.StartRevision < 0 {
		return ws.refuse(rpctypes.ErrorDesc(rpctypes.ErrGRPCCompacted))
	}
	if reason := ws.server.mayWatch(ws.rpc.Context(), key, end); reason != "" {
		return ws.refuse(reason)
	}
	switch {
	case len(end) > 0 && !fromKey && string(key) >= string(end):
		return ws.refuse(reasonEmptyRange)
	case r.WatchId != autoWatchID && ws.inUse(r.WatchId):
		return ws.refuse(reasonDuplicateID)
	}
	w := &watch{id: r.WatchId, prevKV: r.PrevKv, fragment: r.Fragment, notify: r.ProgressNotify, quiet: true}
	options := watchcache.Watch{Key: key, End: end, Start: r.StartRevision, Previous: r.PrevKv, Owner: w}
	for _, f := range r.Filters {
		switch f {
		case pb.WatchCreateRequest_NOPUT:
			options.NoPut = true
		case pb.WatchCreateRequest_NODELETE:
			options.NoDelete = true
		}
	}
	watcher, revision, err := ws.events.Add(options)
	if err != nil {
		return ws.refuse(rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests))
	}
	w.watcher = watcher
	if r.WatchId == autoWatchID {
		for ws.inUse(ws.nextID) {
			ws.nextID++
		}
		w.id = ws.nextID
		ws.nextID++
	}
	ws.watches[w.id] = w
	if w.notify {
		ws.notified[w] = struct{}{}
		ws.startTicker()
	}
	return ws.send(&pb.WatchResponse{Header: ws.server.header(revision), WatchId: w.id, Created: true})
}

func (ws *watchStream) inUse(id int64) bool {
	_, ended := ws.ended[id]
	return ended || ws.watches[id] != nil
}

// refuse answers a create request that can not be granted.
func (ws *watchStream) refuse(reason string) error {
	return ws.send(&pb.WatchResponse{
		Header: ws.server.header(0), WatchId: noWatchID, Created: true, Canceled: true, CancelReason: reason,
	})
}

// cancel ends a watch. An id that is not known is not answered, as in etcd.
func (ws *watchStream) cancel(id int64) error {
	if !ws.inUse(id) {
		return nil
	}
	delete(ws.ended, id)
	if w := ws.watches[id]; w != nil {
		ws.events.Remove(w.watcher)
		ws.forget(w)
	}
	return ws.send(&pb.WatchResponse{Header: ws.server.header(0), WatchId: id, Canceled: true})
}

func (ws *watchStream) forget(w *watch) {
	delete(ws.watches, w.id)
	delete(ws.notified, w)
}

// deliver sends what the hub has given.
func (ws *watchStream) deliver(d *watchcache.Delivery) error {
	if d.Watcher == nil {
		return ws.send(&pb.WatchResponse{Header: ws.server.header(d.Revision), WatchId: noWatchID})
	}
	w := d.Watcher.Owner().(*watch)
	if d.Compacted != 0 {
		ws.forget(w)
		if len(ws.ended) >= maxEndedIDs {
			clear(ws.ended)
		}
		ws.ended[w.id] = struct{}{}
		// As in etcd without a reason; but the header has a revision.
		return ws.send(&pb.WatchResponse{
			Header: ws.server.header(0), WatchId: w.id, Canceled: true, CompactRevision: d.Compacted,
		})
	}
	w.quiet = false
	return ws.sendEvents(w, d)
}

func (ws *watchStream) sendEvents(w *watch, d *watchcache.Delivery) error {
	m := &ws.message
	m.id, m.fragment = w.id, false
	ws.server.headers.fill(&m.header, d.Revision)
	for _, e := range d.Events {
		ev := e.Wire()
		if w.prevKV {
			var err error
			if ev, err = ws.server.cfg.Hub.WithPrevious(e); err != nil {
				ws.server.log.Warn("a watch stream ends because a previous value can not be read", slog.Any("err", err))
				return toGRPC(err)
			}
		}
		m.events = append(m.events, ev)
	}
	var err error
	if w.fragment {
		err = m.sendFragments(ws.server.cfg.MaxRequestBytes+recvOverhead, ws.sendMsg)
	} else {
		err = ws.sendMsg(m)
	}
	ws.trim(m)
	return err
}

// trim lets go of what m held, and of the space if that was exceptional.
func (ws *watchStream) trim(m *eventsMessage) {
	const keep = 1024
	clear(m.events)
	m.events = m.events[:0]
	if cap(m.events) > 2*keep {
		m.events = nil
	}
}

func (ws *watchStream) send(r *pb.WatchResponse) error { return ws.sendMsg(r) }

func (ws *watchStream) sendMsg(m any) error {
	err := ws.rpc.SendMsg(m)
	if err != nil {
		ws.server.streamFailed(ws.rpc.Context(), err, ws.server.sendFailed)
	}
	return err
}

// startTicker begins the rhythm of progress notifications. As in etcd, each
// stream has a slightly different one, so that those which were made together do
// not notify together for ever.
func (ws *watchStream) startTicker() {
	if ws.ticker != nil {
		return
	}
	interval := ws.server.interval
	interval += time.Duration(rand.Int64N(int64(interval) / 10)) //nolint:gosec // Jitter.
	ws.ticker = ws.server.clock.NewTicker(interval)
	ws.ticks = ws.ticker.C()
}

// tick notifies the watches that want it and have been quiet for an interval, if
// they have been given everything.
func (ws *watchStream) tick() error {
	for w := range ws.notified {
		if w.quiet {
			if revision, ok := ws.events.Synced(w.watcher); ok {
				r := &pb.WatchResponse{Header: ws.server.header(revision), WatchId: w.id}
				if err := ws.send(r); err != nil {
					return err
				}
			}
		}
		w.quiet = true
	}
	return nil
}
