package watchcache

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// counts are the numbers behind the metrics, which are read when somebody asks,
// so that counting costs no more than an addition.
type counts struct {
	watchers, streams, behind     atomic.Int64
	pending, sent                 atomic.Int64
	overruns                      atomic.Int64
	caughtUpWindow, caughtUpStore atomic.Int64
	previousRead                  atomic.Int64
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
	count("catchup_chunks_total", catchup, &h.caughtUpStore, prometheus.Labels{"source": "store"})
}

// lag is how far the hub's goroutine is behind, if it is needed at all.
func (h *Hub) lag() int64 {
	if h.watchers.Load() == 0 {
		return 0
	}
	return max(0, h.window.published.Load()-h.fanned.Load())
}
