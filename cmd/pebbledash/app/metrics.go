package app

import (
	"math"
	"os"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/pebbledash/pebbledash/gateway/serving"
)

// newRegistry returns the registry of the process, with what is said of that.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	// etcd's, besides those of the process.
	auto := promauto.With(reg)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "os", Subsystem: "fd", Name: "used", Help: "The number of used file descriptors.",
	}, usedFiles)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "os", Subsystem: "fd", Name: "limit", Help: "The file descriptor limit.",
	}, fileLimit)
	return reg
}

// register adds when the certificates of both sides end.
func (cs *certificates) register(reg prometheus.Registerer) {
	for side, files := range map[string]*serving.TLS{"clients": cs.clients, "members": cs.members} {
		promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "pebbledash", Subsystem: "serving", Name: "certificate_expiration_timestamp_seconds",
			Help:        "When the first certificate ends that is shown to clients, or to other members; +Inf if none is.",
			ConstLabels: prometheus.Labels{"side": side},
		}, func() float64 {
			first, shown := files.Expiration()
			if !shown {
				return math.Inf(1)
			}
			return float64(first.Unix())
		})
	}
}

// usedFiles is 0 where the system does not say.
func usedFiles() float64 {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return float64(len(names))
}

func fileLimit() float64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return float64(l.Cur)
}
