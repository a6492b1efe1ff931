package mvcc

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Segment is a part of a span, and the store that has its keys.
type Segment struct {
	Store *Store
	Span  Span
}

// Cursor walks the keys of a span as they were at one revision, in key order. It
// must be closed, and is for one goroutine.
type Cursor interface {
	// Next moves to the next key and says whether there is one. At the end, or
	// after a failure that Err tells, it returns false.
	Next() bool
	// Key returns the current key, valid until the next move.
	Key() []byte
	// KV returns the current key and value; keysOnly leaves the value out.
	KV(keysOnly bool) (*mvccpb.KeyValue, error)
	// CountRest counts the keys from the next one on and ends the walk.
	CountRest() (int64, error)
	// Err returns what ended the walk early, nil if nothing did.
	Err() error
	Close() error
}

var _ Cursor = (*Scanner)(nil)

// WithoutValue returns kv, which may be others' too, without its value.
func WithoutValue(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}

// Scanner is a Cursor over what is stored.
// It holds a consistent view of each store that it walks: what is applied or
// scrubbed after it was made does not change what it sees. It must be closed.
// It is for one goroutine.
type Scanner struct {
	openSegment
	// rest are the segments after the one that is walked.
	rest []openSegment
	ctx  context.Context
	main int64
	err  error

	// started says whether the iterator stands on a row; done, that there is
	// none any more.
	started, done bool
	// steps counts rows between looks at ctx.
	steps int

	key     []byte
	head    Head
	seekBuf []byte
}

// openSegment is a Segment as a Scanner walks it; without an iterator it has no
// keys.
type openSegment struct {
	store *Store
	it    *engine.Iterator
}

// stepsPerCheck is how many rows a scan visits between looks at its context.
const stepsPerCheck = 1024

// Latest is the revision that is whatever is applied.
const Latest int64 = maxRevision

// Scan opens a Scanner at main revision rev, which must not be compacted. A
// rev of Latest sees everything applied.
func (s *Store) Scan(ctx context.Context, span Span, rev int64) (Cursor, error) {
	sc, err := s.scan(ctx, span, rev)
	if err != nil {
		return nil, err
	}
	return sc, nil
}

func (s *Store) scan(ctx context.Context, span Span, rev int64) (*Scanner, error) {
	open, err := s.openSegment(span, rev)
	if err != nil {
		return nil, err
	}
	return &Scanner{openSegment: open, ctx: ctx, main: rev}, nil
}

// ScanSegments opens a Scanner that walks one segment after the other.
// REQUIRES: the keys of each come after those of the one before.
func ScanSegments(ctx context.Context, segments []Segment, rev int64) (*Scanner, error) {
	sc := &Scanner{ctx: ctx, main: rev, rest: make([]openSegment, 0, len(segments))}
	for _, seg := range segments {
		open, err := seg.Store.openSegment(seg.Span, rev)
		if err != nil {
			_ = sc.Close()
			return nil, err
		}
		sc.rest = append(sc.rest, open)
	}
	sc.nextSegment()
	return sc, nil
}

func (s *Store) openSegment(span Span, rev int64) (openSegment, error) {
	if span.Empty() {
		return openSegment{store: s}, s.checkCompacted(rev)
	}
	lower, upper := s.group.dataBounds(span)
	it, err := s.db.NewIter(&engine.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return openSegment{}, fmt.Errorf("mvcc: scan: %w", err)
	}
	if err := s.checkCompacted(rev); err != nil {
		_ = it.Close()
		return openSegment{}, err
	}
	return openSegment{s, it}, nil
}

// ScanLatest is Scan of everything applied so far.
func (s *Store) ScanLatest(ctx context.Context, span Span) (*Scanner, error) {
	return s.scan(ctx, span, maxRevision)
}

// Next moves to the next key and says whether there is one. At the end, or
// after a failure that Err tells, it returns false.
func (sc *Scanner) Next() bool {
	for !sc.done && sc.err == nil {
		if sc.it != nil && sc.nextInSegment() {
			return true
		}
		if sc.err == nil {
			sc.nextSegment()
		}
	}
	return false
}

func (sc *Scanner) nextInSegment() bool {
	var ok bool
	if sc.started {
		ok = sc.it.NextPrefix()
	} else {
		sc.started, ok = true, sc.it.First()
	}
	for ; ok; ok = sc.it.NextPrefix() {
		if sc.steps++; sc.steps%stepsPerCheck == 0 {
			if sc.err = sc.ctx.Err(); sc.err != nil {
				return false
			}
		}
		live, moved := sc.settle()
		if live {
			return true
		}
		if !moved {
			break
		}
	}
	sc.fail(sc.it.Error())
	return false
}

// nextSegment goes on to the next segment, if there is one.
func (sc *Scanner) nextSegment() {
	if len(sc.rest) == 0 {
		sc.done = true
		return
	}
	if sc.it != nil {
		sc.fail(sc.it.Close())
	}
	sc.openSegment, sc.rest = sc.rest[0], sc.rest[1:]
	sc.started = false
}

// settle moves from a key's newest version to the one at the scan's revision,
// to the next key's if it has none. live says whether the key was there; moved
// is false at the end.
func (sc *Scanner) settle() (live, moved bool) {
	for {
		key, rev, err := splitDataKey(sc.it.Key())
		if err != nil {
			sc.fail(err)
			return false, false
		}
		if rev.Main <= sc.main {
			sc.key = key
			sc.head.Mod = rev.Main
			lv := sc.it.LazyValue()
			return lv.Len() > 0, true
		}
		sc.seekBuf = sc.store.group.dataSeek(sc.seekBuf[:0], key, sc.main)
		if !sc.it.SeekGE(sc.seekBuf) {
			sc.fail(sc.it.Error())
			return false, false
		}
	}
}

func (sc *Scanner) fail(err error) {
	if err != nil && sc.err == nil {
		sc.err = fmt.Errorf("mvcc: scan: %w", err)
	}
}

// Key returns the current key, valid until the next move.
func (sc *Scanner) Key() []byte { return sc.key }

// KV returns the current key and value; keysOnly leaves the value out. The
// KeyValue belongs to the caller.
func (sc *Scanner) KV(keysOnly bool) (*mvccpb.KeyValue, error) {
	rec, err := sc.it.ValueAndErr()
	if err != nil {
		return nil, fmt.Errorf("mvcc: scan: %w", err)
	}
	h, value, err := splitRecord(rec, sc.head.Mod)
	if err != nil {
		return nil, err
	}
	if keysOnly {
		return h.keyValue(bytes.Clone(sc.key), nil), nil
	}
	buf := make([]byte, len(sc.key)+len(value))
	copy(buf[copy(buf, sc.key):], value)
	n := len(sc.key)
	return h.keyValue(buf[:n:n], buf[n:]), nil
}

// CountRest counts the keys from the next one on and ends the scan.
func (sc *Scanner) CountRest() (int64, error) {
	var n int64
	for sc.Next() {
		n++
	}
	return n, sc.err
}

// Err returns what ended the scan early, nil if nothing did.
func (sc *Scanner) Err() error { return sc.err }

// Close gives the views back.
func (sc *Scanner) Close() error {
	err := sc.close()
	for i := range sc.rest {
		if cerr := sc.rest[i].close(); err == nil {
			err = cerr
		}
	}
	sc.rest = nil
	return err
}

func (o *openSegment) close() error {
	if o.it == nil {
		return nil
	}
	it := o.it
	o.it = nil
	if err := it.Close(); err != nil {
		return fmt.Errorf("mvcc: scan: %w", err)
	}
	return nil
}
