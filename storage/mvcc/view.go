package mvcc

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// View is what several stores of one database have at a revision, for a backup. It
// can be gone through again and again and shows the same; what it needs is kept on
// the disk until it is closed, and nothing of it in memory. It is for one goroutine.
type View struct {
	walk walk
	// core stands for the first store.
	core *engine.Iterator
	// Revision is the greatest that is shown, Compacted what reads below are refused
	// of, Scrubbed up to where rows that a compaction has freed are gone; 0 is none.
	//
	// Invariant: Scrubbed <= Compacted <= Revision.
	Revision, Compacted, Scrubbed int64
	applied                       Applied
}

// Version is a row of a View. Key and Value are valid until the next.
type Version struct {
	Rev        Revision
	Key, Value []byte
	Head       Head
	// Tombstone says that the key was deleted; there is no Value then, and no Head.
	Tombstone bool
}

// NewView fixes a view of stores, the first of which is core's, at rev. compacted is
// the revision below which reads are refused already. It first waits for a flush. It
// returns ErrCompacted if a compaction has overtaken rev.
// REQUIRES: every change up to rev is there.
func NewView(ctx context.Context, stores []*Store, rev int64, compacted func() int64) (*View, error) {
	ranges := make([]engine.Range, len(stores))
	for i, s := range stores {
		ranges[i].Lower, ranges[i].Upper = s.group.span()
	}
	its, err := engine.NewFileIters(ctx, stores[0].db, ranges)
	if err != nil {
		return nil, fmt.Errorf("mvcc: view: %w", err)
	}
	v := &View{Revision: rev, core: its[0], walk: walk{ctx: ctx}}
	for _, it := range its[1:] {
		defer func() { _ = it.Close() }()
	}
	if err := v.open(stores, its, compacted); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

func (v *View) open(stores []*Store, its []*engine.Iterator, compacted func() int64) error {
	for i, s := range stores {
		revs, err := its[i].Clone(engine.CloneOptions{IterOptions: &engine.IterOptions{
			LowerBound: s.group.revsKey(nil, Revision{}),
			UpperBound: s.group.revsKey(nil, Revision{Main: v.Revision + 1}),
		}})
		if err != nil {
			return fmt.Errorf("mvcc: view: %w", err)
		}
		v.walk.stores = append(v.walk.stores, storeWalk{store: s, revs: revs, number: i})
		scrubbed, err := viewRevision(its[i], s.group.metaKey(metaScrubbed))
		if err != nil {
			return err
		}
		if i == 0 || scrubbed < v.Scrubbed {
			v.Scrubbed = scrubbed
		}
		// Nothing above these can be missing, for the view is older.
		v.Compacted = max(v.Compacted, s.Compacted(), scrubbed)
	}
	if v.Compacted = max(v.Compacted, compacted()); v.Compacted > v.Revision {
		return ErrCompacted
	}
	row, err := viewRow(v.core, stores[0].group.metaKey(metaApplied))
	if err != nil || row == nil {
		return err
	}
	v.applied, err = decodeApplied(row)
	return err
}

// viewRow returns a copy of a row, nil if it is not there.
func viewRow(it *engine.Iterator, key []byte) ([]byte, error) {
	if !it.SeekGE(key) || !bytes.Equal(it.Key(), key) {
		return nil, it.Error()
	}
	row, err := it.ValueAndErr()
	return bytes.Clone(row), err
}

func viewRevision(it *engine.Iterator, key []byte) (int64, error) {
	row, err := viewRow(it, key)
	if err != nil || row == nil {
		return 0, err
	}
	if len(row) != 8 {
		return 0, fmt.Errorf("mvcc: bad row %x: %x", key, row)
	}
	return int64(binary.BigEndian.Uint64(row)), nil
}

// Applied returns how far core's log was applied. It may be behind Revision or
// before it.
func (v *View) Applied() Applied { return v.applied }

// ConfState returns raft's configuration in core, nil if there is none.
func (v *View) ConfState() ([]byte, error) {
	return viewRow(v.core, v.walk.stores[0].store.group.metaKey(metaConfState))
}

// set makes v of a revision, its key and its 'k' row.
func (v *Version) set(rev Revision, key, rec []byte) (err error) {
	*v = Version{Rev: rev, Key: key, Tombstone: len(rec) == 0}
	if !v.Tombstone {
		v.Head, v.Value, err = splitRecord(rec, rev.Main)
	}
	return err
}

// Versions calls fn for every version, in the order of revisions. It holds some rows
// ahead.
func (v *View) Versions(ctx context.Context, fn func(*Version) error) error {
	v.walk.rewind()
	return eachVersion(ctx, &v.walk, fn)
}

// VersionsByKey calls fn for every version, those of a key from the newest to the
// oldest. newest is the first of them. This is the quicker walk.
func (v *View) VersionsByKey(ctx context.Context, fn func(row *Version, newest bool) error) error {
	w := &v.walk
	var row Version
	steps := 0
	for i := range w.stores {
		data, err := w.dataOf(&w.stores[i])
		if err != nil {
			return err
		}
		last, shown := []byte(nil), false
		for ok := data.First(); ok; ok = data.Next() {
			if steps++; steps%stepsPerCheck == 0 {
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			key, rev, err := splitDataKey(data.Key())
			if err != nil {
				return err
			}
			if rev.Main > v.Revision {
				continue
			}
			rec, err := data.ValueAndErr()
			if err != nil {
				return fmt.Errorf("mvcc: view: %w", err)
			}
			if err := row.set(rev, key, rec); err != nil {
				return err
			}
			newest := !shown || !bytes.Equal(last, key)
			last, shown = append(last[:0], key...), true
			if err := fn(&row, newest); err != nil {
				return err
			}
		}
		if err := data.Error(); err != nil {
			return fmt.Errorf("mvcc: view: %w", err)
		}
	}
	return nil
}

// Leases calls fn for every lease, in the order of their ids. Leases have no revision:
// these may be newer than Revision.
func (v *View) Leases(fn func(id, ttl, remaining int64)) error {
	return v.each(tableLease, func(key, row []byte) error {
		ttl, remaining, err := splitLease(row)
		if err == nil {
			fn(int64(binary.BigEndian.Uint64(key[tablePrefixLen:])), ttl, remaining)
		}
		return err
	})
}

// Members is Store.Members in the view.
func (v *View) Members(fn func(id uint64, row []byte)) error {
	return v.each(tableMember, func(key, row []byte) error {
		if len(key) < tablePrefixLen+8 {
			return fmt.Errorf("mvcc: bad row of a member: %x", key)
		}
		fn(binary.BigEndian.Uint64(key[tablePrefixLen:]), bytes.Clone(row))
		return nil
	})
}

func (v *View) each(table byte, fn func(key, row []byte) error) error {
	lower, upper := v.walk.stores[0].store.group.bounds(table)
	for ok := v.core.SeekGE(lower); ok && engine.Compare(v.core.Key(), upper) < 0; ok = v.core.Next() {
		row, err := v.core.ValueAndErr()
		if err == nil {
			err = fn(v.core.Key(), row)
		}
		if err != nil {
			return fmt.Errorf("mvcc: view: %w", err)
		}
	}
	return v.core.Error()
}

// Close gives the view back.
func (v *View) Close() {
	v.walk.close()
	_ = v.core.Close()
}
