package mvcc

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// The 'k' rows lie in the order of keys, and a View shows them in that of revisions. To
// look each up where it is would be to read and decompress a block for nearly every
// row. Instead a batch takes many revisions at a time from the index, reads their rows
// in the order of keys, which for what was written together is about how they lie, and
// gives them back in that of revisions.

const (
	// maxBatchBytes is how much of keys and rows a batch has; one row may be longer. Two are in memory: one that is read, one that is given.
	maxBatchBytes = 32 << 20
	maxBatchRows  = 64 << 10
	// firstBatchRows is as many as the first batch tries.
	firstBatchRows = 1 << 10
)

// batch is a run of revisions and their rows.
type batch struct {
	rows []batchRow
	// data has the keys and the rows.
	data []byte
}

// batchRow is a revision, in the store of that number. Its key is data[key:rec], its
// 'k' row data[rec:end].
type batchRow struct {
	rev           Revision
	store         int
	key, rec, end int
}

// batcher reads batches. It is for one goroutine.
type batcher struct {
	w *walk
	// ahead are revisions, from next on, that are read from the index and not given
	// yet; keys are their keys. rec and end mean nothing there.
	ahead []batchRow
	next  int
	keys  []byte
	ended bool
	// rows is how many the next batch tries, which follows how long they are.
	rows  int
	order []int
	seek  []byte
}

func newBatcher(w *walk) *batcher { return &batcher{w: w, rows: firstBatchRows} }

// read fills b with the next revisions; it has none at the end.
func (r *batcher) read(b *batch) error {
	if r.next == len(r.ahead) && !r.ended {
		if err := r.look(); err != nil {
			return err
		}
	}
	for n := min(r.rows, len(r.ahead)-r.next); ; n = r.rows {
		fits, err := r.fetch(b, r.ahead[r.next:r.next+n])
		if err != nil {
			return err
		}
		if fits {
			r.next += n
			break
		}
		r.rows = n / 2
	}
	if len(b.data) < maxBatchBytes/2 {
		r.rows = min(2*r.rows, maxBatchRows)
	}
	return nil
}

// look reads ahead in the index.
func (r *batcher) look() error {
	r.ahead, r.next, r.keys = r.ahead[:0], 0, r.keys[:0]
	for len(r.ahead) < r.rows {
		if !r.w.next() {
			r.ended = true
			return r.w.err
		}
		row := batchRow{rev: r.w.rev, store: r.w.at.number, key: len(r.keys)}
		r.keys = append(r.keys, r.w.key...)
		row.rec = len(r.keys)
		r.ahead = append(r.ahead, row)
	}
	return nil
}

// fetch fills b with revisions. false is that they are too long together.
func (r *batcher) fetch(b *batch, rows []batchRow) (fits bool, err error) {
	b.rows, b.data = append(b.rows[:0], rows...), b.data[:0]
	key := func(i int) []byte { return r.keys[rows[i].key:rows[i].rec] }
	r.order = r.order[:0]
	for i := range rows {
		r.order = append(r.order, i)
	}
	slices.SortFunc(r.order, func(i, j int) int {
		if c := cmp.Compare(rows[i].store, rows[j].store); c != 0 {
			return c
		}
		// The rows of a key lie from the newest to the oldest.
		return cmp.Or(bytes.Compare(key(i), key(j)), cmp.Compare(j, i))
	})
	for n, i := range r.order {
		if n%stepsPerCheck == 0 {
			if err := r.w.ctx.Err(); err != nil {
				return false, err
			}
		}
		data, err := r.w.dataOf(&r.w.stores[rows[i].store])
		if err != nil {
			return false, err
		}
		rec, err := r.row(data, &rows[i], key(i))
		if err != nil {
			return false, err
		}
		if len(b.data)+len(key(i))+len(rec) > maxBatchBytes && len(rows) > 1 {
			return false, nil
		}
		row := &b.rows[i]
		row.key = len(b.data)
		b.data = append(b.data, key(i)...)
		row.rec = len(b.data)
		b.data = append(b.data, rec...)
		row.end = len(b.data)
	}
	return true, nil
}

// row returns a 'k' row, valid until data moves.
func (r *batcher) row(data *engine.Iterator, at *batchRow, key []byte) ([]byte, error) {
	r.seek = r.w.stores[at.store].store.group.dataKey(r.seek[:0], key, at.rev)
	if !data.SeekGE(r.seek) || string(data.Key()) != string(r.seek) {
		if err := data.Error(); err != nil {
			return nil, fmt.Errorf("mvcc: view: %w", err)
		}
		return nil, fmt.Errorf("mvcc: the state is damaged: revision %d.%d of key %q has no row", at.rev.Main, at.rev.Sub, key)
	}
	rec, err := data.ValueAndErr()
	if err != nil {
		return nil, fmt.Errorf("mvcc: view: %w", err)
	}
	return rec, nil
}

// each calls fn for every row of a batch.
func (b *batch) each(fn func(*Version) error) error {
	var v Version
	for i := range b.rows {
		row := &b.rows[i]
		if err := v.set(row.rev, b.data[row.key:row.rec], b.data[row.rec:row.end]); err != nil {
			return err
		}
		if err := fn(&v); err != nil {
			return err
		}
	}
	return nil
}

// eachVersion calls fn for the revisions of a walk and their rows. The next batch is
// read meanwhile.
func eachVersion(ctx context.Context, w *walk, fn func(*Version) error) error {
	ctx, cancel := context.WithCancel(ctx)
	w.ctx = ctx
	free, full := make(chan *batch, 2), make(chan *batch)
	for range cap(free) {
		// All at once, instead of by copies of twice the size. What is not needed is
		// never touched.
		free <- &batch{data: make([]byte, 0, maxBatchBytes)}
	}
	var failed error // before full is closed
	go func() {
		defer close(full)
		r := newBatcher(w)
		for b := range free {
			if failed = r.read(b); failed != nil || len(b.rows) == 0 {
				return
			}
			select {
			case full <- b:
			case <-ctx.Done():
				failed = ctx.Err()
				return
			}
		}
	}()
	var err error
	for b := range full {
		if err == nil {
			err = b.each(fn)
		}
		if err != nil {
			cancel()
		}
		free <- b
	}
	cancel()
	if err == nil {
		err = failed
	}
	return err
}
