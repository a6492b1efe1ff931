package faults

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// kind is what a watcher was told.
type kind int

const (
	// opened is a watcher's own note that it asked for a watch; rev is where it
	// asked to begin.
	opened kind = iota
	created
	events
	progress
)

// delivery is something that a watcher was told.
type delivery struct {
	at       time.Duration
	kind     kind
	rev      int64 // the header's
	fragment bool  // more of the same comes
	events   []told
	prev     []stored // of each event, the zero handle for none; nil if there are none at all
}

// watchLog is what a watcher asked for and was told.
type watchLog struct {
	name     string
	key, end string
	prev     bool
	fragment bool
	progress bool
	// library is client/v3, which goes on by itself after a broken stream.
	library bool
	// whole watches are waited for in the end.
	whole bool

	mu         sync.Mutex
	deliveries []delivery    // guarded by mu
	next       int64         // what has not been told yet; guarded by mu
	advanced   chan struct{} // of capacity 1: next has changed
}

func newWatchLog(name, key, end string, start int64) *watchLog {
	return &watchLog{name: name, key: key, end: end, next: start, advanced: make(chan struct{}, 1)}
}

// at is where a watcher has to go on.
func (w *watchLog) at() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// open notes that a watch is asked for.
func (w *watchLog) open(at time.Duration) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deliveries = append(w.deliveries, delivery{at: at, kind: opened, rev: w.next})
	return w.next
}

// take notes a response. It does what a client does to know where to go on, and
// judges nothing.
func (w *watchLog) take(d delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deliveries = append(w.deliveries, d)
	switch {
	case d.kind == created && w.next == 0, d.kind == progress:
		w.next = max(w.next, d.rev+1)
	case d.kind == events && !d.fragment && len(d.events) > 0:
		w.next = max(w.next, d.events[len(d.events)-1].Value().mod+1)
	}
	select {
	case w.advanced <- struct{}{}:
	default:
	}
}

// told is a response as a delivery.
func deliveryOf(at time.Duration, header int64, fragment bool, all []*mvccpb.Event) delivery {
	d := delivery{at: at, kind: events, rev: header, fragment: fragment}
	if len(all) == 0 {
		d.kind = progress
	}
	for i, e := range all {
		d.events = append(d.events, toldOf(e))
		if e.PrevKv != nil {
			if d.prev == nil {
				d.prev = make([]stored, len(all))
			}
			d.prev[i] = storedOf(e.PrevKv)
		}
	}
	return d
}

// wait waits until a watcher has been told everything up to a revision.
func (w *watchLog) wait(ctx context.Context, rev int64) error {
	for w.at() <= rev {
		select {
		case <-w.advanced:
		case <-ctx.Done():
			return fmt.Errorf("%s waits for revision %d, with %d to come: %w", w.name, w.at(), rev, ctx.Err())
		}
	}
	return nil
}

// request is what the watcher sends.
func (w *watchLog) request(id, start int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(w.key), RangeEnd: []byte(w.end), StartRevision: start,
		PrevKv: w.prev, Fragment: w.fragment, ProgressNotify: w.progress, WatchId: id,
	}}}
}

// sightings are the revisions that the watcher has seen.
func (w *watchLog) sightings() []sighting {
	var all []sighting
	var seen int64
	for _, d := range w.deliveries {
		rev := d.rev
		if d.kind == opened || rev <= seen {
			continue
		}
		seen = rev
		all = append(all, sighting{at: d.at, rev: rev, by: w.name})
	}
	return all
}
