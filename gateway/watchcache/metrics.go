package watchcache

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are the numbers behind the metrics.
type counts struct {
	watchers, streams, behind     atomic.Int64
	pending, sent                 atomic.Int64
	overruns                      atomic.Int64
	caughtUpWindow, caughtUpStore atomic.Int64
	previousRead                  atomic.Int64
}

// collector shows counts when it is asked, so that counting costs no more than
// an addition.
type collector struct{ metrics []metric }

type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func() int64
	label []string
}

func newCollector(h *Hub) *collector {
	c := &collector{}
	add := func(kind prometheus.ValueType, name, help string, value func() int64) {
		c.metrics = append(c.metrics, metric{desc: prometheus.NewDesc(name, help, nil, nil), kind: kind, value: value})
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	// etcd's own names.
	add(gauge, "etcd_debugging_mvcc_watcher_total", "Total number of watchers.", h.watchers.Load)
	add(gauge, "etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", h.streams.Load)
	add(gauge, "etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers.", h.behind.Load)
	add(gauge, "etcd_debugging_mvcc_pending_events_total", "Total number of pending events to be sent.", h.pending.Load)
	add(counter, "etcd_debugging_mvcc_events_total", "Total number of events sent by this member.", h.sent.Load)

	add(gauge, "pebbledash_watchcache_window_bytes", "Bytes of recent events in memory.", h.window.bytes.Load)
	add(gauge, "pebbledash_watchcache_window_events", "Recent events in memory.", h.window.events.Load)
	add(gauge, "pebbledash_watchcache_window_limit_bytes", "What window_bytes is bounded by.",
		func() int64 { return h.cfg.WindowBytes })
	add(gauge, "pebbledash_watchcache_lag_revisions", "Revisions that have been published and not yet fanned out.",
		h.lag)
	add(counter, "pebbledash_watchcache_overruns_total",
		"How often the window dropped events before they were fanned out, so that all watchers had to catch up.",
		h.overruns.Load)
	add(counter, "pebbledash_watchcache_previous_reads_total", "Previous values read from the store for events.",
		h.previousRead.Load)
	catchups := prometheus.NewDesc("pebbledash_watchcache_catchup_chunks_total",
		"Chunks that watchers which were behind have read, by where from.", []string{"source"}, nil)
	c.metrics = append(c.metrics,
		metric{catchups, counter, h.caughtUpWindow.Load, []string{"window"}},
		metric{catchups, counter, h.caughtUpStore.Load, []string{"store"}})
	return c
}

// lag is how far the hub's goroutine is behind, if it is needed at all.
func (h *Hub) lag() int64 {
	if h.watchers.Load() == 0 {
		return 0
	}
	return max(0, h.window.published.Load()-h.fanned.Load())
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for i, m := range c.metrics {
		if i == 0 || m.desc != c.metrics[i-1].desc {
			ch <- m.desc
		}
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c.metrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.value()), m.label...)
	}
}
