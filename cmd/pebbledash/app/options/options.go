// Package options turns the command line and the ETCD_ variables into a
// [CompletedConfig]. The flags are etcd's: same names, same defaults, same
// meaning, so that a manifest written for etcd works here unchanged; a flag of etcd
// that has no effect here says why (inherited.go).
//
// Flags come in sections, one section a file. A section adds its flags, fills
// in what follows from other flags (Complete), finds what is wrong (Validate),
// and writes its part of the configuration (applyTo). The order is
//
//	o := options.New()
//	o.Flags() ... parse ...      the command line
//	options.ApplyEnv(...)        the environment, for flags not given
//	c := o.Complete(flagWasSet)
//	c.Validate()                 everything that is wrong, at once
//	c.Config()
//
// Nothing here touches the disk or the network.
package options

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
)

// Options holds the values of all flags, by section.
type Options struct {
	Member     *MemberOptions
	Cluster    *ClusterOptions
	Groups     *GroupOptions
	Client     *ClientOptions
	HTTP       *HTTPOptions
	Limits     *LimitOptions
	WatchCache *WatchCacheOptions
	Storage    *StorageOptions
	Security   *SecurityOptions
	Auth       *AuthOptions
	Monitoring *MonitoringOptions
	Tracing    *TracingOptions
	Logging    *LoggingOptions
	Checks     *CheckOptions
	Inherited  *InheritedOptions
	Global     *GlobalOptions
}

// New returns the defaults.
func New() *Options {
	return &Options{
		Member:     newMemberOptions(),
		Cluster:    newClusterOptions(),
		Groups:     newGroupOptions(),
		Client:     newClientOptions(),
		HTTP:       newHTTPOptions(),
		Limits:     newLimitOptions(),
		WatchCache: newWatchCacheOptions(),
		Storage:    newStorageOptions(),
		Security:   newSecurityOptions(),
		Auth:       newAuthOptions(),
		Monitoring: newMonitoringOptions(),
		Tracing:    newTracingOptions(),
		Logging:    newLoggingOptions(),
		Checks:     newCheckOptions(),
		Inherited:  &InheritedOptions{},
		Global:     &GlobalOptions{},
	}
}

// Flags returns the flags in named sections, in the order in which --help
// shows them.
func (o *Options) Flags() cliflag.NamedFlagSets {
	var fss cliflag.NamedFlagSets
	add := func(section string, addFlags func(*pflag.FlagSet)) {
		addFlags(fss.FlagSet(section))
	}
	add("member", o.Member.AddFlags)
	add("cluster", o.Cluster.AddFlags)
	add("raft groups", o.Groups.AddFlags)
	add("client traffic", o.Client.AddFlags)
	add("clients over HTTP", o.HTTP.AddFlags)
	add("limits", o.Limits.AddFlags)
	add("watch cache", o.WatchCache.AddFlags)
	add("storage", o.Storage.AddFlags)
	add("comparing members", o.Checks.AddFlags)
	add("security", o.Security.AddFlags)
	add("users", o.Auth.AddFlags)
	add("monitoring", o.Monitoring.AddFlags)
	add("traces", o.Tracing.AddFlags)
	add("logging", o.Logging.AddFlags)
	add("etcd's, without effect here", o.Inherited.AddFlags)
	add("global", o.Global.AddFlags)
	classify(&fss)
	return fss
}

// secretFlags hold what is not to be shown by /flagz. Of etcd's flags these hold, or
// look as if they held, a secret itself and not the name of a file.
const secretFlags = `
auth-token discovery-password discovery-token discovery-user initial-cluster-token
`

func classify(fss *cliflag.NamedFlagSets) {
	for _, fs := range fss.FlagSets {
		fs.VisitAll(func(f *pflag.Flag) {
			if slices.Contains(strings.Fields(secretFlags), f.Name) {
				f.Annotations = map[string][]string{"classified": {"true"}}
			}
		})
	}
}

// CompletedOptions are options whose empty values have been filled in. Only
// Complete makes them.
type CompletedOptions struct{ o *Options }

// Complete fills in the values that follow from others. wasSet says whether a
// flag was given, on the command line or by the environment.
func (o *Options) Complete(wasSet func(flag string) bool) CompletedOptions {
	o.Member.Complete()
	o.Cluster.Complete(o.Member.Name)
	o.Client.Complete(wasSet)
	return CompletedOptions{o}
}

// Validate returns everything that is wrong.
func (c CompletedOptions) Validate() []error {
	var errs []error
	errs = append(errs, c.o.Member.Validate()...)
	errs = append(errs, c.o.Cluster.Validate(c.o.Member.Name)...)
	errs = append(errs, c.o.Groups.Validate()...)
	errs = append(errs, c.o.Client.Validate()...)
	errs = append(errs, c.o.HTTP.Validate()...)
	errs = append(errs, c.o.Limits.Validate()...)
	errs = append(errs, c.o.WatchCache.Validate()...)
	errs = append(errs, c.o.Storage.Validate()...)
	errs = append(errs, c.o.Security.Validate()...)
	errs = append(errs, c.o.Auth.Validate()...)
	errs = append(errs, c.o.Monitoring.Validate()...)
	errs = append(errs, c.o.Tracing.Validate()...)
	errs = append(errs, c.o.Logging.Validate()...)
	errs = append(errs, c.o.Checks.Validate()...)
	errs = append(errs, c.o.Inherited.Validate()...)
	errs = append(errs, c.validateListeners()...)
	return errs
}

// validateListeners checks what the sections cannot see alone: who listens
// where, and whether there is a certificate for it.
func (c CompletedOptions) validateListeners() []error {
	var errs []error
	clients := append(c.o.Client.ListenURLs.list(), c.o.Client.ListenHTTPURLs.list()...)
	clients = append(clients, c.o.Monitoring.ListenMetricsURLs.list()...)
	for _, u := range c.o.Groups.ListenURLs {
		clients = append(clients, u.URL)
	}
	for _, u := range clients {
		if Secure(u) && !c.o.Security.Client.hasCert() {
			errs = append(errs, errors.New("--cert-file and --key-file are required to listen on "+u.String()))
		}
	}
	for _, u := range c.o.Member.ListenPeerURLs {
		if Secure(u) && !c.o.Security.Peer.hasCert() {
			errs = append(errs, errors.New("--peer-cert-file and --peer-key-file are required to listen on "+u.String()))
		}
	}
	taken := map[string]string{} // address to the URL that has it
	for _, u := range append(clients, c.o.Member.ListenPeerURLs...) {
		_, address := Address(u)
		if u.Port() == "0" {
			continue // the system chooses, another one each time
		}
		if other, ok := taken[address]; ok {
			errs = append(errs, errors.New("cannot listen on both "+other+" and "+u.String()+
				": one address for both is not yet supported"))
		}
		taken[address] = u.String()
	}
	return errs
}

// Config returns the finished configuration.
//
// REQUIRES: Validate has found nothing.
func (c CompletedOptions) Config() *CompletedConfig {
	cfg := &CompletedConfig{}
	c.o.Member.applyTo(cfg)
	c.o.Cluster.applyTo(cfg)
	c.o.Groups.applyTo(cfg)
	c.o.Client.applyTo(cfg)
	c.o.HTTP.applyTo(cfg)
	c.o.Limits.applyTo(cfg)
	c.o.WatchCache.applyTo(cfg)
	c.o.Storage.applyTo(cfg)
	c.o.Security.applyTo(cfg)
	c.o.Auth.applyTo(cfg)
	c.o.Monitoring.applyTo(cfg)
	c.o.Tracing.applyTo(cfg)
	c.o.Logging.applyTo(cfg)
	c.o.Checks.applyTo(cfg)
	c.o.Inherited.applyTo(cfg)
	return cfg
}
