// Package raw receives messages without decoding them: to decode a list or an event
// would cost the machine more than the server's making it, and it is the server that
// is measured.
package raw

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Message is one that is not decoded.
type Message struct{ buffers mem.BufferSlice }

// Size is how many bytes it has.
func (m *Message) Size() int { return m.buffers.Len() }

// Take returns its bytes, and leaves it empty.
func (m *Message) Take() []byte {
	data := m.buffers.Materialize()
	m.Free()
	return data
}

// Free leaves it empty.
func (m *Message) Free() {
	m.buffers.Free()
	m.buffers = nil
}

// codec reads Messages as they are, and all else as protobuf.
type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(*Message); ok {
		data.Ref()
		m.buffers = data
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// Option has a call receive Messages, and other messages as ever.
func Option() grpc.CallOption { return grpc.ForceCodecV2(codec{encoding.GetCodecV2(proto.Name)}) }

// Fields calls yield with each field of a message: its number, and its bytes or its
// value.
func Fields(data []byte, yield func(number protowire.Number, value []byte, varint uint64)) error {
	for len(data) > 0 {
		number, kind, size := protowire.ConsumeTag(data)
		if size < 0 {
			return protowire.ParseError(size)
		}
		data = data[size:]
		var value []byte
		var varint uint64
		switch kind {
		case protowire.BytesType:
			value, size = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			varint, size = protowire.ConsumeVarint(data)
		default:
			size = protowire.ConsumeFieldValue(number, kind, data)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		data = data[size:]
		yield(number, value, varint)
	}
	return nil
}

// Bytes returns a field of bytes of a message, nil if it is not there.
func Bytes(message []byte, number protowire.Number) []byte {
	var found []byte
	err := Fields(message, func(n protowire.Number, value []byte, _ uint64) {
		if n == number && value != nil && found == nil {
			found = value
		}
	})
	if err != nil {
		return nil
	}
	return found
}

// Varint returns a field of a message that is a number, 0 if it is not there.
func Varint(message []byte, number protowire.Number) int64 {
	var found uint64
	err := Fields(message, func(n protowire.Number, value []byte, varint uint64) {
		if n == number && value == nil {
			found = varint
		}
	})
	if err != nil {
		return 0
	}
	return int64(found)
}
