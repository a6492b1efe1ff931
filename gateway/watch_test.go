package gateway

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/gateway/watchcache"
	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// watchStore is a store of which only the history matters.
type watchStore struct {
	*fakeStore
	hub *watchcache.Hub

	mu        sync.Mutex
	history   []*mvccpb.Event
	latest    map[string]*mvccpb.KeyValue
	revision  int64
	compacted int64
}

// write puts "key=value" and deletes "-key", all at one revision.
func (s *watchStore) write(changes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	var events []*mvccpb.Event
	for _, c := range changes {
		key, value, put := strings.Cut(c, "=")
		kv := &mvccpb.KeyValue{ModRevision: s.revision}
		ev := &mvccpb.Event{Kv: kv}
		if put {
			kv.Key, kv.Value, kv.Version, kv.CreateRevision = []byte(key), []byte(value), 1, s.revision
			if before := s.latest[key]; before != nil {
				kv.Version, kv.CreateRevision = before.Version+1, before.CreateRevision
			}
			s.latest[key] = kv
		} else {
			kv.Key, ev.Type = []byte(key[1:]), mvccpb.Event_DELETE
			delete(s.latest, key[1:])
		}
		events = append(events, ev)
	}
	s.history = append(s.history, events...)
	s.hub.Publish(events, s.revision)
}

func (s *watchStore) compact(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = rev
}

func (s *watchStore) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

func (s *watchStore) Closed() int64 { return s.Revision() }

func (s *watchStore) Compacted() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compacted
}

func (s *watchStore) Changes(_ context.Context, key, end []byte, from, to int64, fn func(*mvccpb.Event) error) error {
	s.mu.Lock()
	history, compacted := s.history, s.compacted
	s.mu.Unlock()
	if from < compacted {
		return mvcc.ErrCompacted
	}
	for _, ev := range history {
		in := bytes.Equal(ev.Kv.Key, key)
		if len(end) > 0 {
			in = bytes.Compare(key, ev.Kv.Key) <= 0 && (string(end) == "\x00" || bytes.Compare(ev.Kv.Key, end) < 0)
		}
		if in && ev.Kv.ModRevision >= from && ev.Kv.ModRevision <= to {
			if err := fn(ev); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *watchStore) Previous(key []byte, rev int64) (prev *mvccpb.KeyValue, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev-1 < s.compacted {
		return nil, mvcc.ErrCompacted
	}
	for _, ev := range s.history {
		if bytes.Equal(ev.Kv.Key, key) && ev.Kv.ModRevision < rev {
			if prev = ev.Kv; ev.Type == mvccpb.Event_DELETE {
				prev = nil
			}
		}
	}
	return prev, nil
}

// watched is a server of a watchStore and a stream of watches.
type watched struct {
	*testing.T
	store  *watchStore
	server *Server
	addr   string
	stream pb.Watch_WatchClient
}

func serveWatch(t *testing.T, cfg Config, hub watchcache.Config) *watched {
	t.Helper()
	h := watchcache.NewHub(hub)
	store := &watchStore{fakeStore: newFakeStore(), hub: h, latest: map[string]*mvccpb.KeyValue{}, revision: 1}
	h.Start(store, 1)
	t.Cleanup(h.Close)
	cfg.Hub = h
	s, addr := serve(t, cfg, store)
	stream, err := pb.NewWatchClient(dial(t, addr)).Watch(within(t))
	require.NoError(t, err)
	return &watched{t, store, s, addr, stream}
}

func (w *watched) create(r *pb.WatchCreateRequest) {
	w.Helper()
	require.NoError(w, w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}))
}

func (w *watched) cancel(id int64) {
	w.Helper()
	require.NoError(w, w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id},
	}}))
}

func (w *watched) requestProgress() {
	w.Helper()
	require.NoError(w, w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
		ProgressRequest: &pb.WatchProgressRequest{},
	}}))
}

// expect receives a response for each line.
func (w *watched) expect(want ...string) {
	w.Helper()
	for _, s := range want {
		r, err := w.stream.Recv()
		require.NoError(w, err, "instead of %q", s)
		require.Equal(w, s, renderWatch(r))
		require.EqualValues(w, fakeCluster, r.Header.ClusterId)
		require.EqualValues(w, fakeMember, r.Header.MemberId)
		require.EqualValues(w, fakeTerm, r.Header.RaftTerm)
	}
}

func (w *watched) expectError(want error) {
	w.Helper()
	_, err := w.stream.Recv()
	require.Equal(w, status.Convert(want).String(), status.Convert(err).String())
}

// renderWatch shows a response as #id@revision and what it says.
func renderWatch(r *pb.WatchResponse) string {
	s := fmt.Sprintf("#%d@%d", r.WatchId, r.Header.GetRevision())
	for word, set := range map[string]bool{"created": r.Created, "fragment": r.Fragment} {
		if set {
			s += " " + word
		}
	}
	if r.Canceled {
		s += " canceled"
	}
	if r.CompactRevision != 0 {
		s += fmt.Sprintf(" compacted=%d", r.CompactRevision)
	}
	if r.CancelReason != "" {
		s += ": " + r.CancelReason
	}
	for _, ev := range r.Events {
		if s += fmt.Sprintf(" %s=%s", ev.Kv.Key, ev.Kv.Value); ev.Type == mvccpb.Event_DELETE {
			s = strings.TrimSuffix(s, fmt.Sprintf(" %s=", ev.Kv.Key)) + fmt.Sprintf(" -%s", ev.Kv.Key)
		}
		if ev.PrevKv != nil {
			s += fmt.Sprintf("(%s)", ev.PrevKv.Value)
		}
	}
	return s
}

func on(key, end string) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func TestWatch(t *testing.T) {
	w := serveWatch(t, Config{}, watchcache.Config{})
	w.create(on("a", ""))
	w.create(on("a", "c"))
	w.create(on("b", "\x00"))
	w.create(on("", ""))
	w.expect("#0@1 created", "#1@1 created", "#2@1 created", "#3@1 created")
	w.store.write("a=1")
	seen := map[string]bool{}
	for range 2 {
		r, err := w.stream.Recv()
		require.NoError(t, err)
		seen[renderWatch(r)] = true
	}
	require.Equal(t, map[string]bool{"#0@2 a=1": true, "#1@2 a=1": true}, seen)
	w.store.write("c=1", "d=1")
	w.expect("#2@3 c=1 d=1")
	w.store.write("-d", "c=2")
	w.expect("#2@4 -d c=2")
	w.store.write("\x00=zero")
	w.expect("#3@5 \x00=zero")

	// The past, the present and the past again.
	r := on("a", "\x00")
	r.StartRevision, r.PrevKv = 2, true
	w.create(r)
	w.expect("#4@5 created", "#4@5 a=1 c=1 d=1 -d(1) c=2(1)")
	w.cancel(4)
	w.expect("#4@5 canceled")
	w.store.write("a=3")
	w.cancel(4)
	w.cancel(77)
	w.requestProgress()
	for len(seen) < 5 {
		r, err := w.stream.Recv()
		require.NoError(t, err)
		seen[renderWatch(r)] = true
	}
	require.True(t, seen["#0@6 a=3"] && seen["#1@6 a=3"] && seen["#-1@6"], seen)
}

func TestWatchRefused(t *testing.T) {
	w := serveWatch(t, Config{}, watchcache.Config{MaxWatchers: 3})
	withID := func(id int64) *pb.WatchCreateRequest {
		r := on("a", "")
		r.WatchId = id
		return r
	}
	w.create(on("b", "b"))
	w.create(on("b", "a"))
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: -1})
	w.expect("#-1@1 created canceled: mvcc: watcher range is empty", "#-1@1 created canceled: mvcc: watcher range is empty",
		"#-1@1 created canceled: etcdserver: mvcc: required revision has been compacted")
	w.create(withID(1))
	w.create(withID(1))
	w.create(withID(-7))
	w.create(withID(0))
	w.create(withID(0))
	w.expect("#1@1 created", "#-1@1 created canceled: mvcc: duplicate watch ID provided on the WatchStream",
		"#-7@1 created", "#0@1 created", "#-1@1 created canceled: etcdserver: too many requests")
	w.cancel(-7)
	w.create(withID(0)) // 1 is in use.
	w.expect("#-7@1 canceled", "#2@1 created")

	// A request without meaning is passed over.
	require.NoError(t, w.stream.Send(&pb.WatchRequest{}))
	w.requestProgress()
	w.expect("#-1@1")
}

func TestWatchFilters(t *testing.T) {
	w := serveWatch(t, Config{}, watchcache.Config{})
	for _, filters := range [][]pb.WatchCreateRequest_FilterType{{0}, {1}, {0, 1}, {7}} {
		r := on("a", "")
		r.Filters, r.PrevKv = filters, true
		w.create(r)
	}
	w.expect("#0@1 created", "#1@1 created", "#2@1 created", "#3@1 created")
	got := map[string]bool{}
	for _, change := range []string{"a=1", "-a"} {
		w.store.write(change)
		for range 2 {
			r, err := w.stream.Recv()
			require.NoError(t, err)
			got[renderWatch(r)] = true
		}
	}
	require.Equal(t, map[string]bool{"#1@2 a=1": true, "#3@2 a=1": true, "#0@3 -a(1)": true, "#3@3 -a(1)": true}, got)
}

func TestWatchCompacted(t *testing.T) {
	w := serveWatch(t, Config{}, watchcache.Config{})
	w.store.write("a=2")
	w.store.write("a=3")
	w.store.write("-a")
	w.store.compact(4)
	from := func(rev int64) *pb.WatchCreateRequest {
		r := on("a", "")
		r.StartRevision, r.PrevKv = rev, true
		return r
	}
	w.create(from(3))
	w.expect("#0@4 created", "#0@4 canceled compacted=4")
	w.create(from(4))
	w.expect("#1@4 created", "#1@4 -a")
	w.requestProgress()
	w.expect("#-1@4")
	// The id is the client's until it has canceled it.
	r := from(0)
	w.create(from(2))
	w.expect("#2@4 created", "#2@4 canceled compacted=4")
	r.WatchId = 2
	w.create(r)
	w.expect("#-1@4 created canceled: mvcc: duplicate watch ID provided on the WatchStream")
	w.cancel(2)
	w.create(r)
	w.expect("#2@4 canceled", "#2@4 created")
}

func TestWatchFragments(t *testing.T) {
	w := serveWatch(t, Config{MaxRequestBytes: 1}, watchcache.Config{})
	r := on("a", "z")
	r.Fragment = true
	w.create(r)
	w.expect("#0@1 created")
	value := strings.Repeat("v", recvOverhead/2-1000)
	w.store.write("a="+value, "b="+value, "c="+value)
	w.expect("#0@2 fragment a="+value+" b="+value, "#0@2 c="+value)
	w.store.write("a=1")
	w.expect("#0@3 a=1")
}

func TestWatchProgressNotify(t *testing.T) {
	c := clock.NewManual(time.Unix(0, 0))
	w := serveWatch(t, Config{Clock: c, WatchProgressInterval: time.Second, ElectionTimeout: time.Hour}, watchcache.Config{})
	before := c.Timers()
	r := on("a", "")
	r.ProgressNotify = true
	w.create(r)
	w.create(on("a", ""))
	future := on("a", "")
	future.ProgressNotify, future.StartRevision = true, 100
	w.create(future)
	w.expect("#0@1 created", "#1@1 created", "#2@1 created")
	c.WaitForTimers(before + 1)
	const jittered = 1100 * time.Millisecond
	c.Advance(jittered)
	w.expect("#0@1")
	// Events take the place of the next one.
	w.store.write("a=1")
	got := map[string]bool{}
	for range 2 {
		r, err := w.stream.Recv()
		require.NoError(t, err)
		got[renderWatch(r)] = true
	}
	require.Equal(t, map[string]bool{"#0@2 a=1": true, "#1@2 a=1": true}, got)
	w.store.write("other=1")
	c.Advance(jittered)
	w.requestProgress() // dropped: one has not begun
	w.cancel(2)
	w.expect("#2@3 canceled")
	c.Advance(jittered)
	w.expect("#0@3")
	w.cancel(0)
	w.expect("#0@3 canceled")
	c.Advance(jittered)
	w.cancel(1)
	w.expect("#1@3 canceled")
}

// A client that has nothing more to ask still listens.
func TestWatchHalfClosed(t *testing.T) {
	w := serveWatch(t, Config{}, watchcache.Config{})
	w.create(on("a", ""))
	require.NoError(t, w.stream.CloseSend())
	w.expect("#0@1 created")
	w.store.write("a=1")
	w.expect("#0@2 a=1")
}

func TestWatchEnds(t *testing.T) {
	t.Run("server stops", func(t *testing.T) {
		w := serveWatch(t, Config{}, watchcache.Config{})
		w.create(on("a", ""))
		w.expect("#0@1 created")
		go w.server.Stop(t.Context())
		w.expectError(rpctypes.ErrGRPCStopped)
	})
	t.Run("hub closes", func(t *testing.T) {
		w := serveWatch(t, Config{}, watchcache.Config{})
		w.create(on("a", ""))
		w.expect("#0@1 created")
		w.store.hub.Close()
		w.expectError(rpctypes.ErrGRPCStopped)
	})
	t.Run("no leader", func(t *testing.T) {
		c := clock.NewManual(time.Unix(0, 0))
		w := serveWatch(t, Config{Clock: c, ElectionTimeout: time.Second}, watchcache.Config{})
		ctx := metadata.AppendToOutgoingContext(within(t), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
		plain := w.stream
		var err error
		w.stream, err = pb.NewWatchClient(dial(t, w.addr)).Watch(ctx)
		require.NoError(t, err)
		w.create(on("a", ""))
		w.expect("#0@1 created")
		w.store.leader.Store(0)
		var ended atomic.Bool
		var ticking sync.WaitGroup
		ticking.Go(func() {
			for !ended.Load() {
				c.Advance(time.Second)
				runtime.Gosched()
			}
		})
		w.expectError(rpctypes.ErrGRPCNoLeader)
		ended.Store(true)
		ticking.Wait()
		w.stream = plain
		w.create(on("a", ""))
		w.expect("#0@1 created")
	})
	t.Run("client leaves", func(t *testing.T) {
		w := serveWatch(t, Config{}, watchcache.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		var err error
		w.stream, err = pb.NewWatchClient(dial(t, w.addr)).Watch(ctx)
		require.NoError(t, err)
		w.create(on("a", ""))
		w.expect("#0@1 created")
		cancel()
		_, err = w.stream.Recv()
		require.Equal(t, codes.Canceled, status.Code(err))
	})
}

// A client that does not read holds up nobody, and finds everything when it does.
func TestWatchSlowReader(t *testing.T) {
	w := serveWatch(t, Config{}, watchcache.Config{WindowBytes: 1 << 20})
	w.create(on("a", "z"))
	w.expect("#0@1 created")
	value := strings.Repeat("v", 64<<10)
	const writes = 200
	for i := range writes {
		w.store.write(fmt.Sprintf("k%03d=%s", i, value))
	}
	for next := 0; next < writes; {
		r, err := w.stream.Recv()
		require.NoError(t, err)
		for _, ev := range r.Events {
			require.Equal(t, fmt.Sprintf("k%03d", next), string(ev.Kv.Key))
			require.EqualValues(t, next+2, ev.Kv.ModRevision)
			next++
		}
	}
	w.requestProgress()
	w.expect(fmt.Sprintf("#-1@%d", writes+1))
}
