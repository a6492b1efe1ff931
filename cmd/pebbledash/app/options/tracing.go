package options

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
)

// maxTracesPerMillion is all of them.
const maxTracesPerMillion = 1_000_000

// TracingOptions are about OpenTelemetry: kube-apiserver's file, or etcd's flags.
type TracingOptions struct {
	ConfigFile string

	Distributed      bool
	Address          string
	ServiceName      string
	InstanceID       string
	TracesPerMillion int
}

func newTracingOptions() *TracingOptions {
	return &TracingOptions{Address: "localhost:4317", ServiceName: "etcd"}
}

// AddFlags adds the section's flags to fs.
func (o *TracingOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.ConfigFile, "tracing-config-file", o.ConfigFile,
		"File with a TracingConfiguration, as kube-apiserver takes it: where traces of requests are sent, and of how many in a million.")
	fs.BoolVar(&o.Distributed, "enable-distributed-tracing", o.Distributed,
		"Send traces of requests as the --distributed-tracing flags say, instead of --tracing-config-file.")
	fs.StringVar(&o.Address, "distributed-tracing-address", o.Address, "Address of the OpenTelemetry collector.")
	fs.StringVar(&o.ServiceName, "distributed-tracing-service-name", o.ServiceName,
		"Name of the service in traces; the same for all members.")
	fs.StringVar(&o.InstanceID, "distributed-tracing-instance-id", o.InstanceID,
		"Name of this member in traces; another for each member.")
	fs.IntVar(&o.TracesPerMillion, "distributed-tracing-sampling-rate", o.TracesPerMillion,
		"How many requests in a million are traced, besides those whose clients want it.")
}

// Validate returns everything that is wrong.
func (o *TracingOptions) Validate() []error {
	var errs []error
	if o.ConfigFile != "" && o.Distributed {
		errs = append(errs, errors.New("--tracing-config-file and --enable-distributed-tracing exclude each other"))
	}
	if o.Distributed && (o.TracesPerMillion < 0 || o.TracesPerMillion > maxTracesPerMillion) {
		errs = append(errs, fmt.Errorf("--distributed-tracing-sampling-rate must be between 0 and %d, not %d",
			maxTracesPerMillion, o.TracesPerMillion))
	}
	if o.Distributed && o.Address == "" {
		errs = append(errs, errors.New("--distributed-tracing-address must not be empty"))
	}
	return errs
}

func (o *TracingOptions) applyTo(c *CompletedConfig) {
	c.Tracing.ConfigFile = o.ConfigFile
	if o.Distributed {
		c.Tracing = TracingConfig{
			Address: o.Address, ServiceName: o.ServiceName, InstanceID: o.InstanceID, TracesPerMillion: int32(o.TracesPerMillion),
		}
	}
}
