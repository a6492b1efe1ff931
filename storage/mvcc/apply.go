package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Batch gathers the effects of committed entries; Commit applies them at once.
// For the applying goroutine.
type Batch struct {
	store *Store
	pb    *engine.Batch
	out   Outcome
	next  Applied
	// main is the revision of the changes being added, sub the least that the
	// next of them may have.
	main, sub int64

	// revs are the rows of the revision index that are still to be written: all
	// together they are in order, which is what a memtable takes in most cheaply.
	revs []indexed

	// puts, deletes and putBytes count what becomes of keys.
	puts, deletes, putBytes int64

	// keyBuf and valueBuf are scratch.
	keyBuf, valueBuf []byte
}

// indexed is a row of the revision index.
type indexed struct {
	rev Revision
	key []byte
}

// Outcome is what an applied batch changed, for those that watch: a batch's
// effects, decoded once for all of them.
type Outcome struct {
	// Events are the changes of keys in revision order, without PrevKv. Their
	// bytes alias the entries that they came from. Subs are their sub revisions.
	Events []*mvccpb.Event
	Subs   []uint32
	// Leases are the changes of leases, in order.
	Leases []LeaseChange
	// Records are the tables of records that were changed.
	Records []string
	// Compacted is the revision of the batch's last compaction, 0 for none.
	Compacted int64
	// Revision is the store's revision with the batch.
	Revision int64
}

// LeaseChange is a lease granted, revoked or checkpointed, or the note that a
// group takes part in it.
type LeaseChange struct {
	ID int64
	// TTL is that of a grant, in seconds.
	TTL int64
	// Remaining is what a checkpoint leaves of the TTL, in seconds.
	Remaining int64
	// Group is the one that has joined or left.
	Group GroupID
	Kind  LeaseChangeKind
}

// LeaseChangeKind tells what happened to a lease.
type LeaseChangeKind int8

// The kinds.
const (
	LeaseGranted LeaseChangeKind = iota
	LeaseRevoked
	LeaseCheckpointed
	LeaseJoined
	LeaseLeft
)

// NewBatch begins a batch that follows everything applied.
func (s *Store) NewBatch() *Batch {
	return &Batch{store: s, pb: s.db.NewBatch(), next: s.applied}
}

// Add adds the effects of the entry at index. They may be empty. After an error
// the batch must be dropped: the entry does not make sense to this version, or
// is damaged.
// REQUIRES: index > the last one's, and effects is not changed afterwards.
func (b *Batch) Add(index, term uint64, effects []byte) error {
	if index <= b.next.Index {
		return fmt.Errorf("mvcc: entry %d follows entry %d", index, b.next.Index)
	}
	b.next.Index, b.next.Term = index, term
	r := effectReader{buf: effects}
	b.main = 0
	for len(r.buf) > 0 {
		kind, err := r.kind()
		if err == nil {
			err = b.add(kind, &r)
		}
		if err == nil {
			err = r.err
		}
		if err != nil {
			return fmt.Errorf("mvcc: entry %d: %w", index, err)
		}
	}
	return nil
}

func (b *Batch) add(kind effectKind, r *effectReader) error {
	switch kind {
	case effectRevision:
		main := r.num()
		if main <= b.next.Revision {
			return fmt.Errorf("revision %d follows %d", main, b.next.Revision)
		}
		b.main, b.sub, b.next.Revision = main, 0, main
		return nil
	case effectPut:
		return b.addPut(r)
	case effectDelete:
		return b.addDelete(r)
	case effectGrant:
		id, ttl := r.num(), r.num()
		return b.addLease(LeaseChange{ID: id, TTL: ttl, Kind: LeaseGranted}, ttl, 0)
	case effectRevoke:
		id := r.num()
		b.out.Leases = append(b.out.Leases, LeaseChange{ID: id, Kind: LeaseRevoked})
		b.keyBuf = b.store.group.leaseKey(b.keyBuf[:0], id)
		return b.pb.Delete(b.keyBuf, nil)
	case effectCheckpoint:
		id, remaining := r.num(), r.num()
		ttl, err := b.leaseTTL(id)
		if errors.Is(err, engine.ErrNotFound) {
			return nil // revoked before it in the log
		}
		if err != nil {
			return err
		}
		return b.addLease(LeaseChange{ID: id, Remaining: remaining, Kind: LeaseCheckpointed}, ttl, remaining)
	case effectCompact:
		main := r.num()
		if before := max(b.store.decided, b.out.Compacted); main <= before {
			return fmt.Errorf("compaction at %d follows one at %d", main, before)
		}
		b.out.Compacted = main
		return b.pb.Set(b.store.group.metaKey(metaCompacted), encodeRevision(b.out.Compacted), nil)
	case effectJoin:
		id, g := r.num(), GroupID(r.num())
		b.out.Leases = append(b.out.Leases, LeaseChange{ID: id, Group: g, Kind: LeaseJoined})
		b.keyBuf = b.store.group.joinKey(b.keyBuf[:0], id, g)
		return b.pb.Set(b.keyBuf, nil, nil)
	case effectLeave:
		id, g := r.num(), GroupID(r.num())
		b.out.Leases = append(b.out.Leases, LeaseChange{ID: id, Group: g, Kind: LeaseLeft})
		b.keyBuf = b.store.group.joinKey(b.keyBuf[:0], id, g)
		return b.pb.Delete(b.keyBuf, nil)
	case effectRecords:
		return b.addRecords(r)
	}
	return fmt.Errorf("effect of kind %d is not handled", kind)
}

func (b *Batch) addPut(r *effectReader) error {
	rev := Revision{Main: b.main, Sub: r.num()}
	key := r.bytes()
	h := Head{Mod: b.main, Create: r.num(), Version: r.num(), Lease: r.num()}
	leaseBefore := r.num()
	value := r.bytes()
	if r.err != nil {
		return r.err
	}
	if err := b.checkRevision(rev); err != nil {
		return err
	}
	g := b.store.group
	b.keyBuf = g.dataKey(b.keyBuf[:0], key, rev)
	b.valueBuf = appendRecord(b.valueBuf[:0], h, value)
	if err := b.pb.Set(b.keyBuf, b.valueBuf, nil); err != nil {
		return err
	}
	b.revs = append(b.revs, indexed{rev, key})
	if leaseBefore != h.Lease {
		if err := b.detach(leaseBefore, key); err != nil {
			return err
		}
		if h.Lease != 0 {
			b.keyBuf = g.attachKey(b.keyBuf[:0], h.Lease, key)
			if err := b.pb.Set(b.keyBuf, nil, nil); err != nil {
				return err
			}
		}
	}
	b.next.Written += versionBytes(key, len(b.valueBuf))
	b.puts++
	b.putBytes += int64(len(key) + len(value))
	b.out.Events = append(b.out.Events, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: h.keyValue(key, value)})
	b.out.Subs = append(b.out.Subs, uint32(rev.Sub))
	return nil
}

func (b *Batch) addDelete(r *effectReader) error {
	rev := Revision{Main: b.main, Sub: r.num()}
	key := r.bytes()
	leaseBefore := r.num()
	if r.err != nil {
		return r.err
	}
	if err := b.checkRevision(rev); err != nil {
		return err
	}
	b.keyBuf = b.store.group.dataKey(b.keyBuf[:0], key, rev)
	if err := b.pb.Set(b.keyBuf, nil, nil); err != nil {
		return err
	}
	b.revs = append(b.revs, indexed{rev, key})
	if err := b.detach(leaseBefore, key); err != nil {
		return err
	}
	b.next.Written += versionBytes(key, 0)
	b.deletes++
	b.out.Events = append(b.out.Events, deletion(key, rev.Main))
	b.out.Subs = append(b.out.Subs, uint32(rev.Sub))
	return nil
}

// checkRevision says whether a change may have the revision rev, and notes it.
func (b *Batch) checkRevision(rev Revision) error {
	if rev.Main == 0 || rev.Sub < b.sub || rev.Sub > maxSub {
		return fmt.Errorf("revision %d.%d of a change", rev.Main, rev.Sub)
	}
	b.sub = rev.Sub + 1
	return nil
}

func deletion(key []byte, main int64) *mvccpb.Event {
	return &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: key, ModRevision: main}}
}

func (b *Batch) addIndex() error {
	for _, r := range b.revs {
		b.keyBuf = b.store.group.revsKey(b.keyBuf[:0], r.rev)
		if err := b.pb.Set(b.keyBuf, r.key, nil); err != nil {
			return err
		}
	}
	return nil
}

func (b *Batch) detach(lease int64, key []byte) error {
	if lease == 0 {
		return nil
	}
	b.keyBuf = b.store.group.attachKey(b.keyBuf[:0], lease, key)
	return b.pb.Delete(b.keyBuf, nil)
}

// Place returns the group's epoch, the number of its last entry, and its last
// part, as of this batch.
func (b *Batch) Place() (epoch, number, part uint64) {
	return b.next.Epoch, b.next.Number, b.next.Part
}

// SetPlace sets the group's epoch and the number of its last entry.
func (b *Batch) SetPlace(epoch, number uint64) { b.next.Epoch, b.next.Number = epoch, number }

// SetPart notes the part of a decision.
func (b *Batch) SetPart(id uint64) { b.next.Part = id }

// SetDecision stores what Store.Decision returns, in place of the last.
func (b *Batch) SetDecision(id uint64, parts []byte) error {
	row := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(parts)), id)
	return b.pb.Set(b.store.group.metaKey(metaDecision), append(row, parts...), nil)
}

// SetClosed stores a closed revision of the member, for Store.Closed.
// REQUIRES: what every group has of it was committed before.
func (b *Batch) SetClosed(rev int64) error {
	return b.pb.Set(b.store.group.metaKey(metaClosed), encodeRevision(rev), nil)
}

// SetMember stores a member's row; an empty one says that it was removed.
func (b *Batch) SetMember(id uint64, row []byte) error {
	b.keyBuf = b.store.group.memberKey(b.keyBuf[:0], id)
	return b.pb.Set(b.keyBuf, row, nil)
}

// SetConfState stores raft's configuration as of this batch.
func (b *Batch) SetConfState(state []byte) error {
	return b.pb.Set(b.store.group.metaKey(metaConfState), state, nil)
}

// Len is how many bytes the batch has.
func (b *Batch) Len() int { return b.pb.Len() }

// Commit applies the batch and lets readers see it. It is not synced: the log
// is. It must not be called again, whatever it returns.
func (b *Batch) Commit() (Outcome, error) {
	s := b.store
	if err := b.addIndex(); err != nil {
		return Outcome{}, fmt.Errorf("mvcc: apply: %w", err)
	}
	if err := b.pb.Set(s.group.metaKey(metaApplied), b.next.encode(), nil); err != nil {
		return Outcome{}, fmt.Errorf("mvcc: apply: %w", err)
	}
	if err := b.pb.Commit(engine.NoSync); err != nil {
		return Outcome{}, fmt.Errorf("mvcc: apply: %w", err)
	}
	if err := b.pb.Close(); err != nil {
		return Outcome{}, fmt.Errorf("mvcc: apply: %w", err)
	}
	s.applied = b.next
	s.tally.add(b)
	s.written.Store(s.applied.Written)
	if b.out.Compacted > 0 {
		s.decided = b.out.Compacted
		if !s.deferred {
			s.Compact(b.out.Compacted)
		}
	}
	// Last: whoever sees the revision sees its changes and what they imply.
	s.revision.Store(b.next.Revision)
	b.out.Revision = b.next.Revision
	return b.out, nil
}

// Drop gives up a batch that will not be committed.
func (b *Batch) Drop() { _ = b.pb.Close() }
