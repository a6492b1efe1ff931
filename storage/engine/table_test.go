package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// spanKey is the i-th key of a span, which is one letter.
func spanKey(span byte, i int) []byte {
	return engine.AppendVersion(fmt.Appendf(nil, "%c%05d", span, i/2), int64(9-i%2), 0)
}

func spanBounds(span byte) (lower, upper []byte) {
	return engine.AppendPrefix([]byte{span}), engine.AppendPrefix([]byte{span + 1})
}

// table writes n rows of a span, with value, from the i-th on.
func table(t *testing.T, db *engine.DB, fs engine.FS, path string, span byte, i, n int, value string) string {
	t.Helper()
	w, err := engine.NewTableWriter(db, fs, path)
	require.NoError(t, err)
	for ; n > 0; i, n = i+1, n-1 {
		require.NoError(t, w.Set(spanKey(span, i), []byte(value)))
	}
	require.NoError(t, w.Close())
	return path
}

// values returns how many rows of a span have which value.
func values(t *testing.T, it *engine.Iterator) map[string]int {
	t.Helper()
	out := map[string]int{}
	for ok := it.First(); ok; ok = it.Next() {
		out[string(it.Value())]++
	}
	require.NoError(t, it.Error())
	return out
}

func spanValues(t *testing.T, db *engine.DB, span byte) map[string]int {
	t.Helper()
	lower, upper := spanBounds(span)
	it, err := db.NewIter(&engine.IterOptions{LowerBound: lower, UpperBound: upper})
	require.NoError(t, err)
	defer func() { require.NoError(t, it.Close()) }()
	return values(t, it)
}

func set(t *testing.T, db *engine.DB, span byte, i, n int, value string) {
	t.Helper()
	for ; n > 0; i, n = i+1, n-1 {
		require.NoError(t, db.Set(spanKey(span, i), []byte(value), engine.NoSync))
	}
}

// TestReplace puts tables in place of a span whose rows are in files, in
// memtables, deleted, and beside those of other spans in the same files.
func TestReplace(t *testing.T) {
	for _, log := range []bool{true, false} {
		t.Run(fmt.Sprintf("log=%t", log), func(t *testing.T) {
			fs := engine.NewCrashableMem()
			db, err := engine.Open(config(fs, log))
			require.NoError(t, err)
			for _, span := range []byte("abc") {
				set(t, db, span, 0, 1000, "old")
			}
			require.NoError(t, db.Flush())
			require.NoError(t, db.Compact(context.Background(), []byte{0, 0}, []byte{'z', 0}, false))
			for _, span := range []byte("abc") {
				set(t, db, span, 500, 1000, "newer")
				require.NoError(t, db.Delete(spanKey(span, 7), engine.NoSync))
			}

			before, err := db.NewIter(nil)
			require.NoError(t, err)
			require.NoError(t, fs.MkdirAll("in", 0o700))
			lower, upper := spanBounds('b')
			require.NoError(t, engine.Replace(context.Background(), db, lower, upper, []string{
				table(t, db, fs, "in/2", 'b', 401, 99, "new"), // between two versions of a key
				table(t, db, fs, "in/1", 'b', 1, 400, "new"),
			}))

			check := func(db *engine.DB) {
				require.Equal(t, map[string]int{"old": 499, "newer": 1000}, spanValues(t, db, 'a'))
				require.Equal(t, map[string]int{"new": 499}, spanValues(t, db, 'b'))
				require.Equal(t, map[string]int{"old": 499, "newer": 1000}, spanValues(t, db, 'c'))
				value, closer, err := db.Get(spanKey('b', 401))
				require.NoError(t, err)
				require.Equal(t, "new", string(value))
				require.NoError(t, closer.Close())
				_, _, err = db.Get(spanKey('b', 501))
				require.ErrorIs(t, err, engine.ErrNotFound)
			}
			check(db)
			require.Equal(t, map[string]int{"old": 3 * 499, "newer": 3000}, values(t, before), "what was open stays as it was")
			require.NoError(t, before.Close())

			// It took the files, and is durable, as is what was committed before.
			left, err := fs.List("in")
			require.NoError(t, err)
			require.Empty(t, left)
			crashed := fs.CrashClone(engine.CrashCloneCfg{})
			require.NoError(t, db.Close())
			db, err = engine.Open(config(crashed, log))
			require.NoError(t, err)
			check(db)

			// It is written to as ever.
			set(t, db, 'b', 3, 1, "next")
			require.Equal(t, map[string]int{"new": 498, "next": 1}, spanValues(t, db, 'b'))
			require.NoError(t, db.Flush())
			require.NoError(t, db.Compact(context.Background(), []byte{0, 0}, []byte{'z', 0}, false))
			require.Equal(t, map[string]int{"new": 498, "next": 1}, spanValues(t, db, 'b'))
			require.NoError(t, db.Close())
		})
	}
}

// TestReplaceKeepsWhatCameBefore: a crash does not lose a batch that came before
// the tables and keep these, whatever spans they are of.
func TestReplaceKeepsWhatCameBefore(t *testing.T) {
	fs := engine.NewCrashableMem()
	db, err := engine.Open(config(fs, false))
	require.NoError(t, err)
	set(t, db, 'a', 0, 10, "before")
	lower, upper := spanBounds('b')
	require.NoError(t, engine.Replace(context.Background(), db, lower, upper, []string{table(t, db, fs, "t", 'b', 0, 10, "new")}))
	crashed := fs.CrashClone(engine.CrashCloneCfg{})
	require.NoError(t, db.Close())
	db, err = engine.Open(config(crashed, false))
	require.NoError(t, err)
	require.Equal(t, map[string]int{"new": 10}, spanValues(t, db, 'b'))
	require.Equal(t, map[string]int{"before": 10}, spanValues(t, db, 'a'))
	require.NoError(t, db.Close())
}

// TestReplaceOverMemtable: even if a memtable has come to have rows of the span
// meanwhile the tables are durable.
func TestReplaceOverMemtable(t *testing.T) {
	mem := engine.NewCrashableMem()
	var db *engine.DB
	written := false
	fs := engine.WrapFaulty(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpLink && !written {
			written = true
			set(t, db, 'b', 100, 1, "meanwhile")
		}
		return nil
	}))
	cfg := config(mem, false)
	cfg.FS = fs
	db, err := engine.Open(cfg)
	require.NoError(t, err)
	lower, upper := spanBounds('b')
	require.NoError(t, engine.Replace(context.Background(), db, lower, upper, []string{table(t, db, fs, "t", 'b', 0, 10, "new")}))
	require.True(t, written)
	crashed := mem.CrashClone(engine.CrashCloneCfg{})
	require.NoError(t, db.Close())
	db, err = engine.Open(config(crashed, false))
	require.NoError(t, err)
	require.Equal(t, map[string]int{"new": 10}, spanValues(t, db, 'b'))
	require.NoError(t, db.Close())
}

// TestReplaceBesideCommits: who writes to another span need not stop.
func TestReplaceBesideCommits(t *testing.T) {
	fs := engine.NewMem()
	db := open(t, fs, false)
	stop, stopped := make(chan struct{}), make(chan struct{})
	n := 0
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				if err := db.Set(spanKey('a', n), bytes.Repeat([]byte{'x'}, 1000), engine.NoSync); err != nil {
					t.Error(err)
					return
				}
				n++
			}
		}
	}()
	require.NoError(t, fs.MkdirAll("in", 0o700))
	lower, upper := spanBounds('b')
	for i := range 20 {
		set(t, db, 'b', 0, 10, "between")
		value := fmt.Sprint(i)
		require.NoError(t, engine.Replace(context.Background(), db, lower, upper, []string{table(t, db, fs, "in/"+value, 'b', 2, 50, value)}))
		require.Equal(t, map[string]int{value: 50}, spanValues(t, db, 'b'))
	}
	close(stop)
	<-stopped
	rows := 0
	for _, count := range spanValues(t, db, 'a') {
		rows += count
	}
	require.Equal(t, n, rows)
}

// TestTablesAreAsPebbles: a table that is written beside Pebble has the format,
// the keys' schema and the filters of those that Pebble writes.
func TestTablesAreAsPebbles(t *testing.T) {
	fs := engine.NewMem()
	db := open(t, fs, false)
	set(t, db, 'a', 0, 500, "value")
	require.NoError(t, db.Compact(context.Background(), []byte{0, 0}, []byte{'z', 0}, false))
	lower, upper := spanBounds('b')
	require.NoError(t, engine.Replace(context.Background(), db, lower, upper, []string{table(t, db, fs, "t", 'b', 0, 500, "value")}))
	levels, err := db.SSTables(pebble.WithProperties())
	require.NoError(t, err)
	var seen []string
	for level, tables := range levels {
		for _, table := range tables {
			p := table.Properties
			require.EqualValues(t, 500, p.NumEntries)
			require.NotZero(t, p.FilterSize)
			seen = append(seen, fmt.Sprintln(level, p.ComparerName, p.KeySchemaName, p.FilterPolicyName, p.MergerName, p.CompressionName, p.NumDataBlocks))
		}
	}
	require.Len(t, seen, 2)
	require.Equal(t, seen[0], seen[1])
}

// TestFileIter: what it sees does not change, and it holds no memtables.
func TestFileIter(t *testing.T) {
	db := open(t, engine.NewMem(), false)
	set(t, db, 'a', 0, 100, "old")
	set(t, db, 'b', 0, 100, "other")
	lower, upper := spanBounds('a')
	it, err := engine.NewFileIter(context.Background(), db, lower, upper)
	require.NoError(t, err)
	// Pebble keeps one memtable for the next.
	require.NoError(t, db.Flush())
	const kept = 1
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 30 {
		set(t, db, 'a', 50, 100, fmt.Sprint(rng.Uint64()))
		require.NoError(t, db.Delete(spanKey('a', i), engine.NoSync))
		require.NoError(t, db.Flush())
	}
	require.NoError(t, db.Compact(context.Background(), []byte{0, 0}, []byte{'z', 0}, false))
	require.EqualValues(t, kept, db.Metrics().MemTable.ZombieCount)
	require.Equal(t, map[string]int{"old": 100}, values(t, it))
	require.NoError(t, it.Close())

	// An ordinary one does hold them.
	set(t, db, 'a', 0, 10, "x")
	it, err = db.NewIter(nil)
	require.NoError(t, err)
	for i := range 3 {
		set(t, db, 'a', i, 1, "y")
		require.NoError(t, db.Flush())
	}
	require.EqualValues(t, kept+1, db.Metrics().MemTable.ZombieCount)
	require.NoError(t, it.Close())

	// Nothing to wait for, and nothing at all.
	it, err = engine.NewFileIter(context.Background(), db, engine.AppendPrefix([]byte{'x'}), engine.AppendPrefix([]byte{'y'}))
	require.NoError(t, err)
	require.False(t, it.First())
	require.NoError(t, it.Close())
}
