package engine

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2/cockroachkvs"
)

// A key of the engine is a prefix and, if it has versions, a version suffix.
// The order is by prefix, then from the newest version to the oldest:
//
//	prefix bytes | 0x00 | main revision, 8 bytes | sub revision, 4 bytes | length
//	             '------+------------- only with a version --------------------'
//
// The sub revision is left out when it is 0; the last byte counts the bytes of
// the suffix, itself included, and is the 0x00 itself when there is none. This
// is the layout of CockroachDB's keys (wall time and logical time there), so
// that Pebble's own comparer, columnar key schema and bloom filters for it
// serve here (Pebble, cockroachkvs/cockroachkvs.go). It is part of the file
// format, and should not be changed. A prefix is never empty: Pebble's tables
// do not hold such a key.

// MaxSuffix is the greatest number of bytes that a version adds to a prefix,
// the 0x00 included.
const MaxSuffix = 14

// AppendPrefix closes the prefix bytes in key: the result is a whole key
// without a version, which sorts before every version of that prefix.
func AppendPrefix(key []byte) []byte { return append(key, 0) }

// AppendVersion closes the prefix bytes in key and adds a version.
// REQUIRES: main > 0, 0 <= sub < 1<<32.
func AppendVersion(key []byte, main, sub int64) []byte {
	key = append(key, 0)
	key = binary.BigEndian.AppendUint64(key, uint64(main))
	if sub == 0 {
		return append(key, 9)
	}
	key = binary.BigEndian.AppendUint32(key, uint32(sub))
	return append(key, 13)
}

// SplitVersion takes a key of AppendVersion apart. The prefix aliases key.
func SplitVersion(key []byte) (prefix []byte, main, sub int64, err error) {
	n := len(key)
	if n == 0 {
		return nil, 0, 0, fmt.Errorf("engine: empty key")
	}
	switch suffix := int(key[n-1]); {
	case suffix == 9 && n > 9:
		return key[:n-10], int64(binary.BigEndian.Uint64(key[n-9:])), 0, nil
	case suffix == 13 && n > 13:
		return key[:n-14], int64(binary.BigEndian.Uint64(key[n-13:])), int64(binary.BigEndian.Uint32(key[n-5:])), nil
	default:
		return nil, 0, 0, fmt.Errorf("engine: key %x has no version", key)
	}
}

// Compare orders two whole keys.
func Compare(a, b []byte) int { return cockroachkvs.Compare(a, b) }
