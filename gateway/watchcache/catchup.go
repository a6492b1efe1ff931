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
	if !inWindow && s.readHistory(w) {
		h.caughtUpHistory.Add(1)
		p, inWindow = h.window.find(w.next)
		if !inWindow || len(s.events) > 0 {
			return s.caughtUp(w), 0, nil
		}
	}
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
	return s.caughtUp(w), 0, nil
}

// caughtUp ends a step of w: it joins its span, or goes on later. It returns the
// revision up to which w has been given everything.
func (s *Stream) caughtUp(w *Watcher) (revision int64) {
	revision = w.next - 1
	if !s.maybeJoin(w) {
		s.again = append(s.again, w)
	}
	return revision
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
				for _, e := range batches[i].events {
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

// readHistory takes a chunk from the history of the resource that all of w's keys
// are of. It returns false, and has done nothing, if there is none that reaches back
// so far.
func (s *Stream) readHistory(w *Watcher) bool {
	h := s.hub
	r := h.resources.ofWatch(w)
	if r == nil {
		return false
	}
	next := h.window.published.Load() + 1
	most := 4 * h.cfg.ChunkEvents
	events, ok := r.history.read(w.next, most, s.recent[:0])
	if ok && len(events) == most {
		// The last revision may go on.
		next = events[most-1].revision
		ok = events[0].revision < next
	}
	var last int64
	for _, e := range events {
		if !ok || e.revision >= next {
			break
		}
		if s.fullAt(e.revision, last) {
			next = e.revision
			break
		}
		last = e.revision
		if contains(w.key, w.end, e.plain.Kv.Key) {
			s.give(w, e)
		}
	}
	clear(events)
	s.recent = events[:0]
	if ok {
		w.next = max(w.next, next)
	}
	return ok
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
		s.give(w, newEvent(ev))
		return nil
	})
	if err != nil && !errors.Is(err, errChunkFull) {
		return fmt.Errorf("watchcache: changes from revision %d: %w", w.next, err)
	}
	w.next = next
	return nil
}
