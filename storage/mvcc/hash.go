package mvcc

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
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
	it, err := s.db.NewIter(&engine.IterOptions{
		LowerBound: s.group.revsKey(nil, Revision{}),
		UpperBound: s.group.revsKey(nil, Revision{Main: rev + 1}),
	})
	if err != nil {
		return 0, 0, 0, fmt.Errorf("mvcc: hash: %w", err)
	}
	defer func() { _ = it.Close() }()
	compacted = s.Compacted()
	if rev < compacted {
		return 0, 0, 0, ErrCompacted
	}
	data, err := s.cloneForData(it)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { _ = data.Close() }()

	// etcd looks below the compacted revision only for what is live at rev, or
	// for what is live at the compacted revision if nothing is live at rev.
	anchor := rev
	if live, err := s.anyLive(ctx, rev); err != nil {
		return 0, 0, 0, err
	} else if !live {
		anchor = compacted
	}
	h := hasher{sum: crc32.Checksum([]byte("key"), castagnoli)}
	steps := 0
	for ok := it.First(); ok; ok = it.Next() {
		if steps++; steps%stepsPerCheck == 0 {
			if err := ctx.Err(); err != nil {
				return 0, 0, 0, err
			}
		}
		if err := h.row(s.group, it, data, compacted, anchor); err != nil {
			return 0, 0, 0, err
		}
	}
	if err := it.Error(); err != nil {
		return 0, 0, 0, fmt.Errorf("mvcc: hash: %w", err)
	}
	return h.sum, rev, compacted, nil
}

func (s *Store) anyLive(ctx context.Context, rev int64) (bool, error) {
	sc, err := s.Scan(ctx, Span{}, rev)
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

// row hashes the revision that it stands on, if a compaction at compacted
// leaves it.
func (h *hasher) row(g GroupID, it, data *engine.Iterator, compacted, anchor int64) error {
	rev, err := splitRevsKey(it.Key())
	if err != nil {
		return err
	}
	key, err := it.ValueAndErr()
	if err != nil {
		return fmt.Errorf("mvcc: hash: %w", err)
	}
	if rev.Main <= compacted {
		kept, err := isVersionAt(g, data, key, rev, anchor)
		if err != nil || !kept {
			return err
		}
	}
	ev, err := eventAt(data, g.dataKey(nil, key, rev), key, rev)
	if err != nil {
		return err
	}
	h.buf = binary.BigEndian.AppendUint64(h.buf[:0], uint64(rev.Main))
	h.buf = append(h.buf, '_')
	h.buf = binary.BigEndian.AppendUint64(h.buf, uint64(rev.Sub))
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

// isVersionAt says whether rev is the version of key at main revision anchor,
// and not a tombstone.
func isVersionAt(g GroupID, data *engine.Iterator, key []byte, rev Revision, anchor int64) (bool, error) {
	if !data.SeekPrefixGE(g.dataSeek(nil, key, anchor)) {
		return false, data.Error()
	}
	_, at, err := splitDataKey(data.Key())
	if err != nil {
		return false, err
	}
	lv := data.LazyValue()
	return at == rev && lv.Len() > 0, nil
}
