package gateway

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// minPooled and maxPooled are the least and the greatest size of pooled
// buffers, as powers of two. gRPC gives no smaller ones back, and larger ones
// are rare.
const (
	minPooled = 11
	maxPooled = 20
)

// bufferPool keeps buffers in tiers of powers of two. Unlike gRPC's own it does
// not clear what it gives out, which for a large buffer is dearer than making
// it: whoever takes one fills it before it is read.
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
