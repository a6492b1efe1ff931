package crash_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// watcher is a client that watches a range from the first revision on, through
// all kills.
type watcher struct {
	name     string
	key, end string
	prev     bool // asks for the previous states
	fragment bool
	// own watchers have a stream of their own, and go on after a broken stream
	// where they were. Others leave that to client/v3.
	own bool

	ledger  *ledger
	history *history // nil unless it watches all keys

	mu sync.Mutex
	// All below is guarded by mu.

	reached  int64     // everything up to here has been told
	events   int64     // the revision of the last event
	pending  []notice  // not yet checked
	streams  int       // begun
	progress int       // progress notifications
	advanced chan bool // of capacity 1: reached has changed
}

// notice is a revision as a watcher was told of it.
type notice struct {
	rev    int64
	events []event
	prev   []*mvccpb.KeyValue
}

// take notes a response.
func (w *watcher) take(header int64, events []*mvccpb.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(events) == 0 {
		w.progress++
		if header < w.reached {
			w.ledger.violation("%s is told of progress to %d after %d", w.name, header, w.reached)
		}
		w.reached = max(w.reached, header)
	}
	for len(events) > 0 {
		rev := events[0].Kv.ModRevision
		n := slices.IndexFunc(events, func(e *mvccpb.Event) bool { return e.Kv.ModRevision != rev })
		if n < 0 {
			n = len(events)
		}
		w.takeRevision(rev, events[:n])
		events = events[n:]
	}
	w.ledger.tell(w.reached, w.name)
	select {
	case w.advanced <- true:
	default:
	}
}

// takeRevision notes all that there is of a revision.
//
// REQUIRES: mu.
func (w *watcher) takeRevision(rev int64, events []*mvccpb.Event) {
	if rev <= w.reached {
		w.ledger.violation("%s is told of revision %d (%v ...) after everything up to %d (last event: %d)",
			w.name, rev, eventOf(events[0]), w.reached, w.events)
		return
	}
	w.reached, w.events = rev, rev
	n := notice{rev: rev}
	for _, e := range events {
		n.events = append(n.events, eventOf(e))
		n.prev = append(n.prev, e.PrevKv)
	}
	w.pending = append(w.pending, n)
	if w.history != nil {
		if err := w.history.add(rev, n.events); err != nil {
			w.ledger.violation("%s: %v", w.name, err)
		}
	}
}

func (w *watcher) at() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reached
}

// wait waits until everything up to rev has been told.
func (w *watcher) wait(ctx context.Context, rev int64) error {
	for w.at() < rev {
		select {
		case <-w.advanced:
		case <-ctx.Done():
			return fmt.Errorf("%s has been told everything up to %d only, not up to %d: %w", w.name, w.at(), rev, ctx.Err())
		}
	}
	return nil
}

// check compares what was told, above one revision and up to another, with the
// model.
func (w *watcher) check(c *checker, above, upTo int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rev := above + 1; rev <= upTo; rev++ {
		seen, _ := c.history.at(rev)
		want := slices.DeleteFunc(slices.Clone(seen.events), func(e event) bool { return !covers(w.key, w.end, e.key) })
		var got notice
		if len(w.pending) > 0 && w.pending[0].rev == rev {
			got, w.pending = w.pending[0], w.pending[1:]
		}
		if !slices.Equal(want, got.events) {
			c.violation("%s: revision %d is %s", w.name, rev, difference(want, got.events))
			return
		}
		for i, e := range got.events {
			w.checkPrev(c, e, got.prev[i])
		}
	}
}

// checkPrev compares an event's previous state with the model.
func (w *watcher) checkPrev(c *checker, e event, prev *mvccpb.KeyValue) {
	want, existed := c.model.at(e.key, e.mod-1)
	existed = existed && w.prev
	switch {
	case existed != (prev != nil):
		c.violation("%s: %v has the previous state %v, want one: %t", w.name, e, prev, existed)
	case existed && itemOf(prev) != want:
		c.violation("%s: %v has the previous state %v, want %v", w.name, e, itemOf(prev), want)
	}
}

// watchLibrary watches by client/v3, which goes on by itself.
func (w *watcher) watchLibrary(ctx context.Context, client *clientv3.Client) {
	opts := []clientv3.OpOption{clientv3.WithRange(w.end), clientv3.WithRev(firstRevision), clientv3.WithProgressNotify()}
	if w.prev {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if w.fragment {
		opts = append(opts, clientv3.WithFragment())
	}
	for r := range client.Watch(ctx, w.key, opts...) {
		if err := r.Err(); err != nil {
			w.ledger.violation("%s is cancelled: %v", w.name, err)
			return
		}
		w.take(r.Header.Revision, r.Events)
	}
	if ctx.Err() == nil {
		w.ledger.violation("%s has ended", w.name)
	}
}

// watchOwn watches on a stream of its own, and opens another when that breaks.
func (w *watcher) watchOwn(ctx context.Context, conn *grpc.ClientConn) {
	for ctx.Err() == nil {
		err := w.watchOnce(ctx, conn)
		// gRPC says Internal of a stream that was cut off in its midst.
		if code := status.Code(err); ctx.Err() == nil && code != codes.Unavailable && code != codes.Internal {
			w.ledger.violation("%s: %v", w.name, err)
			return
		}
	}
}

func (w *watcher) watchOnce(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := openWatch(ctx, conn, &pb.WatchCreateRequest{
		Key: []byte(w.key), RangeEnd: []byte(w.end), StartRevision: w.at() + 1, PrevKv: w.prev, ProgressNotify: true,
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.streams++
	w.mu.Unlock()
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		switch {
		case r.Canceled:
			return fmt.Errorf("cancelled: %s, compacted at %d", r.CancelReason, r.CompactRevision)
		case r.Created:
		default:
			w.take(r.Header.Revision, r.Events)
		}
	}
}

// openWatch opens a stream with one watch.
func openWatch(ctx context.Context, conn *grpc.ClientConn, req *pb.WatchCreateRequest) (pb.Watch_WatchClient, error) {
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	return stream, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}})
}

// errCompacted is a watch's end because its revision is compacted.
type errCompacted struct{ rev int64 }

func (e errCompacted) Error() string { return fmt.Sprintf("compacted at %d", e.rev) }

// replay reads the history of all keys once, from one revision up to another,
// which must have events.
func replay(ctx context.Context, conn *grpc.ClientConn, from, upTo int64, each func(rev int64, events []event)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := openWatch(ctx, conn, &pb.WatchCreateRequest{
		Key: []byte(everything), RangeEnd: []byte(everything), StartRevision: from,
	})
	if err != nil {
		return err
	}
	for last := from - 1; last < upTo; {
		r, err := stream.Recv()
		switch {
		case err != nil:
			return err
		case r.CompactRevision != 0:
			return errCompacted{r.CompactRevision}
		case r.Canceled:
			return errors.New(r.CancelReason)
		}
		for events := r.Events; len(events) > 0; {
			rev := events[0].Kv.ModRevision
			if rev <= last {
				return fmt.Errorf("revision %d comes after %d", rev, last)
			}
			last = rev
			var these []event
			for len(events) > 0 && events[0].Kv.ModRevision == rev {
				these = append(these, eventOf(events[0]))
				events = events[1:]
			}
			each(rev, these)
		}
	}
	return nil
}
