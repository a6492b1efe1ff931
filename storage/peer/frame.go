package peer

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/grpc/mem"
)

// Bounds of what goes over a stream.
const (
	// MaxPayloadBytes bounds one payload: of a raft message, a call, a reply, or one
	// chunk of a snapshot.
	MaxPayloadBytes = 64 << 20
	// MaxNoticeBytes bounds a notice.
	MaxNoticeBytes = 1 << 20
	// maxFrameBytes bounds a frame, unless one payload alone is larger.
	maxFrameBytes = 1 << 20
	// maxMessageBytes bounds what gRPC lets in.
	maxMessageBytes = MaxPayloadBytes + MaxNoticeBytes + maxFrameBytes
	// maxRecordHead is the most that a record takes besides its payload: the kind,
	// an id, two bytes, and a length.
	maxRecordHead = 1 + binary.MaxVarintLen64 + 2 + binary.MaxVarintLen64
	// copyBelow is the size up to which a payload is copied into the frame. Larger
	// ones are sent from where they are.
	copyBelow = 8 << 10
)

// The kinds of records. They are part of the protocol, and should not be changed.
const (
	recordRaft    = 1
	recordNotice  = 2
	recordCall    = 3
	recordCancel  = 4
	recordReply   = 5
	recordFailure = 6
)

// record is one thing in a frame, or in the queue for it.
type record struct {
	kind byte
	// method is a call's, and a failure's class.
	method byte
	// code is a failure's.
	code byte
	// id is a call's, or the group of a raft message.
	id      uint64
	payload []byte
	// call is the caller's side of a call, as long as it is queued.
	call *pendingCall
}

// size is about what a record takes in a frame.
func (r *record) size() int { return maxRecordHead + len(r.payload) }

func (r *record) appendHead(b []byte) []byte {
	b = append(b, r.kind)
	switch r.kind {
	case recordNotice:
	case recordCall:
		b = append(binary.AppendUvarint(b, r.id), r.method)
	case recordFailure:
		b = append(binary.AppendUvarint(b, r.id), r.method, r.code)
	case recordCancel:
		return binary.AppendUvarint(b, r.id)
	default:
		b = binary.AppendUvarint(b, r.id)
	}
	return binary.AppendUvarint(b, uint64(len(r.payload)))
}

// encode makes a frame of records, of which there is one at least.
func encode(records []record, pool *bufferPool) mem.BufferSlice {
	small, large := 0, 0
	for i := range records {
		small += maxRecordHead
		if n := len(records[i].payload); n < copyBelow {
			small += n
		} else {
			large++
		}
	}
	buf := pool.Get(small)
	b := (*buf)[:0]
	if large == 0 {
		for i := range records {
			b = append(records[i].appendHead(b), records[i].payload...)
		}
		*buf = b
		return mem.BufferSlice{mem.NewBuffer(buf, pool)}
	}

	// Between the large payloads stand parts of the buffer.
	ends := make([]int, 0, large)
	for i := range records {
		b = records[i].appendHead(b)
		if p := records[i].payload; len(p) < copyBelow {
			b = append(b, p...)
		} else {
			ends = append(ends, len(b))
		}
	}
	*buf = b
	whole := mem.NewBuffer(buf, pool)
	defer whole.Free()
	frame := make(mem.BufferSlice, 0, 2*large+1)
	start := 0
	for i := range records {
		if p := records[i].payload; len(p) >= copyBelow {
			frame = append(frame, whole.Slice(start, ends[0]), mem.SliceBuffer(p))
			start, ends = ends[0], ends[1:]
		}
	}
	if start < len(b) {
		frame = append(frame, whole.Slice(start, len(b)))
	}
	return frame
}

// decoder reads the records of a received frame. After a mistake there are no more.
type decoder struct {
	rest mem.BufferSlice
	// cur is what has not been read of the buffer before rest, left what has not
	// been read of the frame.
	cur  []byte
	left int
	// block is memory for the next small payloads.
	block []byte
	err   error
}

// blockBytes is the size of the blocks that small payloads are cut from, and so
// what one that is kept can keep from being freed; smallBytes is what is small.
const (
	blockBytes = 8 << 10
	smallBytes = 1 << 10
)

// begin begins a frame, which must not be freed before the last call of next.
func (d *decoder) begin(m *message) {
	d.rest, d.cur, d.left, d.err = m.buffers, nil, m.buffers.Len(), nil
}

// next reads one record into r and says whether there was one. The payload is the
// caller's.
func (d *decoder) next(r *record) bool {
	if d.left == 0 || d.err != nil {
		return false
	}
	*r = record{kind: d.byte()}
	switch r.kind {
	case recordRaft:
		if r.id = d.uint(); r.id > math.MaxUint16 {
			d.fail("a group of more than 16 bits")
		}
	case recordNotice:
	case recordCall:
		r.id, r.method = d.uint(), d.byte()
	case recordReply:
		r.id = d.uint()
	case recordFailure:
		r.id, r.method, r.code = d.uint(), d.byte(), d.byte()
	case recordCancel:
		r.id = d.uint()
		return d.err == nil
	default:
		d.fail(fmt.Sprintf("a record of kind %d", r.kind))
	}
	r.payload = d.bytes()
	return d.err == nil
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrProtocol, what)
	}
	d.rest, d.cur, d.left = nil, nil, 0
}

// fill moves on to the next buffer if the one before has been read.
// REQUIRES: left > 0.
func (d *decoder) fill() {
	for len(d.cur) == 0 {
		d.cur, d.rest = d.rest[0].ReadOnlyData(), d.rest[1:]
	}
}

func (d *decoder) byte() byte {
	if d.left == 0 {
		d.fail("a record that is cut short")
		return 0
	}
	d.fill()
	v := d.cur[0]
	d.cur = d.cur[1:]
	d.left--
	return v
}

func (d *decoder) uint() uint64 {
	if len(d.cur) >= binary.MaxVarintLen64 {
		v, n := binary.Uvarint(d.cur)
		if n <= 0 {
			d.fail("a number of more than 64 bits")
			return 0
		}
		d.cur = d.cur[n:]
		d.left -= n
		return v
	}
	var v uint64
	for shift := 0; ; shift += 7 {
		b := d.byte()
		if shift == 63 && b > 1 {
			d.fail("a number of more than 64 bits")
			return 0
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
}

// bytes reads a payload, which is nil if it is empty.
func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(d.left) {
		d.fail("a payload beyond the end")
	}
	if d.err != nil || n == 0 {
		return nil
	}
	p := d.alloc(int(n))
	d.left -= len(p)
	for to := p; len(to) > 0; {
		d.fill()
		n := copy(to, d.cur)
		to, d.cur = to[n:], d.cur[n:]
	}
	return p
}

// alloc returns memory for a payload. Small ones share a block.
func (d *decoder) alloc(n int) []byte {
	if n > smallBytes {
		return make([]byte, n)
	}
	if n > len(d.block) {
		d.block = make([]byte, max(n, min(d.left, blockBytes)))
	}
	p := d.block[:n:n]
	d.block = d.block[n:]
	return p
}
