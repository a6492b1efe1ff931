package engine_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// A write-ahead log is longer than what was written to it, and what is behind that is
// nothing: neither after a clean end, nor where the process ended without one, whether the
// log was new or is used again.
func TestLogsAreLong(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	const memtable = 1 << 20
	open := func(dir string) *engine.DB {
		db, err := engine.Open(engine.Config{
			Dir: dir, Log: true, MemTableBytes: memtable,
			Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { panic(err) },
		})
		require.NoError(t, err)
		return db
	}
	rows := 0
	check := func(db *engine.DB) {
		t.Helper()
		for i := range rows {
			_, closer, err := db.Get(engine.AppendVersion([]byte("row"), int64(i+1), 0))
			require.NoError(t, err)
			require.NoError(t, closer.Close())
		}
	}
	db := open(dir)
	// Few flushes, so that nothing is compacted while the directory is copied.
	for round := range 4 {
		for range 3 {
			rows++
			require.NoError(t, db.Set(engine.AppendVersion([]byte("row"), int64(rows), 0), make([]byte, 10<<10), engine.Sync))
		}
		if runtime.GOOS == "linux" {
			logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
			require.NoError(t, err)
			for _, log := range logs {
				info, err := os.Stat(log)
				require.NoError(t, err)
				require.GreaterOrEqual(t, info.Size(), int64(memtable), "what is synced grows")
			}
		}
		crashed := filepath.Join(t.TempDir(), "crashed")
		require.NoError(t, os.CopyFS(crashed, os.DirFS(dir)))
		again := open(crashed)
		check(again)
		require.NoError(t, again.Close())
		again = open(crashed)
		check(again)
		require.NoError(t, again.Close())
		if round < 3 {
			require.NoError(t, db.Flush())
		}
	}
	require.NoError(t, db.Close())
	db = open(dir)
	check(db)
	require.NoError(t, db.Close())
}
