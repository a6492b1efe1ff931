package member

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the member's, under etcd's names where etcd has them, so that
// etcd's alert rules and dashboards work.
type metrics struct {
	fsync, commit prometheus.Histogram
	// leads counts how often this member has begun to lead.
	leads atomic.Int64
}

// The buckets are etcd's: from one to 8192 milliseconds.
func diskBuckets() []float64 { return prometheus.ExponentialBuckets(0.001, 2, 14) }

func newMetrics() *metrics {
	return &metrics{
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "etcd", Subsystem: "disk", Name: "wal_fsync_duration_seconds",
			Help: "The latency distributions of fsync called by WAL.", Buckets: diskBuckets(),
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "etcd", Subsystem: "disk", Name: "backend_commit_duration_seconds",
			Help: "The latency distributions of commit called by backend.", Buckets: diskBuckets(),
		}),
	}
}

func (m *Member) register(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	server := func(name, help string, labels prometheus.Labels, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "server", Name: name, Help: help, ConstLabels: labels,
		}, value)
	}
	size := func(name, help string, value func(Status) int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "mvcc", Name: name, Help: help,
		}, func() float64 { return float64(value(m.Status())) })
	}
	reg.MustRegister(
		m.metrics.fsync, m.metrics.commit,
		server("has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.", nil,
			func() float64 { return oneIf(m.Leader() != 0) }),
		server("is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.", nil,
			func() float64 { return oneIf(m.Leader() == m.id.MemberID) }),
		server("is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.", nil,
			func() float64 { return oneIf(m.Status().IsLearner) }),
		server("id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
			prometheus.Labels{"server_id": FormatID(m.id.MemberID)}, func() float64 { return 1 }),
		server("proposals_committed_total", "The total number of consensus proposals committed.", nil,
			func() float64 { return float64(m.core.Status().Commit) }),
		server("proposals_applied_total", "The total number of consensus proposals applied.", nil,
			func() float64 { return float64(m.core.AppliedIndex()) }),
		server("proposals_pending", "The current number of pending proposals to commit.", nil,
			func() float64 { return float64(m.core.Queued()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "etcd", Subsystem: "server", Name: "proposals_failed_total",
			Help: "The total number of failed proposals seen.",
		}, func() float64 { return float64(m.core.Refused()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "etcd", Subsystem: "server", Name: "leader_changes_seen_total",
			Help: "The number of leader changes seen.",
		}, func() float64 { return float64(m.metrics.leads.Load()) }),
		size("db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes.",
			func(s Status) int64 { return s.DBSize }),
		size("db_total_size_in_use_in_bytes", "Total size of the underlying database logically in use in bytes.",
			func(s Status) int64 { return s.DBSizeInUse }),
	)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
