package lease

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are etcd's, under etcd's names, and how full this room is.
type metrics struct {
	granted, revoked, renewed, expired prometheus.Counter
	ttl                                prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, le *Lessor) metrics {
	with := promauto.With(reg)
	with.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pebbledash_lease_leases",
		Help: "The number of leases.",
	}, func() float64 { return float64(le.Len()) })
	with.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pebbledash_lease_pending_revocations",
		Help: "The number of leases that have expired and wait for their revocation to be applied.",
	}, func() float64 {
		le.mu.RLock()
		defer le.mu.RUnlock()
		return float64(le.revoking)
	})
	return metrics{
		granted: with.NewCounter(prometheus.CounterOpts{
			Name: "etcd_debugging_lease_granted_total",
			Help: "The total number of granted leases.",
		}),
		revoked: with.NewCounter(prometheus.CounterOpts{
			Name: "etcd_debugging_lease_revoked_total",
			Help: "The total number of revoked leases.",
		}),
		renewed: with.NewCounter(prometheus.CounterOpts{
			Name: "etcd_debugging_lease_renewed_total",
			Help: "The number of renewed leases seen by the leader.",
		}),
		expired: with.NewCounter(prometheus.CounterOpts{
			Name: "etcd_debugging_server_lease_expired_total",
			Help: "The total number of expired leases.",
		}),
		ttl: with.NewHistogram(prometheus.HistogramOpts{ //nolint:promlinter // The name is etcd's.
			Name: "etcd_debugging_lease_ttl_total",
			Help: "Bucketed histogram of lease TTLs.",
			// One second to three months.
			Buckets: prometheus.ExponentialBuckets(1, 2, 24),
		}),
	}
}
