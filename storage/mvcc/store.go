package mvcc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Store is one group's state. See the package's doc for what may be called
// concurrently.
type Store struct {
	db    *engine.DB
	group GroupID

	// revision is the greatest revision whose changes all readers may see.
	revision atomic.Int64
	// compacted is the compacted revision, 0 if there never was a compaction.
	compacted atomic.Int64
	// scrubbed is the compacted revision up to which Scrub has finished.
	scrubbed atomic.Int64
	// scrubbing is held by each step of Scrub, and while an Ingest replaces the
	// rows. Nothing is taken after it.
	scrubbing sync.Mutex

	// applied belongs to the applying goroutine, as does decided, the revision of
	// the last compaction in the log.
	applied Applied
	decided int64
	// deferred: see DeferCompactions.
	deferred bool

	// written and freed make Bytes.
	written, freed atomic.Int64

	counts Counts
	tally  tally
}

// Open opens the group's state in db, empty or as it was left.
func Open(db *engine.DB, group GroupID) (*Store, error) {
	s := &Store{db: db, group: group}
	applied, compacted, scrubbed, err := s.load()
	if err != nil {
		return nil, err
	}
	s.applied, s.decided = applied, compacted
	s.revision.Store(s.applied.Revision)
	s.compacted.Store(max(compacted, scrubbed))
	s.scrubbed.Store(scrubbed)
	return s, s.loadBytes()
}

// load reads what is kept in memory of the rows.
func (s *Store) load() (applied Applied, compacted, scrubbed int64, err error) {
	row, err := s.readMeta(metaApplied)
	if err != nil {
		return applied, 0, 0, err
	}
	applied.Revision = FirstRevision
	if row != nil {
		if applied, err = decodeApplied(row); err != nil {
			return applied, 0, 0, err
		}
	}
	if compacted, err = s.readMetaRevision(metaCompacted); err != nil {
		return applied, 0, 0, err
	}
	scrubbed, err = s.readMetaRevision(metaScrubbed)
	return applied, compacted, scrubbed, err
}

// DeferCompactions has compactions take effect when Compact is called and not
// when they are applied: in a store that is one of several, the others may not
// have everything up to that revision yet. It returns the revision of the last
// compaction in the log. To be called before the store is used.
func (s *Store) DeferCompactions() (decided int64) {
	s.deferred = true
	s.compacted.Store(s.scrubbed.Load())
	return s.decided
}

// Decided returns the revision of the last compaction in the log. For the
// applying goroutine.
func (s *Store) Decided() int64 { return s.decided }

// Compact makes a compaction at rev effective: reads below it are refused, and
// Scrub deletes. It does nothing if a later one is.
// REQUIRES: the store has every change of its keys up to rev, and there will be
// no other.
func (s *Store) Compact(rev int64) {
	for {
		before := s.compacted.Load()
		if rev <= before || s.compacted.CompareAndSwap(before, rev) {
			return
		}
	}
}

// Revision returns the greatest revision that readers may see.
func (s *Store) Revision() int64 { return s.revision.Load() }

// Compacted returns the compacted revision, 0 if there never was a compaction.
func (s *Store) Compacted() int64 { return s.compacted.Load() }

// Applied returns how far the log has been applied. For the applying goroutine.
func (s *Store) Applied() Applied { return s.applied }

// ConfState returns raft's configuration as it was stored by
// Batch.SetConfState, nil if it never was.
func (s *Store) ConfState() ([]byte, error) { return s.readMeta(metaConfState) }

// Decision returns the id and the parts of the last decision (Batch.SetDecision),
// 0 if there never was one.
func (s *Store) Decision() (id uint64, parts []byte, err error) {
	row, err := s.readMeta(metaDecision)
	if err != nil || row == nil {
		return 0, nil, err
	}
	if len(row) < 8 {
		return 0, nil, fmt.Errorf("mvcc: bad row of the last decision: %x", row)
	}
	return binary.BigEndian.Uint64(row), row[8:], nil
}

// Members calls fn for every member's row; an empty one says that the member was
// removed. row is fn's.
func (s *Store) Members(fn func(id uint64, row []byte)) error {
	lower, upper := s.group.bounds(tableMember)
	return s.each(lower, upper, func(key, row []byte) error {
		if len(key) < tablePrefixLen+8 {
			return fmt.Errorf("mvcc: bad row of a member: %x", key)
		}
		fn(binary.BigEndian.Uint64(key[tablePrefixLen:]), bytes.Clone(row))
		return nil
	})
}

// Closed returns what Batch.SetClosed has stored, 0 if nothing.
func (s *Store) Closed() (int64, error) { return s.readMetaRevision(metaClosed) }

// DurableApplied returns how far the applied log would survive a crash now.
func (s *Store) DurableApplied() (Applied, error) {
	key := s.group.metaKey(metaApplied)
	_, upper := s.group.bounds(tableMeta)
	it, err := s.db.NewIter(&engine.IterOptions{
		LowerBound: key, UpperBound: upper, OnlyReadGuaranteedDurable: true,
	})
	if err != nil {
		return Applied{}, fmt.Errorf("mvcc: read durable index: %w", err)
	}
	a := Applied{Revision: FirstRevision}
	if it.First() && string(it.Key()) == string(key) {
		a, err = decodeApplied(it.Value())
	}
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	return a, err
}

// checkRevision says whether a read at rev may be served.
func (s *Store) checkRevision(rev int64) error {
	if rev > s.Revision() {
		return ErrFutureRevision
	}
	return s.checkCompacted(rev)
}

func (s *Store) checkCompacted(rev int64) error {
	if rev < s.Compacted() {
		return ErrCompacted
	}
	return nil
}

// Get returns the key as it was at main revision rev, nil if it was not there.
// The KeyValue belongs to the caller.
func (s *Store) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	var kv *mvccpb.KeyValue
	err := s.point(key, rev, func(h Head, value []byte) {
		buf := make([]byte, len(key)+len(value))
		copy(buf[copy(buf, key):], value)
		kv = h.keyValue(buf[:len(key):len(key)], buf[len(key):])
	})
	return kv, err
}

// Head returns the key's newest version of those applied so far, without its
// value; ok says whether the key is there.
func (s *Store) Head(key []byte) (h Head, ok bool, err error) {
	err = s.point(key, maxRevision, func(found Head, _ []byte) { h, ok = found, true })
	return h, ok, err
}

// Latest is Get at the newest of the versions applied so far.
func (s *Store) Latest(key []byte) (*mvccpb.KeyValue, error) { return s.Get(key, maxRevision) }

// maxRevision stands for "whatever is applied": no such revision is ever
// handed out.
const maxRevision = 1<<63 - 1

// point calls found with the version of key at rev, if the key was there. The
// value is valid only within found.
func (s *Store) point(key []byte, rev int64, found func(Head, []byte)) error {
	if len(key) == 0 {
		return nil
	}
	var keyBuf, upperBuf [256]byte
	seek := s.group.dataSeek(keyBuf[:0], key, rev)
	opts := engine.IterOptions{UpperBound: s.group.dataPrefix(upperBuf[:0], key)}
	// The first key after every version of this one is its prefix with one
	// more 0x00: the empty extension of user key key+"\x00".
	opts.UpperBound = engine.AppendPrefix(opts.UpperBound)
	it, err := s.db.NewIter(&opts)
	if err != nil {
		return fmt.Errorf("mvcc: read: %w", err)
	}
	if err := s.checkCompacted(rev); err != nil {
		_ = it.Close()
		return err
	}
	if it.SeekPrefixGE(seek) {
		err = s.pointRow(it, found)
	}
	if cerr := it.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("mvcc: read: %w", cerr)
	}
	return err
}

func (s *Store) pointRow(it *engine.Iterator, found func(Head, []byte)) error {
	_, rev, err := splitDataKey(it.Key())
	if err != nil {
		return err
	}
	rec, err := it.ValueAndErr()
	if err != nil {
		return fmt.Errorf("mvcc: read: %w", err)
	}
	if len(rec) == 0 {
		return nil
	}
	h, value, err := splitRecord(rec, rev.Main)
	if err != nil {
		return err
	}
	found(h, value)
	return nil
}
