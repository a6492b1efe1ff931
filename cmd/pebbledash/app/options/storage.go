package options

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"
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
}

func newStorageOptions() *StorageOptions {
	return &StorageOptions{
		SnapshotCount:       defaultSnapshotCount,
		CatchUpEntries:      defaultCatchUpCount,
		CompactionMode:      compactionPeriodic,
		CompactionRetention: "0",
	}
}

// AddFlags adds the section's flags to fs.
func (o *StorageOptions) AddFlags(fs *pflag.FlagSet) {
	fs.Uint64Var(&o.SnapshotCount, "snapshot-count", o.SnapshotCount,
		"Committed log entries after which the log may be truncated (0 for the default).")
	fs.Uint64Var(&o.CatchUpEntries, "snapshot-catchup-entries", o.CatchUpEntries,
		"Log entries kept for slow members when the log is truncated (0 for the default).")
	fs.Int64Var(&o.QuotaBytes, "quota-backend-bytes", o.QuotaBytes,
		"Most bytes that the store may hold. Accepted, but not yet enforced.")
	fs.StringVar(&o.CompactionMode, "auto-compaction-mode", o.CompactionMode,
		"How to read --auto-compaction-retention: \"periodic\" or \"revision\".")
	fs.StringVar(&o.CompactionRetention, "auto-compaction-retention", o.CompactionRetention,
		"History that the member keeps when it compacts by itself: hours or a duration, or a number of revisions; 0 is never. "+
			"Accepted, but not yet done.")
}

// Validate returns everything that is wrong.
func (o *StorageOptions) Validate() []error {
	var errs []error
	if o.CompactionMode != compactionPeriodic && o.CompactionMode != compactionRevision {
		errs = append(errs, fmt.Errorf("--auto-compaction-mode must be %q or %q, not %q",
			compactionPeriodic, compactionRevision, o.CompactionMode))
	} else if _, err := o.compacts(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// compacts reports whether the member shall compact by itself.
func (o *StorageOptions) compacts() (bool, error) {
	if n, err := strconv.ParseInt(o.CompactionRetention, 10, 64); err == nil && n >= 0 {
		return n > 0, nil
	}
	d, err := time.ParseDuration(o.CompactionRetention)
	if err != nil || d < 0 || o.CompactionMode == compactionRevision {
		return false, fmt.Errorf("--auto-compaction-retention %q is no retention for --auto-compaction-mode=%s",
			o.CompactionRetention, o.CompactionMode)
	}
	return d > 0, nil
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
	if o.QuotaBytes != 0 {
		c.Warnings = append(c.Warnings, "--quota-backend-bytes is not yet enforced")
	}
	if on, _ := o.compacts(); on {
		c.Warnings = append(c.Warnings,
			"--auto-compaction-retention is not yet acted on: compact from outside, as kube-apiserver does")
	}
}
