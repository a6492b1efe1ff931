package options

import (
	"fmt"

	"github.com/spf13/pflag"
)

// MonitoringOptions are about looking at the server from outside.
type MonitoringOptions struct {
	ListenMetricsURLs URLs
	EnablePprof       bool
	// Metrics is basic or extensive.
	Metrics string
}

func newMonitoringOptions() *MonitoringOptions { return &MonitoringOptions{Metrics: basicMetrics} }

const (
	basicMetrics     = "basic"
	extensiveMetrics = "extensive"
)

// AddFlags adds the section's flags to fs.
func (o *MonitoringOptions) AddFlags(fs *pflag.FlagSet) {
	fs.Var(&o.ListenMetricsURLs, "listen-metrics-urls",
		"URLs to listen on for metrics, health and all else that operators look at, with the clients' certificates if https.")
	fs.BoolVar(&o.EnablePprof, "enable-pprof", o.EnablePprof, "Serve profiles under /debug/pprof/.")
	fs.StringVar(&o.Metrics, "metrics", o.Metrics,
		"basic, or extensive for histograms of the time that calls take, which one of etcd's alert rules reads.")
}

// Validate returns everything that is wrong.
func (o *MonitoringOptions) Validate() []error {
	errs := o.ListenMetricsURLs.checkBind("listen-metrics-urls")
	if o.Metrics != basicMetrics && o.Metrics != extensiveMetrics {
		errs = append(errs, fmt.Errorf("--metrics must be %s or %s, not %q", basicMetrics, extensiveMetrics, o.Metrics))
	}
	return errs
}

func (o *MonitoringOptions) applyTo(c *CompletedConfig) {
	c.ListenMetricsURLs = o.ListenMetricsURLs.list()
	c.EnablePprof = o.EnablePprof
	c.ExtensiveMetrics = o.Metrics == extensiveMetrics
}
