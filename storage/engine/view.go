package engine

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Range is the keys in [Lower, Upper).
type Range struct{ Lower, Upper []byte }

// NewFileIters is NewFileIter for several ranges, of one view.
func NewFileIters(ctx context.Context, db *DB, ranges []Range) (its []*Iterator, err error) {
	keys := make([]pebble.KeyRange, len(ranges))
	for i, r := range ranges {
		keys[i] = pebble.KeyRange{Start: r.Lower, End: r.Upper}
	}
	view := db.NewEventuallyFileOnlySnapshot(keys)
	defer func() {
		// The iterators hold the files themselves.
		if cerr := view.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			for _, it := range its {
				_ = it.Close()
			}
			its, err = nil, fmt.Errorf("engine: fix view: %w", err)
		}
	}()
	if err := view.WaitForFileOnlySnapshot(ctx, flushWithin); err != nil {
		return nil, err
	}
	for _, r := range ranges {
		it, err := view.NewIter(&IterOptions{LowerBound: r.Lower, UpperBound: r.Upper})
		if err != nil {
			return its, err
		}
		its = append(its, it)
	}
	return its, nil
}
