package watchcache

// Progress of a stream at revision R says that all its watchers have been given
// everything up to R. A client takes it as the place from which it may resume,
// so it must be true (R is not above what a watcher has missed) and must not
// go back behind what the client has seen (R is not below Stream.shown).
//
// Between two events there is mostly a moment at which every watcher is idle,
// and R is what the hub has fanned out. Under a load without such moments there
// might never be an R between the two bounds: one watcher has been given
// revision 15 while another has 11 waiting, and when that is given the first has
// 17. So a request that can not be answered raises a barrier at 15: no watcher is
// given anything above it until all have reached it, which is soon, as long as
// none of them is behind.

// RequestProgress asks for a Delivery of progress at the present revision or a
// later one. Several requests that wait are answered as one. As in etcd one is
// dropped if the stream has no watchers, or has one whose start is still to
// come.
func (s *Stream) RequestProgress() {
	h := s.hub
	need := max(h.window.published.Load(), h.source.Revision())
	if s.allBegun(need) {
		s.need = max(s.need, need)
		s.asked = true
	}
}

// allBegun says whether the stream has watchers, and none with a start above
// revision.
func (s *Stream) allBegun(revision int64) bool {
	if s.latestStart > revision {
		s.latestStart = 0 // of one that is gone, perhaps
		for _, w := range s.watchers {
			s.latestStart = max(s.latestStart, w.start)
		}
	}
	return len(s.watchers) > 0 && s.latestStart <= revision
}

// Synced says whether w has been given everything up to a revision, which may be
// shown. As in etcd it is not if its start is still to come.
func (s *Stream) Synced(w *Watcher) (revision int64, ok bool) {
	fanned := s.hub.fanned.Load() // first: invariant 4
	s.mu.Lock()
	queued := w.queued
	s.mu.Unlock()
	if queued || !w.idle || w.removed || fanned < w.start {
		return 0, false
	}
	revision = max(fanned, w.next-1)
	s.shown = max(s.shown, revision)
	return revision, true
}

// maybeProgress answers a request for progress if that is possible now.
func (s *Stream) maybeProgress(d *Delivery) bool {
	if s.need == 0 {
		return false
	}
	need := max(s.need, s.shown)
	fanned := s.hub.fanned.Load() // first: invariant 4
	if fanned < need {
		s.hub.await(s, need)
		fanned = s.hub.fanned.Load()
	}
	s.mu.Lock()
	s.collectLocked()
	s.mu.Unlock()

	reached := fanned
	for _, busy := range [...][]*Watcher{s.work[s.workAt:], s.again} {
		for _, w := range busy {
			if !w.removed {
				reached = min(reached, w.next-1)
			}
		}
	}
	if reached < need {
		if s.barrier = 0; s.behind == 0 {
			s.barrier = need
		}
		return false
	}
	s.need, s.barrier = 0, 0
	if !s.allBegun(reached) {
		return false // others have come since the request
	}
	s.shown = reached
	*d = Delivery{Revision: reached}
	return true
}
