package options

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/pebbledash/pebbledash/storage/member"
)

const (
	compactionPeriodic = "periodic"
	compactionRevision = "revision"

	defaultSnapshotCount = 10_000
	defaultCatchUpCount  = 5_000
)

// StorageOptions are about what is kept, and how long.
type StorageOptions struct {
	SnapshotCount       uint64
	CatchUpEntries      uint64
	QuotaBytes          int64
	CompactionMode      string
	CompactionRetention string
	BlockCacheMiB       int
	MemTableMiB         int
}

// Bounds of what is kept in memory. A memtable of less would be flushed for every few
// requests; one of more takes a restart longer to replay than a supervisor waits.
const (
	maxBlockCacheMiB = 1 << 24
	minMemTableMiB   = 4
	maxMemTableMiB   = 1 << 10
)

func newStorageOptions() *StorageOptions {
	return &StorageOptions{
		SnapshotCount:       defaultSnapshotCount,
		CatchUpEntries:      defaultCatchUpCount,
		CompactionMode:      compactionPeriodic,
		CompactionRetention: "0",
		BlockCacheMiB:       member.DefaultCacheBytes >> 20,
		MemTableMiB:         member.DefaultMemTableBytes >> 20,
	}
}

// AddFlags adds the section's flags to fs.
func (o *StorageOptions) AddFlags(fs *pflag.FlagSet) {
	fs.Uint64Var(&o.SnapshotCount, "snapshot-count", o.SnapshotCount,
		"Committed log entries after which the log may be truncated (0 for the default).")
	fs.Uint64Var(&o.CatchUpEntries, "snapshot-catchup-entries", o.CatchUpEntries,
		"Log entries kept for slow members when the log is truncated (0 for the default).")
	fs.Int64Var(&o.QuotaBytes, "quota-backend-bytes", o.QuotaBytes,
		"Most bytes that all versions of keys may take, before compression; 0 is the default of 2 GiB, less than 0 no bound. "+
			"Who reaches it raises the alarm NOSPACE.")
	fs.StringVar(&o.CompactionMode, "auto-compaction-mode", o.CompactionMode,
		"How to read --auto-compaction-retention: \"periodic\" or \"revision\".")
	fs.StringVar(&o.CompactionRetention, "auto-compaction-retention", o.CompactionRetention,
		"History that the member keeps when it compacts by itself: hours or a duration, or a number of revisions; 0 is never.")
	fs.IntVar(&o.BlockCacheMiB, "block-cache-mib", o.BlockCacheMiB,
		"Most memory for blocks of the store that were read from disk, in MiB.")
	fs.IntVar(&o.MemTableMiB, "memtable-mib", o.MemTableMiB,
		"Changes that are gathered in memory before they are written to the store's tables, in MiB. While they are written as many "+
			"more are gathered, and the log, which a restart replays, takes twice as much.")
}

// Validate returns everything that is wrong.
func (o *StorageOptions) Validate() []error {
	var errs []error
	if o.CompactionMode != compactionPeriodic && o.CompactionMode != compactionRevision {
		errs = append(errs, fmt.Errorf("--auto-compaction-mode must be %q or %q, not %q",
			compactionPeriodic, compactionRevision, o.CompactionMode))
	} else if _, _, err := o.retention(); err != nil {
		errs = append(errs, err)
	}
	if o.BlockCacheMiB < 1 || o.BlockCacheMiB > maxBlockCacheMiB {
		errs = append(errs, fmt.Errorf("--block-cache-mib must be between 1 and %d, not %d", maxBlockCacheMiB, o.BlockCacheMiB))
	}
	if o.MemTableMiB < minMemTableMiB || o.MemTableMiB > maxMemTableMiB {
		errs = append(errs, fmt.Errorf("--memtable-mib must be between %d and %d, not %d", minMemTableMiB, maxMemTableMiB, o.MemTableMiB))
	}
	return errs
}

// retention returns what history is kept, 0 and 0 for all.
func (o *StorageOptions) retention() (period time.Duration, revisions int64, err error) {
	if n, err := strconv.ParseInt(o.CompactionRetention, 10, 64); err == nil && n >= 0 {
		switch {
		case o.CompactionMode == compactionRevision:
			return 0, n, nil
		case n <= math.MaxInt64/int64(time.Hour):
			return time.Duration(n) * time.Hour, 0, nil
		}
	}
	d, err := time.ParseDuration(o.CompactionRetention)
	if err != nil || d < 0 || 0 < d && d < time.Second || o.CompactionMode == compactionRevision {
		return 0, 0, fmt.Errorf("--auto-compaction-retention %q is no retention for --auto-compaction-mode=%s",
			o.CompactionRetention, o.CompactionMode)
	}
	return d, 0, nil
}

func (o *StorageOptions) applyTo(c *CompletedConfig) {
	c.SnapshotCount = o.SnapshotCount
	if c.SnapshotCount == 0 {
		c.SnapshotCount = defaultSnapshotCount
	}
	c.CatchUpEntries = o.CatchUpEntries
	if c.CatchUpEntries == 0 {
		c.CatchUpEntries = defaultCatchUpCount
	}
	c.QuotaBytes = o.QuotaBytes
	c.CacheBytes = int64(o.BlockCacheMiB) << 20
	c.MemTableBytes = uint64(o.MemTableMiB) << 20
	c.CompactionPeriod, c.CompactionRevisions, _ = o.retention() // Validate has seen the error
}
