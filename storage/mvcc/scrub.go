package mvcc

import (
	"fmt"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// ScrubPending says whether a compaction has left something to delete.
func (s *Store) ScrubPending() bool { return s.scrubbed.Load() < s.compacted.Load() }

// Scrubbed returns the compacted revision up to which everything is deleted.
func (s *Store) Scrubbed() int64 { return s.scrubbed.Load() }

// Scrub deletes what compactions have freed. Its work grows with the number of
// changes since the last compaction, not with the number of keys: it walks the
// revisions from the last compaction to this one and, for each, deletes the
// versions of its key that came before. A step deletes about stepRows rows in
// one batch; between steps it calls pause, which may wait, and which ends the
// scrub by returning false. What was done is kept: the next Scrub goes on
// behind it. For one goroutine.
func (s *Store) Scrub(stepRows int, pause func() bool) error {
	for s.ScrubPending() {
		target := s.compacted.Load()
		from := s.scrubbed.Load()
		for from < target {
			next, err := s.scrubStep(from, target, stepRows)
			if err != nil {
				return err
			}
			from = next
			if !pause() {
				return nil
			}
		}
		s.scrubbed.Store(target)
	}
	return nil
}

// scrubStep works through revisions from on and returns where to go on. The
// revision "from" itself is looked at again: a tombstone there was kept.
func (s *Store) scrubStep(from, target int64, stepRows int) (next int64, err error) {
	it, err := s.db.NewIter(&engine.IterOptions{
		LowerBound: s.group.revsKey(nil, Revision{Main: from}),
		UpperBound: s.group.revsKey(nil, Revision{Main: target + 1}),
	})
	if err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	defer func() { _ = it.Close() }()
	data, err := s.cloneForData(it)
	if err != nil {
		return 0, err
	}
	defer func() { _ = data.Close() }()

	batch := s.db.NewBatch()
	defer func() { _ = batch.Close() }()
	next = target
	rows := 0
	for ok := it.First(); ok; ok = it.Next() {
		rev, err := splitRevsKey(it.Key())
		if err != nil {
			return 0, err
		}
		// A revision is never cut: a step ends before the next one.
		if rows >= stepRows && rev.Main > from {
			next = rev.Main
			break
		}
		key, err := it.ValueAndErr()
		if err != nil {
			return 0, fmt.Errorf("mvcc: scrub: %w", err)
		}
		n, err := s.scrubKey(batch, data, key, rev, target)
		if err != nil {
			return 0, err
		}
		rows += n + 1
	}
	if err := it.Error(); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	if err := batch.Set(s.group.metaKey(metaScrubbed), encodeRevision(next), nil); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	if err := batch.Commit(engine.NoSync); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	return next, nil
}

// scrubKey deletes the versions of key older than rev, and rev itself if it is
// a tombstone before target. It returns how many rows it deleted.
func (s *Store) scrubKey(batch *engine.Batch, data *engine.Iterator, key []byte, rev Revision, target int64) (int, error) {
	g := s.group
	seek := g.dataKey(nil, key, rev)
	ok := data.SeekPrefixGE(seek)
	if !ok || string(data.Key()) != string(seek) {
		return 0, data.Error() // an earlier row of this walk has deleted it
	}
	rows := 0
	drop := func() error {
		_, v, err := splitDataKey(data.Key())
		if err != nil {
			return err
		}
		lv := data.LazyValue()
		if err := batch.DeleteSized(data.Key(), uint32(lv.Len()), nil); err != nil {
			return err
		}
		rows += 2
		return batch.Delete(g.revsKey(nil, v), nil)
	}
	first := data.LazyValue()
	if first.Len() == 0 && rev.Main < target {
		if err := drop(); err != nil {
			return 0, fmt.Errorf("mvcc: scrub: %w", err)
		}
	}
	for ok = data.Next(); ok; ok = data.Next() {
		if err := drop(); err != nil {
			return 0, fmt.Errorf("mvcc: scrub: %w", err)
		}
	}
	if err := data.Error(); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	return rows, nil
}
