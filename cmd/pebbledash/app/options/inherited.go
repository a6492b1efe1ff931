package options

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"
)

// inherited is a flag of etcd that is taken so that a command line, a manifest or a
// configuration written for etcd starts here, and that has nothing to do here.
type inherited struct {
	name string
	// standard is etcd's default; its type is the flag's.
	standard any
	// why says why the flag has no effect, as the end of a sentence.
	why string
	// refused says that leaving out what the flag asks for would not be what its user
	// wants: any other value than the standard one is an error.
	refused bool
}

const (
	whyBolt      = "there is no bbolt file here: Pebble keeps the data"
	whyDiscovery = "the members are named by --initial-cluster; there is no discovery service"
	whyPeers     = "members notice broken connections by gRPC's pings"
)

// inheritedFlags are in the order of their names.
var inheritedFlags = []inherited{
	{name: "backend-batch-interval", standard: time.Duration(0), why: whyBolt},
	{name: "backend-batch-limit", standard: 0, why: whyBolt},
	{name: "backend-bbolt-freelist-type", standard: "map", why: whyBolt},
	{name: "bootstrap-defrag-threshold-megabytes", standard: uint(0), why: "there is nothing to defragment"},
	{name: "compaction-batch-limit", standard: 1000, why: "a compaction deletes in the background, in steps that it chooses"},
	{name: "compaction-sleep-interval", standard: 10 * time.Millisecond, why: "a compaction deletes in the background, and makes way for requests"},
	{name: "discovery", standard: "", why: whyDiscovery, refused: true},
	{name: "discovery-cacert", standard: "", why: whyDiscovery},
	{name: "discovery-cert", standard: "", why: whyDiscovery},
	{name: "discovery-dial-timeout", standard: 2 * time.Second, why: whyDiscovery},
	{name: "discovery-endpoints", standard: "", why: whyDiscovery, refused: true},
	{name: "discovery-fallback", standard: "exit", why: whyDiscovery},
	{name: "discovery-insecure-skip-tls-verify", standard: false, why: whyDiscovery},
	{name: "discovery-insecure-transport", standard: true, why: whyDiscovery},
	{name: "discovery-keepalive-time", standard: 2 * time.Second, why: whyDiscovery},
	{name: "discovery-keepalive-timeout", standard: 6 * time.Second, why: whyDiscovery},
	{name: "discovery-key", standard: "", why: whyDiscovery},
	{name: "discovery-password", standard: "", why: whyDiscovery},
	{name: "discovery-proxy", standard: "", why: whyDiscovery, refused: true},
	{name: "discovery-request-timeout", standard: 5 * time.Second, why: whyDiscovery},
	{name: "discovery-srv", standard: "", why: whyDiscovery, refused: true},
	{name: "discovery-srv-name", standard: "", why: whyDiscovery},
	{name: "discovery-token", standard: "", why: whyDiscovery, refused: true},
	{name: "discovery-user", standard: "", why: whyDiscovery},
	{name: "downgrade-check-time", standard: 5 * time.Second, why: "the store is not downgraded in place"},
	{name: "max-snapshots", standard: uint(5), why: "the state is its own snapshot: no files of them are kept"},
	{name: "max-wals", standard: uint(5), why: "the log is truncated by what the state has made durable (--snapshot-count)"},
	{name: "memory-mlock", standard: false, why: "no file of data is mapped into memory"},
	{name: "raft-read-timeout", standard: 5 * time.Second, why: whyPeers},
	{name: "raft-write-timeout", standard: 5 * time.Second, why: whyPeers},
	{name: "socket-reuse-address", standard: false, why: "Go sets the option on every listener"},
	{name: "socket-reuse-port", standard: false, why: "a second process could not open the data directory"},
	{name: "unsafe-no-fsync", standard: false, why: "what is acknowledged is always durable"},
	{name: "v2-deprecation", standard: "write-only", why: "there never was a v2 store"},
	{name: "wal-dir", standard: "", why: "the log is kept in --data-dir: put that on the faster disk"},
	{name: "warning-apply-duration", standard: 100 * time.Millisecond, why: "slow requests are logged whole (--warning-unary-request-duration)"},
}

// InheritedOptions are the values of inheritedFlags, which nobody needs.
type InheritedOptions struct {
	// fs is nil where AddFlags was not called: all have their standard values.
	fs *pflag.FlagSet
}

// AddFlags adds the section's flags to fs.
func (o *InheritedOptions) AddFlags(fs *pflag.FlagSet) {
	o.fs = fs
	for _, f := range inheritedFlags {
		usage := "No effect: " + f.why + "."
		if f.refused {
			usage = "Not taken: " + f.why + "."
		}
		switch standard := f.standard.(type) {
		case bool:
			fs.Bool(f.name, standard, usage)
		case int:
			fs.Int(f.name, standard, usage)
		case uint:
			fs.Uint(f.name, standard, usage)
		case string:
			fs.String(f.name, standard, usage)
		case time.Duration:
			fs.Duration(f.name, standard, usage)
		default:
			panic(fmt.Sprintf("options: --%s of %T", f.name, standard))
		}
	}
}

// Validate returns everything that is wrong.
func (o *InheritedOptions) Validate() []error {
	var errs []error
	if o.fs == nil {
		return nil
	}
	for _, f := range inheritedFlags {
		if flag := o.fs.Lookup(f.name); f.refused && flag.Value.String() != flag.DefValue {
			errs = append(errs, fmt.Errorf("--%s=%s is not possible: %s", f.name, quoted(flag), f.why))
		}
	}
	return errs
}

// quoted is a flag's value for an error, without secrets.
func quoted(f *pflag.Flag) string {
	if f.Annotations["classified"] != nil {
		return "..."
	}
	if f.Value.Type() == "string" {
		return strconv.Quote(f.Value.String())
	}
	return f.Value.String()
}

func (o *InheritedOptions) applyTo(c *CompletedConfig) {
	if o.fs == nil {
		return
	}
	for _, f := range inheritedFlags {
		if flag := o.fs.Lookup(f.name); flag.Changed && !f.refused && flag.Value.String() != flag.DefValue {
			c.Warnings = append(c.Warnings, fmt.Sprintf("--%s has no effect: %s", f.name, f.why))
		}
	}
}
