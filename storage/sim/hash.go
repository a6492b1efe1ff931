package sim

import (
	"encoding/binary"
	"hash/crc32"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// HashKV returns etcd's checksum of the history up to a revision, 0 being the
// head: what etcd answers unless it has remembered what it had at a compaction.
func (m *Model) HashKV(revision int64) (uint32, error) {
	switch {
	case revision > m.revision:
		return 0, mvcc.ErrFutureRevision
	case revision > 0 && revision < m.compacted:
		return 0, mvcc.ErrCompacted
	case revision <= 0:
		revision = m.revision
	}
	// Of the changes up to the compaction, those count that are still there at
	// the revision; if nothing is, those that the compaction left.
	anchor := revision
	if len(m.live([]byte{0}, []byte{0}, revision)) == 0 {
		anchor = m.compacted
	}
	row := []byte("key") // The name of etcd's bucket.
	sum := crc32.Checksum(row, crc32.MakeTable(crc32.Castagnoli))
	for _, c := range m.history {
		at := c.kv.ModRevision
		if at > revision || at <= m.compacted && m.at(string(c.kv.Key), anchor) != c.kv {
			continue
		}
		row = binary.BigEndian.AppendUint64(row[:0], uint64(at))
		row = append(row, '_')
		row = binary.BigEndian.AppendUint64(row, uint64(c.sub))
		kv := c.kv
		if c.deleted {
			row = append(row, 't')
			kv = &mvccpb.KeyValue{Key: kv.Key}
		}
		row, _ = proto.MarshalOptions{Deterministic: true}.MarshalAppend(row, kv)
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), row)
	}
	return sum, nil
}
