package gateway

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"

	"github.com/pebbledash/pebbledash/gateway/wire"
)

// aliasBytes is from what size on an event is not copied into a message but handed
// to gRPC where it lies.
const aliasBytes = 4 << 10

// eventsMessage is a WatchResponse with events, which have been encoded already,
// once for all watchers: what is left is to put them together.
//
// It is encoded when it is sent, and may be used again after that.
type eventsMessage struct {
	header   pb.ResponseHeader
	id       int64
	fragment bool
	// events are encoded mvccpb.Events.
	events [][]byte
}

var _ wireMessage = (*eventsMessage)(nil)

// The tags of the fields that are written. They are part of etcd's protocol, and
// should not be changed.
const (
	respHeader, respID, respFragment, respEvents    = 1<<3 | 2, 2 << 3, 7 << 3, 11<<3 | 2
	headCluster, headMember, headRevision, headTerm = 1 << 3, 2 << 3, 3 << 3, 4 << 3
)

func sizeHeader(h *pb.ResponseHeader) int {
	return wire.SizeNum(h.ClusterId) + wire.SizeNum(h.MemberId) + wire.SizeNum(uint64(h.Revision)) +
		wire.SizeNum(h.RaftTerm)
}

// sizeBare is the size of the message without its events.
func (m *eventsMessage) sizeBare() int {
	n := wire.SizeField(sizeHeader(&m.header)) + wire.SizeNum(uint64(m.id))
	if m.fragment {
		n += 2
	}
	return n
}

// WireBuffers implements wireMessage.
func (m *eventsMessage) WireBuffers() mem.BufferSlice {
	size, aliased := m.sizeBare(), 0
	for _, ev := range m.events {
		size += wire.SizeField(len(ev))
		if len(ev) >= aliasBytes {
			aliased += len(ev)
		}
	}
	size -= aliased
	if aliased == 0 && !mem.IsBelowBufferPoolingThreshold(size) {
		pool := mem.DefaultBufferPool()
		b := pool.Get(size)
		*b = m.appendTo((*b)[:0])
		return mem.BufferSlice{mem.NewBuffer(b, pool)}
	}
	b := make([]byte, 0, size)
	if aliased == 0 {
		return mem.BufferSlice{mem.SliceBuffer(m.appendTo(b))}
	}
	var out mem.BufferSlice
	from := 0
	cut := func() {
		if from < len(b) {
			out = append(out, mem.SliceBuffer(b[from:len(b):len(b)]))
			from = len(b)
		}
	}
	b = m.appendBare(b)
	for _, ev := range m.events {
		b = wire.AppendHead(b, respEvents, len(ev))
		if len(ev) < aliasBytes {
			b = append(b, ev...)
			continue
		}
		cut()
		out = append(out, mem.SliceBuffer(ev))
	}
	cut()
	return out
}

func (m *eventsMessage) appendTo(b []byte) []byte {
	b = m.appendBare(b)
	for _, ev := range m.events {
		b = append(wire.AppendHead(b, respEvents, len(ev)), ev...)
	}
	return b
}

func (m *eventsMessage) appendBare(b []byte) []byte {
	h := &m.header
	b = wire.AppendHead(b, respHeader, sizeHeader(h))
	b = wire.AppendNum(b, headCluster, h.ClusterId)
	b = wire.AppendNum(b, headMember, h.MemberId)
	b = wire.AppendNum(b, headRevision, uint64(h.Revision))
	b = wire.AppendNum(b, headTerm, h.RaftTerm)
	b = wire.AppendNum(b, respID, uint64(m.id))
	if m.fragment {
		b = wire.AppendNum(b, respFragment, 1)
	}
	return b
}

// sendFragments sends m in parts of fewer than limit bytes each, but of one
// event at least, as etcd cuts them. All but the last are marked.
func (m *eventsMessage) sendFragments(limit int, send func(any) error) error {
	m.fragment = false
	total := m.sizeBare()
	for _, ev := range m.events {
		total += wire.SizeField(len(ev))
	}
	if total < limit || len(m.events) < 2 {
		return send(m)
	}
	events := m.events
	defer func() { m.events = events }()
	m.fragment = true
	bare := m.sizeBare()
	for from, to := 0, 0; from < len(events); from = to {
		for size := bare; to < len(events); to++ {
			size += wire.SizeField(len(events[to]))
			if to > from && size >= limit {
				break
			}
		}
		m.events = events[from:to]
		m.fragment = to < len(events)
		if err := send(m); err != nil {
			return err
		}
	}
	return nil
}
