package mvcc

import (
	"fmt"
	"sync/atomic"
)

// Tally is what a store has done since it was opened.
type Tally struct {
	// Puts and Deletes count the changes of keys that were applied, and PutBytes
	// the keys and values of the former.
	Puts, Deletes, PutBytes int64
	// Scrubbed counts the versions that compactions have freed and that are deleted.
	Scrubbed int64
}

// tally is added to once for a batch.
type tally struct {
	puts, deletes, putBytes, scrubbed atomic.Int64
}

func (t *tally) add(b *Batch) {
	if b.puts > 0 {
		t.puts.Add(b.puts)
		t.putBytes.Add(b.putBytes)
	}
	if b.deletes > 0 {
		t.deletes.Add(b.deletes)
	}
}

// Tally returns what the store has done since it was opened.
func (s *Store) Tally() Tally {
	t := &s.tally
	return Tally{
		Puts: t.puts.Load(), Deletes: t.deletes.Load(), PutBytes: t.putBytes.Load(), Scrubbed: t.scrubbed.Load(),
	}
}

// versionBytes is what the two rows of a version take that has a record of so many
// bytes: 'k' has the key and the record, 'r' the key again.
func versionBytes(key []byte, record int) int64 {
	const fixed = 2*tablePrefixLen + 24 // revisions and what ends the keys
	return int64(fixed + 2*len(key) + record)
}

// Bytes returns what the versions take that no compaction has freed, before Pebble
// compresses them: what a quota is about. All replicas have the same but for what
// each has still to scrub.
func (s *Store) Bytes() int64 { return s.written.Load() - s.freed.Load() }

func (s *Store) loadBytes() error {
	freed, err := s.readMetaRevision(metaFreed)
	s.written.Store(s.applied.Written)
	s.freed.Store(freed)
	return err
}

// DiskUsage returns about what the group's rows take on disk; what is only in
// memory is left out.
func (s *Store) DiskUsage() (uint64, error) {
	lower, upper := s.group.span()
	n, err := s.db.EstimateDiskUsage(lower, upper)
	if err != nil {
		return 0, fmt.Errorf("mvcc: disk usage: %w", err)
	}
	return n, nil
}
