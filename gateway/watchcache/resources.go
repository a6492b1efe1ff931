package watchcache

import (
	"bytes"
	"context"
	"maps"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Resources says which keys belong together; a route.Prefix does.
type Resources interface {
	// ResourcePath returns the first bytes of key that all keys of its resource have
	// and no others, nil if it belongs to none.
	ResourcePath(key []byte) []byte
	// ResourceName returns how operators call the resource of a path.
	ResourceName(path string) string
}

const (
	// maxResources bounds the resources that have a place of their own. What comes
	// later, or belongs to no resource, is read from the store.
	maxResources = 4096
	// loadAfter is how many lists of a resource are read from the store before its
	// objects are kept: one may be the only one.
	loadAfter = 2
	// retryAfter is how many more it takes if they did not fit.
	retryAfter = 100
	// restful is how many reads there have been since the last of those objects that
	// may make room for others.
	restful = 100
)

// resource is what is in memory of one resource: its recent events, and its objects
// if they are listed and there is room for them.
type resource struct {
	path, name string
	history    history
	objects    objects

	// hits and misses count reads; lists those that missed since the objects were
	// last asked for, below 0 if they are to be left alone for a while.
	hits, misses, lists atomic.Int64
	// used is when it was read last, by resources.clock.
	used    atomic.Int64
	loading atomic.Bool
}

// resources are all resources. Their bytes together are bounded.
type resources struct {
	of       Resources // nil if there are none
	maxBytes int64
	// events is how many each history holds, if sizes does not say otherwise by
	// path; 0 is for nothing.
	events int
	sizes  map[string]int

	// store is what is read where memory does not know. Through sets it.
	store evaluate.Reader
	// published is the window's.
	published *atomic.Int64
	bytes     atomic.Int64
	clock     atomic.Int64
	evicted   atomic.Int64 // objects that made room for others

	// byPath is replaced, never changed. mu is held by who replaces it; the
	// publisher does so, and Restored.
	byPath atomic.Pointer[map[string]*resource]
	mu     sync.Mutex
	// origin: a resource without a history has had no events above it.
	origin int64

	// loads ends with the hub. loadsMu is held by who begins one, loadMu by the one
	// that runs: what it reads counts only when it is done.
	ctx             context.Context //nolint:containedctx // The hub's life.
	cancel          context.CancelFunc
	loads           sync.WaitGroup
	loadsMu, loadMu sync.Mutex
}

func (rs *resources) init(cfg *Config, published *atomic.Int64) {
	rs.of, rs.maxBytes, rs.events, rs.sizes = cfg.Resources, cfg.MaxBytes, cfg.HistoryEvents, cfg.HistorySizes
	rs.published = published
	rs.ctx, rs.cancel = context.WithCancel(context.Background())
	rs.byPath.Store(&map[string]*resource{})
}

func (rs *resources) close() {
	rs.loadsMu.Lock()
	rs.cancel()
	rs.loadsMu.Unlock()
	rs.loads.Wait()
}

// get returns the resource of a path, nil if there is none yet.
func (rs *resources) get(path []byte) *resource { return (*rs.byPath.Load())[string(path)] }

// at returns the resource of a path, a new one if there is none yet; nil if nothing
// is to be kept of it, or the path is nil.
func (rs *resources) at(path []byte) *resource {
	if path == nil {
		return nil
	}
	if r := rs.get(path); r != nil {
		return r
	}
	size, ok := rs.sizes[string(path)]
	if !ok {
		size = rs.events
	}
	if size <= 0 || len(*rs.byPath.Load()) >= maxResources {
		return nil
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	all := *rs.byPath.Load()
	if r := all[string(path)]; r != nil {
		return r
	}
	r := &resource{path: string(path), name: rs.of.ResourceName(string(path))}
	r.history.maxEvents, r.history.start = size, rs.origin
	r.history.total, r.objects.total = &rs.bytes, &rs.bytes
	r.objects.history = &r.history
	more := maps.Clone(all)
	more[r.path] = r
	rs.byPath.Store(&more)
	return r
}

// ofSpan returns the resource that a span lies in, nil if it lies in none.
func (rs *resources) ofSpan(span mvcc.Span) *resource {
	if rs.of == nil || span.End == nil {
		return nil
	}
	path := rs.of.ResourcePath(span.Key)
	if path == nil || !bytes.HasPrefix(span.End, path) && !isEndOf(span.End, path) {
		return nil
	}
	return rs.at(path)
}

// ofWatch returns the resource that all keys of a watch are of, nil if there is none.
func (rs *resources) ofWatch(w *Watcher) *resource {
	if rs.of == nil {
		return nil
	}
	if len(w.end) > 0 {
		return rs.ofSpan(mvcc.SpanOf(w.key, w.end))
	}
	return rs.at(rs.of.ResourcePath(w.key))
}

// isEndOf says whether end is the first key behind those that begin with path,
// which ends with a slash.
func isEndOf(end, path []byte) bool {
	n := len(path) - 1
	return len(end) == len(path) && end[n] == path[n]+1 && bytes.Equal(end[:n], path[:n])
}

// keep takes in events that are about to be published. For the publisher.
func (rs *resources) keep(events []*Event) {
	if rs.of == nil {
		return
	}
	for len(events) > 0 {
		path := rs.of.ResourcePath(events[0].plain.Kv.Key)
		n := 1
		for n < len(events) && path != nil && bytes.HasPrefix(events[n].plain.Kv.Key, path) {
			n++
		}
		if r := rs.at(path); r != nil {
			r.history.add(events[:n])
			rs.makeRoom(r)
		}
		events = events[n:]
	}
}

// makeRoom lets go of something if there is too much: of objects that nobody has
// listed for the longest time, then of events of r.
func (rs *resources) makeRoom(r *resource) {
	for rs.bytes.Load() > rs.maxBytes {
		if oldest := rs.oldest(nil); oldest != nil {
			rs.evict(oldest)
			continue
		}
		if !r.history.shrink() {
			return
		}
	}
}

func (rs *resources) evict(r *resource) {
	rs.evicted.Add(1)
	r.lists.Store(0)
	r.objects.empty()
}

// oldest returns the resource with objects that was read least recently, except
// one.
func (rs *resources) oldest(except *resource) (oldest *resource) {
	for _, r := range *rs.byPath.Load() {
		if r != except && r.objects.isFull() && (oldest == nil || r.used.Load() < oldest.used.Load()) {
			oldest = r
		}
	}
	return oldest
}

// reset forgets everything up to revision, which was not published. For the
// publisher.
func (rs *resources) reset(revision int64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.origin = revision
	for _, r := range *rs.byPath.Load() {
		r.history.reset(revision)
		r.objects.empty()
	}
}

// prepend puts the store's last revisions before what was published: everything
// above base up to to. For the publisher, once.
func (rs *resources) prepend(base, to int64, revisions []batch) {
	if rs.of == nil {
		return
	}
	before := map[*resource][]*Event{}
	for _, b := range revisions {
		for _, e := range b.events {
			if r := rs.at(rs.of.ResourcePath(e.plain.Kv.Key)); r != nil {
				before[r] = append(before[r], e)
			}
		}
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.origin != to {
		return
	}
	rs.origin = base
	for _, r := range *rs.byPath.Load() {
		r.history.prepend(base, to, before[r])
	}
}

// hit notes that a resource was read from memory.
func (rs *resources) hit(r *resource) {
	r.used.Store(rs.clock.Add(1))
	r.hits.Add(1)
}

// missed notes that a list was read from the store, and has the objects loaded if
// that happens again and again.
func (rs *resources) missed(r *resource) {
	r.misses.Add(1)
	if r.lists.Add(1) < loadAfter || !r.loading.CompareAndSwap(false, true) {
		return
	}
	rs.loadsMu.Lock()
	defer rs.loadsMu.Unlock()
	if rs.ctx.Err() != nil {
		return
	}
	rs.loads.Go(func() {
		defer r.loading.Store(false)
		if rs.load(r) {
			r.lists.Store(0)
		} else {
			r.lists.Store(loadAfter - retryAfter)
		}
	})
}

// load reads the objects of a resource from the store, at what is published, and
// says whether they are here then.
func (rs *resources) load(r *resource) bool {
	rs.loadMu.Lock()
	defer rs.loadMu.Unlock()
	revision := rs.published.Load()
	end := []byte(r.path)
	end[len(end)-1]++
	cur, err := rs.store.Scan(rs.ctx, mvcc.Span{Key: []byte(r.path), End: end}, revision)
	if err != nil {
		return false
	}
	defer func() { _ = cur.Close() }()
	tree, size := newTree(), int64(0)
	for cur.Next() {
		kv, err := cur.KV(false)
		if err != nil {
			return false
		}
		tree.Load(kv)
		size += objectBytes(kv)
		for rs.bytes.Load()+size > rs.maxBytes {
			// Room is made by objects that were read less recently.
			oldest := rs.oldest(r)
			if oldest == nil || rs.clock.Load()-oldest.used.Load() < restful {
				return false
			}
			rs.evict(oldest)
		}
	}
	return cur.Err() == nil && r.objects.fill(tree, size, revision)
}

// through reads what is in memory from there, and the rest from the store.
type through struct {
	evaluate.Reader
	rs *resources
}

// Through returns store with the hub in front of it: the same, faster. It must be
// called before Start.
func (h *Hub) Through(store evaluate.Reader) evaluate.Reader {
	h.resources.store = store
	if h.resources.of == nil {
		return store
	}
	return through{store, &h.resources}
}

// knows says whether memory may be asked about a revision.
func (t through) knows(revision int64) bool {
	return revision <= t.rs.published.Load() && revision >= t.Compacted()
}

// Get implements evaluate.Reader.
func (t through) Get(key []byte, revision int64) (*mvccpb.KeyValue, error) {
	if r := t.rs.get(t.rs.of.ResourcePath(key)); r != nil {
		if t.knows(revision) {
			if kv, ok := r.objects.get(key, revision); ok {
				t.rs.hit(r)
				return kv, nil
			}
		}
		r.misses.Add(1)
	}
	return t.Reader.Get(key, revision)
}

// Scan implements evaluate.Reader.
func (t through) Scan(ctx context.Context, span mvcc.Span, revision int64) (mvcc.Cursor, error) {
	if r := t.rs.ofSpan(span); r != nil {
		if t.knows(revision) {
			if cur, ok := r.objects.scan(ctx, span, revision); ok {
				t.rs.hit(r)
				return cur, nil
			}
		}
		t.rs.missed(r)
	}
	return t.Reader.Scan(ctx, span, revision)
}
