package options

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/pebbledash/pebbledash/storage/route"
)

// WatchCacheOptions are about what is kept in memory of each resource.
type WatchCacheOptions struct {
	Enabled     bool
	DefaultSize int
	Sizes       string
	MaxMiB      int
}

const (
	maxWatchCacheSize = 1 << 24
	maxWatchCacheMiB  = 1 << 24
)

func newWatchCacheOptions() *WatchCacheOptions {
	return &WatchCacheOptions{Enabled: true, DefaultSize: 10_000, MaxMiB: 256}
}

// AddFlags adds the section's flags to fs.
func (o *WatchCacheOptions) AddFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.Enabled, "watch-cache", o.Enabled,
		"Keep recent events of each resource in memory, and the objects of those that are listed. Answers are the same without.")
	fs.IntVar(&o.DefaultSize, "default-watch-cache-size", o.DefaultSize,
		"Most recent events kept of each resource that --watch-cache-sizes does not name; 0 keeps nothing of them.")
	fs.StringVar(&o.Sizes, "watch-cache-sizes", o.Sizes,
		"Most recent events kept of resources, as resource#n,group/resource#n; 0 keeps nothing of one: pods#5000,nodes#1000.")
	fs.IntVar(&o.MaxMiB, "watch-cache-max-mib", o.MaxMiB,
		"Most memory for the events and objects of all resources, in MiB. Past it the objects that nobody has read for the longest time go first.")
}

// Validate returns everything that is wrong.
func (o *WatchCacheOptions) Validate() []error {
	var errs []error
	if o.DefaultSize < 0 || o.DefaultSize > maxWatchCacheSize {
		errs = append(errs, fmt.Errorf("--default-watch-cache-size must be between 0 and %d, not %d", maxWatchCacheSize, o.DefaultSize))
	}
	if o.MaxMiB < 1 || o.MaxMiB > maxWatchCacheMiB {
		errs = append(errs, fmt.Errorf("--watch-cache-max-mib must be between 1 and %d, not %d; --watch-cache=false keeps nothing in memory",
			maxWatchCacheMiB, o.MaxMiB))
	}
	if _, err := o.sizes(); err != nil {
		errs = append(errs, fmt.Errorf("--watch-cache-sizes: %w", err))
	}
	return errs
}

func (o *WatchCacheOptions) sizes() (route.Numbers, error) {
	return route.ParseNumbers(o.Sizes, 0, maxWatchCacheSize)
}

func (o *WatchCacheOptions) applyTo(c *CompletedConfig) {
	c.WatchCache = o.Enabled
	c.WatchCacheSize = o.DefaultSize
	c.WatchCacheSizes, _ = o.sizes() // Validate has seen the error
	c.WatchCacheBytes = int64(o.MaxMiB) << 20
}
