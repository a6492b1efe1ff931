package mvcc

import (
	"encoding/binary"
	"fmt"
	"math"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// The tables; see doc.go. Part of the file format, and should not be changed.
const (
	tableAttach = 'a'
	tableMember = 'c'
	tableData   = 'k'
	tableJoin   = 'j'
	tableLease  = 'l'
	tableMeta   = 'm'
	tableRecord = 'n'
	tableRevs   = 'r'
)

const (
	tablePrefixLen = 3
	revsPrefixLen  = tablePrefixLen + 12
)

// GroupID names a group in keys. Part of the file format.
type GroupID uint16

// CoreGroup owns every key that no route names.
const CoreGroup GroupID = 1

func (g GroupID) table(dst []byte, table byte) []byte {
	return append(dst, byte(g>>8), byte(g), table)
}

// bounds returns the first key of a table and the first key after it.
func (g GroupID) bounds(table byte) (lower, upper []byte) {
	return engine.AppendPrefix(g.table(nil, table)), engine.AppendPrefix(g.table(nil, table+1))
}

// dataPrefix sorts before every version of key and after every smaller key.
func (g GroupID) dataPrefix(dst, key []byte) []byte {
	return engine.AppendPrefix(append(g.table(dst, tableData), key...))
}

func (g GroupID) dataKey(dst, key []byte, rev Revision) []byte {
	return engine.AppendVersion(append(g.table(dst, tableData), key...), rev.Main, rev.Sub)
}

// maxSub is the greatest sub revision.
const maxSub = math.MaxUint32 - 1

// dataSeek sorts before the newest version of key that is not after main.
func (g GroupID) dataSeek(dst, key []byte, main int64) []byte {
	return g.dataKey(dst, key, Revision{main, maxSub + 1})
}

// dataBounds returns the engine's bounds for the versions of a span's keys.
func (g GroupID) dataBounds(s Span) (lower, upper []byte) {
	lower = g.dataPrefix(nil, s.Key)
	if s.End == nil {
		_, upper = g.bounds(tableData)
	} else {
		upper = g.dataPrefix(nil, s.End)
	}
	return lower, upper
}

func splitDataKey(k []byte) (key []byte, rev Revision, err error) {
	prefix, main, sub, err := engine.SplitVersion(k)
	if err != nil {
		return nil, Revision{}, err
	}
	if len(prefix) < tablePrefixLen {
		return nil, Revision{}, fmt.Errorf("mvcc: short key %x", k)
	}
	return prefix[tablePrefixLen:], Revision{main, sub}, nil
}

func (g GroupID) revsKey(dst []byte, rev Revision) []byte {
	dst = g.table(dst, tableRevs)
	dst = binary.BigEndian.AppendUint64(dst, uint64(rev.Main))
	dst = binary.BigEndian.AppendUint32(dst, uint32(rev.Sub))
	return engine.AppendPrefix(dst)
}

func splitRevsKey(k []byte) (Revision, error) {
	if len(k) != revsPrefixLen+1 {
		return Revision{}, fmt.Errorf("mvcc: bad revision row %x", k)
	}
	return Revision{
		Main: int64(binary.BigEndian.Uint64(k[tablePrefixLen:])),
		Sub:  int64(binary.BigEndian.Uint32(k[tablePrefixLen+8:])),
	}, nil
}

func (g GroupID) leaseKey(dst []byte, id int64) []byte {
	dst = g.table(dst, tableLease)
	return engine.AppendPrefix(binary.BigEndian.AppendUint64(dst, uint64(id)))
}

func (g GroupID) memberKey(dst []byte, id uint64) []byte {
	return engine.AppendPrefix(binary.BigEndian.AppendUint64(g.table(dst, tableMember), id))
}

func (g GroupID) joinKey(dst []byte, id int64, joined GroupID) []byte {
	dst = binary.BigEndian.AppendUint64(g.table(dst, tableJoin), uint64(id))
	return engine.AppendPrefix(binary.BigEndian.AppendUint16(dst, uint16(joined)))
}

func (g GroupID) attachKey(dst []byte, id int64, key []byte) []byte {
	dst = g.table(dst, tableAttach)
	dst = binary.BigEndian.AppendUint64(dst, uint64(id))
	return engine.AppendPrefix(append(dst, key...))
}

// attachBounds returns the engine's bounds for the keys of one lease. The id
// is followed by 0x00 at least (an empty key), so the next id bounds it.
func (g GroupID) attachBounds(id int64) (lower, upper []byte) {
	lower = engine.AppendPrefix(binary.BigEndian.AppendUint64(g.table(nil, tableAttach), uint64(id)))
	if uint64(id) == math.MaxUint64 {
		_, upper = g.bounds(tableAttach)
		return lower, upper
	}
	upper = engine.AppendPrefix(binary.BigEndian.AppendUint64(g.table(nil, tableAttach), uint64(id)+1))
	return lower, upper
}

// Head is what a version says of itself beside its value.
type Head struct {
	// Mod, Create, Version and Lease are etcd's.
	Mod, Create, Version, Lease int64
}

// appendRecord encodes a 'k' row. It is never empty: an empty row is a
// tombstone.
func appendRecord(dst []byte, h Head, value []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(h.Create))
	dst = binary.AppendUvarint(dst, uint64(h.Version))
	dst = binary.AppendUvarint(dst, uint64(h.Lease))
	return append(dst, value...)
}

// splitRecord decodes a 'k' row that is not a tombstone. value aliases rec.
func splitRecord(rec []byte, mod int64) (h Head, value []byte, err error) {
	h.Mod = mod
	value = rec
	for _, field := range []*int64{&h.Create, &h.Version, &h.Lease} {
		v, n := binary.Uvarint(value)
		if n <= 0 {
			return Head{}, nil, fmt.Errorf("mvcc: bad record of %d bytes at revision %d", len(rec), mod)
		}
		*field, value = int64(v), value[n:]
	}
	return h, value, nil
}

// keyValue makes etcd's KeyValue of a head; it keeps key and value.
func (h Head) keyValue(key, value []byte) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: key, Value: value,
		CreateRevision: h.Create, ModRevision: h.Mod, Version: h.Version, Lease: h.Lease,
	}
}
