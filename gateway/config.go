package gateway

import (
	"crypto/tls"
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/pebbledash/pebbledash/gateway/admission"
	"github.com/pebbledash/pebbledash/gateway/watchcache"
	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/route"
)

// Config of a Server. The zero value of every field is usable: it stands for
// the default, which is etcd's where etcd has the setting.
type Config struct {
	// MaxRequestBytes bounds a write, as it would stand in the log.
	MaxRequestBytes int
	// MaxTxnOps bounds the operations of a transaction's branch.
	MaxTxnOps int
	// StreamChunkBytes is about what a RangeStream sends at a time.
	StreamChunkBytes int

	// MaxConcurrentStreams bounds the calls under way on one connection.
	MaxConcurrentStreams uint32
	// MaxConnections bounds the connections of all listeners; more are closed
	// as they come.
	MaxConnections int
	// MaxPendingConnections bounds those of them that have not yet said what
	// they speak; HandshakeTimeout is how long they may take.
	MaxPendingConnections int
	HandshakeTimeout      time.Duration
	// StreamWorkers is the number of goroutines that stay to serve calls; 0
	// starts one for each call.
	StreamWorkers uint32

	// KeepaliveMinTime is the least time between pings that a client may send;
	// KeepaliveInterval is when the server pings a silent client, and
	// KeepaliveTimeout when it gives up waiting for the answer.
	KeepaliveMinTime, KeepaliveInterval, KeepaliveTimeout time.Duration

	// RequestTimeout bounds a write whose client sets no earlier deadline.
	RequestTimeout time.Duration
	// ElectionTimeout is the storage's. A stream whose client requires a leader
	// ends when there has been none for three of it.
	ElectionTimeout time.Duration
	// SlowRequest is how long a call may take unnoticed. Slow ones are logged,
	// at most one a second.
	SlowRequest time.Duration
	// WatchProgressInterval is how long a watch may be silent, if its client
	// wants progress notifications.
	WatchProgressInterval time.Duration

	// ServerVersion, ClusterVersion and StorageVersion are shown to clients.
	// kube-apiserver does without some features if the first is not an etcd's
	// that has them.
	ServerVersion, ClusterVersion, StorageVersion string
	// ProductVersion is our own, which backups note.
	ProductVersion string
	// QuotaBytes is what the versions of all keys may take, less than 0 is any;
	// GroupQuotaBytes is the same of single groups, by name.
	QuotaBytes      int64
	GroupQuotaBytes map[string]int64

	// CorruptCheckTime and CompactHashCheckTime are how often the members are compared,
	// and how often that is looked for after compactions, by the leader; 0 is never.
	CorruptCheckTime, CompactHashCheckTime time.Duration

	// Hub fans out the events of the store. Who opens the store makes it, since
	// the store needs it first.
	Hub *watchcache.Hub

	// Admission says when requests may come in; nil lets all in at once.
	Admission *admission.Limiter

	// TLS, if set, secures the listeners of Serve. Certificates are read at
	// each handshake, so its functions may renew them.
	TLS *tls.Config

	// Tokens makes the tokens of users that log in; simple ones if it is nil.
	Tokens auth.Mint
	// BcryptCost is what passwords are hashed with; bcrypt's default if it is out of
	// bounds. CommonNames has clients without a token be the users that their
	// certificates name.
	BcryptCost  int
	CommonNames bool

	// DisableJSON leaves out the API as JSON, below /v3/ of the clients' ports.
	DisableJSON bool
	// CORSOrigins are the origins whose pages a browser lets ask the clients' ports,
	// and HostWhitelist the names by which those may be asked over HTTP without TLS.
	// "*", or none, is all.
	CORSOrigins, HostWhitelist []string

	// Profiling serves profiles of the process below /debug/pprof/.
	Profiling bool
	// TracerProvider is told of calls; nil of none. TracesPerMillion is how many of a
	// million, besides those whose clients want it.
	TracerProvider   trace.TracerProvider
	TracesPerMillion int32
	// Routes say which resources have request counters of their own.
	Routes *route.Table

	// ExtensiveMetrics adds histograms of the time that calls take.
	ExtensiveMetrics bool
	// Registerer and Gatherer are where metrics are kept and read for /metrics.
	// By default the Server has a registry of its own.
	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer

	Logger *slog.Logger
	Clock  clock.Clock
}

const (
	defaultMaxRequestBytes = 1536 << 10
	// recvOverhead is what a message may be larger than MaxRequestBytes before
	// gRPC refuses to read it.
	recvOverhead = 512 << 10
)

func (c Config) withDefaults() Config {
	or(&c.MaxRequestBytes, defaultMaxRequestBytes)
	or(&c.MaxTxnOps, 128)
	or(&c.StreamChunkBytes, streamChunkBytes)
	or(&c.MaxConcurrentStreams, math.MaxUint32)
	or(&c.MaxConnections, 1<<14)
	or(&c.MaxPendingConnections, 1<<10)
	or(&c.HandshakeTimeout, 30*time.Second)
	or(&c.KeepaliveMinTime, 5*time.Second)
	or(&c.KeepaliveInterval, 2*time.Hour)
	or(&c.KeepaliveTimeout, 20*time.Second)
	or(&c.ElectionTimeout, time.Second)
	or(&c.RequestTimeout, 5*time.Second+2*c.ElectionTimeout)
	or(&c.SlowRequest, 300*time.Millisecond)
	or(&c.WatchProgressInterval, 10*time.Minute)
	or(&c.ServerVersion, "3.7.3")
	or(&c.ClusterVersion, "3.7.0")
	or(&c.StorageVersion, "3.7.0")
	or(&c.QuotaBytes, 2<<30)
	if c.Routes == nil {
		c.Routes = route.CoreOnly()
	}
	if c.Registerer == nil {
		r := prometheus.NewRegistry()
		c.Registerer = r
		if c.Gatherer == nil {
			c.Gatherer = r
		}
	}
	if c.Gatherer == nil {
		c.Gatherer, _ = c.Registerer.(prometheus.Gatherer)
	}
	if c.Gatherer == nil {
		c.Gatherer = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	return c
}

func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
