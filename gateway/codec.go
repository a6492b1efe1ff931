package gateway

import (
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// A wireMessage is an answer that is encoded already. It lets many streams
// send one encoding: SendMsg takes it like any other message.
type wireMessage interface {
	// WireBuffers returns the encoding. Each buffer has a reference that is the
	// caller's, who frees it when the bytes have been sent.
	WireBuffers() mem.BufferSlice
}

// codec encodes protobuf, and counts the bytes as etcd does.
type codec struct {
	sent, received atomic.Int64
}

var _ encoding.CodecV2 = (*codec)(nil)

// Name is the content subtype that clients ask for.
func (*codec) Name() string { return "proto" }

// Marshal encodes v into a buffer of gRPC's pool.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	if w, ok := v.(wireMessage); ok {
		buffers := w.WireBuffers()
		c.sent.Add(int64(buffers.Len()))
		return buffers, nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("gateway: %T is not a protobuf message", v)
	}
	// Size leaves what it finds in m, and UseCachedSize takes it from there:
	// nobody changes an answer in between.
	size := proto.Size(m)
	c.sent.Add(int64(size))
	options := proto.MarshalOptions{UseCachedSize: true}
	if mem.IsBelowBufferPoolingThreshold(size) {
		b, err := options.MarshalAppend(make([]byte, 0, size), m)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	pool := mem.DefaultBufferPool()
	b := pool.Get(size)
	if _, err := options.MarshalAppend((*b)[:0], m); err != nil {
		pool.Put(b)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(b, pool)}, nil
}

// Unmarshal decodes into v. v shares no bytes with data, which goes back to
// the pool.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("gateway: %T is not a protobuf message", v)
	}
	c.received.Add(int64(data.Len()))
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	return proto.Unmarshal(b.ReadOnlyData(), m)
}
