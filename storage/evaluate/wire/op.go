package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// version is the first byte of every encoding.
const version = 1

// MaxTxnDepth bounds how many transactions may stand in one another; an op that
// is nested deeper is encoded but not decoded. It is what the gateway lets pass.
const MaxTxnDepth = 128

// The kinds of ops. They are part of the protocol, and should not be changed.
const (
	kindRange           = 1
	kindPut             = 2
	kindDeleteRange     = 3
	kindTxn             = 4
	kindCompact         = 5
	kindLeaseGrant      = 6
	kindLeaseRevoke     = 7
	kindLeaseCheckpoint = 8
	kindRecords         = 9
	kindMirror          = 10
)

// Flags of a range.
const (
	rangeKeysOnly = 1 << iota
	rangeCountOnly
	rangeLimit
	rangeRevision
	rangeSort
	rangeBounds
	rangeFlags = 1<<iota - 1
)

// Flags of a put.
const (
	putPrevKV = 1 << iota
	putIgnoreValue
	putIgnoreLease
	putFlags = 1<<iota - 1
)

// Flags of a delete.
const (
	deletePrevKV = 1 << iota
	deleteFlags  = 1<<iota - 1
)

// Flags of a record.
const (
	recordSet   = 1 << iota
	recordFlags = 1<<iota - 1
)

// AppendOp appends the encoding of op to dst. It panics if op, or one in it, is
// nil or of no known kind.
func AppendOp(dst []byte, op evaluate.Op) []byte {
	return appendOp(append(dst, version), op)
}

// DecodeOp decodes what AppendOp made of an op. The op's byte strings are parts of
// b, which must not be changed any more.
func DecodeOp(b []byte) (evaluate.Op, error) {
	d := newDecoder(b)
	op := d.op(MaxTxnDepth)
	if err := d.finish(); err != nil {
		return nil, fmt.Errorf("wire: decoding a request: %w", err)
	}
	return op, nil
}

func appendOp(b []byte, op evaluate.Op) []byte {
	switch op := op.(type) {
	case *evaluate.Range:
		return appendRange(append(b, kindRange), op)
	case *evaluate.Put:
		flags := flag(op.PrevKV, putPrevKV) | flag(op.IgnoreValue, putIgnoreValue) | flag(op.IgnoreLease, putIgnoreLease)
		b = append(b, kindPut, flags)
		b = appendBytes(b, op.Key)
		b = appendBytes(b, op.Value)
		return appendInt(b, op.Lease)
	case *evaluate.DeleteRange:
		b = append(b, kindDeleteRange, flag(op.PrevKV, deletePrevKV))
		b = appendBytes(b, op.Key)
		return appendBytes(b, op.End)
	case *evaluate.Txn:
		return appendTxn(append(b, kindTxn), op)
	case *evaluate.Compact:
		return appendInt(append(b, kindCompact), op.Revision)
	case *evaluate.LeaseGrant:
		b = appendInt(append(b, kindLeaseGrant), op.ID)
		return appendInt(b, op.TTL)
	case *evaluate.LeaseRevoke:
		return appendInt(append(b, kindLeaseRevoke), op.ID)
	case *evaluate.LeaseCheckpoint:
		b = binary.AppendUvarint(append(b, kindLeaseCheckpoint), uint64(len(op.Remaining)))
		for _, r := range op.Remaining {
			b = appendInt(b, r.ID)
			b = appendInt(b, r.Seconds)
		}
		return b
	case *evaluate.Records:
		b = appendBytes(append(b, kindRecords), []byte(op.Table))
		b = appendInt(b, op.Version)
		b = binary.AppendUvarint(b, uint64(len(op.Writes)))
		for _, w := range op.Writes {
			b = append(b, flag(w.Value != nil, recordSet))
			b = appendBytes(b, []byte(w.Key))
			b = appendBytes(b, w.Value)
		}
		return b
	case *evaluate.Mirror:
		return appendMirror(append(b, kindMirror), op)
	default:
		panic(fmt.Sprintf("wire: no encoding of %T", op))
	}
}

func appendRange(b []byte, op *evaluate.Range) []byte {
	sorted := op.SortTarget != 0 || op.SortOrder != 0
	bounded := op.MinMod != 0 || op.MaxMod != 0 || op.MinCreate != 0 || op.MaxCreate != 0
	b = append(b, flag(op.KeysOnly, rangeKeysOnly)|flag(op.CountOnly, rangeCountOnly)|
		flag(op.Limit != 0, rangeLimit)|flag(op.Revision != 0, rangeRevision)|
		flag(sorted, rangeSort)|flag(bounded, rangeBounds))
	b = appendBytes(b, op.Key)
	b = appendBytes(b, op.End)
	if op.Limit != 0 {
		b = appendInt(b, op.Limit)
	}
	if op.Revision != 0 {
		b = appendInt(b, op.Revision)
	}
	if sorted {
		b = append(b, byte(op.SortTarget), byte(op.SortOrder))
	}
	if bounded {
		b = appendInt(b, op.MinMod)
		b = appendInt(b, op.MaxMod)
		b = appendInt(b, op.MinCreate)
		b = appendInt(b, op.MaxCreate)
	}
	return b
}

func appendTxn(b []byte, op *evaluate.Txn) []byte {
	b = binary.AppendUvarint(b, uint64(len(op.Compare)))
	for i := range op.Compare {
		c := &op.Compare[i]
		b = append(b, byte(c.Target), byte(c.Result))
		b = appendBytes(b, c.Key)
		b = appendBytes(b, c.End)
		b = appendInt(b, c.Number)
		b = appendBytes(b, c.Value)
	}
	for _, branch := range [2][]evaluate.Op{op.Success, op.Failure} {
		b = binary.AppendUvarint(b, uint64(len(branch)))
		for _, o := range branch {
			b = appendOp(b, o)
		}
	}
	return b
}

// op decodes an op in which at most depth transactions stand in one another.
func (d *decoder) op(depth int) evaluate.Op {
	switch kind := d.byte(); kind {
	case kindRange:
		return d.rangeOp()
	case kindPut:
		flags := d.flags(putFlags)
		return &evaluate.Put{
			Key:         d.bytes(),
			Value:       d.bytes(),
			Lease:       d.int(),
			PrevKV:      flags&putPrevKV != 0,
			IgnoreValue: flags&putIgnoreValue != 0,
			IgnoreLease: flags&putIgnoreLease != 0,
		}
	case kindDeleteRange:
		flags := d.flags(deleteFlags)
		return &evaluate.DeleteRange{Key: d.bytes(), End: d.bytes(), PrevKV: flags&deletePrevKV != 0}
	case kindTxn:
		return d.txn(depth)
	case kindCompact:
		return &evaluate.Compact{Revision: d.int()}
	case kindLeaseGrant:
		return &evaluate.LeaseGrant{ID: d.int(), TTL: d.int()}
	case kindLeaseRevoke:
		return &evaluate.LeaseRevoke{ID: d.int()}
	case kindLeaseCheckpoint:
		op := new(evaluate.LeaseCheckpoint)
		n := d.count(minRemaining)
		for range n {
			if d.err != nil {
				break
			}
			op.Remaining = grow(op.Remaining, n)
			op.Remaining = append(op.Remaining, evaluate.LeaseRemaining{ID: d.int(), Seconds: d.int()})
		}
		return op
	case kindRecords:
		op := &evaluate.Records{Table: string(d.bytes()), Version: d.int()}
		n := d.count(minRecord)
		for range n {
			if d.err != nil {
				break
			}
			set := d.flags(recordFlags)&recordSet != 0
			w := mvcc.RecordWrite{Key: string(d.bytes()), Value: d.bytes()}
			if !set {
				w.Value = nil
			} else if w.Value == nil {
				w.Value = []byte{}
			}
			op.Writes = append(grow(op.Writes, n), w)
		}
		return op
	case kindMirror:
		return d.mirror()
	default:
		d.fail("unknown kind of request")
		return nil
	}
}

func (d *decoder) rangeOp() *evaluate.Range {
	flags := d.flags(rangeFlags)
	op := &evaluate.Range{
		Key:       d.bytes(),
		End:       d.bytes(),
		KeysOnly:  flags&rangeKeysOnly != 0,
		CountOnly: flags&rangeCountOnly != 0,
	}
	if flags&rangeLimit != 0 {
		op.Limit = d.int()
	}
	if flags&rangeRevision != 0 {
		op.Revision = d.int()
	}
	if flags&rangeSort != 0 {
		op.SortTarget, op.SortOrder = evaluate.SortTarget(d.byte()), evaluate.SortOrder(d.byte())
	}
	if flags&rangeBounds != 0 {
		op.MinMod, op.MaxMod, op.MinCreate, op.MaxCreate = d.int(), d.int(), d.int(), d.int()
	}
	return op
}

func (d *decoder) txn(depth int) *evaluate.Txn {
	if depth == 0 {
		d.fail("transactions nested too deep")
		return nil
	}
	op := new(evaluate.Txn)
	n := d.count(minCompare)
	for range n {
		if d.err != nil {
			break
		}
		op.Compare = grow(op.Compare, n)
		op.Compare = append(op.Compare, evaluate.Compare{
			Target: evaluate.CompareTarget(d.byte()),
			Result: evaluate.CompareResult(d.byte()),
			Key:    d.bytes(),
			End:    d.bytes(),
			Number: d.int(),
			Value:  d.bytes(),
		})
	}
	op.Success = d.branch(depth)
	op.Failure = d.branch(depth)
	return op
}

// branch decodes a branch of a transaction, in which not every op may stand.
func (d *decoder) branch(depth int) []evaluate.Op {
	var ops []evaluate.Op
	n := d.count(minBranchOp)
	for range n {
		if d.err != nil {
			break
		}
		if kind := d.peek(); kind > kindTxn {
			d.fail("a request that may not stand in a transaction")
			break
		}
		ops = append(grow(ops, n), d.op(depth-1))
	}
	return ops
}
