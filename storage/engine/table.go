package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/cockroachkvs"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// setTableOptions sets what decides how tables look: those that Pebble writes
// and those of a TableWriter.
func setTableOptions(opts *pebble.Options) {
	opts.Comparer = &cockroachkvs.Comparer
	opts.KeySchema = cockroachkvs.KeySchema.Name
	opts.KeySchemas = sstable.MakeKeySchemas(&cockroachkvs.KeySchema)
	// With the default of 2 MiB the values of one memtable are scattered over many
	// files, which are then gathered all the sooner: 1.2 times the bytes written.
	for i := range opts.TargetFileSizes {
		opts.TargetFileSizes[i] = 32 << 20
	}
	for i := range opts.Levels {
		opts.Levels[i].BlockSize = 8 << 10
		opts.Levels[i].IndexBlockSize = 64 << 10
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		opts.Levels[i].FilterType = pebble.TableFilter
	}
}

// bottomLevel is where Pebble puts the tables of Replace.
const bottomLevel = 6

// TableWriter writes one table for Replace.
type TableWriter struct{ w *sstable.Writer }

// NewTableWriter makes the table path, as db itself would. fs is db's file
// system.
func NewTableWriter(db *DB, fs FS, path string) (*TableWriter, error) {
	opts := &pebble.Options{}
	setTableOptions(opts)
	opts.EnsureDefaults()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("engine: create table: %w", err)
	}
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(f), opts.MakeWriterOptions(bottomLevel, db.TableFormat()))
	return &TableWriter{w}, nil
}

// Set adds a row.
// REQUIRES: key is greater than those before.
func (t *TableWriter) Set(key, value []byte) error {
	if err := t.w.Set(key, value); err != nil {
		return fmt.Errorf("engine: write table: %w", err)
	}
	return nil
}

// Size returns about how many bytes the table would have if it ended now.
func (t *TableWriter) Size() uint64 { return t.w.Raw().EstimatedSize() }

// Close ends the table and makes its content durable.
func (t *TableWriter) Close() error {
	if err := t.w.Close(); err != nil {
		return fmt.Errorf("engine: write table: %w", err)
	}
	return nil
}

// Replace puts tables in place of everything in [lower, upper), to which all
// their rows belong, and takes their files. Who reads sees what was there or
// what comes, never both; iterators that are open stay valid. When Replace
// returns the new rows are durable, and so is all that was committed before the
// call, in any span: the tables cannot outlive a batch that came before them.
// REQUIRES: lower and upper have no version; nobody writes to the span.
func Replace(ctx context.Context, db *DB, lower, upper []byte, paths []string) error {
	// Not only for the promise above. A memtable that has rows of the span must
	// be flushed before the tables can be put on top of it, and while Pebble
	// waits for that no commit to any span ends. Here they do.
	if err := db.Flush(); err != nil {
		return fmt.Errorf("engine: replace: %w", err)
	}
	if _, err := db.IngestAndExcise(ctx, paths, nil, nil, pebble.KeyRange{Start: lower, End: upper}); err != nil {
		return fmt.Errorf("engine: replace: %w", err)
	}
	return nil
}

// flushWithin bounds what NewFileIter waits before it asks for a flush, which
// Pebble does not without a wait.
const flushWithin = time.Millisecond

// NewFileIter returns an iterator over [lower, upper) that may be kept for
// hours. What an ordinary iterator sees it holds on to, memtables too: several
// times Config.MemTableBytes of memory. This one waits until what it sees is in
// files, and holds only these, which take room on the disk until it is closed.
func NewFileIter(ctx context.Context, db *DB, lower, upper []byte) (it *Iterator, err error) {
	view := db.NewEventuallyFileOnlySnapshot([]pebble.KeyRange{{Start: lower, End: upper}})
	// The iterator holds the files itself.
	defer func() {
		if cerr := view.Close(); err == nil && cerr != nil {
			_ = it.Close()
			it, err = nil, fmt.Errorf("engine: fix view: %w", cerr)
		}
	}()
	if err := view.WaitForFileOnlySnapshot(ctx, flushWithin); err != nil {
		return nil, fmt.Errorf("engine: fix view: %w", err)
	}
	if it, err = view.NewIter(&IterOptions{LowerBound: lower, UpperBound: upper}); err != nil {
		return nil, fmt.Errorf("engine: fix view: %w", err)
	}
	return it, nil
}
