package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// The rows of the 'm' table. Part of the file format.
const (
	// metaApplied: index, term and revision, 8 bytes each: how far the log has
	// been applied, in the same batch as what it changed.
	metaApplied = "applied"
	// metaCompacted: the compacted revision, 8 bytes.
	metaCompacted = "compacted"
	// metaScrubbed: up to which main revision Scrub has finished with the last
	// compaction, 8 bytes.
	metaScrubbed = "scrubbed"
	// metaConfState: raft's configuration as of the applied index.
	metaConfState = "confstate"
)

// Applied says how far the log has been applied.
type Applied struct {
	// Index and Term are those of the last applied entry.
	Index, Term uint64
	// Revision is the greatest revision applied.
	Revision int64
}

func (g GroupID) metaKey(name string) []byte {
	return engine.AppendPrefix(append(g.table(nil, tableMeta), name...))
}

func (a Applied) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, a.Index)
	b = binary.BigEndian.AppendUint64(b, a.Term)
	return binary.BigEndian.AppendUint64(b, uint64(a.Revision))
}

func decodeApplied(b []byte) (Applied, error) {
	if len(b) != 24 {
		return Applied{}, fmt.Errorf("mvcc: bad row of the applied index: %x", b)
	}
	return Applied{
		Index:    binary.BigEndian.Uint64(b),
		Term:     binary.BigEndian.Uint64(b[8:]),
		Revision: int64(binary.BigEndian.Uint64(b[16:])),
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
