package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Effects is a list of changes in the order in which they are applied: what a
// raft entry carries. Its encoding is part of the log's format, and should not
// be changed; a kind may be added. Numbers are varints, byte strings are
// preceded by their length.
//
//	put         sub, key, create, version, lease, lease before, value
//	delete      sub, key, lease before
//	revision    main: that of the puts and deletes that follow
//	grant       lease, TTL
//	revoke      lease
//	checkpoint  lease, remaining TTL
//	compact     main
//	join        lease, group
//	leave       lease, group
//	records     table, version, number of rows, each: name, and 0 or 1 and value
type Effects struct{ buf []byte }

// effectKind is the first byte of an effect.
type effectKind byte

const (
	effectRevision   effectKind = 1
	effectPut        effectKind = 2
	effectDelete     effectKind = 3
	effectGrant      effectKind = 4
	effectRevoke     effectKind = 5
	effectCheckpoint effectKind = 6
	effectCompact    effectKind = 7
	effectJoin       effectKind = 8
	effectLeave      effectKind = 9
	effectRecords    effectKind = 10
)

// NewEffects encodes onto dst.
func NewEffects(dst []byte) *Effects { return &Effects{dst} }

// Bytes returns the encoding; it is valid until the next change of e.
func (e *Effects) Bytes() []byte { return e.buf }

func (e *Effects) kind(k effectKind) { e.buf = append(e.buf, byte(k)) }
func (e *Effects) num(v int64)       { e.buf = binary.AppendUvarint(e.buf, uint64(v)) }
func (e *Effects) bytes(b []byte) {
	e.buf = binary.AppendUvarint(e.buf, uint64(len(b)))
	e.buf = append(e.buf, b...)
}

// Revision gives the puts and deletes that follow their main revision.
func (e *Effects) Revision(main int64) {
	e.kind(effectRevision)
	e.num(main)
}

// Put writes key. leaseBefore is the lease of the version that it replaces, 0
// for none.
func (e *Effects) Put(sub int64, key []byte, h Head, leaseBefore int64, value []byte) {
	e.kind(effectPut)
	e.num(sub)
	e.bytes(key)
	e.num(h.Create)
	e.num(h.Version)
	e.num(h.Lease)
	e.num(leaseBefore)
	e.bytes(value)
}

// Delete writes a tombstone for key.
func (e *Effects) Delete(sub int64, key []byte, leaseBefore int64) {
	e.kind(effectDelete)
	e.num(sub)
	e.bytes(key)
	e.num(leaseBefore)
}

// LeaseGrant adds a lease.
func (e *Effects) LeaseGrant(id, ttl int64) {
	e.kind(effectGrant)
	e.num(id)
	e.num(ttl)
}

// LeaseRevoke removes a lease, not its keys.
func (e *Effects) LeaseRevoke(id int64) {
	e.kind(effectRevoke)
	e.num(id)
}

// LeaseCheckpoint records what remains of a lease's TTL.
func (e *Effects) LeaseCheckpoint(id, remaining int64) {
	e.kind(effectCheckpoint)
	e.num(id)
	e.num(remaining)
}

// Compact drops the history below main.
func (e *Effects) Compact(main int64) {
	e.kind(effectCompact)
	e.num(main)
}

// LeaseJoin notes that a group other than core may attach keys to a lease.
func (e *Effects) LeaseJoin(id int64, g GroupID) {
	e.kind(effectJoin)
	e.num(id)
	e.num(int64(g))
}

// LeaseLeave removes the note of LeaseJoin.
func (e *Effects) LeaseLeave(id int64, g GroupID) {
	e.kind(effectLeave)
	e.num(id)
	e.num(int64(g))
}

var errShortEffect = errors.New("mvcc: effect is cut short")

// effectReader decodes effects. Byte strings alias the input.
type effectReader struct {
	buf []byte
	err error
}

func (r *effectReader) num() int64 {
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		r.err, r.buf = errShortEffect, nil
		return 0
	}
	r.buf = r.buf[n:]
	return int64(v)
}

func (r *effectReader) bytes() []byte {
	n := r.num()
	if n < 0 || n > int64(len(r.buf)) {
		r.err, r.buf = errShortEffect, nil
		return nil
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}

func (r *effectReader) kind() (effectKind, error) {
	k := effectKind(r.buf[0])
	r.buf = r.buf[1:]
	if k < effectRevision || k > effectRecords {
		return 0, fmt.Errorf("mvcc: unknown kind of effect %d: written by a newer version?", k)
	}
	return k, nil
}
