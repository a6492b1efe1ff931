package mvcc

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Scanner walks the keys of a span as they were at one revision, in key order.
// It holds a consistent view: what is applied or scrubbed after it was made
// does not change what it sees. It must be closed. It is for one goroutine.
type Scanner struct {
	store *Store
	ctx   context.Context
	it    *engine.Iterator
	main  int64
	err   error

	// started says whether the iterator stands on a row; done, that there is
	// none any more.
	started, done bool
	// steps counts rows between looks at ctx.
	steps int

	key     []byte
	head    Head
	seekBuf []byte
}

// stepsPerCheck is how many rows a scan visits between looks at its context.
const stepsPerCheck = 1024

// Scan opens a Scanner at main revision rev, which must not be compacted. A
// rev of Latest sees everything applied.
func (s *Store) Scan(ctx context.Context, span Span, rev int64) (*Scanner, error) {
	sc := &Scanner{store: s, ctx: ctx, main: rev}
	if span.Empty() {
		return sc, s.checkCompacted(rev)
	}
	lower, upper := s.group.dataBounds(span)
	it, err := s.db.NewIter(&engine.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("mvcc: scan: %w", err)
	}
	if err := s.checkCompacted(rev); err != nil {
		_ = it.Close()
		return nil, err
	}
	sc.it = it
	return sc, nil
}

// ScanLatest is Scan of everything applied so far.
func (s *Store) ScanLatest(ctx context.Context, span Span) (*Scanner, error) {
	return s.Scan(ctx, span, maxRevision)
}

// Next moves to the next key and says whether there is one. At the end, or
// after a failure that Err tells, it returns false.
func (sc *Scanner) Next() bool {
	if sc.it == nil || sc.done || sc.err != nil {
		return false
	}
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
	sc.done = true
	sc.fail(sc.it.Error())
	return false
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

// Close gives the view back.
func (sc *Scanner) Close() error {
	if sc.it == nil {
		return nil
	}
	it := sc.it
	sc.it = nil
	if err := it.Close(); err != nil {
		return fmt.Errorf("mvcc: scan: %w", err)
	}
	return nil
}
