package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// The rows of the 'm' table. Part of the file format.
const (
	// metaApplied: how far the log has been applied (Applied), in the same batch
	// as what it changed.
	metaApplied = "applied"
	// metaClosed: a closed revision of the member, 8 bytes; see Batch.SetClosed.
	metaClosed = "closed"
	// metaCompacted: the compacted revision, 8 bytes.
	metaCompacted = "compacted"
	// metaScrubbed: up to which main revision Scrub has finished with the last
	// compaction, 8 bytes.
	metaScrubbed = "scrubbed"
	// metaFreed: what the versions that Scrub has deleted took, 8 bytes; see
	// Store.Bytes.
	metaFreed = "freed"
	// metaConfState: raft's configuration as of the applied index.
	metaConfState = "confstate"
	// metaDecision: the last transaction of several groups that core has decided:
	// its id, 8 bytes, and the other groups' parts as core's log has them.
	metaDecision = "decision"
	// metaRestored: the index and the term up to which the state was ingested when
	// it last was, 8 bytes each; see Store.Restored.
	metaRestored = "restored"
)

// Applied says how far the log has been applied.
type Applied struct {
	// Index and Term are those of the last applied entry.
	Index, Term uint64
	// Revision is the greatest revision applied.
	Revision int64
	// Epoch is the greatest that the group is fenced with, Number that of the
	// last entry applied in it (storage/PROTOCOL.md, 2).
	Epoch, Number uint64
	// Part is the id of the last decision whose part was applied.
	Part uint64
	// Written is what all versions that were ever written take; see Store.Bytes.
	Written int64
}

func (g GroupID) metaKey(name string) []byte {
	return engine.AppendPrefix(append(g.table(nil, tableMeta), name...))
}

// appliedLen is the length of a metaApplied row: the fields of Applied in their
// order, 8 bytes each.
const appliedLen = 7 * 8

func (a Applied) encode() []byte {
	b := make([]byte, 0, appliedLen)
	for _, v := range []uint64{a.Index, a.Term, uint64(a.Revision), a.Epoch, a.Number, a.Part, uint64(a.Written)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func decodeApplied(b []byte) (Applied, error) {
	if len(b) != appliedLen {
		return Applied{}, fmt.Errorf("mvcc: bad row of the applied index: %x", b)
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	return Applied{
		Index: at(0), Term: at(1), Revision: int64(at(2)), Epoch: at(3), Number: at(4), Part: at(5),
		Written: int64(at(6)),
	}, nil
}

// readMeta returns a copy of a row, or nil if it is not there.
func (s *Store) readMeta(name string) ([]byte, error) {
	v, closer, err := s.db.Get(s.group.metaKey(name))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mvcc: read %s: %w", name, err)
	}
	out := append([]byte{}, v...)
	return out, closer.Close()
}

func (s *Store) readMetaRevision(name string) (int64, error) {
	v, err := s.readMeta(name)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("mvcc: bad row %s: %x", name, v)
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

func encodeRevision(main int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(main))
}
