package mix

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/raw"
)

// watcher is the watch that kube-apiserver's cache has of a resource.
type watcher struct {
	stream grpc.ClientStream
	// wrote are when writes were due, and arrived when their events were there, by
	// revision. They meet at the end: either may be known first.
	mu             sync.Mutex // guards what follows, and sending
	wrote, arrived map[int64]time.Time
	// asked are the requests for progress that have had no answer.
	asked    []time.Time
	progress *openloop.Recorder
}

// watch begins to watch a resource from a revision on.
func watch(ctx context.Context, r *resource, revision int64, progress *openloop.Recorder) (*watcher, error) {
	end := []byte(r.prefix())
	end[len(end)-1]++
	stream, err := raw.Watch(ctx, r.conn, &pb.WatchCreateRequest{
		Key: []byte(r.prefix()), RangeEnd: end, StartRevision: revision, PrevKv: true, ProgressNotify: true,
	})
	if err != nil {
		return nil, err
	}
	return &watcher{stream: stream, wrote: map[int64]time.Time{}, arrived: map[int64]time.Time{}, progress: progress}, nil
}

// The fields of a WatchResponse; see rpc.proto.
const (
	responseCanceled = 4
	responseEvents   = 11
	eventKV          = 2
	kvMod            = 3
)

// follow notes what comes, until there is an error.
func (w *watcher) follow() error {
	for {
		var m raw.Message
		if err := w.stream.RecvMsg(&m); err != nil {
			return err
		}
		now := time.Now()
		var mods []int64
		canceled := false
		err := raw.Fields(m.Take(), func(number protowire.Number, value []byte, varint uint64) {
			switch number {
			case responseEvents:
				mods = append(mods, raw.Varint(raw.Bytes(value, eventKV), kvMod))
			case responseCanceled:
				canceled = varint != 0
			default:
			}
		})
		if err != nil {
			return err
		}
		if canceled {
			return errors.New("it was canceled")
		}
		w.mu.Lock()
		for _, mod := range mods {
			w.arrived[mod] = now
		}
		if len(mods) == 0 {
			// Progress, which answers all who have asked so far: kube-apiserver wants no
			// more of it than a revision.
			for _, due := range w.asked {
				w.progress.Took(due, now.Sub(due))
			}
			w.asked = nil
		}
		w.mu.Unlock()
	}
}

// askProgress asks for progress, as a request that was due.
func (w *watcher) askProgress(due time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, due)
	return w.stream.SendMsg(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

func (w *watcher) wroteAt(revision int64, due time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrote[revision] = due
}

// match notes how long the events of all writes took that have come.
func (w *watcher) match(r *openloop.Recorder) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for revision, due := range w.wrote {
		if at, ok := w.arrived[revision]; ok {
			r.Took(due, at.Sub(due))
		}
	}
}

// outstanding is how many events of writes have not come, and how many requests for
// progress have had no answer.
func (w *watcher) outstanding() (missing, open int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for revision := range w.wrote {
		if _, ok := w.arrived[revision]; !ok {
			missing++
		}
	}
	return missing, len(w.asked)
}
