package options

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/pflag"
)

const (
	// minWatchProgressInterval is etcd's: what is asked to be more often is done
	// this often.
	minWatchProgressInterval = 100 * time.Millisecond
	// maxMaxRequestBytes keeps a request below the size that gRPC, the log and a
	// client's own limits can carry.
	maxMaxRequestBytes = 1 << 30
)

// ClientOptions are about what clients may do, and where.
type ClientOptions struct {
	ListenURLs            URLs
	AdvertiseURLs         URLs
	MaxRequestBytes       uint
	MaxTxnOps             uint
	MaxConcurrentStreams  uint32
	KeepAlive             KeepAliveConfig
	WatchProgressInterval time.Duration
	ListenHTTPURLs        URLs
	SlowRequest           time.Duration
}

func newClientOptions() *ClientOptions {
	return &ClientOptions{
		ListenURLs:           mustURLs("http://localhost:2379"),
		AdvertiseURLs:        mustURLs("http://localhost:2379"),
		MaxRequestBytes:      1.5 * 1024 * 1024,
		MaxTxnOps:            128,
		MaxConcurrentStreams: math.MaxUint32,
		KeepAlive: KeepAliveConfig{
			MinTime:  5 * time.Second,
			Interval: 2 * time.Hour,
			Timeout:  20 * time.Second,
		},
		WatchProgressInterval: 10 * time.Minute,
		SlowRequest:           300 * time.Millisecond,
	}
}

// AddFlags adds the section's flags to fs.
func (o *ClientOptions) AddFlags(fs *pflag.FlagSet) {
	fs.Var(&o.ListenURLs, "listen-client-urls",
		"URLs to listen on for clients: http, https, unix or unixs.")
	fs.Var(&o.ListenHTTPURLs, "listen-client-http-urls",
		"Further URLs to listen on for clients. Unlike etcd's they serve gRPC too, and those of --listen-client-urls HTTP.")
	fs.DurationVar(&o.SlowRequest, "warning-unary-request-duration", o.SlowRequest,
		"A call that takes so long is logged.")
	fs.Var(&o.AdvertiseURLs, "advertise-client-urls",
		"This member's URLs as clients shall see them; required with --listen-client-urls.")
	fs.UintVar(&o.MaxRequestBytes, "max-request-bytes", o.MaxRequestBytes, "Largest request in bytes.")
	fs.UintVar(&o.MaxTxnOps, "max-txn-ops", o.MaxTxnOps, "Most operations in a transaction.")
	fs.Uint32Var(&o.MaxConcurrentStreams, "max-concurrent-streams", o.MaxConcurrentStreams,
		"Most streams at a time on one connection (0 for no limit).")
	fs.DurationVar(&o.KeepAlive.MinTime, "grpc-keepalive-min-time", o.KeepAlive.MinTime,
		"Shortest interval between pings of a client; one that pings more often is disconnected.")
	fs.DurationVar(&o.KeepAlive.Interval, "grpc-keepalive-interval", o.KeepAlive.Interval,
		"Silence after which the server pings a client (0 to disable).")
	fs.DurationVar(&o.KeepAlive.Timeout, "grpc-keepalive-timeout", o.KeepAlive.Timeout,
		"Wait for the answer to a ping before a client is disconnected (0 to disable).")
	fs.DurationVar(&o.WatchProgressInterval, "watch-progress-notify-interval", o.WatchProgressInterval,
		"How often an idle watch that asked for it is told the revision; at least 100ms.")
}

// Complete fills in what follows from other flags. The default of
// --advertise-client-urls holds only together with that of
// --listen-client-urls, as in etcd.
func (o *ClientOptions) Complete(wasSet func(flag string) bool) {
	if wasSet("listen-client-urls") && !wasSet("advertise-client-urls") {
		o.AdvertiseURLs = nil
	}
}

// Validate returns everything that is wrong.
func (o *ClientOptions) Validate() []error {
	var errs []error
	if len(o.ListenURLs) == 0 {
		errs = append(errs, errors.New("--listen-client-urls must not be empty"))
	}
	errs = append(errs, o.ListenURLs.checkBind("listen-client-urls")...)
	errs = append(errs, o.ListenHTTPURLs.checkBind("listen-client-http-urls")...)
	if o.SlowRequest <= 0 {
		errs = append(errs, fmt.Errorf("--warning-unary-request-duration must be more than 0, not %v", o.SlowRequest))
	}
	if len(o.AdvertiseURLs) == 0 {
		errs = append(errs, errors.New("--advertise-client-urls is required when --listen-client-urls is set explicitly"))
	}
	errs = append(errs, o.AdvertiseURLs.checkAdvertised("advertise-client-urls")...)
	if o.MaxRequestBytes == 0 || o.MaxRequestBytes > maxMaxRequestBytes {
		errs = append(errs, fmt.Errorf("--max-request-bytes must be between 1 and %d, not %d", maxMaxRequestBytes, o.MaxRequestBytes))
	}
	if o.MaxTxnOps == 0 || o.MaxTxnOps > math.MaxInt32 {
		errs = append(errs, fmt.Errorf("--max-txn-ops must be between 1 and %d, not %d", math.MaxInt32, o.MaxTxnOps))
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{
		{"grpc-keepalive-min-time", o.KeepAlive.MinTime},
		{"grpc-keepalive-interval", o.KeepAlive.Interval},
		{"grpc-keepalive-timeout", o.KeepAlive.Timeout},
		{"watch-progress-notify-interval", o.WatchProgressInterval},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("--%s must not be negative, but is %v", d.flag, d.value))
		}
	}
	return errs
}

func (o *ClientOptions) applyTo(c *CompletedConfig) {
	c.ListenClientURLs = append(o.ListenURLs.list(), o.ListenHTTPURLs.list()...)
	c.SlowRequest = o.SlowRequest
	c.AdvertiseClientURLs = o.AdvertiseURLs.list()
	c.MaxRequestBytes = int(o.MaxRequestBytes)
	c.MaxTxnOps = int(o.MaxTxnOps)
	c.MaxConcurrentStreams = o.MaxConcurrentStreams
	if c.MaxConcurrentStreams == 0 {
		c.MaxConcurrentStreams = math.MaxUint32
	}
	c.KeepAlive = o.KeepAlive
	c.WatchProgressNotifyInterval = o.WatchProgressInterval
	switch {
	case o.WatchProgressInterval == 0: // etcd's word for its default
		c.WatchProgressNotifyInterval = newClientOptions().WatchProgressInterval
	case o.WatchProgressInterval < minWatchProgressInterval:
		c.WatchProgressNotifyInterval = minWatchProgressInterval
		c.Warnings = append(c.Warnings, fmt.Sprintf("--watch-progress-notify-interval is %v, not %v, which is too often",
			minWatchProgressInterval, o.WatchProgressInterval))
	}
}
