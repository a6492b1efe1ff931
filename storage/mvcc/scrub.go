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
// version of its key that came before. A step deletes about stepRows rows in
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
			s.scrubbed.Store(from)
			if !pause() {
				return nil
			}
		}
	}
	return nil
}

// scrubStep works through revisions and returns the last that it has done; from
// is what the step before it returned, or an older compaction. The revision
// "from" itself is looked at again: a tombstone there was kept.
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
		// A revision is never cut: a step ends before the next one, but not
		// before it has done one behind from.
		if rows >= stepRows && rev.Main-1 > from {
			next = rev.Main - 1
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

// scrubKey deletes the version of key before rev, and rev itself if it is a
// tombstone before target. It returns how many rows it deleted. data shows what
// there was before the step.
func (s *Store) scrubKey(batch *engine.Batch, data *engine.Iterator, key []byte, rev Revision, target int64) (int, error) {
	g := s.group
	seek := g.dataKey(nil, key, rev)
	ok := data.SeekPrefixGE(seek)
	if !ok || string(data.Key()) != string(seek) {
		return 0, data.Error() // damage: whoever reads the revision is told
	}
	rows := 0
	drop := func(v Revision, size int) error {
		if err := batch.DeleteSized(data.Key(), uint32(size), nil); err != nil {
			return err
		}
		rows += 2
		return batch.Delete(g.revsKey(nil, v), nil)
	}
	first := data.LazyValue()
	if first.Len() == 0 && rev.Main < target {
		if err := drop(rev, 0); err != nil {
			return 0, fmt.Errorf("mvcc: scrub: %w", err)
		}
	}
	// There is one older version at most: of those behind it each went when the
	// one in front of it was looked at.
	if data.Next() {
		_, v, err := splitDataKey(data.Key())
		if err != nil {
			return 0, err
		}
		lv := data.LazyValue()
		if err := drop(v, lv.Len()); err != nil {
			return 0, fmt.Errorf("mvcc: scrub: %w", err)
		}
	}
	if err := data.Error(); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	return rows, nil
}
