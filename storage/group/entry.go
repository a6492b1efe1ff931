package group

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// An entry's data is, after a byte for the format, three varints and effects
// (mvcc.Effects). Part of the log's format, and should not be changed.
//
//	format | term | epoch | number | effects
//
// term is the one that the effects were evaluated in, epoch the sequencer's
// that gave their revisions, number counts the entries of the term.
const entryFormat = 1

type entryHeader struct {
	term, epoch, number uint64
}

func (h entryHeader) append(dst []byte) []byte {
	dst = append(dst, entryFormat)
	dst = binary.AppendUvarint(dst, h.term)
	dst = binary.AppendUvarint(dst, h.epoch)
	return binary.AppendUvarint(dst, h.number)
}

var errShortHeader = errors.New("header is cut short")

func splitEntry(data []byte) (h entryHeader, effects []byte, err error) {
	if len(data) == 0 {
		return h, nil, errShortHeader
	}
	if data[0] != entryFormat {
		return h, nil, fmt.Errorf("format %d is not known: written by a newer version?", data[0])
	}
	data = data[1:]
	for _, field := range []*uint64{&h.term, &h.epoch, &h.number} {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			return h, nil, errShortHeader
		}
		*field, data = v, data[n:]
	}
	return h, data, nil
}
