package watchcache

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// counts are the numbers behind the metrics, which are read when somebody asks,
// so that counting costs no more than an addition.
type counts struct {
	watchers, streams, behind                      atomic.Int64
	pending, sent                                  atomic.Int64
	overruns                                       atomic.Int64
	caughtUpWindow, caughtUpHistory, caughtUpStore atomic.Int64
	previousRead                                   atomic.Int64
}

func (h *Hub) register(reg prometheus.Registerer) {
	auto := promauto.With(reg)
	// etcd's own, with its names, some of which are not what a linter likes.
	gauge := func(name, help string, value *atomic.Int64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "etcd_debugging", Subsystem: "mvcc", Name: name, Help: help,
		}, func() float64 { return float64(value.Load()) })
	}
	gauge("watcher_total", "Total number of watchers.", &h.watchers)
	gauge("watch_stream_total", "Total number of watch streams.", &h.streams)
	gauge("slow_watcher_total", "Total number of unsynced slow watchers.", &h.behind)
	gauge("pending_events_total", "Total number of pending events to be sent.", &h.pending)
	auto.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "events_total",
		Help: "Total number of events sent by this member.",
	}, func() float64 { return float64(h.sent.Load()) })

	our := func(name, help string, value func() int64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "pebbledash", Subsystem: "watchcache", Name: name, Help: help,
		}, func() float64 { return float64(value()) })
	}
	our("window_bytes", "Bytes of recent events in memory.", h.window.bytes.Load)
	our("window_limit_bytes", "What window_bytes is bounded by.", func() int64 { return h.cfg.WindowBytes })
	our("window_events", "Recent events in memory.", h.window.events.Load)
	our("lag_revisions", "Revisions that have been published and not yet fanned out.", h.lag)
	count := func(name, help string, value *atomic.Int64, labels prometheus.Labels) {
		auto.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "pebbledash", Subsystem: "watchcache", Name: name, Help: help, ConstLabels: labels,
		}, func() float64 { return float64(value.Load()) })
	}
	count("overruns_total",
		"How often the window dropped events before they were fanned out, so that all watchers had to catch up.",
		&h.overruns, nil)
	count("previous_reads_total", "Previous values read from the store for events.", &h.previousRead, nil)
	const catchup = "Chunks that watchers which were behind have read, by where from."
	count("catchup_chunks_total", catchup, &h.caughtUpWindow, prometheus.Labels{"source": "window"})
	count("catchup_chunks_total", catchup, &h.caughtUpHistory, prometheus.Labels{"source": "history"})
	count("catchup_chunks_total", catchup, &h.caughtUpStore, prometheus.Labels{"source": "store"})
	count("evicted_objects_total", "How often the objects of a resource made room for others.", &h.resources.evicted, nil)
	our("bytes", "Bytes of recent events and objects of all resources in memory.", h.resources.bytes.Load)
	our("limit_bytes", "What bytes is bounded by.", func() int64 { return h.cfg.MaxBytes })
	reg.MustRegister(&resourceMetrics{&h.resources})
}

// resourceMetrics tells, when asked, of each resource.
type resourceMetrics struct{ of *resources }

func resourceDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("pebbledash", "watchcache_resource", name), help, []string{"resource"}, nil)
}

// The resources whose metrics are told one by one are bounded: what an operator
// pays for a time series is more than what a resource costs here.
const maxTold = 200

var (
	descHits    = resourceDesc("hits_total", "Reads that were answered from memory.")
	descMisses  = resourceDesc("misses_total", "Reads of keys of a resource that were answered from the store.")
	descBytes   = resourceDesc("bytes", "Bytes of recent events and objects in memory.")
	descEvents  = resourceDesc("events", "Recent events in memory.")
	descObjects = resourceDesc("objects", "Objects in memory, as far as events have been taken in.")
	descLag     = resourceDesc("lag_events", "Events that have not been taken into the objects yet: the next read does so.")
)

// Describe implements prometheus.Collector.
func (m *resourceMetrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descHits, descMisses, descBytes, descEvents, descObjects, descLag} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (m *resourceMetrics) Collect(metrics chan<- prometheus.Metric) {
	told := 0
	for _, r := range *m.of.byPath.Load() {
		hits, misses := r.hits.Load(), r.misses.Load()
		if hits+misses == 0 && r.history.end.Load() == 0 {
			continue
		}
		if told++; told > maxTold {
			return
		}
		tell := func(d *prometheus.Desc, kind prometheus.ValueType, v int64) {
			metrics <- prometheus.MustNewConstMetric(d, kind, float64(v), r.name) //nolint:promlinter // It can't see what d is.
		}
		objects, size, lag := r.objects.count()
		tell(descHits, prometheus.CounterValue, hits)
		tell(descMisses, prometheus.CounterValue, misses)
		tell(descBytes, prometheus.GaugeValue, size+r.history.bytes.Load())
		tell(descEvents, prometheus.GaugeValue, r.history.end.Load()-r.history.oldest())
		tell(descObjects, prometheus.GaugeValue, objects)
		tell(descLag, prometheus.GaugeValue, lag)
	}
}

// lag is how far the hub's goroutine is behind, if it is needed at all.
func (h *Hub) lag() int64 {
	if h.watchers.Load() == 0 {
		return 0
	}
	return max(0, h.window.published.Load()-h.fanned.Load())
}
