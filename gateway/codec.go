package gateway

import (
	"fmt"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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

// codec encodes protobuf, and counts the bytes as etcd does. It has the buffers
// of what is received and sent.
type codec struct {
	sent, received atomic.Int64
	buffers        bufferPool
}

var _ encoding.CodecV2 = (*codec)(nil)

// Name is the content subtype that clients ask for.
func (*codec) Name() string { return "proto" }

// Marshal encodes v into buffers of the pool.
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
	switch m := m.(type) {
	case *pb.RangeResponse:
		buffers, size := encodeRange(m, false, &c.buffers)
		c.sent.Add(int64(size))
		return buffers, nil
	case *pb.RangeStreamResponse:
		if m.RangeResponse != nil {
			buffers, size := encodeRange(m.RangeResponse, true, &c.buffers)
			c.sent.Add(int64(size))
			return buffers, nil
		}
	}
	// Size leaves what it finds in m, and UseCachedSize takes it from there:
	// nobody changes an answer in between.
	size := proto.Size(m)
	c.sent.Add(int64(size))
	b := c.buffers.Get(size)
	encoded, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*b)[:0], m)
	if err != nil {
		c.buffers.Put(b)
		return nil, err
	}
	*b = encoded
	return mem.BufferSlice{mem.NewBuffer(b, &c.buffers)}, nil
}

// Unmarshal decodes into v. v shares no bytes with data, which goes back to
// the pool.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("gateway: %T is not a protobuf message", v)
	}
	c.received.Add(int64(data.Len()))
	b := data.MaterializeToBuffer(&c.buffers)
	defer b.Free()
	return proto.Unmarshal(b.ReadOnlyData(), m)
}
