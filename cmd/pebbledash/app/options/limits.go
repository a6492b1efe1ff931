package options

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/pebbledash/pebbledash/gateway/admission"
	"github.com/pebbledash/pebbledash/storage/route"
)

// maxInflight bounds the limits themselves.
const maxInflight = 1 << 20

// LimitOptions are about how many requests are executed at a time.
type LimitOptions struct {
	MaxRequestsInflight         int
	MaxMutatingRequestsInflight int
	ResourceMaxInflight         string
}

func newLimitOptions() *LimitOptions {
	return &LimitOptions{
		MaxRequestsInflight:         admission.DefaultMaxInflight,
		MaxMutatingRequestsInflight: admission.DefaultMaxMutatingInflight,
	}
}

// AddFlags adds the section's flags to fs.
func (o *LimitOptions) AddFlags(fs *pflag.FlagSet) {
	fs.IntVar(&o.MaxRequestsInflight, "max-requests-inflight", o.MaxRequestsInflight,
		"Most requests that change nothing executed at a time, half of them lists; a long list counts for several. "+
			"More wait in fair queues. 0 for no limit.")
	fs.IntVar(&o.MaxMutatingRequestsInflight, "max-mutating-requests-inflight", o.MaxMutatingRequestsInflight,
		"Most requests that may change something executed at a time, a quarter of them those of leases. "+
			"More wait in fair queues. 0 for no limit.")
	fs.StringVar(&o.ResourceMaxInflight, "resource-max-inflight", o.ResourceMaxInflight,
		"Limits for resources on top, whatever their requests do, as resource#n,group/resource#n; events#50,leases#100.")
}

// Validate returns everything that is wrong.
func (o *LimitOptions) Validate() []error {
	var errs []error
	for _, f := range []struct {
		flag  string
		value int
	}{
		{"max-requests-inflight", o.MaxRequestsInflight},
		{"max-mutating-requests-inflight", o.MaxMutatingRequestsInflight},
	} {
		if f.value < 0 || f.value > maxInflight {
			errs = append(errs, fmt.Errorf("--%s must be between 0 and %d, not %d", f.flag, maxInflight, f.value))
		}
	}
	if _, err := o.resources(); err != nil {
		errs = append(errs, fmt.Errorf("--resource-max-inflight: %w", err))
	}
	return errs
}

func (o *LimitOptions) resources() (route.Numbers, error) {
	return admission.ParseResourceLimits(o.ResourceMaxInflight)
}

func (o *LimitOptions) applyTo(c *CompletedConfig) {
	c.MaxRequestsInflight = o.MaxRequestsInflight
	c.MaxMutatingRequestsInflight = o.MaxMutatingRequestsInflight
	c.ResourceMaxInflight, _ = o.resources() // Validate has seen the error
}
