package mvcc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// A replica that lags behind the truncated log is sent its group's rows: an
// Export makes chunks of them, an Ingest at the other side takes them.
//
//	rows   1 | key length | key | value length | value | ... | checksum (4)
//	end    2 | number of rows (8) | checksum (4)
//
// The lengths are varints; the rows are in key order over all chunks. The
// checksum is CRC-32C over all chunks up to this one, without their checksums, so
// that a chunk that is missing, or comes twice, or from another export, shows at
// once. It is what members say to each other, and should not be changed; a kind
// of chunk may be added.
//
// Rows that say something of the member and not of the group are left out:
// metaClosed and metaRestored.
const (
	chunkRows = 1
	chunkEnd  = 2

	chunkSumLen = 4
	chunkEndLen = 1 + 8 + chunkSumLen
)

// span returns the engine's bounds of everything that the group has.
func (g GroupID) span() (lower, upper []byte) {
	return engine.AppendPrefix(g.table(nil, 0)), engine.AppendPrefix(g.table(nil, 0xff))
}

// chunkSums are the checksums of a stream of chunks.
type chunkSums struct {
	table *crc32.Table
	sum   uint32
}

func newChunkSums() chunkSums { return chunkSums{table: crc32.MakeTable(crc32.Castagnoli)} }

// next returns the checksum of the next chunk.
func (c *chunkSums) next(chunk []byte) uint32 {
	c.sum = crc32.Update(c.sum, c.table, chunk)
	return c.sum
}

// Export reads all rows of a group as they are in one view. It holds no more in
// memory than a chunk; on the disk it keeps what the view needs until it is
// closed. It is for one goroutine.
type Export struct {
	it       *engine.Iterator
	maxBytes int
	applied  Applied
	conf     []byte
	// closed and restored are the keys of the rows that are left out.
	closed, restored []byte
	sums             chunkSums
	rows             uint64
	buf              []byte
	// started says that the iterator stands on a row or behind the last, ended
	// that the last chunk was given out.
	started, ended bool
}

// Export fixes a view of all that is applied. Chunks are of about maxBytes, more
// where one row is. It may be called beside anything, but first waits for a
// flush.
// REQUIRES: maxBytes > 0.
func (s *Store) Export(maxBytes int) (*Export, error) {
	lower, upper := s.group.span()
	it, err := engine.NewFileIter(context.Background(), s.db, lower, upper)
	if err != nil {
		return nil, fmt.Errorf("mvcc: export: %w", err)
	}
	e := &Export{
		it: it, maxBytes: maxBytes, sums: newChunkSums(),
		closed: s.group.metaKey(metaClosed), restored: s.group.metaKey(metaRestored),
	}
	if err := e.readMeta(s.group); err != nil {
		return nil, errors.Join(fmt.Errorf("mvcc: export: %w", err), it.Close())
	}
	return e, nil
}

func (e *Export) readMeta(g GroupID) error {
	e.applied.Revision = FirstRevision
	row, err := e.get(g.metaKey(metaApplied))
	if err == nil && row != nil {
		e.applied, err = decodeApplied(row)
	}
	if err == nil {
		e.conf, err = e.get(g.metaKey(metaConfState))
	}
	return err
}

// get returns a copy of a row in the view, nil if it is not there.
func (e *Export) get(key []byte) ([]byte, error) {
	if !e.it.SeekGE(key) || !bytes.Equal(e.it.Key(), key) {
		return nil, e.it.Error()
	}
	v, err := e.it.ValueAndErr()
	return append([]byte{}, v...), err
}

// Applied returns how far the log has been applied in the view.
func (e *Export) Applied() Applied { return e.applied }

// ConfState returns raft's configuration in the view, nil if there is none.
func (e *Export) ConfState() []byte { return e.conf }

// Next returns the next chunk, valid until the next call, and io.EOF after the
// last.
func (e *Export) Next() ([]byte, error) {
	if e.ended {
		return nil, io.EOF
	}
	if !e.started {
		e.started = true
		e.it.First()
	}
	e.buf = append(e.buf[:0], chunkRows)
	for ; e.it.Valid(); e.it.Next() {
		key := e.it.Key()
		if bytes.Equal(key, e.closed) || bytes.Equal(key, e.restored) {
			continue
		}
		value, err := e.it.ValueAndErr()
		if err != nil {
			return nil, fmt.Errorf("mvcc: export: %w", err)
		}
		// Not a row more than maxBytes, but one at least.
		if len(e.buf) > 1 && len(e.buf)+len(key)+len(value)+2*binary.MaxVarintLen32+chunkSumLen > e.maxBytes {
			break
		}
		e.buf = binary.AppendUvarint(e.buf, uint64(len(key)))
		e.buf = append(e.buf, key...)
		e.buf = binary.AppendUvarint(e.buf, uint64(len(value)))
		e.buf = append(e.buf, value...)
		e.rows++
	}
	if err := e.it.Error(); err != nil {
		return nil, fmt.Errorf("mvcc: export: %w", err)
	}
	if len(e.buf) == 1 {
		e.ended = true
		e.buf = append(e.buf[:0], chunkEnd)
		e.buf = binary.BigEndian.AppendUint64(e.buf, e.rows)
	}
	e.buf = binary.BigEndian.AppendUint32(e.buf, e.sums.next(e.buf))
	return e.buf, nil
}

// Close gives the view back.
func (e *Export) Close() error {
	if err := e.it.Close(); err != nil {
		return fmt.Errorf("mvcc: export: %w", err)
	}
	return nil
}
