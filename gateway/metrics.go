package gateway

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/pebbledash/pebbledash/storage/route"
)

// maxClientVersions bounds the values of the label that clients choose
// themselves; the rest is counted as "other".
const maxClientVersions = 32

// serverMetrics are etcd's metrics of its client side, with etcd's names.
// Counters are looked up when the server starts, not for each call.
type serverMetrics struct {
	methods map[string]*methodMetrics

	keepAliveReceive, keepAliveSend prometheus.Counter
	healthSuccess, healthFailures   prometheus.Counter
	healthcheck                     *prometheus.GaugeVec
	healthchecks                    *prometheus.CounterVec
	alarms                          *prometheus.GaugeVec
	requestSeconds                  *prometheus.HistogramVec

	clientRequests *prometheus.CounterVec
	// versions has the counters of the clients' versions: *[2]prometheus.Counter
	// by version, of unary calls and of streams. It only grows.
	versions     sync.Map
	versionCount atomic.Int32
}

// methodMetrics are the counters of one method.
type methodMetrics struct {
	stream                  bool
	started, received, sent prometheus.Counter
	handled                 [codes.Unauthenticated + 1]prometheus.Counter
	// handling is nil unless metrics are extensive.
	handling prometheus.Observer
	// request is the time that storage requests take, of successes and
	// failures; nil of a method that is none.
	request *requestSeconds
	// readonly is request of a transaction that only reads.
	readonly *requestSeconds
	// resources has the counters of a method with keys, by the number of the
	// resource; nil of another.
	resources []prometheus.Counter
	routed    *route.Resources
}

type requestSeconds struct{ failed, succeeded prometheus.Observer }

// requestTypes names the methods of which etcd measures the time.
var requestTypes = map[string]string{
	"Range": "Range", "Put": "Put", "DeleteRange": "DeleteRange", "Txn": "Txn", "Compact": "Compaction",
	"LeaseGrant": "LeaseGrant", "LeaseRevoke": "LeaseRevoke",
}

// keyedMethods are the methods that are counted by resource.
var keyedMethods = []string{"Range", "RangeStream", "Put", "DeleteRange", "Txn"}

func newServerMetrics(cfg *Config, c *codec, d *door) *serverMetrics {
	reg := cfg.Registerer
	auto := promauto.With(reg)
	auto.NewGauge(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "server", Name: "version",
		Help:        "Which version is running. 1 for 'server_version' label with current version.",
		ConstLabels: prometheus.Labels{"server_version": cfg.ServerVersion},
	}).Set(1)
	major, rest, _ := strings.Cut(cfg.ClusterVersion, ".")
	minor, _, _ := strings.Cut(rest, ".")
	auto.NewGauge(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "cluster", Name: "version",
		Help:        "Which version is running. 1 for 'cluster_version' label with current cluster version",
		ConstLabels: prometheus.Labels{"cluster_version": major + "." + minor},
	}).Set(1)
	auto.NewGauge(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "server", Name: "quota_backend_bytes",
		Help: "Current backend storage quota size in bytes.",
	}).Set(float64(cfg.QuotaBytes))
	counter := func(namespace, subsystem, name, help string, labels ...string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: name, Help: help,
		}, labels)
	}
	m := &serverMetrics{
		alarms: auto.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "etcd_debugging", Subsystem: "server", Name: "alarms",
			Help: "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm",
		}, []string{"server_id", "alarm_type"}),
		clientRequests: counter("etcd", "server", "client_requests_total",
			"The total number of client requests per client version.", "type", "client_api_version"),
		healthSuccess: counter("etcd", "server", "health_success",
			"The total number of successful health checks.").WithLabelValues(),
		healthFailures: counter("etcd", "server", "health_failures",
			"The total number of failed health checks.").WithLabelValues(),
		healthchecks: counter("etcd", "server", "healthchecks_total",
			"The total number of each kind of healthcheck.", "type", "name", "status"),
		healthcheck: auto.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "server", Name: "healthcheck",
			Help: "The result of each kind of healthcheck.",
		}, []string{"type", "name"}),
		requestSeconds: auto.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "etcd", Subsystem: "server", Name: "request_duration_seconds",
			Help:    "Response latency distribution in seconds for each type.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"type", "success"}),
	}
	failures := counter("etcd", "network", "server_stream_failures_total",
		"The total number of stream failures from the local server.", "Type", "API")
	m.keepAliveReceive = failures.WithLabelValues("receive", "lease-keepalive")
	m.keepAliveSend = failures.WithLabelValues("send", "lease-keepalive")

	bytes := func(name, help string, n *atomic.Int64) {
		auto.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "etcd", Subsystem: "network", Name: name, Help: help,
		}, func() float64 { return float64(n.Load()) })
	}
	bytes("client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients.", &c.sent)
	bytes("client_grpc_received_bytes_total", "The total number of bytes received from grpc clients.", &c.received)

	gauge := func(name, help string, value func() int) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "pebbledash", Subsystem: "gateway", Name: name, Help: help,
		}, func() float64 { return float64(value()) })
	}
	gauge("connections", "Client connections, of which there may be a limited number.", d.connections)
	gauge("pending_connections", "Client connections that have not said yet what they speak.", d.pendingConnections)
	auto.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "pebbledash", Subsystem: "gateway", Name: "refused_connections_total",
		Help: "Client connections that were closed because there were too many.",
	}, func() float64 { return float64(d.refused.Load()) })
	return m
}

// addMethods makes the counters of every method that g serves.
func (m *serverMetrics) addMethods(cfg *Config, g *grpc.Server) {
	auto := promauto.With(cfg.Registerer)
	labels := []string{"grpc_type", "grpc_service", "grpc_method"}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	started := vec("grpc_server_started_total", "Total number of RPCs started on the server.", labels...)
	handled := vec("grpc_server_handled_total",
		"Total number of RPCs completed on the server, regardless of success or failure.", append(labels, "grpc_code")...)
	received := vec("grpc_server_msg_received_total",
		"Total number of RPC stream messages received on the server.", labels...)
	sent := vec("grpc_server_msg_sent_total",
		"Total number of gRPC stream messages sent by the server.", labels...)
	var handling *prometheus.HistogramVec
	if cfg.ExtensiveMetrics {
		handling = auto.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "grpc_server_handling_seconds",
			Help:    "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
			Buckets: prometheus.DefBuckets,
		}, labels)
	}

	byResource := auto.NewCounterVec(prometheus.CounterOpts{
		Namespace: "pebbledash", Subsystem: "gateway", Name: "requests_total",
		Help: "Requests by method and resource; those of resources without a route are other. A request belongs to the first key that it names.",
	}, []string{"method", "resource"})
	routed := cfg.Routes.Resources()

	m.methods = map[string]*methodMetrics{}
	for service, info := range g.GetServiceInfo() {
		for _, method := range info.Methods {
			id := []string{callType(method), service, method.Name}
			mm := &methodMetrics{
				stream:   method.IsClientStream || method.IsServerStream,
				started:  started.WithLabelValues(id...),
				received: received.WithLabelValues(id...),
				sent:     sent.WithLabelValues(id...),
			}
			for code := range mm.handled {
				mm.handled[code] = handled.WithLabelValues(append(id, codes.Code(code).String())...)
			}
			if handling != nil {
				mm.handling = handling.WithLabelValues(id...)
			}
			if kind, ok := requestTypes[method.Name]; ok && strings.HasPrefix(service, "etcdserverpb.") {
				mm.request = m.secondsOf(kind)
				if kind == "Txn" {
					mm.readonly = m.secondsOf("ReadonlyTxn")
				}
			}
			if service == "etcdserverpb.KV" && slices.Contains(keyedMethods, method.Name) {
				mm.routed = routed
				for _, name := range routed.Names() {
					mm.resources = append(mm.resources, byResource.WithLabelValues(method.Name, name))
				}
			}
			m.methods["/"+service+"/"+method.Name] = mm
		}
	}
}

func (m *serverMetrics) secondsOf(kind string) *requestSeconds {
	return &requestSeconds{
		failed:    m.requestSeconds.WithLabelValues(kind, "false"),
		succeeded: m.requestSeconds.WithLabelValues(kind, "true"),
	}
}

func callType(m grpc.MethodInfo) string {
	switch {
	case m.IsClientStream && m.IsServerStream:
		return "bidi_stream"
	case m.IsClientStream:
		return "client_stream"
	case m.IsServerStream:
		return "server_stream"
	default:
		return "unary"
	}
}

// countVersion counts a call of a client of that version.
func (m *serverMetrics) countVersion(version string, stream bool) {
	known, ok := m.versions.Load(version)
	if !ok {
		if m.versionCount.Add(1) > maxClientVersions {
			m.versionCount.Add(-1)
			version = "other"
		}
		known, _ = m.versions.LoadOrStore(version, &[2]prometheus.Counter{
			m.clientRequests.WithLabelValues("unary", version),
			m.clientRequests.WithLabelValues("stream", version),
		})
	}
	counters := known.(*[2]prometheus.Counter)
	if stream {
		counters[1].Inc()
	} else {
		counters[0].Inc()
	}
}

// countResource counts a request of a method with keys.
func (m *methodMetrics) countResource(req any) {
	if m.resources != nil {
		m.resources[m.routed.Of(firstKey(req))].Inc()
	}
}

// firstKey returns the first key that a request names, nil if it names none.
func firstKey(req any) []byte {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return r.Key
	case *pb.PutRequest:
		return r.Key
	case *pb.DeleteRangeRequest:
		return r.Key
	case *pb.TxnRequest:
		if len(r.Compare) > 0 {
			return r.Compare[0].GetKey()
		}
		for _, branch := range [...][]*pb.RequestOp{r.Success, r.Failure} {
			if len(branch) > 0 {
				return firstKeyOf(branch[0])
			}
		}
	}
	return nil
}

func firstKeyOf(op *pb.RequestOp) []byte {
	switch u := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return u.RequestRange.GetKey()
	case *pb.RequestOp_RequestPut:
		return u.RequestPut.GetKey()
	case *pb.RequestOp_RequestDeleteRange:
		return u.RequestDeleteRange.GetKey()
	}
	return nil // One within one is not looked into.
}

func (m *methodMetrics) finish(code codes.Code) {
	if int(code) >= len(m.handled) {
		code = codes.Unknown
	}
	m.handled[code].Inc()
}
