package options

import (
	"log/slog"
	"net/url"
	"time"

	cliflag "k8s.io/component-base/cli/flag"

	"github.com/pebbledash/pebbledash/gateway/serving"
	"github.com/pebbledash/pebbledash/storage/route"
)

// CompletedConfig holds every setting of the server, resolved and checked.
// Only [CompletedOptions.Config] makes one.
type CompletedConfig struct {
	// Name is the member's, unique in its cluster.
	Name    string
	DataDir string

	ListenPeerURLs    []url.URL
	AdvertisePeerURLs []url.URL
	// PeerTLS is for serving other members and for connecting to them. Where
	// PeerAutoTLS asks for a certificate that the member makes, its files are not
	// named yet.
	PeerTLS     serving.TLSConfig
	PeerAutoTLS bool
	// InitialCluster is "name=url,name=url", all members', sorted by name.
	InitialCluster      string
	InitialClusterToken string
	// NewCluster is false where the member shall join a cluster that exists. It
	// is of no meaning once the data directory holds a member.
	NewCluster bool
	// HeartbeatInterval is the length of a raft tick.
	HeartbeatInterval time.Duration
	// ElectionTimeout is at least five heartbeat intervals.
	ElectionTimeout time.Duration
	// ForceNewCluster makes this member the only one of a cluster that has lost its quorum.
	ForceNewCluster bool
	// StrictReconfigCheck refuses changes of the members that would cost the
	// quorum.
	StrictReconfigCheck bool
	// MaxLearners bounds the members that do not vote.
	MaxLearners int

	// ResourceGroups and EtcdPrefix are as given, Routes is what they mean. They
	// are those that a new cluster gets; once the data directory holds a member,
	// its routes count.
	ResourceGroups string
	EtcdPrefix     string
	Routes         *route.Table
	// GroupListenClientURLs are sorted. Every group is in Routes.
	GroupListenClientURLs []GroupURL
	// SpreadLeaders gives each group's leader a home of its own; else they follow
	// core's.
	SpreadLeaders bool

	ListenClientURLs    []url.URL
	AdvertiseClientURLs []url.URL
	ListenMetricsURLs   []url.URL
	EnablePprof         bool
	// ExtensiveMetrics adds histograms of the time that calls take.
	ExtensiveMetrics bool
	// TLS is for serving clients; AutoTLS is as PeerAutoTLS.
	TLS     serving.TLSConfig
	AutoTLS bool
	// SelfSignedYears is for how long certificates hold that the member makes.
	SelfSignedYears int

	// MaxRequestBytes bounds one request of a client.
	MaxRequestBytes int
	// MaxTxnOps bounds the operations of one transaction, branch by branch.
	MaxTxnOps int
	// MaxConcurrentStreams bounds the streams of one connection.
	MaxConcurrentStreams uint32
	KeepAlive            KeepAliveConfig
	// WatchProgressNotifyInterval is how often an idle watch that asked for it
	// hears of the revision.
	WatchProgressNotifyInterval time.Duration

	// EnableGRPCGateway serves the API as JSON. CORS are the origins that may use it
	// from a browser, HostWhitelist the names by which HTTP is served without TLS;
	// all if they are empty.
	EnableGRPCGateway   bool
	CORS, HostWhitelist []string

	// MaxRequestsInflight and MaxMutatingRequestsInflight bound the requests that
	// are executed at a time; 0 is no limit. ResourceMaxInflight are on top.
	MaxRequestsInflight         int
	MaxMutatingRequestsInflight int
	ResourceMaxInflight         route.Numbers

	// WatchCache says whether resources are kept in memory: of each so many events,
	// where WatchCacheSizes does not say otherwise, and of all so many bytes.
	WatchCache      bool
	WatchCacheSize  int
	WatchCacheSizes route.Numbers
	WatchCacheBytes int64

	// CacheBytes bounds the store's block cache, MemTableBytes its memtable.
	CacheBytes    int64
	MemTableBytes uint64

	// QuotaBytes is what the versions of all keys may take, 0 for the default, less for
	// no bound; GroupQuotaBytes is the same of single groups.
	QuotaBytes      int64
	GroupQuotaBytes map[string]int64

	// CompactionPeriod or CompactionRevisions is what history the member keeps when it
	// compacts by itself; it does not where both are 0.
	CompactionPeriod    time.Duration
	CompactionRevisions int64

	// InitialCorruptCheck compares what the member has with the others before it
	// serves; CorruptCheckTime and CompactHashCheckTime are how often the leader
	// does, and looks whether it should after a compaction; 0 is never.
	InitialCorruptCheck                    bool
	CorruptCheckTime, CompactHashCheckTime time.Duration

	// SlowRequest is how long a call takes at least that is logged; 0 for the
	// default.
	SlowRequest time.Duration

	// SnapshotCount is how many log entries are kept before the log is truncated.
	SnapshotCount uint64
	// CatchUpEntries are kept in each log for members that are behind.
	CatchUpEntries uint64

	// AuthToken says which tokens users get that log in, AuthTokenTTL for how long
	// simple ones are good unused, and BcryptCost what passwords are hashed with.
	AuthToken    string
	AuthTokenTTL time.Duration
	BcryptCost   int
	// ClientCertAuth has clients be the users that their certificates name.
	ClientCertAuth bool

	Tracing TracingConfig
	Log     LogConfig

	// Flags are all flags with their values, as they were given.
	Flags cliflag.NamedFlagSets

	// Warnings are what the operator should be told when the server starts, such
	// as a flag that has no effect yet.
	Warnings []string
}

// KeepAliveConfig is how gRPC tells living connections from dead ones.
type KeepAliveConfig struct {
	// MinTime is the shortest interval between pings that a client may keep;
	// pings are allowed without streams.
	MinTime time.Duration
	// Interval is when the server pings a silent client; 0: never.
	Interval time.Duration
	// Timeout is how long the server waits for the answer to its ping; 0: forever.
	Timeout time.Duration
}

// TracingConfig says where traces of requests go: what is in ConfigFile, or what the
// other fields say; nowhere if it is zero.
type TracingConfig struct {
	// ConfigFile holds kube-apiserver's TracingConfiguration.
	ConfigFile string

	Address, ServiceName, InstanceID string
	// TracesPerMillion is how many requests are traced besides those whose clients
	// want it.
	TracesPerMillion int32
}

// LogConfig says what is logged, how and where.
type LogConfig struct {
	Level slog.Level
	// JSON is for machines; else lines are for people.
	JSON bool
	// Outputs are "stderr", "stdout" or paths of files, or the journal alone. Never
	// empty.
	Outputs []string
	// Rotation is how files are rotated; nil is not at all.
	Rotation *LogRotation
}

// LogRotation says when a file of the log is continued by a new one, and how long the
// old ones are kept. Its JSON is etcd's.
type LogRotation struct {
	// MaxMegabytes is the size after which there is a new one; 0 is 100.
	MaxMegabytes int `json:"maxsize"`
	// MaxDays and MaxBackups bound the old ones; 0 is no bound.
	MaxDays    int `json:"maxage"`
	MaxBackups int `json:"maxbackups"`
	// LocalTime names them by local time instead of UTC.
	LocalTime bool `json:"localtime"`
	Compress  bool `json:"compress"`
}

// ElectionTicks is the election timeout in heartbeat intervals, rounded down as
// in etcd; at least five.
func (c *CompletedConfig) ElectionTicks() int {
	return int(c.ElectionTimeout / c.HeartbeatInterval)
}
