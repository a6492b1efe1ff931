package admission

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The metrics are kube-apiserver's, with our prefix: its apiserver_x is our
// pebbledash_x. What it calls a flow schema is a resource here. Numbers are read
// where they are counted anyway, when somebody asks.

const flowcontrol = "pebbledash_flowcontrol_"

var (
	byClass    = []string{"priority_level"}
	byResource = []string{"priority_level", "resource"}

	descInflight = prometheus.NewDesc("pebbledash_current_inflight_requests",
		"Requests that are executed now, by kind.", []string{"request_kind"}, nil)
	descExecuting = prometheus.NewDesc(flowcontrol+"current_executing_requests",
		"Requests that are executed now.", byResource, nil)
	descSeats = prometheus.NewDesc(flowcontrol+"current_executing_seats",
		"Seats that the requests take that are executed now.", byResource, nil)
	descWaiting = prometheus.NewDesc(flowcontrol+"current_inqueue_requests",
		"Requests that wait for seats now.", byResource, nil)
	descDispatched = prometheus.NewDesc(flowcontrol+"dispatched_requests_total",
		"Requests that came in.", byResource, nil)
	descRejected = prometheus.NewDesc(flowcontrol+"rejected_requests_total",
		"Requests that were refused, or left before it was their turn.", append(byResource, "reason"), nil)
	descLimit = prometheus.NewDesc(flowcontrol+"nominal_limit_seats",
		"Seats that there are.", byClass, nil)
	descUsed = prometheus.NewDesc(flowcontrol+"current_limit_seats_used",
		"Seats that are taken.", byClass, nil)
	descWaitingBytes = prometheus.NewDesc(flowcontrol+"current_inqueue_bytes",
		"Bytes of the requests that wait for seats.", byClass, nil)

	descriptions = []*prometheus.Desc{
		descInflight, descExecuting, descSeats, descWaiting, descDispatched, descRejected,
		descLimit, descUsed, descWaitingBytes,
	}
)

func (l *Limiter) register(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	waits := promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
		Name:    flowcontrol + "request_wait_duration_seconds",
		Help:    "How long requests waited that did not come in at once.",
		Buckets: []float64{.0002, .001, .005, .02, .05, .1, .2, .5, 1, 2, 5, 10, 15, 30},
	}, byClass)
	for c := Leases; c < classes; c++ {
		l.waits[c] = waits.WithLabelValues(c.String())
	}
	reg.MustRegister(collector{l})
}

// collector reads the limiter's numbers.
type collector struct{ *Limiter }

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...) //nolint:promlinter // It can not follow a parameter.
	}
	counter := func(d *prometheus.Desc, n int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...) //nolint:promlinter // It can not follow a parameter.
	}
	kinds := map[string]int64{"mutating": 0, "readOnly": 0}
	for _, r := range c.all() {
		for class := range r.counts {
			n, labels := &r.counts[class], []string{Class(class).String(), r.name}
			if n.dispatched.Load() == 0 && n.waiting.Load() == 0 && n.rejectedAll() == 0 {
				continue
			}
			switch Class(class) {
			case Leases, Mutating:
				kinds["mutating"] += n.executing.Load()
			case ReadOnly, Lists:
				kinds["readOnly"] += n.executing.Load()
			default: // Exempt counts for neither.
			}
			gauge(descExecuting, n.executing.Load(), labels...)
			gauge(descSeats, n.seats.Load(), labels...)
			gauge(descWaiting, n.waiting.Load(), labels...)
			counter(descDispatched, n.dispatched.Load(), labels...)
			for why := range n.rejected {
				if refused := n.rejected[why].Load(); refused > 0 {
					counter(descRejected, refused, append(labels, reasonNames[why])...)
				}
			}
		}
	}
	for kind, n := range kinds {
		gauge(descInflight, n, kind)
	}
	for _, g := range c.allGates() {
		gauge(descLimit, g.limit, g.name)
		gauge(descUsed, seatsIn(g.state.Load()), g.name)
		gauge(descWaitingBytes, g.waitingBytes.Load(), g.name)
	}
}

func (n *counts) rejectedAll() int64 {
	var sum int64
	for why := range n.rejected {
		sum += n.rejected[why].Load()
	}
	return sum
}
