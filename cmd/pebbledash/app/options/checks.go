package options

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Features that --feature-gates turns on and that do something here.
const (
	initialCorruptCheck = "InitialCorruptCheck"
	compactHashCheck    = "CompactHashCheck"
)

// gates are etcd's features: what there is to say of each that does nothing, or is
// done always, when it is asked for.
var gates = map[string]string{
	initialCorruptCheck:            "",
	compactHashCheck:               "",
	"AllAlpha":                     "it turns on no feature here",
	"AllBeta":                      "it turns on no feature here",
	"FastLeaseKeepAlive":           "a renewal never waits for what is applied",
	"LeaseCheckpoint":              "what is left of leases is always recorded",
	"LeaseCheckpointPersist":       "what is left of leases is always recorded",
	"PriorityRequest":              "requests are queued by their flow (--max-requests-inflight)",
	"SetMemberLocalAddr":           "the system chooses the address",
	"StopGRPCServiceOnDefrag":      "there is nothing to defragment",
	"TxnModeWriteWithSharedBuffer": whyBolt,
}

// CheckOptions are about whether all members have the same.
type CheckOptions struct {
	Gates            string
	CorruptCheckTime time.Duration
	CompactHashTime  time.Duration
}

func newCheckOptions() *CheckOptions { return &CheckOptions{CompactHashTime: time.Minute} }

// AddFlags adds the section's flags to fs.
func (o *CheckOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Gates, "feature-gates", o.Gates,
		"Features of etcd, as name=true,name=false. InitialCorruptCheck compares what the member has with the others "+
			"before it serves; CompactHashCheck has the leader compare all members after compactions.")
	fs.DurationVar(&o.CorruptCheckTime, "corrupt-check-time", o.CorruptCheckTime,
		"How often the leader compares what the members have, which reads all keys; 0 is never. Who differs raises the alarm CORRUPT.")
	fs.DurationVar(&o.CompactHashTime, "compact-hash-check-time", o.CompactHashTime,
		"How often the leader looks whether there was a compaction, with CompactHashCheck.")
}

// features returns which features are asked for.
func (o *CheckOptions) features() (map[string]bool, error) {
	on := map[string]bool{}
	if o.Gates == "" {
		return on, nil
	}
	for part := range strings.SplitSeq(o.Gates, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		set, err := strconv.ParseBool(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("--feature-gates: %q is not of the form name=true or name=false", part)
		}
		if _, known := gates[name]; !known {
			return nil, fmt.Errorf("--feature-gates: there is no feature %q; there are %s",
				name, strings.Join(slices.Sorted(maps.Keys(gates)), ", "))
		}
		on[name] = set
	}
	return on, nil
}

// Validate returns everything that is wrong.
func (o *CheckOptions) Validate() []error {
	var errs []error
	if _, err := o.features(); err != nil {
		errs = append(errs, err)
	}
	if o.CorruptCheckTime < 0 {
		errs = append(errs, fmt.Errorf("--corrupt-check-time must not be negative, like %v", o.CorruptCheckTime))
	}
	if o.CompactHashTime <= 0 {
		errs = append(errs, fmt.Errorf("--compact-hash-check-time must be more than 0, not %v", o.CompactHashTime))
	}
	return errs
}

func (o *CheckOptions) applyTo(c *CompletedConfig) {
	on, _ := o.features() // Validate has seen the error
	c.InitialCorruptCheck = on[initialCorruptCheck]
	c.CorruptCheckTime = o.CorruptCheckTime
	if on[compactHashCheck] {
		c.CompactHashCheckTime = o.CompactHashTime
	}
	for _, name := range slices.Sorted(maps.Keys(on)) {
		if why := gates[name]; why != "" {
			c.Warnings = append(c.Warnings, fmt.Sprintf("--feature-gates=%s=%v has no effect: %s", name, on[name], why))
		}
	}
}
