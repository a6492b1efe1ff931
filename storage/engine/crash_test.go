package engine_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// A row of the i-th batch. Each batch has three, so that half a batch shows.
func batchKey(i, row int) []byte {
	return engine.AppendVersion(fmt.Appendf(nil, "row%d", row), int64(i+1), 0)
}

func commitBatch(t *testing.T, db *engine.DB, i int, rng *rand.Rand, sync bool) {
	t.Helper()
	b := db.NewBatch()
	for row := range 3 {
		value := binary.BigEndian.AppendUint32(nil, uint32(i))
		value = append(value, bytes.Repeat([]byte{'x'}, rng.IntN(2000))...)
		require.NoError(t, b.Set(batchKey(i, row), value, nil))
	}
	how := engine.NoSync
	if sync {
		how = engine.Sync
	}
	require.NoError(t, b.Commit(how))
	require.NoError(t, b.Close())
}

// batches returns how many batches db holds, which must be whole and the first
// ones.
func batches(t *testing.T, db *engine.DB) int {
	t.Helper()
	var counts [3]int
	for row := range counts {
		for {
			value, closer, err := db.Get(batchKey(counts[row], row))
			if errors.Is(err, engine.ErrNotFound) {
				break
			}
			require.NoError(t, err)
			require.EqualValues(t, counts[row], binary.BigEndian.Uint32(value))
			require.NoError(t, closer.Close())
			counts[row]++
		}
	}
	require.Equal(t, counts[0], counts[1], "half of a batch")
	require.Equal(t, counts[0], counts[2], "half of a batch")

	// None beyond the first that is missing.
	it, err := db.NewIter(nil)
	require.NoError(t, err)
	rows := 0
	for ok := it.First(); ok; ok = it.Next() {
		rows++
	}
	require.NoError(t, it.Close())
	require.Equal(t, 3*counts[0], rows, "rows behind a gap")
	return counts[0]
}

// TestLosingPower commits batches, some synced, loses power, and looks at what
// is left: whole batches, from the first to some last one, and everything that
// was acknowledged as durable.
func TestLosingPower(t *testing.T) {
	for _, log := range []bool{true, false} {
		t.Run(fmt.Sprintf("log=%t", log), func(t *testing.T) {
			lost := 0
			for seed := range uint64(15) {
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
					lost += losePower(t, log, rand.New(rand.NewPCG(seed, 0)))
				})
			}
			require.Positive(t, lost, "no test lost anything")
		})
	}
}

func losePower(t *testing.T, log bool, rng *rand.Rand) (lost int) {
	t.Helper()
	fs := engine.NewCrashableMem()
	committed, durable := 0, 0
	for range 4 {
		db, err := engine.Open(config(fs, log))
		require.NoError(t, err)
		for range rng.IntN(120) {
			sync := log && rng.IntN(4) == 0
			commitBatch(t, db, committed, rng, sync)
			committed++
			if sync {
				durable = committed
			}
			if rng.IntN(60) == 0 {
				require.NoError(t, db.Flush())
				durable = committed
			}
		}
		// Power is lost here. Closing the database afterwards changes only the
		// files that are lost.
		left := fs.CrashClone(engine.CrashCloneCfg{UnsyncedDataPercent: 25 * rng.IntN(5), RNG: rng})
		require.NoError(t, db.Close())
		fs = left

		db, err = engine.Open(config(fs, log))
		require.NoError(t, err)
		n := batches(t, db)
		require.GreaterOrEqual(t, n, durable, "of %d batches", committed)
		require.LessOrEqual(t, n, committed)
		require.NoError(t, db.Close())
		lost += committed - n
		committed = n
	}
	return lost
}

// TestDurableReads reads only what a loss of power would keep.
func TestDurableReads(t *testing.T) {
	db := open(t, engine.NewMem(), false)
	commitBatch(t, db, 0, rand.New(rand.NewPCG(1, 1)), false)
	durable := func() bool {
		it, err := db.NewIter(&engine.IterOptions{OnlyReadGuaranteedDurable: true})
		require.NoError(t, err)
		ok := it.First()
		require.NoError(t, it.Close())
		return ok
	}
	require.False(t, durable())
	require.NoError(t, db.Flush())
	require.True(t, durable())
}

// TestFlushed waits to be told of a flush.
func TestFlushed(t *testing.T) {
	cfg := config(engine.NewMem(), false)
	var flushes atomic.Int32
	cfg.Flushed = func() { flushes.Add(1) }
	db, err := engine.Open(cfg)
	require.NoError(t, err)
	commitBatch(t, db, 0, rand.New(rand.NewPCG(1, 1)), false)
	require.Zero(t, flushes.Load())
	require.NoError(t, db.Flush())
	require.EqualValues(t, 1, flushes.Load())
	require.NoError(t, db.Close())
}

// TestFailedLog fails a write to the log: Fatal is told, and whoever was
// committing never hears that it was done.
func TestFailedLog(t *testing.T) {
	broken := errors.New("the disk is gone")
	var breakNow atomic.Bool
	fs := engine.WrapFaulty(engine.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if breakNow.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.HasSuffix(op.Path, ".log") {
			return broken
		}
		return nil
	}))
	cfg := config(fs, true)
	fatal := make(chan error, 10)
	cfg.Fatal = func(err error) { fatal <- err }
	db, err := engine.Open(cfg)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	commitBatch(t, db, 0, rng, true)

	breakNow.Store(true)
	ended, acknowledged := make(chan struct{}), false
	go func() {
		defer close(ended)
		b := db.NewBatch()
		_ = b.Set(batchKey(1, 0), nil, nil)
		acknowledged = b.Commit(engine.Sync) == nil
	}()
	require.ErrorContains(t, <-fatal, broken.Error())
	<-ended
	require.False(t, acknowledged)
	// The database is not closed: it may never come back from that.
}

// TestFailedValues fails each operation on a file of values: Fatal is told, and the
// flush never ends.
func TestFailedValues(t *testing.T) {
	broken := errors.New("the disk is gone")
	// flush flushes a large value while the at-th operation fails.
	flush := func(at int64) (ops int64, flushed <-chan struct{}, fatal chan error) {
		var count atomic.Int64
		fs := engine.WrapFaulty(engine.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			written := op.Kind.ReadOrWrite() == errorfs.OpIsWrite || op.Kind == errorfs.OpFileClose
			if written && op.Kind != errorfs.OpCreate && strings.HasSuffix(op.Path, ".blob") && count.Add(1) == at {
				return broken
			}
			return nil
		}))
		cfg := config(fs, false)
		fatal = make(chan error, 10)
		cfg.Fatal = func(err error) { fatal <- err }
		db, err := engine.Open(cfg)
		require.NoError(t, err)
		b := db.NewBatch()
		require.NoError(t, b.Set(batchKey(0, 0), make([]byte, 10_000), nil))
		require.NoError(t, b.Commit(engine.NoSync))
		flushed, err = db.AsyncFlush()
		require.NoError(t, err)
		if at == 0 {
			<-flushed
			require.NoError(t, db.Close())
		} // Else it is not closed: it may never come back from that.
		return count.Load(), flushed, fatal
	}
	ops, _, _ := flush(0)
	require.GreaterOrEqual(t, ops, int64(2)) // The file for reading is closed, too.
	for at := int64(1); at < ops; at++ {
		_, flushed, fatal := flush(at)
		require.ErrorIs(t, <-fatal, broken, "operation %d", at)
		select {
		case <-flushed:
			t.Fatal("what is not durable was flushed")
		default:
		}
	}
}

// TestDamagedFile reads from a table that was changed on disk: the read fails,
// and Fatal is told.
func TestDamagedFile(t *testing.T) {
	fs := engine.NewMem()
	cfg := config(fs, false)
	db, err := engine.Open(cfg)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 50 {
		commitBatch(t, db, i, rng, false)
	}
	require.NoError(t, db.Flush())
	require.NoError(t, db.Close())

	names, err := fs.List("db")
	require.NoError(t, err)
	tables := 0
	for _, name := range names {
		if filepath.Ext(name) == ".sst" {
			damage(t, fs, filepath.Join("db", name))
			tables++
		}
	}
	require.Positive(t, tables)

	var fatal atomic.Pointer[error]
	cfg.Fatal = func(err error) { fatal.Store(&err) }
	db, err = engine.Open(cfg)
	require.NoError(t, err)
	it, err := db.NewIter(nil)
	require.NoError(t, err)
	for ok := it.First(); ok; ok = it.Next() {
		_ = ok
	}
	require.Error(t, it.Error())
	require.Error(t, it.Close())
	require.NotNil(t, fatal.Load())
	require.ErrorContains(t, *fatal.Load(), "engine: corrupt data in db/")
	require.NoError(t, db.Close())
}

// damage changes one byte near the beginning of a file.
func damage(t *testing.T, fs engine.FS, path string) {
	t.Helper()
	f, err := fs.Open(path)
	require.NoError(t, err)
	info, err := f.Stat()
	require.NoError(t, err)
	content := make([]byte, info.Size())
	_, err = f.ReadAt(content, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	content[100] ^= 0x40
	f, err = fs.Create(path, "unspecified")
	require.NoError(t, err)
	_, err = f.Write(content)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

func TestConfigNeedsFatal(t *testing.T) {
	cfg := config(engine.NewMem(), false)
	cfg.Fatal = nil
	_, err := engine.Open(cfg)
	require.ErrorContains(t, err, "Fatal")
}
