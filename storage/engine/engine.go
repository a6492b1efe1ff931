// Package engine opens Pebble, the log-structured merge tree in which a member
// keeps its raft logs and its state. It decides Pebble's options, key order and
// format version, and turns Pebble's events into logs. It hides nothing: its
// users work with Pebble's own types through the aliases below, and it is the
// only package that imports Pebble.
//
// What keys mean is not its business: see storage/mvcc for the state and
// storage/group for the logs.
//
// A DB, a Cache and a Collector may be used concurrently; a Batch, an Iterator and a
// TableWriter are for one goroutine at a time. Pebble calls what is in Config on
// goroutines of its own and of its callers.
package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// Pebble's types, under this package's name.
type (
	// DB is an open Pebble.
	DB = pebble.DB
	// Batch is a set of writes that become visible, and durable, together.
	Batch = pebble.Batch
	// Iterator reads keys in order from one consistent view.
	Iterator = pebble.Iterator
	// IterOptions bounds an Iterator.
	IterOptions = pebble.IterOptions
	// CloneOptions are the differences of a cloned Iterator.
	CloneOptions = pebble.CloneOptions
	// Metrics are Pebble's own counters.
	Metrics = pebble.Metrics
)

// ErrNotFound is what DB.Get returns for a key that is not there.
var ErrNotFound = pebble.ErrNotFound

// Whether a commit returns before or after its write-ahead log is synced.
var (
	Sync   = pebble.Sync
	NoSync = pebble.NoSync
)

// formatVersion is what every database is written with. Raising it is a change
// of the data format: an older binary will refuse the files.
const formatVersion = pebble.FormatValueSeparation

// separation keeps values apart from their keys, so that compactions of the tree
// do not write them again and again: with puts of 1 KiB to random keys the state's
// database wrote 1.7 times as much without (L. Lu et al.: WiscKey, FAST 2016,
// section 3). Smaller values are read more cheaply from beside their keys.
var separation = pebble.ValueSeparationPolicy{
	Enabled:     true,
	MinimumSize: 256,
	// How many files of values a range of keys may be scattered over, before they are
	// gathered again.
	MaxBlobReferenceDepth: 20,
	// Files of values that are 30 % garbage are written anew, unless most of what
	// they have may soon be garbage, too: compactions of the history are minutes
	// apart.
	TargetGarbageRatio: 0.3,
	RewriteMinimumAge:  5 * time.Minute,
}

// Config of one database.
type Config struct {
	// Dir is the database's directory; it is made if it is not there.
	Dir string
	// FS is the file system; nil is the operating system's.
	FS FS
	// Log says that every commit must be durable by a write-ahead log. Without
	// it a crash loses what was not flushed yet, in whole batches from the
	// newest back: what is left is always a prefix of what was committed.
	Log bool
	// CacheBytes bounds the block cache, if Cache is nil.
	CacheBytes int64
	Cache      *Cache
	// MemTableBytes is the size at which a memtable is flushed.
	MemTableBytes uint64
	// Logger takes Pebble's own messages.
	Logger *slog.Logger
	// Flushed is called after each flush that made data durable. It must not
	// block.
	Flushed func()
	// Stalls counts for how long writers had to wait, by Clock; may be nil.
	Stalls *Stalls
	Clock  clock.Clock
	// Fatal is called when writes to the disk have failed and the database can
	// not go on: what was being committed is not durable and must not be
	// acknowledged. The goroutine that was committing ends after Fatal returns.
	// Fatal must not block.
	// REQUIRES: not nil.
	Fatal func(err error)
}

// Open opens the database, or makes an empty one.
func Open(cfg Config) (*DB, error) {
	if cfg.Fatal == nil {
		return nil, errors.New("engine: Config.Fatal must be set")
	}
	fs := cfg.FS
	if fs == nil {
		fs = vfs.Default
	}
	opts := &pebble.Options{
		FS:                          &failStop{&longLogs{fs}, cfg.Fatal},
		FormatMajorVersion:          formatVersion,
		DisableWAL:                  !cfg.Log,
		CacheSize:                   cfg.CacheBytes,
		MemTableSize:                cfg.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       1000,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                4096,
		BytesPerSync:                1 << 20,
		Logger:                      logger{cfg.Logger, cfg.Fatal},
		EventListener:               listener(cfg),
	}
	if cfg.Cache != nil {
		opts.Cache = cfg.Cache.blocks
	}
	setTableOptions(opts)
	opts.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy { return separation }
	// Pebble can put tables into the queue of memtables and say that they are
	// ingested: with a write-ahead log they are durable then, without one they
	// are not.
	opts.Experimental.DisableIngestAsFlushable = func() bool { return !cfg.Log }
	db, err := pebble.Open(cfg.Dir, opts)
	if err != nil {
		return nil, fmt.Errorf("engine: open %s: %w", cfg.Dir, err)
	}
	return db, nil
}

// maxBackgroundErrors is how many flushes and compactions may fail one after
// another before the database is given up. Pebble tries again at once, and for
// ever; a disk that is full or gone does not come back that soon.
const maxBackgroundErrors = 10

func listener(cfg Config) *pebble.EventListener {
	var failures atomic.Int64
	if cfg.Clock == nil {
		cfg.Clock = clock.Real{}
	}
	l := &pebble.EventListener{
		BackgroundError: func(err error) {
			// One failure is told of several times; the log has the first.
			switch failures.Add(1) {
			case 1:
				cfg.Logger.Error("background write to the database failed, trying again", "dir", cfg.Dir, "error", err.Error())
			case maxBackgroundErrors:
				cfg.Fatal(fmt.Errorf("engine: background writes to %s keep failing: %w", cfg.Dir, err))
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			cfg.Fatal(fmt.Errorf("engine: corrupt data in %s: %w", info.Path, info.Details))
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			cfg.Stalls.slowDisk()
			cfg.Logger.Warn("disk is slow", "path", info.Path, "operation", info.OpType.String(), "took", info.Duration)
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			cfg.Stalls.begin(cfg.Clock.Now())
			cfg.Logger.Warn("writes wait for the database to flush", "dir", cfg.Dir, "reason", info.Reason)
		},
		WriteStallEnd: func() { cfg.Stalls.end(cfg.Clock.Now()) },
		FlushEnd: func(info pebble.FlushInfo) {
			if info.Err != nil {
				return
			}
			failures.Store(0)
			if cfg.Flushed != nil {
				cfg.Flushed()
			}
		},
	}
	return l
}

// logger passes Pebble's messages on. Pebble reports a failed commit by Fatalf
// and expects it not to return.
type logger struct {
	log   *slog.Logger
	fatal func(error)
}

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("pebble", "message", fmt.Sprintf(format, args...))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble", "message", fmt.Sprintf(format, args...))
}

func (l logger) Fatalf(format string, args ...any) {
	l.fatal(fmt.Errorf("engine: "+format, args...))
	runtime.Goexit()
}
