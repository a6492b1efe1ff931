package watchcache

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// catchUp reads the next chunk for a watcher that is behind, and lets it join
// its span if that was all. It returns the revision up to which the watcher has
// been given everything, or the compacted revision that ended the watch.
func (s *Stream) catchUp(ctx context.Context, w *Watcher) (revision, compacted int64, err error) {
	h := s.hub
	// A watch that begins below the compacted revision is refused, as in etcd,
	// even if the window could still serve it. One that has begun goes on.
	if !w.begun {
		if compacted = h.source.Compacted(); w.next < compacted {
			s.Remove(w)
			return 0, compacted, nil
		}
		w.begun = true
	}
	if s.maybeJoin(w) {
		return 0, 0, nil
	}
	p, inWindow := h.window.find(w.next)
	if !inWindow {
		h.caughtUpStore.Add(1)
		if err := s.readStore(ctx, w); err != nil {
			// What it wants may have been compacted before the read or during it.
			if compacted = h.source.Compacted(); ctx.Err() == nil && w.next < compacted {
				s.dropEvents()
				s.Remove(w)
				return 0, compacted, nil
			}
			return 0, 0, err
		}
		p, inWindow = h.window.find(w.next)
	}
	if inWindow {
		h.caughtUpWindow.Add(1)
		s.readWindow(w, p)
	}
	revision = w.next - 1
	if !s.maybeJoin(w) {
		s.again = append(s.again, w)
	}
	return revision, 0, nil
}

func (s *Stream) maybeJoin(w *Watcher) bool {
	if !s.hub.join(w) {
		return false
	}
	s.behind--
	s.hub.behind.Add(-1)
	return true
}

// fullAt says whether an event of revision belongs to the next chunk; last is
// the revision of the event before it.
func (s *Stream) fullAt(revision, last int64) bool {
	return revision != last && (len(s.events) >= s.hub.cfg.ChunkEvents || s.bytes >= s.hub.cfg.ChunkBytes)
}

// give adds an event to the chunk, if w wants it.
func (s *Stream) give(w *Watcher, e *Event) bool {
	if !w.wants(e) {
		return false
	}
	s.events = append(s.events, e)
	s.bytes += e.bytes
	if w.previous {
		s.bytes += e.bytes // the previous value is likely to be as large
	}
	return true
}

// herd is from how many watchers that are behind on it pays to sort the events
// of a segment by key, so that each need not look at all of them.
const herd = 16

// readWindow takes what is left of a chunk from the window.
func (s *Stream) readWindow(w *Watcher, p position) {
	sorted := s.hub.behind.Load() >= herd
	next := w.next
	var last, visited int64
	for {
		following := p.seg.next.Load() // before n, which then is the last
		batches := p.seg.batches[p.i:p.seg.n.Load()]
		if following != nil && sorted {
			s.hits = p.seg.byKey().find(w.key, w.end, s.hits[:0])
			for _, hit := range s.hits {
				e := hit.event
				if e.revision < w.next {
					continue
				}
				if s.fullAt(e.revision, last) {
					w.next = e.revision
					return
				}
				last = e.revision
				s.give(w, e)
			}
			visited += int64(len(s.hits)) + 1
		} else {
			for i := range batches {
				for j := range batches[i].events {
					e := &batches[i].events[j]
					if e.revision < w.next {
						continue
					}
					if s.fullAt(e.revision, last) {
						w.next = e.revision
						return
					}
					last = e.revision
					visited++
					if contains(w.key, w.end, e.plain.Kv.Key) {
						s.give(w, e)
					}
				}
			}
		}
		if len(batches) > 0 {
			next = max(next, batches[len(batches)-1].revision+1)
		}
		if following == nil || visited >= s.hub.cfg.ChunkRevisions {
			w.next = next
			return
		}
		p = position{following, 0}
	}
}

// errChunkFull stops a read of the store.
var errChunkFull = errors.New("watchcache: chunk is full")

// readStore takes a chunk from the store.
func (s *Stream) readStore(ctx context.Context, w *Watcher) error {
	h := s.hub
	select {
	case h.reads <- struct{}{}:
		defer func() { <-h.reads }()
	case <-ctx.Done():
		return ctx.Err()
	case <-h.stop:
		return ErrClosed
	}
	to := max(h.source.Closed(), h.window.published.Load())
	to = min(to, w.next+h.cfg.ChunkRevisions-1)
	if start := h.window.start.Load(); start >= w.next {
		to = min(to, start) // the rest is in memory
	}
	next := to + 1
	var last int64
	err := h.source.Changes(ctx, w.key, w.end, w.next, to, func(ev *mvccpb.Event) error {
		rev := ev.Kv.ModRevision
		if s.fullAt(rev, last) {
			next = rev
			return errChunkFull
		}
		last = rev
		e := new(Event)
		e.init(ev)
		s.give(w, e)
		return nil
	})
	if err != nil && !errors.Is(err, errChunkFull) {
		return fmt.Errorf("watchcache: changes from revision %d: %w", w.next, err)
	}
	w.next = next
	return nil
}
