package options

import (
	"log/slog"
	"net/url"
	"time"
)

// CompletedConfig holds every setting of the server, resolved and checked.
// Only [CompletedOptions.Config] makes one.
type CompletedConfig struct {
	// Name is the member's, unique in its cluster.
	Name    string
	DataDir string

	// ListenPeerURLs is not listened on yet: a cluster has one member.
	ListenPeerURLs    []url.URL
	AdvertisePeerURLs []url.URL
	// InitialCluster is "name=url,name=url", this member's URLs only, sorted.
	InitialCluster      string
	InitialClusterToken string
	// NewCluster is false where the member shall join a cluster that exists. It
	// is of no meaning once the data directory holds a member.
	NewCluster bool
	// HeartbeatInterval is the length of a raft tick.
	HeartbeatInterval time.Duration
	// ElectionTimeout is at least five heartbeat intervals.
	ElectionTimeout time.Duration

	ListenClientURLs    []url.URL
	AdvertiseClientURLs []url.URL
	ListenMetricsURLs   []url.URL
	EnablePprof         bool
	TLS                 TLSConfig

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

	// SnapshotCount is how many log entries are kept before the log is truncated.
	SnapshotCount uint64

	Log LogConfig

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

// TLSConfig names the files for serving clients. All are empty for plain text.
type TLSConfig struct {
	CertFile string
	KeyFile  string
	// TrustedCAFile is what clients' certificates are verified against; if it is
	// not empty, clients must have one.
	TrustedCAFile string
}

// LogConfig says what is logged, how and where.
type LogConfig struct {
	Level slog.Level
	// JSON is for machines; else lines are for people.
	JSON bool
	// Outputs are "stderr", "stdout" or paths of files. Never empty.
	Outputs []string
}

// ElectionTicks is the election timeout in heartbeat intervals, rounded down as
// in etcd; at least five.
func (c *CompletedConfig) ElectionTicks() int {
	return int(c.ElectionTimeout / c.HeartbeatInterval)
}
