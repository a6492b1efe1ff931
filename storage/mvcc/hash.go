package mvcc

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"
)

// HashKV returns a checksum over the versions at or below rev that a compaction
// at compacted leaves (compacted is returned), the same on every member and,
// given the same requests, the same as etcd's: CRC-32C over its rows, each a
// revision and a KeyValue, in revision order (etcd, storage/mvcc/hash.go).
// rev 0 is the head. It does not depend on how far Scrub is.
func (s *Store) HashKV(ctx context.Context, rev int64) (hash uint32, hashRev, compacted int64, err error) {
	if rev <= 0 {
		rev = s.Revision()
	}
	if err := s.checkRevision(rev); err != nil {
		return 0, 0, 0, err
	}
	hash, compacted, err = HashKV(ctx, []*Store{s}, rev, 0)
	return hash, rev, compacted, err
}

// HashKV is Store.HashKV of what several stores hold together. It returns the
// revision of the last compaction that is effective in one of them, or
// compacted if that is later.
// REQUIRES: no change at rev or before it is to come.
func HashKV(
	ctx context.Context, stores []*Store, rev, compacted int64,
) (hash uint32, at int64, err error) {
	w, err := newWalk(ctx, stores, 0, rev)
	if err != nil {
		return 0, 0, err
	}
	defer w.close()
	// Nothing above these can be missing in the views, for those are older.
	at = compacted
	for _, s := range stores {
		at = max(at, s.Compacted())
	}
	if rev < at {
		return 0, 0, ErrCompacted
	}
	// etcd looks below the compacted revision only for what is live at rev, or
	// for what is live at the compacted revision if nothing is live at rev.
	anchor := rev
	if live, err := anyLive(ctx, stores, rev); err != nil {
		return 0, 0, err
	} else if !live {
		anchor = at
	}
	h := hasher{sum: crc32.Checksum([]byte("key"), castagnoli)}
	for w.next() {
		if w.rev.Main <= at {
			if kept, err := w.live(anchor); err != nil {
				return 0, 0, err
			} else if !kept {
				continue
			}
		}
		if err := h.add(w); err != nil {
			return 0, 0, err
		}
	}
	return h.sum, at, w.err
}

// anyLive says whether any key is there at rev. In which order it looks at the
// stores is all the same.
func anyLive(ctx context.Context, stores []*Store, rev int64) (bool, error) {
	segments := make([]Segment, len(stores))
	for i, s := range stores {
		segments[i].Store = s
	}
	sc, err := ScanSegments(ctx, segments, rev)
	if err != nil {
		return false, err
	}
	ok := sc.Next()
	err = sc.Err()
	if cerr := sc.Close(); err == nil {
		err = cerr
	}
	return ok, err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type hasher struct {
	sum uint32
	buf []byte
}

// add hashes the change that w stands on.
func (h *hasher) add(w *walk) error {
	ev, err := w.event()
	if err != nil {
		return err
	}
	h.buf = binary.BigEndian.AppendUint64(h.buf[:0], uint64(w.rev.Main))
	h.buf = append(h.buf, '_')
	h.buf = binary.BigEndian.AppendUint64(h.buf, uint64(w.rev.Sub))
	if ev.Kv.CreateRevision == 0 {
		h.buf = append(h.buf, 't')
		ev.Kv.ModRevision = 0
	}
	if h.buf, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(h.buf, ev.Kv); err != nil {
		return fmt.Errorf("mvcc: hash: %w", err)
	}
	h.sum = crc32.Update(h.sum, castagnoli, h.buf)
	return nil
}
