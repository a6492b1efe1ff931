package mvcc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Adoption says what becomes of a checkpoint of a member's state.
type Adoption struct {
	// At is the revision of the backup: what is newer in the checkpoint goes.
	At int64
	// Revision and Compacted are those that the new state begins with.
	//
	// Invariant: At <= Revision, Compacted <= Revision.
	Revision, Compacted int64
	// Records are the tables of records that are kept.
	Records []string
}

// Adopted is what Adopt has found.
type Adopted struct {
	// Dropped are the versions that were newer than the backup.
	Dropped int64
	// Revoked are the leases that were revoked after the backup's revision.
	Revoked int64
}

// revokedTTL is what a lease has, in seconds, of which is known only that it was revoked
// after the backup's revision.
const revokedTTL = 1

// adopter is one Adopt. What it finds to do to a group it does in batches of a bounded
// size.
type adopter struct {
	Adoption
	ctx   context.Context
	db    *engine.DB
	batch *engine.Batch
	found Adopted
}

// Adopt makes the rows of a checkpoint, which another member's state has been, those of
// groups whose logs have not begun, at one revision. It does by the number of changes
// after that revision, not by that of keys.
//
//  1. Versions after it go, with their rows in the index. A key that had one names the
//     lease again that it named before.
//  2. How far the logs were applied, raft's configuration, the last decision, the
//     members, and other tables of records than those that are kept, go: they are of the
//     cluster of before. How much was written, and how far Scrub has come, stays.
//  3. Leases have no revision: those of the checkpoint stay. One that was revoked
//     after the backup's revision has left its keys, by step 1 or because their group had
//     not come to it, and would leave them for ever: it is made again with what is left
//     of it at least, so that they expire. So etcd's snapshots have it, too
//     (storage/backup, noteLease).
func Adopt(ctx context.Context, db *engine.DB, groups []GroupID, a Adoption) (Adopted, error) {
	ad := &adopter{Adoption: a, ctx: ctx, db: db, batch: db.NewBatch()}
	defer func() { _ = ad.batch.Close() }()
	if err := ad.run(groups); err != nil {
		return Adopted{}, fmt.Errorf("mvcc: adopt: %w", err)
	}
	return ad.found, nil
}

func (ad *adopter) run(groups []GroupID) error {
	if ad.At < FirstRevision || ad.At > ad.Revision || ad.Compacted > ad.Revision {
		return fmt.Errorf("revision %d, compacted at %d, of a backup at %d", ad.Revision, ad.Compacted, ad.At)
	}
	for _, g := range groups {
		s, err := Open(ad.db, g)
		if err != nil {
			return err
		}
		if err := ad.group(s); err != nil {
			return fmt.Errorf("group %d: %w", g, err)
		}
	}
	if err := ad.core(); err != nil {
		return err
	}
	// The rows must be there to be read.
	if err := ad.commit(); err != nil {
		return err
	}
	for _, g := range groups {
		if err := ad.leases(g); err != nil {
			return fmt.Errorf("group %d: %w", g, err)
		}
	}
	if err := ad.commit(); err != nil {
		return err
	}
	return ad.db.Flush()
}

func (ad *adopter) commit() error {
	err := ad.batch.Commit(engine.NoSync)
	err = errors.Join(err, ad.batch.Close(), ad.ctx.Err())
	ad.batch = ad.db.NewBatch()
	return err
}

func (ad *adopter) maybeCommit() error {
	if ad.batch.Len() < restoreBatchBytes {
		return nil
	}
	return ad.commit()
}

// group is steps 1 and 2 of a group.
func (ad *adopter) group(s *Store) error {
	if s.Scrubbed() > ad.At {
		return fmt.Errorf("rows up to revision %d may be gone, and the backup is of %d", s.Scrubbed(), ad.At)
	}
	// A compaction that was decided after the backup's revision does not count.
	s.DeferCompactions()
	applied := Applied{Revision: ad.Revision, Written: s.applied.Written}
	lower, upper := s.group.revsKey(nil, Revision{Main: ad.At + 1}), s.group.revsKey(nil, Revision{Main: maxRevision})
	// each reads one view, whatever is committed meanwhile.
	err := s.each(lower, upper, func(revs, key []byte) error {
		freed, err := ad.drop(s, revs, key)
		applied.Written -= freed
		return errors.Join(err, ad.maybeCommit())
	})
	if err != nil {
		return err
	}
	for _, name := range []string{metaClosed, metaCompacted, metaConfState, metaDecision, metaRestored} {
		if err := ad.batch.Delete(s.group.metaKey(name), nil); err != nil {
			return err
		}
	}
	return ad.batch.Set(s.group.metaKey(metaApplied), applied.encode(), nil)
}

// drop takes one version away, of which revs is the row in the index, and returns what it
// took.
func (ad *adopter) drop(s *Store, revs, key []byte) (freed int64, err error) {
	g := s.group
	rev, err := splitRevsKey(revs)
	if err != nil {
		return 0, err
	}
	data := g.dataKey(nil, key, rev)
	rec, closer, err := ad.db.Get(data)
	if err != nil {
		return 0, fmt.Errorf("revision %d.%d of key %q: %w", rev.Main, rev.Sub, key, err)
	}
	var h Head
	if freed = versionBytes(key, len(rec)); len(rec) > 0 {
		h, _, err = splitRecord(rec, rev.Main)
	}
	if err = errors.Join(err, closer.Close()); err != nil {
		return 0, err
	}
	ad.found.Dropped++
	if h.Lease != 0 {
		err = ad.batch.Delete(g.attachKey(nil, h.Lease, key), nil)
	}
	err = errors.Join(err, ad.batch.Delete(data, nil), ad.batch.Delete(revs, nil))
	if err != nil {
		return 0, err
	}
	// Behind the deletions: whichever of the key's versions goes last, the row of the one
	// that stays is there.
	stays := Head{}
	if err := s.point(key, ad.At, func(h Head, _ []byte) { stays = h }); err != nil || stays.Lease == 0 {
		return freed, err
	}
	return freed, ad.batch.Set(g.attachKey(nil, stays.Lease, key), nil, nil)
}

// core is step 2 of what only core has.
func (ad *adopter) core() error {
	err := ad.batch.Set(CoreGroup.metaKey(metaClosed), encodeRevision(ad.Revision), nil)
	if ad.Compacted > 0 {
		err = errors.Join(err, ad.batch.Set(CoreGroup.metaKey(metaCompacted), encodeRevision(ad.Compacted), nil))
	}
	s := &Store{db: ad.db, group: CoreGroup}
	lower, upper := CoreGroup.bounds(tableMember)
	err = errors.Join(err, s.each(lower, upper, func(key, _ []byte) error { return ad.batch.Delete(key, nil) }))
	if err != nil {
		return err
	}
	lower, upper = CoreGroup.bounds(tableRecord)
	return s.each(lower, upper, func(key, _ []byte) error {
		table, _, _ := bytes.Cut(key[tablePrefixLen:], []byte{0})
		if slices.Contains(ad.Records, string(table)) {
			return nil
		}
		return errors.Join(ad.batch.Delete(key, nil), ad.maybeCommit())
	})
}

// leases is step 3 for the keys of a group. That it takes part in a lease is noted again,
// too, in case the lease of that name is another one by now.
func (ad *adopter) leases(g GroupID) error {
	s := &Store{db: ad.db, group: g}
	return s.attachedLeases(func(id int64) error {
		there, err := hasLease(ad.db, id)
		if err != nil {
			return err
		}
		if !there {
			ad.found.Revoked++
			if err := ad.batch.Set(CoreGroup.leaseKey(nil, id), appendLease(nil, revokedTTL, 0), nil); err != nil {
				return err
			}
			// Other groups look for it.
			if err := ad.commit(); err != nil {
				return err
			}
		}
		if g == CoreGroup {
			return nil
		}
		return errors.Join(ad.batch.Set(CoreGroup.joinKey(nil, id, g), nil, nil), ad.maybeCommit())
	})
}

func hasLease(db *engine.DB, id int64) (bool, error) {
	_, closer, err := db.Get(CoreGroup.leaseKey(nil, id))
	if errors.Is(err, engine.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, closer.Close()
}

// attachedLeases calls fn with every lease that keys are attached to, in the order of
// their ids: also of those that there are not. Its work grows with their number, not with
// that of the keys.
func (s *Store) attachedLeases(fn func(id int64) error) error {
	lower, upper := s.group.bounds(tableAttach)
	it, err := s.db.NewIter(&engine.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("mvcc: leases of keys: %w", err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; {
		key := it.Key()
		if len(key) < tablePrefixLen+8 {
			return fmt.Errorf("mvcc: bad row of an attached key: %x", key)
		}
		id := int64(binary.BigEndian.Uint64(key[tablePrefixLen:]))
		if err := fn(id); err != nil {
			return err
		}
		_, next := s.group.attachBounds(id)
		ok = it.SeekGE(next)
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("mvcc: leases of keys: %w", err)
	}
	return nil
}
