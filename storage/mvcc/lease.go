package mvcc

import (
	"encoding/binary"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// addLease writes a lease's row: TTL and remaining TTL, as varints.
func (b *Batch) addLease(c LeaseChange, ttl, remaining int64) error {
	b.out.Leases = append(b.out.Leases, c)
	b.keyBuf = b.store.group.leaseKey(b.keyBuf[:0], c.ID)
	b.valueBuf = appendLease(b.valueBuf[:0], ttl, remaining)
	return b.pb.Set(b.keyBuf, b.valueBuf, nil)
}

func appendLease(dst []byte, ttl, remaining int64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(ttl)), uint64(remaining))
}

func splitLease(row []byte) (ttl, remaining int64, err error) {
	t, n := binary.Uvarint(row)
	if n > 0 {
		if r, m := binary.Uvarint(row[n:]); m > 0 {
			return int64(t), int64(r), nil
		}
	}
	return 0, 0, fmt.Errorf("mvcc: bad lease row %x", row)
}

// leaseTTL returns a lease's granted TTL as of this batch, or
// engine.ErrNotFound.
func (b *Batch) leaseTTL(id int64) (int64, error) {
	for i := len(b.out.Leases) - 1; i >= 0; i-- {
		if c := b.out.Leases[i]; c.ID == id && c.Kind != LeaseCheckpointed {
			if c.Kind == LeaseRevoked {
				return 0, engine.ErrNotFound
			}
			return c.TTL, nil
		}
	}
	row, closer, err := b.store.db.Get(b.store.group.leaseKey(nil, id))
	if err != nil {
		return 0, err
	}
	ttl, _, err := splitLease(row)
	if cerr := closer.Close(); err == nil {
		err = cerr
	}
	return ttl, err
}

// Leases calls fn for every lease, in the order of their ids.
func (s *Store) Leases(fn func(id, ttl, remaining int64)) error {
	lower, upper := s.group.bounds(tableLease)
	return s.each(lower, upper, func(key, row []byte) error {
		ttl, remaining, err := splitLease(row)
		if err != nil {
			return err
		}
		fn(int64(binary.BigEndian.Uint64(key[tablePrefixLen:])), ttl, remaining)
		return nil
	})
}

// Joins calls fn for every note that a group takes part in a lease.
func (s *Store) Joins(fn func(id int64, g GroupID)) error {
	lower, upper := s.group.bounds(tableJoin)
	return s.each(lower, upper, func(key, _ []byte) error {
		key = key[tablePrefixLen:]
		if len(key) < 10 {
			return fmt.Errorf("mvcc: bad row of a lease's group: %x", key)
		}
		fn(int64(binary.BigEndian.Uint64(key)), GroupID(binary.BigEndian.Uint16(key[8:])))
		return nil
	})
}

// LeaseKeys returns the keys that are attached to a lease, in order.
func (s *Store) LeaseKeys(id int64) ([][]byte, error) {
	var keys [][]byte
	lower, upper := s.group.attachBounds(id)
	err := s.each(lower, upper, func(key, _ []byte) error {
		keys = append(keys, append([]byte{}, key[tablePrefixLen+8:len(key)-1]...))
		return nil
	})
	return keys, err
}

// each calls fn for every row between two keys, both valid only within fn.
func (s *Store) each(lower, upper []byte, fn func(key, row []byte) error) error {
	it, err := s.db.NewIter(&engine.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("mvcc: %w", err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var row []byte
		if row, err = it.ValueAndErr(); err == nil {
			err = fn(it.Key(), row)
		}
	}
	if cerr := it.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("mvcc: %w", cerr)
	}
	return err
}
