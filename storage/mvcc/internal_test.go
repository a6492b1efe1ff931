package mvcc

// SetTableBytes has an ingest write tables of about n bytes.
func (in *Ingest) SetTableBytes(n uint64) { in.tableBytes = n }

// Scrubbing says whether a step of Scrub is under way or kept from beginning.
func (s *Store) Scrubbing() bool {
	if s.scrubbing.TryLock() {
		s.scrubbing.Unlock()
		return false
	}
	return true
}
