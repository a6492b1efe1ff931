package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

const (
	// askInterval is how often watchers ask how far they are.
	askInterval = 150 * time.Millisecond
	// reopenPause is how long a watcher waits before it opens a stream again.
	reopenPause = 30 * time.Millisecond
	// roamInterval is how often a watch of an old revision begins.
	roamInterval = 400 * time.Millisecond
)

// stream has watches on a stream of its own, and opens another when that
// breaks; now and then it breaks it itself.
type stream struct {
	*verdict
	recorder *recorder
	conn     *grpc.ClientConn
	logs     []*watchLog
	// ask is whether it asks for progress.
	ask bool
	// leader is whether the member shall cut it off when it has no leader, as
	// kube-apiserver wants it.
	leader bool
	// life is how long a stream is kept; 0 is for ever.
	life time.Duration
}

// run watches until ctx ends.
func (s *stream) run(ctx context.Context) {
	for ctx.Err() == nil {
		s.once(ctx)
		select {
		case <-s.recorder.clk.After(reopenPause):
		case <-ctx.Done():
		}
	}
}

// once watches until the stream breaks.
func (s *stream) once(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.life > 0 {
		ctx, cancel = context.WithTimeout(ctx, s.life)
		defer cancel()
	}
	if s.leader {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	w, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		return
	}
	for i, l := range s.logs {
		if err := w.Send(l.request(int64(i+1), l.open(s.recorder.now()))); err != nil {
			return
		}
	}
	if s.ask {
		go s.askForProgress(ctx, w)
	}
	created := make([]bool, len(s.logs))
	for {
		r, err := w.Recv()
		if err != nil || !s.take(r, created) {
			return
		}
	}
}

// askForProgress is the only sender once all watches are asked for.
func (s *stream) askForProgress(ctx context.Context, w pb.Watch_WatchClient) {
	for {
		select {
		case <-s.recorder.clk.After(askInterval):
		case <-ctx.Done():
			return
		}
		if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}); err != nil {
			return
		}
	}
}

// take notes a response, and says whether the stream goes on.
func (s *stream) take(r *pb.WatchResponse, isCreated []bool) bool {
	now := s.recorder.now()
	if r.Canceled {
		if r.CompactRevision != 0 {
			s.violation("a watch is cancelled because %d is compacted, and nothing is", r.CompactRevision)
		}
		return false
	}
	if r.WatchId == clientv3.InvalidWatchID {
		// How far all watches of the stream are.
		for i, l := range s.logs {
			if isCreated[i] {
				l.take(deliveryOf(now, r.Header.Revision, false, nil))
			}
		}
		return true
	}
	i := r.WatchId - 1
	if i < 0 || i >= int64(len(s.logs)) {
		s.violation("a stream with watches 1 to %d is told of watch %d", len(s.logs), r.WatchId)
		return false
	}
	if r.Created {
		isCreated[i] = true
		s.logs[i].take(delivery{at: now, kind: created, rev: r.Header.Revision})
		return true
	}
	s.logs[i].take(deliveryOf(now, r.Header.Revision, r.Fragment, r.Events))
	return true
}

// watchLibrary watches by client/v3, which goes on by itself when a stream
// breaks. It is cut off by a member that has no leader, and begins anew where
// it was, as kube-apiserver does.
func watchLibrary(ctx context.Context, v *verdict, r *recorder, library *clientv3.Client, l *watchLog, leader bool) {
	for ctx.Err() == nil {
		once, cancel := context.WithCancel(ctx)
		if leader {
			once = clientv3.WithRequireLeader(once)
		}
		opts := []clientv3.OpOption{clientv3.WithRange(l.end), clientv3.WithRev(l.open(r.now()))}
		if l.prev {
			opts = append(opts, clientv3.WithPrevKV())
		}
		if l.progress {
			opts = append(opts, clientv3.WithProgressNotify())
		}
		for w := range library.Watch(once, l.key, opts...) {
			switch {
			case w.CompactRevision != 0:
				v.violation("%s is cancelled because %d is compacted, and nothing is", l.name, w.CompactRevision)
			case w.Err() != nil || w.Canceled:
			case len(w.Events) == 0 && !w.IsProgressNotify():
			default:
				l.take(deliveryOf(r.now(), w.Header.Revision, false, w.Events))
			}
		}
		cancel()
		select {
		case <-r.clk.After(reopenPause):
		case <-ctx.Done():
		}
	}
}

// roamer begins watches of old revisions again and again, and of "from now on",
// and ends each when it has come to what was new when it began.
type roamer struct {
	*verdict
	name     string
	recorder *recorder
	conn     *grpc.ClientConn
	random   *rand.Rand
	newest   func() int64 // that anybody was told
	add      func(*watchLog)
}

func (r *roamer) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		r.once(ctx, n)
		select {
		case <-r.recorder.clk.After(roamInterval):
		case <-ctx.Done():
		}
	}
}

func (r *roamer) once(ctx context.Context, n int) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	newest := r.newest()
	age := min(newest-1, 400)
	if r.random.IntN(12) == 0 {
		age = newest - 1
	}
	start := newest - r.random.Int64N(max(1, age))
	name := fmt.Sprintf("%s's watch %d from %d", r.name, n, start)
	if r.random.IntN(4) == 0 {
		start, name = 0, fmt.Sprintf("%s's watch %d from now", r.name, n)
	}
	l := newWatchLog(name, everything, everything, start)
	if r.random.IntN(2) == 0 {
		l.key = prefixes[r.random.IntN(len(prefixes))]
		l.end = after(l.key)
	}
	l.prev, l.fragment, l.progress = r.random.IntN(2) == 0, r.random.IntN(4) == 0, r.random.IntN(2) == 0
	r.add(l)
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := &stream{verdict: r.verdict, recorder: r.recorder, conn: r.conn, logs: []*watchLog{l}, ask: true}
		s.once(watching)
	}()
	// An error says that the member is cut off, or stopped; the next will do
	// better.
	_ = l.wait(ctx, newest)
	stop()
	<-done
}
