package wire

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// Flags of a result.
const (
	resultMore = 1 << iota
	resultSucceeded
	resultKVs
	resultCount
	resultPrevKVs
	resultDeleted
	resultResponses
	resultTTL
)

// AppendResult appends the encoding of r to dst. What mvccpb.KeyValue may hold
// besides its fields is left out.
func AppendResult(dst []byte, r *evaluate.Result) []byte {
	return appendResult(append(dst, version), r)
}

// DecodeResult decodes what AppendResult made of a result. The result's byte
// strings are parts of b, which must not be changed any more.
func DecodeResult(b []byte) (evaluate.Result, error) {
	d := newDecoder(b)
	var r evaluate.Result
	// The ops in the deepest transaction have results of their own.
	d.result(&r, MaxTxnDepth+1)
	if err := d.finish(); err != nil {
		return evaluate.Result{}, fmt.Errorf("wire: decoding a result: %w", err)
	}
	return r, nil
}

func appendResult(b []byte, r *evaluate.Result) []byte {
	b = append(b, flag(r.More, resultMore)|flag(r.Succeeded, resultSucceeded)|
		flag(len(r.KVs) > 0, resultKVs)|flag(r.Count != 0, resultCount)|
		flag(len(r.PrevKVs) > 0, resultPrevKVs)|flag(r.Deleted != 0, resultDeleted)|
		flag(len(r.Responses) > 0, resultResponses)|flag(r.TTL != 0, resultTTL))
	b = appendInt(b, r.Revision)
	if len(r.KVs) > 0 {
		b = appendKVs(b, r.KVs)
	}
	if r.Count != 0 {
		b = appendInt(b, r.Count)
	}
	if len(r.PrevKVs) > 0 {
		b = appendKVs(b, r.PrevKVs)
	}
	if r.Deleted != 0 {
		b = appendInt(b, r.Deleted)
	}
	if len(r.Responses) > 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Responses)))
		for i := range r.Responses {
			b = appendResult(b, &r.Responses[i])
		}
	}
	if r.TTL != 0 {
		b = appendInt(b, r.TTL)
	}
	return b
}

func appendKVs(b []byte, kvs []*mvccpb.KeyValue) []byte {
	b = binary.AppendUvarint(b, uint64(len(kvs)))
	for _, kv := range kvs {
		b = appendBytes(b, kv.Key)
		b = appendInt(b, kv.CreateRevision)
		b = appendInt(b, kv.ModRevision)
		b = appendInt(b, kv.Version)
		b = appendBytes(b, kv.Value)
		b = appendInt(b, kv.Lease)
	}
	return b
}

// result decodes into r a result in which at most depth results stand in one
// another, r included.
func (d *decoder) result(r *evaluate.Result, depth int) {
	if depth == 0 {
		d.fail("results nested too deep")
		return
	}
	flags := d.byte()
	r.More, r.Succeeded = flags&resultMore != 0, flags&resultSucceeded != 0
	r.Revision = d.int()
	if flags&resultKVs != 0 {
		r.KVs = d.kvs()
	}
	if flags&resultCount != 0 {
		r.Count = d.int()
	}
	if flags&resultPrevKVs != 0 {
		r.PrevKVs = d.kvs()
	}
	if flags&resultDeleted != 0 {
		r.Deleted = d.int()
	}
	if flags&resultResponses != 0 {
		n := d.count(minResult)
		for range n {
			if d.err != nil {
				break
			}
			r.Responses = append(grow(r.Responses, n), evaluate.Result{})
			d.result(&r.Responses[len(r.Responses)-1], depth-1)
		}
	}
	if flags&resultTTL != 0 {
		r.TTL = d.int()
	}
}

func (d *decoder) kvs() []*mvccpb.KeyValue {
	n := d.count(minKV)
	if d.err != nil || n == 0 {
		return nil
	}
	list := make([]*mvccpb.KeyValue, 0, min(n, maxAhead))
	// They are made in blocks: one allocation for many, and still none that is
	// much larger than what has come.
	var block []mvccpb.KeyValue
	for left := n; left > 0 && d.err == nil; left-- {
		if len(block) == 0 {
			block = make([]mvccpb.KeyValue, min(left, kvBlock))
		}
		kv := &block[0]
		block = block[1:]
		kv.Key = d.bytes()
		kv.CreateRevision = d.int()
		kv.ModRevision = d.int()
		kv.Version = d.int()
		kv.Value = d.bytes()
		kv.Lease = d.int()
		list = append(list, kv)
	}
	return list
}
