package peer

import (
	"fmt"
	"math/bits"
	"sync"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// message is what goes through gRPC: bytes as they are.
type message struct {
	// buffers hold a reference of the message each. Sending consumes them; who has
	// received them frees them.
	buffers mem.BufferSlice
}

// outgoing returns a message of b, which must not be changed any more.
func outgoing(b []byte) *message {
	return &message{buffers: mem.BufferSlice{mem.SliceBuffer(b)}}
}

// take returns the bytes of a received message, and frees it.
func (m *message) take() []byte {
	b := m.buffers.Materialize()
	m.free()
	return b
}

func (m *message) free() {
	m.buffers.Free()
	clear(m.buffers)
	m.buffers = m.buffers[:0]
}

// codec passes messages on.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name is the content subtype.
func (codec) Name() string { return "pebbledash-peer" }

// Marshal gives gRPC the references.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*message)
	if !ok {
		return nil, fmt.Errorf("peer: %T is not a message", v)
	}
	return m.buffers, nil
}

// Unmarshal takes references of its own; data and its array are gRPC's.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*message)
	if !ok {
		return fmt.Errorf("peer: %T is not a message", v)
	}
	data.Ref()
	m.buffers = append(m.buffers[:0], data...)
	return nil
}

// minPooled and maxPooled are the least and the greatest size of pooled buffers, as
// powers of two. gRPC gives no smaller ones back, and larger ones are rare.
const (
	minPooled = 11
	maxPooled = 21
)

// bufferPool keeps buffers in tiers of powers of two. Unlike gRPC's own it does not
// clear what it gives out: whoever takes a buffer fills it before it is read.
type bufferPool struct {
	tiers [maxPooled + 1]sync.Pool
}

var _ mem.BufferPool = (*bufferPool)(nil)

// Get returns a buffer of that length, with anything in it.
func (p *bufferPool) Get(length int) *[]byte {
	tier := bits.Len(uint(max(length, 1) - 1))
	if tier < minPooled || tier > maxPooled {
		b := make([]byte, length)
		return &b
	}
	if b, ok := p.tiers[tier].Get().(*[]byte); ok {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, 1<<tier)
	return &b
}

// Put takes a buffer back, if it is the pool's.
func (p *bufferPool) Put(b *[]byte) {
	tier := bits.Len(uint(cap(*b))) - 1
	if tier >= minPooled && tier <= maxPooled && cap(*b) == 1<<tier {
		p.tiers[tier].Put(b)
	}
}
