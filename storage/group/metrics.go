package group

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are the numbers behind the metrics. They are added to once for many
// requests where that is possible, and read when somebody asks.
type counts struct {
	// evaluated counts the requests that were evaluated here, committed those whose
	// entries were applied, and lost those whose outcome is not known because the
	// reign has ended; refused counts the entries that raft did not take.
	// abandoned counts those whose callers have not waited for the outcome.
	evaluated, committed, lost, refused, abandoned atomic.Int64
	leaderChanges, fences                          atomic.Int64
	snapshotsSent, restored                        atomic.Int64
	// restoring counts the snapshots that are being put into the state.
	restoring atomic.Int64
}

// Refused returns how many entries raft has refused to log.
func (g *Group) Refused() int64 { return g.counts.refused.Load() }

// LeaderChanges returns how often another replica than the last was seen to lead.
func (g *Group) LeaderChanges() int64 { return g.counts.leaderChanges.Load() }

// Restoring returns how many snapshots are being put into the state.
func (g *Group) Restoring() int64 { return g.counts.restoring.Load() }

// Failed returns how many requests have failed on their way into the log, or were
// given up.
func (g *Group) Failed() int64 { return g.counts.lost.Load() + g.counts.abandoned.Load() }

// InFlight returns how many entries were proposed here and are not applied yet.
func (g *Group) InFlight() int64 {
	n, _ := g.applier.flight.size()
	return int64(n)
}

// Collector collects the metrics of groups.
type Collector struct {
	names  []string
	groups []*Group
	descs  []collected
}

// collected is one metric, with what it is of a group.
type collected struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*sample) float64
}

// sample is what is asked of a group once for all metrics.
type sample struct {
	*Group
	status         Status
	applied        uint64
	entries        uint64
	tailBytes      int
	flying, flight int
}

// NewCollector returns a collector of groups, which have the names of the same
// places.
func NewCollector(names []string, groups []*Group) *Collector {
	c := &Collector{names: names, groups: groups}
	add := func(kind prometheus.ValueType, name, help string, value func(*sample) float64) {
		desc := prometheus.NewDesc(prometheus.BuildFQName("pebbledash", "group", name), help, []string{"group"}, nil)
		c.descs = append(c.descs, collected{desc, kind, value})
	}
	gauge := func(name, help string, value func(*sample) float64) { add(prometheus.GaugeValue, name, help, value) }
	counter := func(name, help string, value func(*sample) *atomic.Int64) {
		add(prometheus.CounterValue, name, help, func(s *sample) float64 { return float64(value(s).Load()) })
	}
	gauge("has_leader", "Whether a leader of the group is known here.",
		func(s *sample) float64 { return oneIf(s.status.Leader != 0) })
	gauge("is_leader", "Whether this member leads the group.",
		func(s *sample) float64 { return oneIf(s.status.Leader == s.cfg.Replica) })
	gauge("term", "Raft's term.", func(s *sample) float64 { return float64(s.status.Term) })
	gauge("commit_index", "Index of the last entry that is known to be committed.",
		func(s *sample) float64 { return float64(s.status.Commit) })
	gauge("applied_index", "Index of the last entry that is applied here.",
		func(s *sample) float64 { return float64(s.applied) })
	gauge("apply_lag_entries", "Entries that are committed and not applied here yet.",
		func(s *sample) float64 { return float64(s.status.Commit - min(s.status.Commit, s.applied)) })
	gauge("proposals_pending", "Requests that wait for their evaluation here.",
		func(s *sample) float64 { return float64(s.Queued()) })
	gauge("reads_pending", "Reads that wait for the confirmation of the lead.",
		func(s *sample) float64 { return float64(s.inbox.reading.Load()) })
	gauge("inflight_entries", "Entries that were proposed here and are not applied yet.",
		func(s *sample) float64 { return float64(s.flying) })
	gauge("inflight_bytes", "Bytes of the entries that were proposed here and are not applied yet.",
		func(s *sample) float64 { return float64(s.flight) })
	gauge("log_entries", "Entries in the log.", func(s *sample) float64 { return float64(s.entries) })
	gauge("log_memory_bytes", "Bytes of the log's newest entries, which are in memory too.",
		func(s *sample) float64 { return float64(s.tailBytes) })
	gauge("restoring_snapshots", "Snapshots that are being put into the state.",
		func(s *sample) float64 { return float64(s.counts.restoring.Load()) })
	counter("evaluated_requests_total", "Requests that were evaluated here.",
		func(s *sample) *atomic.Int64 { return &s.counts.evaluated })
	counter("proposals_committed_total", "Requests that were evaluated here, and are committed and applied.",
		func(s *sample) *atomic.Int64 { return &s.counts.committed })
	counter("proposals_lost_total", "Requests whose outcome is not known because this member's reign has ended.",
		func(s *sample) *atomic.Int64 { return &s.counts.lost })
	counter("proposals_abandoned_total", "Requests whose callers have not waited for their outcome.",
		func(s *sample) *atomic.Int64 { return &s.counts.abandoned })
	counter("proposals_refused_total", "Entries that raft did not take, and that were proposed again.",
		func(s *sample) *atomic.Int64 { return &s.counts.refused })
	counter("log_appended_bytes_total", "Bytes of the entries that were appended to the log.",
		func(s *sample) *atomic.Int64 { return &s.cfg.Log.appended })
	counter("leader_changes_total", "How often another member than before was seen to lead.",
		func(s *sample) *atomic.Int64 { return &s.counts.leaderChanges })
	counter("fences_total", "Fences that were applied: beginnings of epochs.",
		func(s *sample) *atomic.Int64 { return &s.counts.fences })
	counter("snapshots_sent_total", "Snapshots that another member has taken.",
		func(s *sample) *atomic.Int64 { return &s.counts.snapshotsSent })
	counter("snapshots_restored_total", "Snapshots of other members that were put into the state.",
		func(s *sample) *atomic.Int64 { return &s.counts.restored })
	return c
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d.desc
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for i, g := range c.groups {
		// Applied first: what is applied is committed.
		s := sample{Group: g, applied: g.AppliedIndex(), status: g.Status()}
		s.entries, s.tailBytes = g.cfg.Log.size()
		s.flying, s.flight = g.applier.flight.size()
		for _, d := range c.descs {
			ch <- prometheus.MustNewConstMetric(d.desc, d.kind, d.value(&s), c.names[i]) //nolint:promlinter // It can not read this; what is served is linted (gateway/conformance/metrics).
		}
	}
}

// size returns how many entries are stored, and the bytes of those in memory.
func (l *Log) size() (entries uint64, tailBytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last - l.truncated, l.tailSize
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
