package mvcc

import (
	"errors"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// restoreBatchBytes is about how much of a Restore is in memory at a time.
const restoreBatchBytes = 1 << 20

// Restore fills the empty states of groups with the rows of a backup. They become
// those of a member whose logs have not begun. It is for one goroutine.
//
// The steps are Version for each row in the order of revisions, Lease for each
// lease, and Finish.
type Restore struct {
	db     *engine.DB
	groups []GroupID
	of     func(key []byte) GroupID

	batch   *engine.Batch
	last    Revision
	written map[GroupID]int64
	// leases are those that there are.
	leases           map[int64]bool
	keyBuf, valueBuf []byte
}

// NewRestore begins a restore into groups in db, of which of says who owns a key.
func NewRestore(db *engine.DB, groups []GroupID, of func(key []byte) GroupID) *Restore {
	return &Restore{
		db: db, groups: groups, of: of, batch: db.NewBatch(),
		written: map[GroupID]int64{}, leases: map[int64]bool{},
	}
}

// Version adds a version of a key.
func (r *Restore) Version(v *Version) error {
	rev := v.Rev
	switch last := r.last; {
	case rev.Main <= 0 || rev.Sub < 0 || rev.Sub > maxSub:
		return fmt.Errorf("mvcc: restore: revision %d.%d of a change", rev.Main, rev.Sub)
	case rev.Main < last.Main || rev.Main == last.Main && rev.Sub <= last.Sub:
		return fmt.Errorf("mvcc: restore: revision %d.%d follows %d.%d", rev.Main, rev.Sub, last.Main, last.Sub)
	case len(v.Key) == 0:
		return fmt.Errorf("mvcc: restore: revision %d.%d has no key", rev.Main, rev.Sub)
	case !v.Tombstone && (v.Head.Mod != rev.Main || v.Head.Create <= 0 || v.Head.Create > rev.Main || v.Head.Version <= 0):
		return fmt.Errorf("mvcc: restore: revision %d.%d of key %q can't be version %d, created at %d, modified at %d",
			rev.Main, rev.Sub, v.Key, v.Head.Version, v.Head.Create, v.Head.Mod)
	}
	r.last = rev
	g := r.of(v.Key)
	r.keyBuf = g.dataKey(r.keyBuf[:0], v.Key, rev)
	r.valueBuf = r.valueBuf[:0]
	if !v.Tombstone {
		r.valueBuf = appendRecord(r.valueBuf, v.Head, v.Value)
	}
	r.written[g] += versionBytes(v.Key, len(r.valueBuf))
	if err := r.set(r.keyBuf, r.valueBuf); err != nil {
		return err
	}
	r.keyBuf = g.revsKey(r.keyBuf[:0], rev)
	return r.set(r.keyBuf, v.Key)
}

// Lease adds a lease.
func (r *Restore) Lease(id, ttl, remaining int64) error {
	r.leases[id] = true
	r.keyBuf = CoreGroup.leaseKey(r.keyBuf[:0], id)
	r.valueBuf = appendLease(r.valueBuf[:0], ttl, remaining)
	return r.set(r.keyBuf, r.valueBuf)
}

func (r *Restore) set(key, value []byte) error {
	err := r.batch.Set(key, value, nil)
	if err == nil && r.batch.Len() >= restoreBatchBytes {
		err = r.commit()
	}
	if err != nil {
		return fmt.Errorf("mvcc: restore: %w", err)
	}
	return nil
}

func (r *Restore) commit() error {
	err := r.batch.Commit(engine.NoSync)
	err = errors.Join(err, r.batch.Close())
	r.batch = r.db.NewBatch()
	return err
}

// Finish adds what follows from the rows, gives the groups the revision that they
// are at, and makes everything durable. compacted is the compacted revision, scrubbed
// the one up to which a compaction has gone to its end; 0 is none.
// REQUIRES: scrubbed <= compacted <= revision, which is not before any row.
func (r *Restore) Finish(revision, compacted, scrubbed int64) error {
	if revision < r.last.Main || scrubbed > compacted || compacted > revision {
		return fmt.Errorf("mvcc: restore: revision %d, compacted at %d (%d), after one at %d",
			revision, compacted, scrubbed, r.last.Main)
	}
	for _, g := range r.groups {
		// The rows of before must be there to be read.
		if err := r.commit(); err != nil {
			return fmt.Errorf("mvcc: restore: %w", err)
		}
		if err := r.attach(g); err != nil {
			return err
		}
		applied := Applied{Revision: revision, Written: r.written[g]}
		err := r.set(g.metaKey(metaApplied), applied.encode())
		if scrubbed > 0 {
			err = errors.Join(err, r.set(g.metaKey(metaScrubbed), encodeRevision(scrubbed)))
		}
		if g == CoreGroup {
			err = errors.Join(err, r.set(g.metaKey(metaClosed), encodeRevision(revision)))
			if compacted > 0 {
				err = errors.Join(err, r.set(g.metaKey(metaCompacted), encodeRevision(compacted)))
			}
		}
		if err != nil {
			return err
		}
	}
	err := r.commit()
	if err == nil {
		err = r.db.Flush()
	}
	if err != nil {
		return fmt.Errorf("mvcc: restore: %w", err)
	}
	return nil
}

// attach notes the leases of a group's keys, as their newest versions name them.
func (r *Restore) attach(g GroupID) error {
	lower, upper := g.bounds(tableData)
	it, err := r.db.NewIter(&engine.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("mvcc: restore: %w", err)
	}
	defer func() { _ = it.Close() }()
	joined := map[int64]bool{}
	for ok := it.First(); ok; ok = it.NextPrefix() {
		key, rev, err := splitDataKey(it.Key())
		if err != nil {
			return err
		}
		rec, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("mvcc: restore: %w", err)
		}
		if len(rec) == 0 {
			continue
		}
		h, _, err := splitRecord(rec, rev.Main)
		if err != nil {
			return err
		}
		if h.Lease == 0 {
			continue
		}
		r.keyBuf = g.attachKey(r.keyBuf[:0], h.Lease, key)
		if err := r.set(r.keyBuf, nil); err != nil {
			return err
		}
		if g == CoreGroup || joined[h.Lease] || !r.leases[h.Lease] {
			continue
		}
		joined[h.Lease] = true
		r.keyBuf = CoreGroup.joinKey(r.keyBuf[:0], h.Lease, g)
		if err := r.set(r.keyBuf, nil); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("mvcc: restore: %w", err)
	}
	return nil
}

// Drop ends a restore, finished or not.
func (r *Restore) Drop() { _ = r.batch.Close() }
