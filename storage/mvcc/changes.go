package mvcc

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// Changes calls fn for every change of a key in span with main revision from
// up to and including to, in revision order and without PrevKv, until fn
// returns an error, which it returns. It returns ErrCompacted, before the first
// call, if from is below the compacted revision. to may be any revision that
// readers may see.
func (s *Store) Changes(ctx context.Context, span Span, from, to int64, fn func(*mvccpb.Event) error) error {
	if span.single() {
		return s.changesOfKey(ctx, span.Key, from, to, fn)
	}
	return Changes(ctx, []*Store{s}, span, from, to, fn)
}

// Changes is Store.Changes for a span whose keys are in several stores.
func Changes(
	ctx context.Context, stores []*Store, span Span, from, to int64, fn func(*mvccpb.Event) error,
) error {
	w, err := newWalk(ctx, stores, from, to)
	if err != nil {
		return err
	}
	defer w.close()
	for _, s := range stores {
		if err := s.checkCompacted(from); err != nil {
			return err
		}
	}
	for w.next() {
		if !span.Contains(w.key) {
			continue
		}
		ev, err := w.event()
		if err != nil {
			return err
		}
		if err := fn(ev); err != nil {
			return err
		}
	}
	return w.err
}

// changesOfKey is Changes for one key. Its versions lie side by side, newest
// first, so that they are walked backwards; the revision index is not needed.
func (s *Store) changesOfKey(ctx context.Context, key []byte, from, to int64, fn func(*mvccpb.Event) error) error {
	from = max(from, 1)
	it, err := s.db.NewIter(&engine.IterOptions{
		LowerBound: s.group.dataSeek(nil, key, to),
		UpperBound: s.group.dataSeek(nil, key, from-1),
	})
	if err != nil {
		return fmt.Errorf("mvcc: changes: %w", err)
	}
	defer func() { _ = it.Close() }()
	if err := s.checkCompacted(from); err != nil {
		return err
	}
	steps := 0
	for ok := it.Last(); ok; ok = it.Prev() {
		if steps++; steps%stepsPerCheck == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		_, rev, err := splitDataKey(it.Key())
		if err != nil {
			return err
		}
		rec, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("mvcc: changes: %w", err)
		}
		ev, err := makeEvent(key, rec, rev)
		if err != nil {
			return err
		}
		if err := fn(ev); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("mvcc: changes: %w", err)
	}
	return nil
}

// cloneForData returns an iterator over the 'k' table of the view of it.
func (s *Store) cloneForData(it *engine.Iterator) (*engine.Iterator, error) {
	lower, upper := s.group.bounds(tableData)
	data, err := it.Clone(engine.CloneOptions{
		IterOptions: &engine.IterOptions{LowerBound: lower, UpperBound: upper},
	})
	if err != nil {
		return nil, fmt.Errorf("mvcc: %w", err)
	}
	return data, nil
}

// eventAt reads the row of exactly one version. seek is its key.
func eventAt(data *engine.Iterator, seek, key []byte, rev Revision) (*mvccpb.Event, error) {
	if !data.SeekPrefixGE(seek) || string(data.Key()) != string(seek) {
		if err := data.Error(); err != nil {
			return nil, fmt.Errorf("mvcc: changes: %w", err)
		}
		return nil, fmt.Errorf("mvcc: the state is damaged: revision %d.%d of key %q has no row", rev.Main, rev.Sub, key)
	}
	rec, err := data.ValueAndErr()
	if err != nil {
		return nil, fmt.Errorf("mvcc: changes: %w", err)
	}
	return makeEvent(key, rec, rev)
}

// makeEvent makes the event of a 'k' row; it copies both.
func makeEvent(key, rec []byte, rev Revision) (*mvccpb.Event, error) {
	buf := make([]byte, len(key)+len(rec))
	copy(buf[copy(buf, key):], rec)
	key = buf[:len(key):len(key)]
	if len(rec) == 0 {
		return deletion(key, rev.Main), nil
	}
	h, value, err := splitRecord(buf[len(key):], rev.Main)
	if err != nil {
		return nil, err
	}
	return &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: h.keyValue(key, value)}, nil
}
