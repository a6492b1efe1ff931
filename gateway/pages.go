package gateway

import (
	"encoding/json"
	"expvar"
	"fmt"
	"net/http"
	"net/http/pprof"
	"slices"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pebbledash/pebbledash/storage/member"
)

// Pages are what is served over HTTP to one kind of listener.
type Pages struct {
	mux   *http.ServeMux
	paths []string
}

func newPages() *Pages { return &Pages{mux: http.NewServeMux()} }

// Handle adds a page, or all those below a path that ends with a slash. There must
// not be any requests yet.
func (p *Pages) Handle(path string, handler http.Handler) {
	p.mux.Handle(path, handler)
	p.paths = append(p.paths, path)
}

// Paths returns the paths of all pages.
func (p *Pages) Paths() []string { return slices.Clone(p.paths) }

// ServeHTTP implements http.Handler.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

// Ops are the pages of the listeners of metrics. More can be added until one of
// them is served.
func (s *Server) Ops() *Pages { return s.pages }

// clientPages are what the clients' ports have beside gRPC: what etcd's have.
func (s *Server) clientPages(metrics http.Handler) *Pages {
	p := newPages()
	s.addEtcdPages(p, metrics)
	s.installChecks(p, "readyz", s.etcdReadiness()...)
	if !s.cfg.DisableJSON {
		p.Handle(jsonPath, s.json)
	}
	return p
}

// opsPages have all that is to be seen of a server: etcd's pages, with more checks
// behind /readyz, and those that Kubernetes' components have.
func (s *Server) opsPages(metrics http.Handler) *Pages {
	p := newPages()
	s.addEtcdPages(p, metrics)
	s.installChecks(p, "readyz", append(s.etcdReadiness(), s.storeChecks()...)...)
	s.installChecks(p, "healthz", s.serializableRead()) // what /livez was called before
	if s.cfg.Admission != nil {
		p.Handle("/debug/flowcontrol/", s.cfg.Admission.Handler())
	}
	return p
}

func (s *Server) addEtcdPages(p *Pages, metrics http.Handler) {
	p.Handle("/health", http.HandlerFunc(s.serveHealth))
	s.installChecks(p, "livez", s.serializableRead())
	p.Handle("/version", http.HandlerFunc(s.serveVersion))
	p.Handle("/metrics", metrics)
	p.Handle("/debug/vars", http.HandlerFunc(s.serveVars))
	if s.cfg.Profiling {
		p.Handle("/debug/pprof/", http.HandlerFunc(pprof.Index))
		p.Handle("/debug/pprof/cmdline", http.HandlerFunc(pprof.Cmdline))
		p.Handle("/debug/pprof/profile", http.HandlerFunc(pprof.Profile))
		p.Handle("/debug/pprof/symbol", http.HandlerFunc(pprof.Symbol))
		p.Handle("/debug/pprof/trace", http.HandlerFunc(pprof.Trace))
	}
}

func (s *Server) etcdReadiness() []check {
	return []check{s.dataCorruption(), s.serializableRead(), s.linearizableRead(), s.nonLearner()}
}

func (s *Server) metricsHandler() http.Handler {
	return promhttp.InstrumentMetricHandler(s.cfg.Registerer, promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{}))
}

// serveVars serves what the process has published and what raft is at, as etcd
// does, but for the command line, on which secrets may stand.
func (s *Server) serveVars(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	status := s.store.Status()
	raft, err := json.Marshal(struct {
		ID      string `json:"id"`
		Term    uint64 `json:"term"`
		Leader  string `json:"lead"`
		Commit  uint64 `json:"commit"`
		Applied uint64 `json:"applied"`
	}{member.FormatID(status.MemberID), status.Term, member.FormatID(status.Leader), status.Index, status.AppliedIndex})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	fmt.Fprint(w, "{\n")
	expvar.Do(func(kv expvar.KeyValue) {
		if kv.Key != "cmdline" {
			fmt.Fprintf(w, "%q: %s,\n", kv.Key, kv.Value)
		}
	})
	fmt.Fprintf(w, "%q: %s\n}\n", "raft.status", raft)
}

func (s *Server) serveVersion(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	body, err := json.Marshal(struct {
		Server  string `json:"etcdserver"`
		Cluster string `json:"etcdcluster"`
		Storage string `json:"storage"`
	}{s.cfg.ServerVersion, s.cfg.ClusterVersion, s.cfg.StorageVersion})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
