package gateway

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pebbledash/pebbledash/gateway/wire"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// Lists are most of the bytes that a server sends, so their answers are encoded
// here: without reflection, and into chunks, so that a large list needs no
// large buffer and gives its chunks back one after another as they are sent.

const (
	// listChunk is the size of a chunk.
	listChunk = 64 << 10
	// aliasValue is from what size on a value is not copied, but handed to gRPC where
	// it lies: a list in memory is sent from there, however many ask for it.
	aliasValue = 1 << 10
)

// The tags of the fields that are written. They are part of etcd's protocol,
// and should not be changed.
const (
	rangeHeader, rangeKVs, rangeMore, rangeCount = 1<<3 | 2, 2<<3 | 2, 3 << 3, 4 << 3
	streamRange                                  = 1<<3 | 2
)

// sizeRange is the size of a RangeResponse.
func sizeRange(r *pb.RangeResponse) int {
	n := wire.SizeNum(uint64(r.Count))
	if r.Header != nil {
		n += wire.SizeField(sizeHeader(r.Header))
	}
	if r.More {
		n += 2
	}
	for _, kv := range r.Kvs {
		n += wire.SizeField(wire.SizeKV(kv))
	}
	return n
}

// encodeRange encodes a RangeResponse; if stream is set, as the one field of a
// RangeStreamResponse.
func encodeRange(r *pb.RangeResponse, stream bool, pool *bufferPool) (mem.BufferSlice, int) {
	size := sizeRange(r)
	total := size
	if stream {
		total = wire.SizeField(size)
	}
	w := listWriter{pool: pool, left: total}
	if len(r.Kvs) > 0 && len(r.Kvs[0].Value) >= aliasValue {
		w.out = make(mem.BufferSlice, 0, 2*len(r.Kvs)+2)
	}
	if stream {
		w.begin(streamRange, size)
	}
	if h := r.Header; h != nil {
		w.begin(rangeHeader, sizeHeader(h))
		w.num(headCluster, h.ClusterId)
		w.num(headMember, h.MemberId)
		w.num(headRevision, uint64(h.Revision))
		w.num(headTerm, h.RaftTerm)
	}
	for i, kv := range r.Kvs {
		evaluate.Yield(i)
		w.begin(rangeKVs, wire.SizeKV(kv))
		w.bytes(wire.KVKey, kv.Key)
		w.num(wire.KVCreate, uint64(kv.CreateRevision))
		w.num(wire.KVMod, uint64(kv.ModRevision))
		w.num(wire.KVVersion, uint64(kv.Version))
		w.bytes(wire.KVValue, kv.Value)
		w.num(wire.KVLease, uint64(kv.Lease))
	}
	if r.More {
		w.num(rangeMore, 1)
	}
	w.num(rangeCount, uint64(r.Count))
	w.cut()
	return w.out, total
}

// maxNumber is what a field of a number takes at most, and also the tag and
// the length before bytes.
const maxNumber = 1 + 10

// listWriter writes fields into chunks.
type listWriter struct {
	pool *bufferPool
	out  mem.BufferSlice
	// b is what has been written to chunk, and shares its memory.
	chunk *[]byte
	b     []byte
	// aliases are what belongs between the bytes of b.
	aliases []alias
	// left is how much of the whole is not in out.
	left int
}

// alias is a value that follows the first at bytes of a chunk.
type alias struct {
	at    int
	value []byte
}

// room makes sure that a number can be appended to b.
func (w *listWriter) room() {
	if cap(w.b)-len(w.b) < maxNumber {
		w.cut()
		// There is room for a number after the last byte too, so what fits
		// into one chunk takes one.
		w.chunk = w.pool.Get(min(w.left+maxNumber, listChunk))
		w.b = (*w.chunk)[:0]
	}
}

// cut moves what has been written to out.
func (w *listWriter) cut() {
	if w.chunk == nil {
		return
	}
	w.left -= len(w.b)
	*w.chunk = w.b
	rest := mem.NewBuffer(w.chunk, w.pool)
	at := 0
	for _, a := range w.aliases {
		if a.at > at {
			var before mem.Buffer
			before, rest = mem.SplitUnsafe(rest, a.at-at)
			w.out = append(w.out, before)
			at = a.at
		}
		w.out = append(w.out, mem.SliceBuffer(a.value))
		w.left -= len(a.value)
	}
	if at < len(w.b) || at == 0 {
		w.out = append(w.out, rest)
	} else {
		rest.Free()
	}
	w.chunk, w.b, w.aliases = nil, nil, w.aliases[:0]
}

func (w *listWriter) begin(tag byte, size int) {
	w.room()
	w.b = protowire.AppendVarint(append(w.b, tag), uint64(size))
}

func (w *listWriter) num(tag byte, v uint64) {
	if v != 0 {
		w.room()
		w.b = protowire.AppendVarint(append(w.b, tag), v)
	}
}

func (w *listWriter) bytes(tag byte, v []byte) {
	if len(v) == 0 {
		return
	}
	w.begin(tag, len(v))
	if len(v) >= aliasValue && tag == wire.KVValue {
		w.aliases = append(w.aliases, alias{len(w.b), v})
		return
	}
	for {
		n := min(len(v), cap(w.b)-len(w.b))
		w.b = append(w.b, v[:n]...)
		if v = v[n:]; len(v) == 0 {
			return
		}
		w.room()
	}
}
