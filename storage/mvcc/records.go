package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Records are small facts of the cluster that are no keys of clients, such as its
// users and its alarms. They have no revision; each table of them has a version, the
// number of its changes. The row without a key holds it.

// RecordWrite is one row of a change of a table.
type RecordWrite struct {
	// Key is not empty.
	Key string
	// Value is nil to remove the row.
	Value []byte
}

func (g GroupID) recordKey(dst []byte, table, key string) []byte {
	dst = append(g.table(dst, tableRecord), table...)
	return engine.AppendPrefix(append(append(dst, 0), key...))
}

// RecordsVersion returns how often a table was changed.
func (s *Store) RecordsVersion(table string) (int64, error) {
	row, closer, err := s.db.Get(s.group.recordKey(nil, table, ""))
	if errors.Is(err, engine.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("mvcc: records %q: %w", table, err)
	}
	version, err := recordsVersion(row)
	return version, errors.Join(err, closer.Close())
}

func recordsVersion(row []byte) (int64, error) {
	if len(row) != 8 {
		return 0, fmt.Errorf("mvcc: bad version of records: %x", row)
	}
	return int64(binary.BigEndian.Uint64(row)), nil
}

// Records returns a table's version and its rows. It may be called beside anything.
func (s *Store) Records(table string) (version int64, rows map[string][]byte, err error) {
	first := s.group.recordKey(nil, table, "")
	prefix := len(first) - 1
	upper := engine.AppendPrefix(append(append(s.group.table(nil, tableRecord), table...), 1))
	rows = map[string][]byte{}
	// One view: the version and its rows belong together.
	err = s.each(first, upper, func(key, row []byte) (err error) {
		if name := key[prefix : len(key)-1]; len(name) > 0 {
			rows[string(name)] = bytes.Clone(row)
		} else {
			version, err = recordsVersion(row)
		}
		return err
	})
	return version, rows, err
}

// Records changes a table: its version becomes version. The rows are written in
// order.
func (e *Effects) Records(table string, version int64, writes []RecordWrite) {
	e.kind(effectRecords)
	e.bytes([]byte(table))
	e.num(version)
	e.num(int64(len(writes)))
	for _, w := range writes {
		e.bytes([]byte(w.Key))
		if w.Value == nil {
			e.num(0)
			continue
		}
		e.num(1)
		e.bytes(w.Value)
	}
}

func (b *Batch) addRecords(r *effectReader) error {
	table, version, n := string(r.bytes()), r.num(), r.num()
	g := b.store.group
	for ; n > 0 && r.err == nil; n-- {
		b.keyBuf = g.recordKey(b.keyBuf[:0], table, string(r.bytes()))
		var err error
		if r.num() == 0 {
			err = b.pb.Delete(b.keyBuf, nil)
		} else {
			err = b.pb.Set(b.keyBuf, r.bytes(), nil)
		}
		if err != nil {
			return err
		}
	}
	if r.err != nil {
		return r.err
	}
	b.out.Records = append(b.out.Records, table)
	b.keyBuf = g.recordKey(b.keyBuf[:0], table, "")
	return b.pb.Set(b.keyBuf, binary.BigEndian.AppendUint64(nil, uint64(version)), nil)
}

// Records is Store.Records in the view.
func (v *View) Records(table string) (version int64, rows map[string][]byte, err error) {
	first := CoreGroup.recordKey(nil, table, "")
	prefix := first[:len(first)-1]
	rows = map[string][]byte{}
	err = v.each(tableRecord, func(key, row []byte) (err error) {
		name, ok := bytes.CutPrefix(key[:len(key)-1], prefix)
		switch {
		case !ok:
		case len(name) > 0:
			rows[string(name)] = bytes.Clone(row)
		default:
			version, err = recordsVersion(row)
		}
		return err
	})
	return version, rows, err
}

// Records makes a table of these rows, at version 1.
func (r *Restore) Records(table string, rows []RecordWrite) error {
	for _, w := range rows {
		r.keyBuf = CoreGroup.recordKey(r.keyBuf[:0], table, w.Key)
		if err := r.set(r.keyBuf, w.Value); err != nil {
			return err
		}
	}
	r.keyBuf = CoreGroup.recordKey(r.keyBuf[:0], table, "")
	return r.set(r.keyBuf, encodeRevision(1))
}
