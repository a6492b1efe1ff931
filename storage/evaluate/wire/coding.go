package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrMalformed says that bytes are not an encoding that this version knows.
var ErrMalformed = errors.New("malformed")

// The least that one of a list takes, by which its count is bounded.
const (
	minRemaining      = 2
	minGrant          = 2
	minLease          = 1
	minMirrorRevision = 2
	minMirrorChange   = 3
	minRecord         = 3
	minCompare        = 6
	minBranchOp       = 4
	minResult         = 2
	minKV             = 6
)

const (
	// maxAhead bounds how long a list is made before its elements have been
	// seen.
	maxAhead = 1024
	// kvBlock is how many KeyValues are allocated together.
	kvBlock = 64
)

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

func appendInt(b []byte, v int64) []byte { return binary.AppendUvarint(b, uint64(v)) }

func appendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// grow makes room in an empty list that n elements are announced for.
func grow[T any](list []T, n int) []T {
	if list == nil {
		return slices.Grow(list, min(n, maxAhead))
	}
	return list
}

// decoder reads an encoding. After the first mistake it gives zeros.
type decoder struct {
	b   []byte
	err error
}

// newDecoder returns a decoder that has read the version.
func newDecoder(b []byte) *decoder {
	d := &decoder{b: b}
	if v := d.byte(); d.err == nil && v != version {
		d.fail(fmt.Sprintf("version %d", v))
	}
	return d
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	d.b = nil
}

// finish returns the first mistake. What is left over is one.
func (d *decoder) finish() error {
	if len(d.b) > 0 {
		d.fail("bytes behind the end")
	}
	return d.err
}

// peek returns the next byte, which is not consumed, and 0 at the end.
func (d *decoder) peek() byte {
	if len(d.b) == 0 {
		return 0
	}
	return d.b[0]
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("cut short")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

// flags reads flags of which only those in known may be set.
func (d *decoder) flags(known byte) byte {
	v := d.byte()
	if v&^known != 0 {
		d.fail("unknown flags")
		return 0
	}
	return v
}

func (d *decoder) uint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := d.b[0]
		d.b = d.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("a number that is cut short or too great")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 { return int64(d.uint()) }

// bytes reads a byte string, which is nil if it is empty.
func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail("a length beyond the end")
		return nil
	}
	if n == 0 {
		return nil
	}
	s := d.b[:n:n]
	d.b = d.b[n:]
	return s
}

// count reads the number of elements of a list, of which each takes least bytes
// or more.
func (d *decoder) count(least int) int {
	n := d.uint()
	if n > uint64(len(d.b)/least) {
		d.fail("a count beyond the end")
		return 0
	}
	return int(n)
}
