package mvcc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Rows is what a store has, as Verify has counted it.
type Rows struct {
	// Keys are there at the end, Versions are all that are kept, Tombstones those of
	// them that say that the key was deleted.
	Keys, Versions, Tombstones int64
	// Attached are the keys with a lease, Leases those that there are, Records the
	// records in all tables.
	Attached, Leases, Records int64
	// Bytes is what Store.Bytes should be.
	Bytes int64
}

// verifier is one Verify. It tells of damage by report, and goes on behind it; an
// error is that something can't be read.
type verifier struct {
	*Store
	ctx    context.Context
	owns   func(key []byte) bool
	report func(damage string)
	rows   Rows
	steps  int
	// paired are the versions of which the 'r' row was found, joined the newest
	// versions of which the 'a' row was.
	paired, joined int64
	keyBuf         []byte

	// key is the user key whose versions are gone through, from the newest on; newer
	// is the one before, if any.
	key   []byte
	newer version
}

type version struct {
	Head
	rev       Revision
	tombstone bool
}

// Verify reads all rows of the store, which nobody may change meanwhile, and compares
// them with each other. It calls report with each thing that is not as the package's
// doc says; an error says that something can't be read. owns says which keys are the
// group's. It keeps a few rows in memory.
func (s *Store) Verify(ctx context.Context, owns func(key []byte) bool, report func(damage string)) (Rows, error) {
	v := &verifier{Store: s, ctx: ctx, owns: owns, report: report}
	revs, attached := int64(0), int64(0)
	for _, step := range []func() error{
		v.known,
		func() error { return v.table(tableData, v.dataRow) },
		func() error { return v.table(tableRevs, func(_, _ []byte) error { revs++; return nil }) },
		func() error { return v.table(tableAttach, func(_, _ []byte) error { attached++; return nil }) },
		func() error {
			// An 'r' row has the revision of its 'k' row in its key, so that there is one
			// too many exactly if there are more than were found from there.
			if revs == v.paired {
				return nil
			}
			return v.table(tableRevs, v.revsRow)
		},
		func() error {
			if attached == v.joined {
				return nil
			}
			return v.table(tableAttach, v.attachRow)
		},
		v.small,
	} {
		if err := step(); err != nil {
			return v.rows, err
		}
	}
	if have := s.Bytes(); have != v.rows.Bytes {
		v.damage("the versions take %d bytes, and the group has counted %d", v.rows.Bytes, have)
	}
	return v.rows, nil
}

func (v *verifier) damage(format string, args ...any) { v.report(fmt.Sprintf(format, args...)) }

func (v *verifier) check() error {
	if v.steps++; v.steps%stepsPerCheck == 0 {
		return v.ctx.Err()
	}
	return nil
}

// table calls fn for every row of a table whose key is in order.
func (v *verifier) table(table byte, fn func(key, row []byte) error) error {
	lower, upper := v.group.bounds(table)
	return v.each(lower, upper, func(key, row []byte) error {
		if err := v.check(); err != nil {
			return err
		}
		if err := v.group.checkKey(key); err != nil {
			v.damage("%v", err)
			return nil
		}
		return fn(key, row)
	})
}

// known looks for tables that there are not.
func (v *verifier) known() error {
	lower, upper := v.group.span()
	it, err := v.db.NewIter(&engine.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("mvcc: verify: %w", err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; {
		key := it.Key()
		if len(key) <= tablePrefixLen {
			v.damage("row %x is of no table", key)
			ok = it.Next()
			continue
		}
		if !bytes.Contains([]byte(tables), key[tablePrefixLen-1:tablePrefixLen]) {
			v.damage("there is a table %q, which is not known", key[tablePrefixLen-1])
		}
		_, next := v.group.bounds(key[tablePrefixLen-1])
		ok = it.SeekGE(next)
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("mvcc: verify: %w", err)
	}
	return nil
}

// tables are all that there are.
const tables = string(tableAttach) + string(tableMember) + string(tableData) + string(tableJoin) +
	string(tableLease) + string(tableMeta) + string(tableRecord) + string(tableRevs)

func (v *verifier) dataRow(key, row []byte) error {
	user, rev, err := splitDataKey(key)
	if err != nil {
		return err
	}
	this := version{rev: rev, tombstone: len(row) == 0}
	first := v.rows.Versions == 0 || string(v.key) != string(user)
	v.rows.Versions++
	v.rows.Bytes += versionBytes(user, len(row))
	if first {
		v.key = append(v.key[:0], user...)
		if !v.owns(user) {
			v.damage("key %q belongs to another group", user)
		}
	}
	if rev.Main > v.applied.Revision {
		v.damage("key %q has a version at revision %d, and the group is at %d", user, rev.Main, v.applied.Revision)
	}
	if this.tombstone {
		v.rows.Tombstones++
	} else if this.Head, _, err = splitRecord(row, rev.Main); err != nil {
		v.damage("key %q at revision %d: %v", user, rev.Main, err)
		this.Head = Head{}
	} else if !this.possible() {
		v.damage("key %q at revision %d can't be version %d, created at %d", user, rev.Main, this.Version, this.Create)
	}
	switch {
	case !first:
		v.chain(this)
	case !this.tombstone:
		v.rows.Keys++
		if err := v.attachment(user, this.Lease); err != nil {
			return err
		}
	}
	v.newer = this
	return v.pair(user, rev)
}

// possible says whether the head alone makes sense.
func (v *version) possible() bool {
	return v.Create > 0 && v.Version > 0 && v.Create <= v.Mod &&
		(v.Version == 1) == (v.Create == v.Mod) && v.Version-1 <= v.Mod-v.Create
}

// chain compares a version with the next newer one of its key: of those that are
// kept none is missing in between.
func (v *verifier) chain(older version) {
	newer := v.newer
	if older.Mod == 0 && !older.tombstone || newer.Mod == 0 && !newer.tombstone {
		return // a bad record, which was told
	}
	at := func(what string) {
		v.damage("key %q at revision %d %s, after the version at %d", v.key, newer.rev.Main, what, older.rev.Main)
	}
	switch {
	case newer.tombstone && older.tombstone:
		at("is deleted twice")
	case newer.tombstone:
	case older.tombstone:
		if newer.Version != 1 {
			at(fmt.Sprintf("is version %d of a key that was deleted", newer.Version))
		}
	case newer.Create != older.Create || newer.Version != older.Version+1:
		at(fmt.Sprintf("is version %d, created at %d, and not version %d, created at %d",
			newer.Version, newer.Create, older.Version+1, older.Create))
	}
}

// has says whether there is a row, which fn may look at.
func (v *verifier) has(key []byte, fn func(row []byte)) (bool, error) {
	row, closer, err := v.db.Get(key)
	if errors.Is(err, engine.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mvcc: verify: %w", err)
	}
	if fn != nil {
		fn(row)
	}
	return true, closer.Close()
}

// pair looks for the 'r' row of a version.
func (v *verifier) pair(user []byte, rev Revision) error {
	v.keyBuf = v.group.revsKey(v.keyBuf[:0], rev)
	found, err := v.has(v.keyBuf, func(row []byte) {
		if string(row) == string(user) {
			v.paired++
		} else {
			v.damage("revision %d.%d is of key %q in the index, and key %q has a version of it", rev.Main, rev.Sub, row, user)
		}
	})
	if err == nil && !found {
		v.damage("revision %d.%d of key %q is not in the index of revisions", rev.Main, rev.Sub, user)
	}
	return err
}

// attachment looks for the 'a' row of a key whose newest version names a lease.
func (v *verifier) attachment(user []byte, lease int64) error {
	if lease == 0 {
		return nil
	}
	v.rows.Attached++
	v.keyBuf = v.group.attachKey(v.keyBuf[:0], lease, user)
	found, err := v.has(v.keyBuf, nil)
	if found {
		v.joined++
	} else if err == nil {
		v.damage("key %q names lease %016x, to which it is not attached", user, uint64(lease))
	}
	return err
}

// revsRow looks for the 'k' row of an 'r' row.
func (v *verifier) revsRow(key, user []byte) error {
	rev, err := splitRevsKey(key)
	if err != nil {
		v.damage("%v", err)
		return nil
	}
	if rev.Main <= 0 || rev.Main == math.MaxInt64 {
		v.damage("the index has revision %d.%d", rev.Main, rev.Sub)
		return nil
	}
	v.keyBuf = v.group.dataKey(v.keyBuf[:0], user, rev)
	found, err := v.has(v.keyBuf, nil)
	if err == nil && !found {
		v.damage("revision %d.%d of key %q has no row", rev.Main, rev.Sub, user)
	}
	return err
}

// attachRow looks for the newest version of an attached key.
func (v *verifier) attachRow(key, _ []byte) error {
	if len(key) < tablePrefixLen+9 {
		v.damage("bad row of an attached key: %x", key)
		return nil
	}
	lease := int64(binary.BigEndian.Uint64(key[tablePrefixLen:]))
	user := append([]byte{}, key[tablePrefixLen+8:len(key)-1]...)
	switch h, live, err := v.Head(user); {
	case err != nil:
		v.damage("key %q, which is attached to lease %016x: %v", user, uint64(lease), err)
	case !live || h.Lease != lease:
		v.damage("key %q is attached to lease %016x, which its newest version does not name", user, uint64(lease))
	}
	return nil
}

// small reads the tables that are small.
func (v *verifier) small() error {
	nothing := func(_, _ []byte) error { return nil }
	for _, table := range []byte{tableMember, tableJoin, tableMeta} {
		if err := v.table(table, nothing); err != nil {
			return err
		}
	}
	told := func(err error) error {
		if err != nil {
			v.damage("%v", err)
		}
		return nil
	}
	err := v.table(tableLease, func(_, row []byte) error {
		v.rows.Leases++
		_, _, err := splitLease(row)
		return told(err)
	})
	if err != nil {
		return err
	}
	err = v.RecordTables(func(t RecordTable) { v.rows.Records += t.Records })
	return errors.Join(told(err), v.ctx.Err())
}

// RecordTable is what a table of records has.
type RecordTable struct {
	Name             string
	Version, Records int64
}

// RecordTables calls fn for every table of records, in the order of their names.
func (s *Store) RecordTables(fn func(RecordTable)) error {
	lower, upper := s.group.bounds(tableRecord)
	var at RecordTable
	err := s.each(lower, upper, func(key, row []byte) error {
		rest := key[tablePrefixLen : len(key)-1]
		n := 0
		for n < len(rest) && rest[n] != 0 {
			n++
		}
		if n == 0 || n == len(rest) {
			return fmt.Errorf("mvcc: bad row of a record: %x", key)
		}
		if name := string(rest[:n]); name != at.Name {
			if at.Name != "" {
				fn(at)
			}
			at = RecordTable{Name: name}
		}
		if n+1 < len(rest) {
			at.Records++
			return nil
		}
		var err error
		at.Version, err = recordsVersion(row)
		return err
	})
	if err == nil && at.Name != "" {
		fn(at)
	}
	return err
}

// History calls fn for every version of a key that is kept, from the oldest to the
// newest: those too that a compaction has freed, as long as their rows are there. What
// fn is given is valid only within it.
func (s *Store) History(ctx context.Context, key []byte, fn func(*Version) error) error {
	if len(key) == 0 {
		return nil
	}
	lower := s.group.dataPrefix(nil, key)
	it, err := s.db.NewIter(&engine.IterOptions{LowerBound: lower, UpperBound: engine.AppendPrefix(lower[:len(lower):len(lower)])})
	if err != nil {
		return fmt.Errorf("mvcc: history: %w", err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.Last(); ok; ok = it.Prev() {
		if err := ctx.Err(); err != nil {
			return err
		}
		user, rev, err := splitDataKey(it.Key())
		if err != nil {
			return err
		}
		if string(user) != string(key) {
			continue
		}
		rec, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("mvcc: history: %w", err)
		}
		row := Version{Rev: rev, Key: user, Tombstone: len(rec) == 0}
		if !row.Tombstone {
			if row.Head, row.Value, err = splitRecord(rec, rev.Main); err != nil {
				return fmt.Errorf("key %q: %w", key, err)
			}
		}
		if err := fn(&row); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("mvcc: history: %w", err)
	}
	return nil
}
