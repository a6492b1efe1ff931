package sequence

import (
	"context"
	"errors"
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// lane is one Watch stream of a system, with several watches.
type lane struct {
	stream       grpc.BidiStreamingClient[pb.WatchRequest, pb.WatchResponse]
	cancelStream context.CancelFunc
	// control gets the answers to creations and cancellations.
	control chan *pb.WatchResponse
	done    chan struct{}

	// mu guards what follows; changed is told of each change.
	mu       sync.Mutex
	changed  chan struct{}
	err      error
	byID     map[int64]*inbox
	byNumber map[int]*inbox
	// nextID is the least that a server may choose for a watch.
	nextID int64
	// progress is the last revision that was told for all watches together.
	progress int64
	// told are the notes of progress since the last checkpoint.
	told      []note
	fragments int
}

// note is a note of progress: the revision, and how many events each watch had
// been sent by then. One watch's own has only that.
type note struct {
	revision int64
	had      map[int]int
}

// inbox is what one watch got.
type inbox struct {
	number int
	id     int64
	events []*mvccpb.Event
	// dropped is how many events there were before those, and last the revision
	// of the last event.
	dropped int
	last    int64
	// ended is the response that says that a compaction has ended the watch.
	ended *pb.WatchResponse
	// partial says that a response is not complete.
	partial bool
}

func newLane(conn *grpc.ClientConn) (*lane, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	l := &lane{
		stream: stream, cancelStream: cancel,
		control: make(chan *pb.WatchResponse, 1), done: make(chan struct{}), changed: make(chan struct{}, 1),
		byID: map[int64]*inbox{}, byNumber: map[int]*inbox{},
	}
	go l.receive()
	return l, nil
}

func (l *lane) close() {
	l.cancelStream()
	<-l.done
}

func (l *lane) receive() {
	defer close(l.done)
	for {
		r, err := l.stream.Recv()
		if err == nil {
			err = l.take(r)
		}
		if err != nil {
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
			l.wake()
			close(l.control)
			return
		}
	}
}

func (l *lane) wake() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// take notes a response, or hands it to who waits for it.
func (l *lane) take(r *pb.WatchResponse) error {
	if r.Created || r.Canceled && r.CompactRevision == 0 {
		l.control <- r
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.wake()
	if r.WatchId == -1 {
		l.progress = max(l.progress, r.Header.Revision)
		n := note{r.Header.Revision, map[int]int{}}
		for number, w := range l.byNumber {
			n.had[number] = w.dropped + len(w.events)
		}
		l.told = append(l.told, n)
		return nil
	}
	w := l.byID[r.WatchId]
	switch {
	case w == nil:
		return fmt.Errorf("a response for watch id %d, which is not there: %v", r.WatchId, r)
	case w.ended != nil:
		return fmt.Errorf("a response for watch id %d after its end: %v", r.WatchId, r)
	case r.Canceled:
		w.ended = r
		return nil
	case len(r.Events) == 0:
		l.told = append(l.told, note{r.Header.Revision, map[int]int{w.number: w.dropped + len(w.events)}})
		return nil
	}
	if r.Fragment {
		l.fragments++
	}
	if first := r.Events[0].Kv.ModRevision; !w.partial && first <= w.last {
		return fmt.Errorf("watch number %d got revision %d after %d in another response", w.number, first, w.last)
	}
	w.last = r.Events[len(r.Events)-1].Kv.ModRevision
	if w.last > r.Header.Revision {
		return fmt.Errorf("watch number %d got revision %d in a response whose header says %d", w.number, w.last, r.Header.Revision)
	}
	w.partial = r.Fragment
	w.events = append(w.events, r.Events...)
	return nil
}

// ask sends a request and waits for its answer.
func (l *lane) ask(ctx context.Context, r *pb.WatchRequest) answer {
	if err := l.stream.Send(r); err != nil {
		return answer{err: err}
	}
	select {
	case resp, ok := <-l.control:
		if !ok {
			return answer{err: l.err} // NB: written before the channel was closed.
		}
		return answer{resp: resp}
	case <-ctx.Done():
		return answer{err: fmt.Errorf("%v is not answered", r)}
	}
}

// create opens a watch under a number.
func (l *lane) create(ctx context.Context, number int, r *pb.WatchCreateRequest) answer {
	// Events may come right behind the answer: so the inbox has to be there
	// before, under the id that there will be. A server that chooses one counts.
	l.mu.Lock()
	w := &inbox{number: number, id: r.WatchId}
	if w.id == 0 && !empty(r) {
		for l.byID[l.nextID] != nil {
			l.nextID++
		}
		w.id = l.nextID
		l.nextID++
	}
	inUse := l.byID[w.id] != nil
	if !inUse {
		l.byID[w.id] = w
		l.byNumber[number] = w
	}
	l.mu.Unlock()
	a := l.ask(ctx, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	l.mu.Lock()
	defer l.mu.Unlock()
	resp, _ := a.resp.(*pb.WatchResponse)
	switch {
	case inUse || resp.GetCanceled() || a.err != nil:
		if !inUse {
			delete(l.byID, w.id)
			delete(l.byNumber, number)
		}
	case resp.WatchId != w.id:
		return answer{err: fmt.Errorf("the watch got id %d and not %d", resp.WatchId, w.id)}
	}
	return a
}

// cancel ends the watch of a number. The answer is nil if there is none.
func (l *lane) cancel(ctx context.Context, number int) answer {
	l.mu.Lock()
	w := l.byNumber[number]
	l.mu.Unlock()
	if w == nil {
		return answer{err: errors.New("no such watch")}
	}
	a := l.ask(ctx, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: w.id},
	}})
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byID, w.id)
	delete(l.byNumber, number)
	return a
}

// until waits until a condition holds, which is asked under the lock.
func (l *lane) until(ctx context.Context, holds func() bool) error {
	for {
		l.mu.Lock()
		ok, err := holds(), l.err
		l.mu.Unlock()
		switch {
		case ok:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-l.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
