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

	w := scrubbing{store: s, batch: s.db.NewBatch(), data: data, freed: s.freed.Load(), gone: map[Revision]bool{}}
	defer func() { _ = w.batch.Close() }()
	next = target
	for ok := it.First(); ok; ok = it.Next() {
		rev, err := splitRevsKey(it.Key())
		if err != nil {
			return 0, err
		}
		// A revision is never cut: a step ends before the next one, but not
		// before it has done one behind from.
		if w.rows >= stepRows && rev.Main-1 > from {
			next = rev.Main - 1
			break
		}
		key, err := it.ValueAndErr()
		if err != nil {
			return 0, fmt.Errorf("mvcc: scrub: %w", err)
		}
		if err := w.drop(rev.Main); err != nil {
			return 0, err
		}
		if err := w.change(key, rev); err != nil {
			return 0, err
		}
	}
	if err := it.Error(); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	if err := w.drop(next); err != nil {
		return 0, err
	}
	if err := w.commit(next); err != nil {
		return 0, fmt.Errorf("mvcc: scrub: %w", err)
	}
	return next, nil
}

// scrubbing is a step of a scrub under way.
type scrubbing struct {
	store *Store
	batch *engine.Batch
	// data shows what there was before the step.
	data *engine.Iterator
	// rows are those looked at or deleted, deleted the versions, of two rows each.
	rows    int
	deleted int64
	// freed is what all scrubs have freed, with this step's.
	freed int64
	// kept are the tombstones of the last revision: they may go once the step
	// goes beyond it.
	kept []keptTombstone
	// gone are the tombstones that the step has deleted: data still shows them, to
	// the change that follows.
	gone map[Revision]bool
}

type keptTombstone struct {
	key []byte
	rev Revision
}

// drop deletes the tombstones that are kept, if they are of a revision before this.
func (w *scrubbing) drop(before int64) error {
	for _, t := range w.kept {
		if t.rev.Main >= before {
			return nil
		}
		if w.gone[t.rev] {
			continue
		}
		w.gone[t.rev] = true
		if err := w.version(t.key, t.rev, 0); err != nil {
			return err
		}
	}
	w.kept = w.kept[:0]
	return nil
}

// change deletes the version of key before rev, unless it is a tombstone that is
// gone. If rev itself is a tombstone it is kept, for drop.
func (w *scrubbing) change(key []byte, rev Revision) error {
	w.rows++
	seek := w.store.group.dataKey(nil, key, rev)
	ok := w.data.SeekPrefixGE(seek)
	if !ok || string(w.data.Key()) != string(seek) {
		return w.data.Error() // damage: whoever reads the revision is told
	}
	if v := w.data.LazyValue(); v.Len() == 0 {
		w.kept = append(w.kept, keptTombstone{bytes.Clone(key), rev})
	}
	// There is one older version at most: of those behind it each went when the
	// one in front of it was looked at.
	if w.data.Next() {
		_, older, err := splitDataKey(w.data.Key())
		if err != nil {
			return err
		}
		if w.gone[older] {
			return nil
		}
		v := w.data.LazyValue()
		if v.Len() == 0 {
			w.gone[older] = true
		}
		if err := w.version(key, older, v.Len()); err != nil {
			return err
		}
	}
	if err := w.data.Error(); err != nil {
		return fmt.Errorf("mvcc: scrub: %w", err)
	}
	return nil
}

// version deletes the two rows of a version of size bytes.
func (w *scrubbing) version(key []byte, rev Revision, size int) error {
	g := w.store.group
	err := w.batch.DeleteSized(g.dataKey(nil, key, rev), uint32(size), nil)
	if err == nil {
		err = w.batch.Delete(g.revsKey(nil, rev), nil)
	}
	if err != nil {
		return fmt.Errorf("mvcc: scrub: %w", err)
	}
	w.freed += versionBytes(key, size)
	w.deleted++
	w.rows += 2
	return nil
}

// commit writes what the step has deleted, and that all up to next is done.
func (w *scrubbing) commit(next int64) error {
	s := w.store
	if err := w.batch.Set(s.group.metaKey(metaScrubbed), encodeRevision(next), nil); err != nil {
		return err
	}
	if err := w.batch.Set(s.group.metaKey(metaFreed), encodeRevision(w.freed), nil); err != nil {
		return err
	}
	if err := w.batch.Commit(engine.NoSync); err != nil {
		return err
	}
	s.freed.Store(w.freed)
	s.tally.scrubbed.Add(w.deleted)
	return nil
}
