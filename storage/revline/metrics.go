package revline

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Register registers the metrics of the line, which are read when somebody asks.
func (l *Line) Register(reg prometheus.Registerer) {
	auto := promauto.With(reg)
	gauge := func(name, help string, value func() int64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "pebbledash", Subsystem: "revline", Name: name, Help: help,
		}, func() float64 { return float64(value()) })
	}
	locked := func(value func() int) func() int64 {
		return func() int64 {
			l.mu.Lock()
			defer l.mu.Unlock()
			return int64(value())
		}
	}
	gauge("present_revision", "Greatest revision that this member shows.", l.Present)
	gauge("closed_revision", "Revision up to which everything is applied here.", l.Closed)
	gauge("outstanding_revisions", "Revisions that this member has handed out and that are not applied yet.",
		locked(func() int {
			n := len(l.crossing)
			for i := range l.groups {
				n += len(l.groups[i].outstanding)
			}
			return n
		}))
	gauge("waiters", "Requests that wait for the line to get on.", locked(func() int { return len(l.waiters.list) }))
	gauge("held_bytes", "Bytes of events that wait for the closed revision.", locked(func() int { return l.merge.held }))
	gauge("held_limit_bytes", "What held_bytes is bounded by.", locked(func() int { return l.merge.maxBytes }))
}
