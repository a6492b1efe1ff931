package group

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
)

// An entry's data begins with a byte for the format, one for the kind, and
// varints. Part of the log's format, and should not be changed.
//
//	fence     epoch
//	effects   epoch | number | effects
//	decision  epoch | number | length of effects | effects | parts of the other groups
//	part      epoch | number | id of the decision | effects
//
// The format says whether all that is so, or comes behind it compressed by S2, with the
// format byte: what Kubernetes stores takes a half in the log then, and on the way to
// the other members.
//
// epoch is the sequencer's that made the entry, number counts its entries of
// the group in that epoch (storage/PROTOCOL.md, 1). effects are mvcc.Effects.
const (
	entryFormat      = 1
	compressedFormat = 2
)

const (
	// worthCompressing is the least data to compress.
	worthCompressing = 512
	// maxEntryData bounds what an entry may say it is long when it is decompressed:
	// more than any request, and than all of an entry together.
	maxEntryData = 1 << 30
)

// compressor keeps the memory in which an entry is compressed. It is for one goroutine.
type compressor struct{ scratch []byte }

// maxScratch is how much of it is kept: enough for an entry of maxEntryBytes.
const maxScratch = 2 * maxEntryBytes

// compress returns data in less bytes, or as it is if that does not save an eighth.
func (c *compressor) compress(data []byte) []byte {
	if len(data) < worthCompressing {
		return data
	}
	dst := c.scratch
	if n := 1 + s2.MaxEncodedLen(len(data)); len(dst) < n {
		if dst = make([]byte, n); n <= maxScratch {
			c.scratch = dst
		}
	}
	dst[0] = compressedFormat
	small := s2.Encode(dst[1:], data)
	if len(small) > len(data)-len(data)/8 {
		return data
	}
	return append([]byte(nil), dst[:1+len(small)]...)
}

func decompress(data []byte) ([]byte, error) {
	n, err := s2.DecodedLen(data)
	if err == nil && n > maxEntryData {
		err = fmt.Errorf("an entry of %d bytes", n)
	}
	if err == nil {
		data, err = s2.Decode(nil, data)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return data, nil
}

// Kind is what an entry is.
type Kind byte

// The kinds. Part of the log's format.
const (
	KindEffects  Kind = 1
	KindFence    Kind = 2
	KindDecision Kind = 3
	KindPart     Kind = 4
)

// entry is a decoded entry. Its byte strings alias the data, unless that was
// compressed.
type entry struct {
	kind          Kind
	epoch, number uint64
	// id is that of a part's decision.
	id      uint64
	effects []byte
	// parts are a decision's, of the other groups.
	parts []byte
}

// appendHeader begins an entry of effects, onto which they are encoded.
func appendHeader(dst []byte, epoch, number uint64) []byte {
	dst = append(dst, entryFormat, byte(KindEffects))
	dst = binary.AppendUvarint(dst, epoch)
	return binary.AppendUvarint(dst, number)
}

// encode encodes an entry of any kind.
func (e *entry) encode() []byte {
	dst := make([]byte, 0, len(e.effects)+len(e.parts)+64)
	dst = append(dst, entryFormat, byte(e.kind))
	dst = binary.AppendUvarint(dst, e.epoch)
	if e.kind == KindFence {
		return dst
	}
	dst = binary.AppendUvarint(dst, e.number)
	switch e.kind {
	case KindDecision:
		dst = binary.AppendUvarint(dst, uint64(len(e.effects)))
	case KindPart:
		dst = binary.AppendUvarint(dst, e.id)
	case KindEffects, KindFence:
	}
	dst = append(dst, e.effects...)
	return append(dst, e.parts...)
}

var errShortEntry = errors.New("entry is cut short")

func decodeEntry(data []byte) (entry, error) {
	var e entry
	if len(data) > 0 && data[0] == compressedFormat {
		var err error
		if data, err = decompress(data[1:]); err != nil {
			return e, err
		}
	}
	if len(data) < 2 {
		return e, errShortEntry
	}
	e.kind = Kind(data[1])
	if data[0] != entryFormat || e.kind < KindEffects || e.kind > KindPart {
		return e, fmt.Errorf("format %d, kind %d is not known: written by a newer version?", data[0], data[1])
	}
	data = data[2:]
	var length uint64
	fields := [...]*uint64{&e.epoch, &e.number, &e.id}
	n := 2
	switch e.kind {
	case KindFence:
		n = 1
	case KindPart:
		n = 3
	case KindDecision:
		n, fields[2] = 3, &length
	case KindEffects:
	}
	for _, field := range fields[:n] {
		v, size := binary.Uvarint(data)
		if size <= 0 {
			return e, errShortEntry
		}
		*field, data = v, data[size:]
	}
	e.effects = data
	switch {
	case e.kind == KindFence && len(data) > 0:
		return e, errors.New("a fence with effects")
	case e.kind == KindDecision:
		if length > uint64(len(data)) {
			return e, errShortEntry
		}
		e.effects, e.parts = data[:length], data[length:]
	}
	return e, nil
}
