// Package wire encodes the parts of etcd's messages that are most of what a server
// sends: without reflection, and into memory that the caller has. Messages are put
// together by gateway and gateway/watchcache.
package wire

import (
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// The tags of the fields of mvccpb.KeyValue; all field numbers fit into a byte. They
// are part of etcd's protocol, and should not be changed.
const (
	KVKey     = 1<<3 | 2
	KVCreate  = 2 << 3
	KVMod     = 3 << 3
	KVVersion = 4 << 3
	KVValue   = 5<<3 | 2
	KVLease   = 6 << 3
)

// The tags of the fields of mvccpb.Event.
const (
	eventType   = 1 << 3
	eventKV     = 2<<3 | 2
	eventPrevKV = 3<<3 | 2
)

// SizeNum is the size of a field that is a number, and left out if that is 0.
func SizeNum(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

// SizeBytes is the size of a field of n bytes, which is left out if there are none.
func SizeBytes(n int) int {
	if n == 0 {
		return 0
	}
	return SizeField(n)
}

// SizeField is the size of a field of n bytes that is written even if empty.
func SizeField(n int) int { return 1 + protowire.SizeVarint(uint64(n)) + n }

// SizeKV is the size of a KeyValue without tag and length.
func SizeKV(kv *mvccpb.KeyValue) int {
	return SizeBytes(len(kv.Key)) + SizeNum(uint64(kv.CreateRevision)) + SizeNum(uint64(kv.ModRevision)) +
		SizeNum(uint64(kv.Version)) + SizeBytes(len(kv.Value)) + SizeNum(uint64(kv.Lease))
}

// AppendNum appends a field that is a number, unless it is 0.
func AppendNum(b []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(append(b, tag), v)
}

// AppendHead appends tag and length of a field of n bytes.
func AppendHead(b []byte, tag byte, n int) []byte {
	return protowire.AppendVarint(append(b, tag), uint64(n))
}

// EncodeEvent encodes ev without its PrevKv, without tag and length, and returns a
// copy of its Kv whose key and value lie in what was encoded.
func EncodeEvent(ev *mvccpb.Event) ([]byte, *mvccpb.KeyValue) {
	size := SizeKV(ev.Kv)
	b := make([]byte, 0, SizeNum(uint64(ev.Type))+SizeField(size))
	b = AppendNum(b, eventType, uint64(ev.Type))
	b = AppendHead(b, eventKV, size)
	kv := &mvccpb.KeyValue{
		CreateRevision: ev.Kv.CreateRevision, ModRevision: ev.Kv.ModRevision,
		Version: ev.Kv.Version, Lease: ev.Kv.Lease,
	}
	b, kv.Key, kv.Value = appendKV(b, ev.Kv)
	return b, kv
}

// WithPrevious returns an encoded event with prev as its PrevKv. It leaves event
// alone.
func WithPrevious(event []byte, prev *mvccpb.KeyValue) []byte {
	size := SizeKV(prev)
	b := make([]byte, 0, len(event)+SizeField(size))
	b = append(b, event...)
	b = AppendHead(b, eventPrevKV, size)
	b, _, _ = appendKV(b, prev)
	return b
}

// appendKV returns key and value as they lie in b, which must have room.
func appendKV(b []byte, kv *mvccpb.KeyValue) (to, key, value []byte) {
	b, key = appendBytes(b, KVKey, kv.Key)
	b = AppendNum(b, KVCreate, uint64(kv.CreateRevision))
	b = AppendNum(b, KVMod, uint64(kv.ModRevision))
	b = AppendNum(b, KVVersion, uint64(kv.Version))
	b, value = appendBytes(b, KVValue, kv.Value)
	b = AppendNum(b, KVLease, uint64(kv.Lease))
	return b, key, value
}

func appendBytes(b []byte, tag byte, v []byte) (to, at []byte) {
	if len(v) == 0 {
		return b, nil
	}
	b = AppendHead(b, tag, len(v))
	n := len(b)
	b = append(b, v...)
	return b, b[n:len(b):len(b)]
}
