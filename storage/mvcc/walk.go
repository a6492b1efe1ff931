package mvcc

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// walk goes through the revision indexes of one or several stores as if they
// were one, in revision order. It holds a view of each store from when it began.
// It must be closed. It is for one goroutine.
type walk struct {
	ctx    context.Context
	stores []storeWalk
	// at stands on the current revision rev, of key; nil before the first. key is
	// valid until the next move.
	at  *storeWalk
	rev Revision
	key []byte
	err error

	// steps counts revisions between looks at ctx.
	steps   int
	seekBuf []byte
}

// storeWalk is a walk's place in one store.
type storeWalk struct {
	store *Store
	revs  *engine.Iterator
	// data looks into the 'k' table of the same view; nil until it is needed.
	data *engine.Iterator
	// place is what orders the revision that revs stands on; nil at the end.
	place []byte
	// number is which of the stores it is.
	number int
}

// newWalk begins a walk over the revisions with a main revision from from to to,
// both included. What it sees of a store is all there if no compaction above from
// is effective there now.
func newWalk(ctx context.Context, stores []*Store, from, to int64) (*walk, error) {
	w := &walk{ctx: ctx, stores: make([]storeWalk, 0, len(stores))}
	for _, s := range stores {
		it, err := s.db.NewIter(&engine.IterOptions{
			LowerBound: s.group.revsKey(nil, Revision{Main: from}),
			UpperBound: s.group.revsKey(nil, Revision{Main: to + 1}),
		})
		if err != nil {
			w.close()
			return nil, fmt.Errorf("mvcc: changes: %w", err)
		}
		w.stores = append(w.stores, storeWalk{store: s, revs: it, number: len(w.stores)})
	}
	return w, nil
}

// next moves to the next revision and says whether there is one. At the end, or
// after a failure that err tells, it returns false.
func (w *walk) next() bool {
	if w.steps++; w.steps%stepsPerCheck == 0 {
		if w.err = w.ctx.Err(); w.err != nil {
			return false
		}
	}
	if w.at != nil {
		w.settle(w.at, w.at.revs.Next())
	} else {
		for i := range w.stores {
			w.settle(&w.stores[i], w.stores[i].revs.First())
		}
	}
	w.at = nil
	for i := range w.stores {
		s := &w.stores[i]
		if s.place != nil && (w.at == nil || bytes.Compare(s.place, w.at.place) < 0) {
			w.at = s
		}
	}
	if w.at == nil || w.err != nil {
		return false
	}
	if w.rev, w.err = splitRevsKey(w.at.revs.Key()); w.err != nil {
		return false
	}
	if w.key, w.err = w.at.revs.ValueAndErr(); w.err != nil {
		w.err = fmt.Errorf("mvcc: changes: %w", w.err)
	}
	return w.err == nil
}

// settle notes where a store's iterator has come to.
func (w *walk) settle(s *storeWalk, ok bool) {
	switch s.place = nil; {
	case ok:
		s.place = s.revs.Key()[tablePrefixLen:]
	case s.revs.Error() != nil:
		w.err = fmt.Errorf("mvcc: changes: %w", s.revs.Error())
	}
}

// rewind has the next move begin anew.
func (w *walk) rewind() { w.at, w.err = nil, nil }

// data returns the iterator over the versions of the current revision's store.
func (w *walk) data() (*engine.Iterator, error) { return w.dataOf(w.at) }

func (w *walk) dataOf(s *storeWalk) (*engine.Iterator, error) {
	if s.data == nil {
		data, err := s.store.cloneForData(s.revs)
		if err != nil {
			return nil, err
		}
		s.data = data
	}
	return s.data, nil
}

// event returns the change at the current revision; it shares nothing.
func (w *walk) event() (*mvccpb.Event, error) {
	data, err := w.data()
	if err != nil {
		return nil, err
	}
	w.seekBuf = w.at.store.group.dataKey(w.seekBuf[:0], w.key, w.rev)
	return eventAt(data, w.seekBuf, w.key, w.rev)
}

// live says whether the current revision is the version of its key at main
// revision main, and not a tombstone.
func (w *walk) live(main int64) (bool, error) {
	data, err := w.data()
	if err != nil {
		return false, err
	}
	w.seekBuf = w.at.store.group.dataSeek(w.seekBuf[:0], w.key, main)
	if !data.SeekPrefixGE(w.seekBuf) {
		return false, data.Error()
	}
	_, at, err := splitDataKey(data.Key())
	if err != nil {
		return false, err
	}
	lv := data.LazyValue()
	return at == w.rev && lv.Len() > 0, nil
}

// close gives the views back. What was read is right, whatever it meets.
func (w *walk) close() {
	for _, s := range w.stores {
		_ = s.revs.Close()
		if s.data != nil {
			_ = s.data.Close()
		}
	}
}
