package peer

import (
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// formatID writes an id as etcd does in labels and logs.
func formatID(id uint64) string { return strconv.FormatUint(id, 16) }

// metrics are etcd's, under etcd's names, and how full the queues are.
type metrics struct {
	local string

	active                   *prometheus.GaugeVec
	disconnected             *prometheus.CounterVec
	sentBytes, receivedBytes *prometheus.CounterVec
	sentFailures             *prometheus.CounterVec
	roundTrip                *prometheus.HistogramVec
	snapshotSent             snapshotMetrics
	snapshotReceived         snapshotMetrics
	busyCalls                prometheus.Counter
}

type snapshotMetrics struct {
	success, failures *prometheus.CounterVec
	inflight          *prometheus.GaugeVec
	seconds           *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, t *Transport) *metrics {
	with := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return with.NewCounterVec(prometheus.CounterOpts{
			Namespace: "etcd", Subsystem: "network", Name: name, Help: help,
		}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return with.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "network", Name: name, Help: help,
		}, labels)
	}
	histogram := func(name, help, label string, buckets []float64) *prometheus.HistogramVec {
		return with.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "etcd", Subsystem: "network", Name: name, Help: help, Buckets: buckets,
		}, []string{label})
	}
	// The buckets are etcd's.
	snapshotBuckets := prometheus.ExponentialBuckets(0.1, 2, 10)
	m := &metrics{
		local:         formatID(t.cfg.MemberID),
		active:        gauge("active_peers", "The current number of active peer connections.", "Local", "Remote"),
		disconnected:  counter("disconnected_peers_total", "The total number of disconnected peers.", "Local", "Remote"),
		sentBytes:     counter("peer_sent_bytes_total", "The total number of bytes sent to peers.", "To"),
		receivedBytes: counter("peer_received_bytes_total", "The total number of bytes received from peers.", "From"),
		sentFailures:  counter("peer_sent_failures_total", "The total number of send failures from peers.", "To"),
		roundTrip: histogram("peer_round_trip_time_seconds", "Round-Trip-Time histogram between peers", "To",
			prometheus.ExponentialBuckets(0.0001, 2, 16)),
		snapshotSent: snapshotMetrics{
			success:  counter("snapshot_send_success", "Total number of successful snapshot sends", "To"),
			failures: counter("snapshot_send_failures", "Total number of snapshot send failures", "To"),
			inflight: gauge("snapshot_send_inflights_total", "Total number of inflight snapshot sends", "To"),
			seconds: histogram("snapshot_send_total_duration_seconds",
				"Total latency distributions of v3 snapshot sends", "To", snapshotBuckets),
		},
		snapshotReceived: snapshotMetrics{
			success:  counter("snapshot_receive_success", "Total number of successful snapshot receives", "From"),
			failures: counter("snapshot_receive_failures", "Total number of snapshot receive failures", "From"),
			inflight: gauge("snapshot_receive_inflights_total", "Total number of inflight snapshot receives", "From"),
			seconds: histogram("snapshot_receive_total_duration_seconds",
				"Total latency distributions of v3 snapshot receives", "From", snapshotBuckets),
		},
		busyCalls: with.NewCounter(prometheus.CounterOpts{
			Name: "pebbledash_peer_refused_calls_total",
			Help: "Calls of other members that were not handled because too many were under way.",
		}),
	}
	if reg != nil {
		reg.MustRegister(newFullness(t))
	}
	return m
}

// fullness collects how full the queues are when somebody asks.
type fullness struct {
	t *Transport
	// mu lets one collect at a time. The locks of what is asked are taken after it.
	mu                    sync.Mutex
	bytes, records, calls *prometheus.GaugeVec
}

func newFullness(t *Transport) *fullness {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "pebbledash", Subsystem: "peer", Name: name, Help: help,
		}, []string{"To"})
	}
	return &fullness{
		t:       t,
		bytes:   gauge("queued_bytes", "Bytes that wait to be sent to a member."),
		records: gauge("queued_records", "Messages and calls that wait to be sent to a member."),
		calls:   gauge("calls", "Calls to a member that wait for their answer."),
	}
}

// Describe implements prometheus.Collector.
func (f *fullness) Describe(ch chan<- *prometheus.Desc) {
	f.bytes.Describe(ch)
	f.records.Describe(ch)
	f.calls.Describe(ch)
}

// Collect implements prometheus.Collector.
func (f *fullness) Collect(ch chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes.Reset()
	f.records.Reset()
	f.calls.Reset()
	for id, p := range *f.t.peers.Load() {
		to := formatID(id)
		bytes, records, calls := f.bytes.WithLabelValues(to), f.records.WithLabelValues(to), f.calls.WithLabelValues(to)
		if s := p.session.Load(); s != nil {
			bytes.Set(float64(s.out.bytes.Load()))
			records.Set(float64(s.out.messages.Load()))
			calls.Set(float64(s.calls.len()))
		}
	}
	f.bytes.Collect(ch)
	f.records.Collect(ch)
	f.calls.Collect(ch)
}
