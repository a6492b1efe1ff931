package conformance

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/errgroup"
)

// watchStream is a Watch RPC of a test.
type watchStream struct {
	m         *member
	stream    pb.Watch_WatchClient
	responses chan *pb.WatchResponse
	err       error // why responses was closed
}

// responsesBuffer is more than a test leaves unread.
const responsesBuffer = 1000

func (m *member) watch(t *testing.T) *watchStream {
	t.Helper()
	stream, err := pb.NewWatchClient(m.conn).Watch(t.Context())
	require.NoError(t, err)
	w := &watchStream{m: m, stream: stream, responses: make(chan *pb.WatchResponse, responsesBuffer)}
	go func() {
		defer close(w.responses)
		for {
			r, err := stream.Recv()
			if err != nil {
				w.err = err
				return
			}
			w.responses <- r
		}
	}()
	return w
}

func (w *watchStream) create(t *testing.T, req *pb.WatchCreateRequest) {
	t.Helper()
	require.NoError(t, w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}}))
}

func (w *watchStream) cancel(t *testing.T, id int64) {
	t.Helper()
	require.NoError(t, w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id},
	}}))
}

func (w *watchStream) requestProgress(t *testing.T) {
	t.Helper()
	require.NoError(t, w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
		ProgressRequest: &pb.WatchProgressRequest{},
	}}))
}

// next takes the next response.
func (w *watchStream) next(t *testing.T) *pb.WatchResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
	defer cancel()
	select {
	case r, ok := <-w.responses:
		if !ok {
			t.Fatalf("the stream ended: %v", w.err)
		}
		return r
	case <-ctx.Done():
		t.Fatalf("no watch response after %v", requestTimeout)
		return nil
	}
}

// expect takes the next responses and compares them with the wanted lines.
func (w *watchStream) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, s := range want {
		require.Equal(t, s, w.m.renderWatch(w.next(t)))
	}
}

// events takes responses until it has n events of watch id, and renders them.
// Where events may come in one response or in several, which is so for those
// that lie in the past, this is what may be compared.
func (w *watchStream) events(t *testing.T, id int64, n int) string {
	t.Helper()
	var all []*mvccpb.Event
	for len(all) < n {
		r := w.next(t)
		require.Equal(t, id, r.WatchId, w.m.renderWatch(r))
		require.NotEmpty(t, r.Events, w.m.renderWatch(r))
		if len(all) > 0 {
			require.Greater(t, r.Events[0].Kv.ModRevision, all[len(all)-1].Kv.ModRevision,
				"events of one revision come in one response")
		}
		all = append(all, r.Events...)
		require.GreaterOrEqual(t, r.Header.Revision, all[len(all)-1].Kv.ModRevision,
			"the header is not older than the events")
	}
	return renderEvents(all)
}

// renderWatch shows a response as #id and what it says.
func (m *member) renderWatch(r *pb.WatchResponse) string {
	s := fmt.Sprintf("#%d", r.WatchId)
	if r.Created {
		s += " created"
	}
	if r.Canceled {
		s += " canceled"
	}
	if r.CompactRevision != 0 {
		s += fmt.Sprintf(" compacted=%d", r.CompactRevision)
	} else {
		s += " " + m.renderHeader(r.Header)
	}
	if r.CancelReason != "" {
		s += fmt.Sprintf(" %q", r.CancelReason)
	}
	if r.Fragment {
		s += " fragment"
	}
	if len(r.Events) > 0 {
		s += " " + renderEvents(r.Events)
	} else if !r.Created && !r.Canceled {
		s += " progress"
	}
	return s
}

func renderEvents(events []*mvccpb.Event) string {
	var parts []string
	for _, e := range events {
		var s string
		switch {
		case e.Type == mvccpb.Event_PUT:
			s = "put " + renderKV(e.Kv)
		case e.Kv.CreateRevision != 0 || e.Kv.Version != 0 || e.Kv.Lease != 0 || len(e.Kv.Value) > 0:
			s = fmt.Sprintf("del with more than key and revision{%s}", requestText(e.Kv))
		default:
			s = fmt.Sprintf("del %s@%d", printable(e.Kv.Key), e.Kv.ModRevision)
		}
		if e.PrevKv != nil {
			s += " was " + renderKV(e.PrevKv)
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ", ")
}

func on(key string) *pb.WatchCreateRequest { return &pb.WatchCreateRequest{Key: b(key)} }

func onRange(key, end string) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: b(key), RangeEnd: b(end)}
}

// from sets the revision at which a watch begins.
func from(revision int64, req *pb.WatchCreateRequest) *pb.WatchCreateRequest {
	req.StartRevision = revision
	return req
}

func TestWatchLive(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	w := m.watch(t)
	w.create(t, on("k"))
	w.expect(t, "#0 created rev=1")

	m.must(t, put("k", "1"), "rev=2")
	w.expect(t, "#0 rev=2 put k=1@2/2/1")
	m.must(t, put("other", "1"), "rev=3")
	m.must(t, put("k0", "1"), "rev=4")
	m.must(t, put("k", "2"), "rev=5")
	w.expect(t, "#0 rev=5 put k=2@2/5/2")
	m.must(t, del("k"), "rev=6 deleted=1")
	w.expect(t, "#0 rev=6 del k@6")
	m.must(t, del("k"), "rev=6 deleted=0")
	m.must(t, put("k", "3"), "rev=7")
	w.expect(t, "#0 rev=7 put k=3@7/7/1")
}

// What one transaction changes comes in one response, in its order.
func TestWatchTransaction(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	w := m.watch(t)
	w.create(t, onRange("a", "n"))
	w.expect(t, "#0 created rev=1")
	m.must(t, txn(nil, ops(put("c", "1"), put("a", "1"), put("z", "1"), put("b", "1")), nil), "rev=2 then"+repeat(" {rev=2 put}", 4))
	w.expect(t, "#0 rev=2 put c=1@2/2/1, put a=1@2/2/1, put b=1@2/2/1")
	m.must(t, txn(nil, ops(put("d", "1"), delRange("a", "c"), txn(nil, ops(put("e", "1")), nil)), nil),
		"rev=3 then {rev=3 put} {rev=3 deleted=2} {then {rev=3 put}}")
	w.expect(t, "#0 rev=3 put d=1@3/3/1, del a@3, del b@3, put e=1@3/3/1")
	m.must(t, delRange("\x00", "\x00"), "rev=4 deleted=4")
	w.expect(t, "#0 rev=4 del c@4, del d@4, del e@4")

	w.create(t, from(2, onRange("a", "n")))
	w.expect(t, "#1 created rev=4")
	require.Equal(t, "put c=1@2/2/1, put a=1@2/2/1, put b=1@2/2/1, "+
		"put d=1@3/3/1, del a@3, del b@3, put e=1@3/3/1, del c@4, del d@4, del e@4", w.events(t, 1, 10))
}

func TestWatchRanges(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.must(t, put("a", "1"), "rev=2")
	m.must(t, put("b", "1"), "rev=3")
	m.must(t, put("bb", "1"), "rev=4")
	m.must(t, put("c", "1"), "rev=5")
	m.must(t, put("\x00", "1"), "rev=6")
	const (
		onA, onB, onBB, onC, on0 = "put a=1@2/2/1", "put b=1@3/3/1", "put bb=1@4/4/1", "put c=1@5/5/1", "put \\0=1@6/6/1"
	)
	for _, c := range []struct {
		name string
		req  *pb.WatchCreateRequest
		want []string
	}{
		{"one key", on("b"), []string{onB}},
		{"an interval is half open", onRange("b", "c"), []string{onB, onBB}},
		{"from a key on", onRange("b", "\x00"), []string{onB, onBB, onC}},
		{"everything", onRange("\x00", "\x00"), []string{onA, onB, onBB, onC, on0}},
		{"no key is the key \\0", on(""), []string{on0}},
		{"no key and no end is everything", onRange("", "\x00"), []string{onA, onB, onBB, onC, on0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			once(t)
			w := m.watch(t)
			w.create(t, from(1, c.req))
			w.expect(t, "#0 created rev=6")
			require.Equal(t, strings.Join(c.want, ", "), w.events(t, 0, len(c.want)))
		})
	}
	const empty = `#-1 created canceled rev=6 "mvcc: watcher range is empty"`
	for name, req := range map[string]*pb.WatchCreateRequest{
		"an empty interval": onRange("b", "b"), "a reversed interval": onRange("c", "b"),
	} {
		t.Run(name, func(t *testing.T) {
			once(t)
			w := m.watch(t)
			w.create(t, req)
			w.expect(t, empty)
			w.create(t, on("a"))
			w.expect(t, "#0 created rev=6")
		})
	}
}

func TestWatchStart(t *testing.T) {
	t.Parallel()
	m := start(t)
	for i := range 4 { // Up to revision 5.
		m.must(t, put("k", fmt.Sprint(i)), fmt.Sprintf("rev=%d", i+2))
	}
	t.Run("in the past", func(t *testing.T) {
		once(t)
		w := m.watch(t)
		w.create(t, from(3, on("k")))
		w.expect(t, "#0 created rev=5")
		require.Equal(t, "put k=1@2/3/2, put k=2@2/4/3, put k=3@2/5/4", w.events(t, 0, 3))
	})
	t.Run("at the present revision", func(t *testing.T) {
		once(t)
		w := m.watch(t)
		w.create(t, from(5, on("k")))
		w.expect(t, "#0 created rev=5", "#0 rev=5 put k=3@2/5/4")
	})
	t.Run("at a revision below zero", func(t *testing.T) {
		once(t)
		w := m.watch(t)
		w.create(t, from(-1, on("k")))
		w.expect(t, `#-1 created canceled rev=5 "etcdserver: mvcc: required revision has been compacted"`)
	})
	t.Run("in the future", func(t *testing.T) {
		once(t)
		w := m.watch(t)
		w.create(t, from(8, on("k")))
		w.expect(t, "#0 created rev=5")
		w.requestProgress(t) // Not answered: it has not begun.
		for i := range 4 {   // Up to revision 9.
			m.must(t, put("k", fmt.Sprint(i+4)), fmt.Sprintf("rev=%d", i+6))
		}
		w.expect(t, "#0 rev=8 put k=6@2/8/7", "#0 rev=9 put k=7@2/9/8")
		w.requestProgress(t)
		w.expect(t, "#-1 rev=9 progress")
	})
	t.Run("in the past and on", func(t *testing.T) {
		once(t)
		w := m.watch(t)
		w.create(t, from(8, on("k")))
		w.expect(t, "#0 created rev=9")
		m.must(t, put("k", "8"), "rev=10")
		require.Equal(t, "put k=6@2/8/7, put k=7@2/9/8, put k=8@2/10/9", w.events(t, 0, 3))
	})
}

func TestWatchIDs(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	w := m.watch(t)
	withID := func(id int64, key string) *pb.WatchCreateRequest {
		return &pb.WatchCreateRequest{Key: b(key), WatchId: id}
	}
	w.create(t, withID(1, "a"))
	w.expect(t, "#1 created rev=1")
	w.create(t, on("b"))
	w.expect(t, "#0 created rev=1")
	w.create(t, on("c")) // 1 is taken.
	w.expect(t, "#2 created rev=1")
	w.create(t, withID(1, "d"))
	w.expect(t, `#-1 created canceled rev=1 "mvcc: duplicate watch ID provided on the WatchStream"`)
	w.create(t, withID(1<<40, "d"))
	w.expect(t, "#1099511627776 created rev=1")

	// The one that had the id first still watches.
	m.must(t, put("a", "1"), "rev=2")
	w.expect(t, "#1 rev=2 put a=1@2/2/1")
	m.must(t, put("d", "1"), "rev=3")
	w.expect(t, "#1099511627776 rev=3 put d=1@3/3/1")

	// An id that nobody has is not answered; the next answer is the next's.
	w.cancel(t, 77)
	w.cancel(t, 1)
	w.expect(t, "#1 canceled rev=3")
	w.cancel(t, 1)
	m.must(t, put("a", "2"), "rev=4")
	m.must(t, put("b", "1"), "rev=5")
	w.expect(t, "#0 rev=5 put b=1@5/5/1")

	// A canceled id is free again.
	w.create(t, withID(1, "a"))
	w.expect(t, "#1 created rev=5")
	m.must(t, put("a", "3"), "rev=6")
	w.expect(t, "#1 rev=6 put a=3@2/6/3")

	// Another stream has ids of its own.
	w = m.watch(t)
	w.create(t, on("a"))
	w.expect(t, "#0 created rev=6")
}

// Many watches share a stream; each gets its own events and no other's.
func TestWatchMany(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	w := m.watch(t)
	const watches = 200
	for i := range watches {
		w.create(t, on(fmt.Sprintf("k%03d", i)))
		w.expect(t, fmt.Sprintf("#%d created rev=1", i))
	}
	want, got := map[string]int{}, map[string]int{}
	for round := range 2 {
		for i := range watches {
			key, rev := fmt.Sprintf("k%03d", i), 2+round*watches+i
			m.must(t, put(key, "x"), fmt.Sprintf("rev=%d", rev))
			want[fmt.Sprintf("#%d rev=%d put %s=x@%d/%d/%d", i, rev, key, 2+i, rev, round+1)]++
		}
	}
	for range 2 * watches {
		got[m.renderWatch(w.next(t))]++
	}
	require.Equal(t, want, got)

	// The same event goes to all who watch it.
	w = m.watch(t)
	for i := range watches {
		w.create(t, on("all"))
		w.expect(t, fmt.Sprintf("#%d created rev=401", i))
	}
	m.must(t, put("all", "x"), "rev=402")
	ids := map[int64]bool{}
	for range watches {
		r := w.next(t)
		require.Equal(t, "put all=x@402/402/1", renderEvents(r.Events))
		ids[r.WatchId] = true
	}
	require.Len(t, ids, watches)
}

func TestWatchPrevKV(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	m.must(t, put("k", "1"), "rev=2")
	w := m.watch(t)
	w.create(t, &pb.WatchCreateRequest{Key: b("a"), RangeEnd: b("z"), PrevKv: true})
	w.expect(t, "#0 created rev=2")
	m.must(t, put("k", "2"), "rev=3")
	w.expect(t, "#0 rev=3 put k=2@2/3/2 was k=1@2/2/1")
	m.must(t, del("k"), "rev=4 deleted=1")
	w.expect(t, "#0 rev=4 del k@4 was k=2@2/3/2")
	m.must(t, put("k", "3"), "rev=5")
	w.expect(t, "#0 rev=5 put k=3@5/5/1")
	m.must(t, txn(nil, ops(put("l", "1"), put("k", "4")), nil), "rev=6 then {rev=6 put} {rev=6 put}")
	w.expect(t, "#0 rev=6 put l=1@6/6/1, put k=4@5/6/2 was k=3@5/5/1")

	// A previous key that has been compacted is missing.
	m.must(t, put("k", "5"), "rev=7")
	m.must(t, &pb.CompactionRequest{Revision: 6, Physical: true}, "rev=7")
	w = m.watch(t)
	w.create(t, &pb.WatchCreateRequest{Key: b("a"), RangeEnd: b("z"), PrevKv: true, StartRevision: 6})
	w.expect(t, "#0 created rev=7")
	require.Equal(t, "put l=1@6/6/1, put k=4@5/6/2, put k=5@5/7/3 was k=4@5/6/2", w.events(t, 0, 3))
}

func TestWatchFilters(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	const noPut, noDelete = pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE
	deletions, puts, nothing := m.watch(t), m.watch(t), m.watch(t)
	deletions.create(t, &pb.WatchCreateRequest{Key: b("a"), RangeEnd: b("z"), Filters: []pb.WatchCreateRequest_FilterType{noPut}})
	puts.create(t, &pb.WatchCreateRequest{Key: b("a"), RangeEnd: b("z"), Filters: []pb.WatchCreateRequest_FilterType{noDelete}, PrevKv: true})
	nothing.create(t, &pb.WatchCreateRequest{Key: b("a"), RangeEnd: b("z"), Filters: []pb.WatchCreateRequest_FilterType{noPut, noDelete}})
	for _, w := range []*watchStream{deletions, puts, nothing} {
		w.expect(t, "#0 created rev=1")
	}
	m.must(t, put("k", "1"), "rev=2")
	m.must(t, del("k"), "rev=3 deleted=1")
	m.must(t, txn(nil, ops(put("k", "2"), put("l", "2")), nil), "rev=4 then {rev=4 put} {rev=4 put}")
	m.must(t, txn(nil, ops(put("k", "3"), del("l")), nil), "rev=5 then {rev=5 put} {rev=5 deleted=1}")

	deletions.expect(t, "#0 rev=3 del k@3", "#0 rev=5 del l@5")
	puts.expect(t, "#0 rev=2 put k=1@2/2/1", "#0 rev=4 put k=2@4/4/1, put l=2@4/4/1", "#0 rev=5 put k=3@4/5/2 was k=2@4/4/1")
	nothing.requestProgress(t)
	nothing.expect(t, "#-1 rev=5 progress")

	// In the past as well.
	deletions.create(t, &pb.WatchCreateRequest{Key: b("a"), RangeEnd: b("z"), StartRevision: 1, Filters: []pb.WatchCreateRequest_FilterType{noPut}})
	deletions.expect(t, "#1 created rev=5")
	require.Equal(t, "del k@3, del l@5", deletions.events(t, 1, 2))
}

func TestWatchCompacted(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.fixture(t) // e was put at 12 and deleted at 13.
	live := m.watch(t)
	live.create(t, onRange("a", "z"))
	live.expect(t, "#0 created rev=13")
	m.must(t, &pb.CompactionRequest{Revision: 13, Physical: true}, "rev=13")

	t.Run("a start before the compaction", func(t *testing.T) {
		once(t)
		w := m.watch(t)
		w.create(t, from(12, onRange("a", "z")))
		w.expect(t, "#0 created rev=13", "#0 canceled compacted=13")
		// The stream goes on.
		w.create(t, from(13, on("e")))
		w.expect(t, "#1 created rev=13", "#1 rev=13 del e@13")
	})
	t.Run("a start long before it", func(t *testing.T) {
		once(t)
		w := m.watch(t)
		w.create(t, from(1, on("nothing")))
		w.expect(t, "#0 created rev=13", "#0 canceled compacted=13")
	})
	t.Run("a start at it, where a deletion lies", func(t *testing.T) {
		once(t)
		w := m.watch(t)
		w.create(t, from(13, onRange("a", "z")))
		w.expect(t, "#0 created rev=13", "#0 rev=13 del e@13")
	})
	t.Run("a watch that had begun", func(t *testing.T) {
		once(t)
		m.must(t, put("a", "new"), "rev=14")
		live.expect(t, "#0 rev=14 put a=new@10/14/2")
	})
}

func TestWatchProgressNotify(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t, "--watch-progress-notify-interval=100ms")
	w := m.watch(t)
	w.create(t, &pb.WatchCreateRequest{Key: b("k"), ProgressNotify: true})
	w.expect(t, "#0 created rev=1")
	w.create(t, on("k")) // Did not ask, and will not be told.
	w.expect(t, "#1 created rev=1")
	w.expect(t, "#0 rev=1 progress", "#0 rev=1 progress")

	// It tells of writes that the watch does not see.
	m.must(t, put("other", "1"), "rev=2")
	for m.renderWatch(w.next(t)) == "#0 rev=1 progress" { // It may have been on its way.
	}
	w.expect(t, "#0 rev=2 progress")
}

func TestWatchRequestProgress(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	w := m.watch(t)
	w.create(t, on("a"))
	w.create(t, on("b"))
	w.expect(t, "#0 created rev=1", "#1 created rev=1")
	w.requestProgress(t)
	w.expect(t, "#-1 rev=1 progress")
	m.must(t, put("other", "1"), "rev=2")
	w.requestProgress(t)
	w.expect(t, "#-1 rev=2 progress")
	m.must(t, put("a", "1"), "rev=3")
	w.requestProgress(t)
	w.expect(t, "#0 rev=3 put a=1@3/3/1", "#-1 rev=3 progress")

	// Once events of the past have come, it is as for any other.
	w.create(t, from(2, on("other")))
	w.expect(t, "#2 created rev=3", "#2 rev=3 put other=1@2/2/1")
	w.requestProgress(t)
	w.expect(t, "#-1 rev=3 progress")
}

// A progress notification promises that every event up to its revision has
// been sent. Every revision here is an event of the watch, so the promise can
// be checked at each.
func TestWatchProgressNeverRunsAhead(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	const writers, writes = 4, 250
	w := m.watch(t)
	w.create(t, onRange("k", "l"))
	w.expect(t, "#0 created rev=1")

	var g errgroup.Group
	kv := pb.NewKVClient(m.conn)
	for i := range writers {
		g.Go(func() error {
			for range writes {
				if _, err := kv.Put(t.Context(), put(fmt.Sprintf("k%d", i), "x")); err != nil {
					return err
				}
			}
			return nil
		})
	}
	last, notified := int64(1), 0
	for last < 1+writers*writes {
		w.requestProgress(t)
		r := w.next(t)
		for _, e := range r.Events {
			require.Equal(t, last+1, e.Kv.ModRevision, "no revision is left out")
			last = e.Kv.ModRevision
		}
		if len(r.Events) == 0 {
			require.LessOrEqual(t, r.Header.Revision, last, "progress runs ahead of events")
			notified++
		}
	}
	require.NoError(t, g.Wait())
	require.Positive(t, notified)
}

// With fragment, a response that is too large comes in parts, all but the last
// of them marked.
func TestWatchFragment(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	const keys, size = 3, 450 << 10
	big := string(make([]byte, size))
	var write []*pb.RequestOp
	for i := range keys {
		write = append(write, op(put(fmt.Sprintf("k%d", i), big)))
	}
	m.must(t, txn(nil, write, nil), "rev=2 then"+repeat(" {rev=2 put}", keys))
	whole, parts := m.watch(t), m.watch(t)
	whole.create(t, &pb.WatchCreateRequest{Key: b("k"), RangeEnd: b("l"), PrevKv: true})
	whole.expect(t, "#0 created rev=2")
	parts.create(t, &pb.WatchCreateRequest{Key: b("k"), RangeEnd: b("l"), PrevKv: true, Fragment: true})
	parts.expect(t, "#0 created rev=2")

	// The keys and the previous ones together are more than 2 MiB.
	m.must(t, txn(nil, write, nil), "rev=3 then"+repeat(" {rev=3 put}", keys))
	want := m.renderWatch(whole.next(t))
	require.Equal(t, keys, strings.Count(want, "put"), want)

	var events []*mvccpb.Event
	for fragment := true; fragment; {
		r := parts.next(t)
		events = append(events, r.Events...)
		require.Equal(t, int64(3), r.Header.Revision)
		fragment = r.Fragment
		require.Equal(t, len(events) < keys, fragment, "all but the last are marked")
	}
	require.Equal(t, want, "#0 rev=3 "+renderEvents(events))

	// A small one is not cut.
	m.must(t, put("k", "1"), "rev=4")
	parts.expect(t, "#0 rev=4 put k=1@4/4/1")
}

// A watcher that does not read gets everything when it does.
func TestWatchSlowReader(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	// The reader's connection is its own; nothing is read from it until the
	// writes are done, and they are more than its flow-control window takes.
	slow := *m
	slow.connect(t)
	stream, err := pb.NewWatchClient(slow.conn).Watch(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: onRange("k", "l")}}))
	r, err := stream.Recv()
	require.NoError(t, err)
	require.True(t, r.Created)

	const writes, size = 200, 64 << 10
	value := string(make([]byte, size))
	for i := range writes {
		m.must(t, put("k", value), fmt.Sprintf("rev=%d", i+2))
	}
	for rev := int64(2); rev < writes+2; {
		r, err := stream.Recv()
		require.NoError(t, err)
		for _, e := range r.Events {
			require.Equal(t, rev, e.Kv.ModRevision)
			require.Len(t, e.Kv.Value, size)
			rev++
		}
	}
}
