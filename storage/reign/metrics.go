package reign

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/pebbledash/pebbledash/pkg/tracing"
)

// counts are the numbers behind the metrics, read when somebody asks.
type counts struct {
	begun, points atomic.Int64
	rounds, calls atomic.Int64
	heldMicros    atomic.Int64
}

// Register registers the metrics of this member's reigns.
func (r *Reign) Register(reg prometheus.Registerer) {
	auto := promauto.With(reg)
	gauge := func(name, help string, value func() float64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "pebbledash", Subsystem: "reign", Name: name, Help: help}, value)
	}
	counter := func(name, help string, value *atomic.Int64) {
		auto.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "pebbledash", Subsystem: "reign", Name: name, Help: help,
		}, func() float64 { return float64(value.Load()) })
	}
	gauge("epoch", "Epoch in which this member is, or is about to be, the sequencer; 0 if it is not.",
		func() float64 {
			epoch, _ := r.Epoch()
			return float64(epoch)
		})
	gauge("is_sequencer", "Whether this member is the sequencer and hands out revisions.",
		func() float64 {
			if _, begun := r.Epoch(); begun {
				return 1
			}
			return 0
		})
	gauge("pending_crossings", "Requests of several groups that wait, or for which groups are held.",
		func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			n := len(r.queue)
			if r.round != nil {
				n += len(r.round.calls)
			}
			return float64(n)
		})
	counter("begun_total", "Reigns of this member that have begun.", &r.counts.begun)
	counter("read_points_total", "How often the sequencer was asked, here, where to read.", &r.counts.points)
	counter("crossing_requests_total", "Requests of several groups that were taken into a round.", &r.counts.calls)
	counter("crossing_rounds_total", "Rounds of requests of several groups.", &r.counts.rounds)
	auto.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "pebbledash", Subsystem: "reign", Name: "crossing_hold_seconds_total",
		Help: "Time for which rounds of requests of several groups have held groups.",
	}, func() float64 { return float64(r.counts.heldMicros.Load()) / 1e6 })
}

func (r *Reign) noteRoundLocked(rd *round) {
	r.counts.rounds.Add(1)
	r.counts.calls.Add(int64(len(rd.calls)))
	if r.cfg.Clock != nil {
		rd.began = r.cfg.Clock.Now()
	}
}

// noteReleaseLocked notes that a round has let its groups go, or that the end of
// the reign has.
func (r *Reign) noteReleaseLocked(rd *round) {
	if r.cfg.Clock != nil {
		r.counts.heldMicros.Add(int64(r.cfg.Clock.Since(rd.began) / time.Microsecond))
	}
}

// mark notes a step of those calls that are traced.
func (rd *round) mark(s tracing.Step) {
	for _, c := range rd.calls {
		c.trace.Mark(s)
	}
}
