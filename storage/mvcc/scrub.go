package mvcc

import (
	"bytes"
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
		if err := s.scrubNext(stepRows); err != nil {
			return err
		}
		if !pause() {
			return nil
		}
	}
	return nil
}

func (s *Store) scrubNext(stepRows int) error {
	s.scrubbing.Lock()
	defer s.scrubbing.Unlock()
	next, err := s.scrubStep(s.scrubbed.Load(), s.compacted.Load(), stepRows)
	if err == nil {
		s.scrubbed.Store(next)
	}
	return err
}

// scrubStep works through revisions and returns the last that it has done; from
// is what the step before it returned, or an older compaction. What it leaves is
// what a compaction at that revision leaves, so that whoever opens the store
// then may let it be read from there on (doc.go, invariant 4). The revision
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
	deleted := int64(0) // versions, of two rows each
	freed := s.freed.Load()
	// kept are the tombstones of the last revision: they may go once the step
	// goes beyond it.
	var kept []keptTombstone
	// gone are the tombstones that the step has deleted: data still shows them, to
	// the change that follows.
	gone := map[Revision]bool{}
	dropKept := func(before int64) error {
		for _, t := range kept {
			if t.rev.Main >= before {
				return nil
			}
			if gone[t.rev] {
				continue
			}
			gone[t.rev] = true
			if err := s.scrubVersion(batch, t.key, t.rev, 0); err != nil {
				return err
			}
			freed += versionBytes(t.key, 0)
			deleted++
			rows += 2
		}
		kept = kept[:0]
		return nil
	}
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
		if err := dropKept(rev.Main); err != nil {
			return 0, err
		}
		n, bytesFreed, tombstone, err := s.scrubKey(batch, data, key, rev, gone)
		if err != nil {
			return 0, err
		}
		freed += bytesFreed
		if tombstone {
			kept = append(kept, keptTombstone{bytes.Clone(key), rev})
		}
		deleted += int64(n / 2)
		rows += n + 1
	}
	if err := it.Error(); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	if err := dropKept(next); err != nil {
		return 0, err
	}
	if err := batch.Set(s.group.metaKey(metaScrubbed), encodeRevision(next), nil); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	if err := batch.Set(s.group.metaKey(metaFreed), encodeRevision(freed), nil); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	if err := batch.Commit(engine.NoSync); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	s.freed.Store(freed)
	s.tally.scrubbed.Add(deleted)
	return next, nil
}

type keptTombstone struct {
	key []byte
	rev Revision
}

// scrubKey deletes the version of key before rev, unless it is a tombstone that is
// gone. It returns how many rows it deleted and what they took, and whether rev itself
// is a tombstone. data shows what there was before the step.
func (s *Store) scrubKey(
	batch *engine.Batch, data *engine.Iterator, key []byte, rev Revision, gone map[Revision]bool,
) (rows int, freed int64, tombstone bool, err error) {
	seek := s.group.dataKey(nil, key, rev)
	ok := data.SeekPrefixGE(seek)
	if !ok || string(data.Key()) != string(seek) {
		return 0, 0, false, data.Error() // damage: whoever reads the revision is told
	}
	first := data.LazyValue()
	tombstone = first.Len() == 0
	// There is one older version at most: of those behind it each went when the
	// one in front of it was looked at.
	if data.Next() {
		_, v, err := splitDataKey(data.Key())
		if err != nil {
			return 0, 0, false, err
		}
		lv := data.LazyValue()
		if gone[v] {
			return 0, 0, tombstone, nil
		}
		if lv.Len() == 0 {
			gone[v] = true
		}
		if err := s.scrubVersion(batch, key, v, lv.Len()); err != nil {
			return 0, 0, false, err
		}
		rows, freed = 2, versionBytes(key, lv.Len())
	}
	if err := data.Error(); err != nil {
		return 0, 0, false, fmt.Errorf("mvcc: scrub: %w", err)
	}
	return rows, freed, tombstone, nil
}

// scrubVersion deletes the two rows of a version of size bytes.
func (s *Store) scrubVersion(batch *engine.Batch, key []byte, rev Revision, size int) error {
	g := s.group
	err := batch.DeleteSized(g.dataKey(nil, key, rev), uint32(size), nil)
	if err == nil {
		err = batch.Delete(g.revsKey(nil, rev), nil)
	}
	if err != nil {
		return fmt.Errorf("mvcc: scrub: %w", err)
	}
	return nil
}
