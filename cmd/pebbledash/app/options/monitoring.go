package options

import "github.com/spf13/pflag"

// MonitoringOptions are about looking at the server from outside.
type MonitoringOptions struct {
	ListenMetricsURLs URLs
	EnablePprof       bool
}

// AddFlags adds the section's flags to fs.
func (o *MonitoringOptions) AddFlags(fs *pflag.FlagSet) {
	fs.Var(&o.ListenMetricsURLs, "listen-metrics-urls",
		"URLs to listen on for metrics and health, beside the client URLs.")
	fs.BoolVar(&o.EnablePprof, "enable-pprof", o.EnablePprof, "Serve profiles under /debug/pprof/.")
}

// Validate returns everything that is wrong.
func (o *MonitoringOptions) Validate() []error {
	return o.ListenMetricsURLs.checkBind("listen-metrics-urls")
}

func (o *MonitoringOptions) applyTo(c *CompletedConfig) {
	c.ListenMetricsURLs = o.ListenMetricsURLs.list()
	c.EnablePprof = o.EnablePprof
}
