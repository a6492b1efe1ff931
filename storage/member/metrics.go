package member

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// metrics are the member's, under etcd's names where etcd has them, so that
// etcd's alert rules and dashboards work. What etcd says of its one log is here
// the sum over the groups, unless it is about who leads: that is core's.
type metrics struct {
	fsync, commit         prometheus.Histogram
	hash, hashRev         prometheus.Histogram
	compaction, pause     prometheus.Histogram
	promoted              prometheus.Counter
	notPromoted           *prometheus.CounterVec
	slowApplies           atomic.Int64
	ranges, txns, reading atomic.Int64
	slowReads, badReads   atomic.Int64
	// compacted is when the last scrub has ended, in seconds since 1970.
	compacted atomic.Int64

	logStalls, stateStalls engine.Stalls
}

// The buckets are etcd's: from one to 8192 milliseconds.
func diskBuckets() []float64 { return prometheus.ExponentialBuckets(0.001, 2, 14) }

// newMetrics makes and registers those that others observe. reg may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	histogram := func(namespace, subsystem, name, help string, buckets []float64) prometheus.Histogram {
		return auto.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: buckets,
		})
	}
	hashBuckets := prometheus.ExponentialBuckets(.01, 2, 15)
	return &metrics{
		fsync: histogram("etcd", "disk", "wal_fsync_duration_seconds",
			"The latency distributions of fsync called by WAL.", diskBuckets()),
		commit: histogram("etcd", "disk", "backend_commit_duration_seconds",
			"The latency distributions of commit called by backend.", diskBuckets()),
		hash: histogram("etcd", "mvcc", "hash_duration_seconds",
			"The latency distribution of storage hash operation.", hashBuckets),
		hashRev: histogram("etcd", "mvcc", "hash_rev_duration_seconds",
			"The latency distribution of storage hash by revision operation.", hashBuckets),
		compaction: histogram("etcd_debugging", "mvcc", "db_compaction_total_duration_milliseconds",
			"Bucketed histogram of db compaction total duration.", prometheus.ExponentialBuckets(100, 2, 14)),
		pause: histogram("etcd_debugging", "mvcc", "db_compaction_pause_duration_milliseconds",
			"Bucketed histogram of db compaction pause duration.", prometheus.ExponentialBuckets(1, 2, 13)),
		promoted: auto.NewCounter(prometheus.CounterOpts{ //nolint:promlinter // The name is etcd's.
			Namespace: "etcd", Subsystem: "server", Name: "learner_promote_successes",
			Help: "The total number of successful learner promotions while this member is leader.",
		}),
		notPromoted: auto.NewCounterVec(prometheus.CounterOpts{ //nolint:promlinter // The names are etcd's.
			Namespace: "etcd", Subsystem: "server", Name: "learner_promote_failures",
			Help: "The total number of failed learner promotions (likely learner not ready) while this member is leader.",
		}, []string{"Reason"}),
	}
}

// slowApply is etcd's --warning-apply-duration.
const slowApply = 100 * time.Millisecond

// Observe implements prometheus.Observer for the commits to the state.
func (m *metrics) Observe(seconds float64) {
	m.commit.Observe(seconds)
	if seconds > slowApply.Seconds() {
		m.slowApplies.Add(1)
	}
}

// promotion counts a learner's promotion. The reasons are few: those that the
// caller is told.
func (m *metrics) promotion(err error) {
	if err == nil {
		m.promoted.Inc()
		return
	}
	for _, known := range []error{ErrLearnerNotReady, ErrMemberNotFound, ErrNotLearner, ErrNotEnoughStarted, ErrUnhealthy} {
		if errors.Is(err, known) {
			m.notPromoted.WithLabelValues(known.Error()).Inc()
			return
		}
	}
	m.notPromoted.WithLabelValues("other").Inc()
}

// confirmation counts a linearizable read that could not be confirmed.
func (m *metrics) confirmation(err error) {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		// It was done, or the client has gone.
	case errors.Is(err, group.ErrTimeout):
		m.slowReads.Add(1)
	default:
		m.badReads.Add(1)
	}
}

// answered counts the ranges and transactions that a request was.
func (m *metrics) answered(op evaluate.Op, res *evaluate.Result) {
	switch op := op.(type) {
	case *evaluate.Range:
		m.ranges.Add(1)
	case *evaluate.Txn:
		ranges, writes := countTxn(op, res)
		if ranges > 0 {
			m.ranges.Add(ranges)
		}
		if ranges+writes > 1 {
			m.txns.Add(1) // etcd calls no transaction what is one operation
		}
	}
}

// countTxn counts what a transaction has done; each condition is a range.
func countTxn(t *evaluate.Txn, res *evaluate.Result) (ranges, writes int64) {
	ranges = int64(len(t.Compare))
	branch := t.Failure
	if res.Succeeded {
		branch = t.Success
	}
	for i, op := range branch {
		switch op := op.(type) {
		case *evaluate.Range:
			ranges++
		case *evaluate.Txn:
			if i < len(res.Responses) {
				r, w := countTxn(op, &res.Responses[i])
				ranges, writes = ranges+r, writes+w
			}
		default:
			writes++
		}
	}
	return ranges, writes
}

func (m *Member) register(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	auto := promauto.With(reg)
	gauge := func(namespace, subsystem, name, help string, value func() float64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, value)
	}
	counter := func(namespace, subsystem, name, help string, value func() int64) {
		auto.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help},
			func() float64 { return float64(value()) })
	}
	is := func(name, label, value, help string) {
		auto.NewGauge(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "server", Name: name, Help: help, ConstLabels: prometheus.Labels{label: value},
		}).Set(1)
	}
	is("id", "server_id", FormatID(m.id.MemberID), "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.")
	is("go_version", "server_go_version", runtime.Version(),
		"Which Go version server is running with. 1 for 'server_go_version' label with current version.")

	gauge("etcd", "server", "has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.",
		func() float64 { return oneIf(m.Leader() != 0) })
	gauge("etcd", "server", "is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.",
		func() float64 { return oneIf(m.Leader() == m.id.MemberID) })
	gauge("etcd", "server", "is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.",
		func() float64 { return oneIf(m.IsLearner()) })
	counter("etcd", "server", "leader_changes_seen_total", "The number of leader changes seen.",
		func() int64 { return m.core.LeaderChanges() })
	gauge("etcd", "server", "proposals_committed_total", "The total number of consensus proposals committed.",
		m.sum(func(p *part) int64 { return int64(p.Status().Commit) }))
	gauge("etcd", "server", "proposals_applied_total", "The total number of consensus proposals applied.",
		m.sum(func(p *part) int64 { return int64(p.AppliedIndex()) }))
	gauge("etcd", "server", "proposals_pending", "The current number of pending proposals to commit.",
		m.sum(func(p *part) int64 { return p.Queued() + p.InFlight() }))
	counter("etcd", "server", "proposals_failed_total", "The total number of failed proposals seen.",
		func() int64 { return int64(m.sum(func(p *part) int64 { return p.Failed() })()) })
	gauge("etcd", "server", "snapshot_apply_in_progress_total", "1 if the server is applying the incoming snapshot. 0 if none.",
		func() float64 { return min(1, m.sum(func(p *part) int64 { return p.Restoring() })()) })
	counter("etcd", "server", "slow_apply_total",
		"The total number of slow apply requests (likely overloaded from slow disk).", m.metrics.slowApplies.Load)
	counter("etcd", "server", "slow_read_indexes_total",
		"The total number of pending read indexes not in sync with leader's or timed out read index requests.", m.metrics.slowReads.Load)
	counter("etcd", "server", "read_indexes_failed_total",
		"The total number of failed read indexes seen.", m.metrics.badReads.Load)

	tally := func(value func(mvcc.Tally) int64) func() int64 {
		return func() int64 { return int64(m.sum(func(p *part) int64 { return value(p.store.Tally()) })()) }
	}
	counter("etcd", "mvcc", "range_total", "Total number of ranges seen by this member.", m.metrics.ranges.Load)
	counter("etcd", "mvcc", "txn_total", "Total number of txns seen by this member.", m.metrics.txns.Load)
	counter("etcd", "mvcc", "put_total", "Total number of puts seen by this member.",
		tally(func(t mvcc.Tally) int64 { return t.Puts }))
	counter("etcd", "mvcc", "delete_total", "Total number of deletes seen by this member.",
		tally(func(t mvcc.Tally) int64 { return t.Deletes }))
	gauge("etcd", "mvcc", "db_open_read_transactions", "The number of currently open read transactions",
		func() float64 { return float64(m.metrics.reading.Load()) })
	gauge("etcd_debugging", "mvcc", "total_put_size_in_bytes", "The total size of put kv pairs seen by this member.",
		m.sum(func(p *part) int64 { return p.store.Tally().PutBytes }))
	gauge("etcd_debugging", "mvcc", "current_revision", "The current revision of store.",
		func() float64 { return float64(m.line.Present()) })
	gauge("etcd_debugging", "mvcc", "compact_revision", "The revision of the last compaction in store.",
		func() float64 { return float64(m.Compacted()) })
	counter("etcd_debugging", "mvcc", "db_compaction_keys_total", "Total number of db keys compacted.",
		tally(func(t mvcc.Tally) int64 { return t.Scrubbed }))
	gauge("etcd_debugging", "mvcc", "db_compaction_last", "The unix time of the last db compaction. Resets to 0 on start.",
		func() float64 { return float64(m.metrics.compacted.Load()) })

	names := make([]string, len(m.parts))
	groups := make([]*group.Group, len(m.parts))
	for i, p := range m.parts {
		names[i], groups[i] = p.name, p.Group
	}
	m.line.Register(reg)
	m.reign.Register(reg)
	reg.MustRegister(group.NewCollector(names, groups), newDatabases(m))
}

// sum returns a function that adds something up over all groups.
func (m *Member) sum(value func(*part) int64) func() float64 {
	return func() float64 {
		var n int64
		for _, p := range m.parts {
			n += value(p)
		}
		return float64(n)
	}
}

// databases collects what Pebble says of the two databases, asking each once.
type databases struct {
	m                     *Member
	engine                *engine.Collector
	size, inUse, walBytes *prometheus.Desc
	known                 *prometheus.Desc
	groupBytes, versions  *prometheus.Desc
}

func newDatabases(m *Member) *databases {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &databases{
		m: m, engine: engine.NewCollector(),
		size: desc("etcd_mvcc_db_total_size_in_bytes",
			"Total size of the underlying database physically allocated in bytes."),
		inUse: desc("etcd_mvcc_db_total_size_in_use_in_bytes",
			"Total size of the underlying database logically in use in bytes."),
		walBytes: desc("etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL."),
		known:    desc("etcd_network_known_peers", "The current number of known peers.", "Local", "Remote"),
		groupBytes: desc("pebbledash_member_group_disk_bytes",
			"About what a group's keys and their history take on disk, what is only in memory left out.", "group"),
		versions: desc("pebbledash_member_group_versions_bytes",
			"What a group's keys and their history take before compression: what a quota counts.", "group"),
	}
}

// Describe implements prometheus.Collector.
func (d *databases) Describe(ch chan<- *prometheus.Desc) {
	d.engine.Describe(ch)
	for _, desc := range []*prometheus.Desc{d.size, d.inUse, d.walBytes, d.known, d.groupBytes, d.versions} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (d *databases) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...) //nolint:promlinter // It can not read this; what is served is linted (gateway/conformance/metrics).
	}
	m := d.m
	state, logs := m.state.Metrics(), m.logs.Metrics()
	d.engine.Collect(ch, "state", state, &m.metrics.stateStalls)
	d.engine.Collect(ch, "log", logs, &m.metrics.logStalls)
	size := float64(m.Status().DBSize)
	gauge(d.size, size)
	gauge(d.inUse, size)
	gauge(d.walBytes, float64(logs.WAL.BytesWritten))
	for _, p := range m.parts {
		if n, err := p.store.DiskUsage(); err == nil {
			gauge(d.groupBytes, float64(n), p.name)
		}
		gauge(d.versions, float64(p.store.Bytes()), p.name)
	}
	local := FormatID(m.id.MemberID)
	for _, info := range m.Members() {
		gauge(d.known, 1, local, FormatID(info.ID))
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
