package gateway

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// aliasBytes is from what size on a value is not copied into a message but
// handed to gRPC where it lies.
const aliasBytes = 4 << 10

// eventsMessage is a WatchResponse with events. It encodes itself, because an
// event goes to many watchers: there is nothing to allocate but the buffer, and
// a large value is not copied at all.
//
// It is encoded when it is sent, and may be used again after that.
type eventsMessage struct {
	header   pb.ResponseHeader
	id       int64
	fragment bool
	events   []*mvccpb.Event

	// sizes has, for each event, the encoded sizes of its Kv and PrevKv.
	sizes []kvSizes
}

type kvSizes struct{ kv, prev int }

var _ wireMessage = (*eventsMessage)(nil)

// The tags of the fields that are written. All field numbers fit into a byte.
// They are part of etcd's protocol, and should not be changed.
const (
	respHeader, respID, respFragment, respEvents    = 1<<3 | 2, 2 << 3, 7 << 3, 11<<3 | 2
	headCluster, headMember, headRevision, headTerm = 1 << 3, 2 << 3, 3 << 3, 4 << 3
	eventType, eventKV, eventPrevKV                 = 1 << 3, 2<<3 | 2, 3<<3 | 2
	kvKey, kvCreate, kvMod, kvVersion               = 1<<3 | 2, 2 << 3, 3 << 3, 4 << 3
	kvValue, kvLease                                = 5<<3 | 2, 6 << 3
)

func sizeNum(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func sizeBytes(n int) int {
	if n == 0 {
		return 0
	}
	return sizeField(n)
}

// sizeField is the size of a field of n bytes that is written even if empty.
func sizeField(n int) int { return 1 + protowire.SizeVarint(uint64(n)) + n }

func sizeKV(kv *mvccpb.KeyValue) int {
	return sizeBytes(len(kv.Key)) + sizeNum(uint64(kv.CreateRevision)) + sizeNum(uint64(kv.ModRevision)) +
		sizeNum(uint64(kv.Version)) + sizeBytes(len(kv.Value)) + sizeNum(uint64(kv.Lease))
}

func sizeHeader(h *pb.ResponseHeader) int {
	return sizeNum(h.ClusterId) + sizeNum(h.MemberId) + sizeNum(uint64(h.Revision)) + sizeNum(h.RaftTerm)
}

// measure fills sizes.
func (m *eventsMessage) measure() {
	m.sizes = m.sizes[:0]
	for _, ev := range m.events {
		s := kvSizes{kv: sizeKV(ev.Kv)}
		if ev.PrevKv != nil {
			s.prev = sizeKV(ev.PrevKv)
		}
		m.sizes = append(m.sizes, s)
	}
}

// sizeEvent is the size of an event without its tag and length.
func sizeEvent(ev *mvccpb.Event, s kvSizes) int {
	n := sizeNum(uint64(ev.Type)) + sizeField(s.kv)
	if ev.PrevKv != nil {
		n += sizeField(s.prev)
	}
	return n
}

// sizeBare is the size of the message without its events.
func (m *eventsMessage) sizeBare() int {
	n := sizeField(sizeHeader(&m.header)) + sizeNum(uint64(m.id))
	if m.fragment {
		n += 2
	}
	return n
}

// WireBuffers implements wireMessage.
// REQUIRES: measure was called.
func (m *eventsMessage) WireBuffers() mem.BufferSlice {
	size, aliased := m.sizeBare(), 0
	for i, ev := range m.events {
		size += sizeField(sizeEvent(ev, m.sizes[i]))
		if n := len(ev.Kv.Value); n >= aliasBytes {
			aliased += n
		}
		if ev.PrevKv != nil && len(ev.PrevKv.Value) >= aliasBytes {
			aliased += len(ev.PrevKv.Value)
		}
	}
	size -= aliased
	if aliased == 0 && !mem.IsBelowBufferPoolingThreshold(size) {
		pool := mem.DefaultBufferPool()
		b := pool.Get(size)
		w := wireWriter{b: (*b)[:0]}
		m.write(&w)
		*b = w.b
		return mem.BufferSlice{mem.NewBuffer(b, pool)}
	}
	w := wireWriter{b: make([]byte, 0, size)}
	m.write(&w)
	w.cut()
	return w.out
}

func (m *eventsMessage) write(w *wireWriter) {
	h := &m.header
	w.begin(respHeader, sizeHeader(h))
	w.num(headCluster, h.ClusterId)
	w.num(headMember, h.MemberId)
	w.num(headRevision, uint64(h.Revision))
	w.num(headTerm, h.RaftTerm)
	w.num(respID, uint64(m.id))
	if m.fragment {
		w.num(respFragment, 1)
	}
	for i, ev := range m.events {
		s := m.sizes[i]
		w.begin(respEvents, sizeEvent(ev, s))
		w.num(eventType, uint64(ev.Type))
		w.kv(eventKV, s.kv, ev.Kv)
		if ev.PrevKv != nil {
			w.kv(eventPrevKV, s.prev, ev.PrevKv)
		}
	}
}

// wireWriter writes fields into b, of which b[from:] is not yet in out.
type wireWriter struct {
	b    []byte
	from int
	out  mem.BufferSlice
}

func (w *wireWriter) begin(tag byte, size int) {
	w.b = protowire.AppendVarint(append(w.b, tag), uint64(size))
}

func (w *wireWriter) num(tag byte, v uint64) {
	if v != 0 {
		w.b = protowire.AppendVarint(append(w.b, tag), v)
	}
}

func (w *wireWriter) bytes(tag byte, v []byte) {
	if len(v) == 0 {
		return
	}
	w.begin(tag, len(v))
	if len(v) < aliasBytes {
		w.b = append(w.b, v...)
		return
	}
	w.cut()
	w.out = append(w.out, mem.SliceBuffer(v))
}

// cut hands out what has been written.
func (w *wireWriter) cut() {
	if w.from < len(w.b) {
		w.out = append(w.out, mem.SliceBuffer(w.b[w.from:len(w.b):len(w.b)]))
		w.from = len(w.b)
	}
}

func (w *wireWriter) kv(tag byte, size int, kv *mvccpb.KeyValue) {
	w.begin(tag, size)
	w.bytes(kvKey, kv.Key)
	w.num(kvCreate, uint64(kv.CreateRevision))
	w.num(kvMod, uint64(kv.ModRevision))
	w.num(kvVersion, uint64(kv.Version))
	w.bytes(kvValue, kv.Value)
	w.num(kvLease, uint64(kv.Lease))
}

// sendFragments sends m in parts of fewer than limit bytes each, but of one
// event at least, as etcd cuts them. All but the last are marked.
// REQUIRES: measure was called.
func (m *eventsMessage) sendFragments(limit int, send func(any) error) error {
	m.fragment = false
	total := m.sizeBare()
	for i, ev := range m.events {
		total += sizeField(sizeEvent(ev, m.sizes[i]))
	}
	if total < limit || len(m.events) < 2 {
		return send(m)
	}
	events, sizes := m.events, m.sizes
	defer func() { m.events, m.sizes = events, sizes }()
	m.fragment = true
	bare := m.sizeBare()
	for from, to := 0, 0; from < len(events); from = to {
		for size := bare; to < len(events); to++ {
			size += sizeField(sizeEvent(events[to], sizes[to]))
			if to > from && size >= limit {
				break
			}
		}
		m.events, m.sizes = events[from:to], sizes[from:to]
		m.fragment = to < len(events)
		if err := send(m); err != nil {
			return err
		}
	}
	return nil
}
