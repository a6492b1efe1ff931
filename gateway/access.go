package gateway

import (
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/pebbledash/pebbledash/pkg/throttle"
)

// everybody stands for all origins, and for all hosts.
const everybody = "*"

// access decides over who may ask for the pages of the clients' ports from a
// browser, as etcd does: by the origin of the page that asks (CORS), and, in plain
// text, by the name under which the server was found, which tells a page that has had
// its own name lead here (DNS rebinding).
type access struct {
	server *Server
	// origins and hosts are those that may; all if it is empty.
	origins, hosts []string
	refused        throttle.Throttle
	next           http.Handler
}

func newAccess(s *Server, next http.Handler) *access {
	return &access{server: s, origins: s.cfg.CORSOrigins, hosts: s.cfg.HostWhitelist, next: next}
}

func allowed(list []string, one string) bool {
	return len(list) == 0 || slices.Contains(list, everybody) || slices.Contains(list, one)
}

func (a *access) origin(origin string) bool { return allowed(a.origins, origin) }

// ServeHTTP implements http.Handler.
func (a *access) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.Path, jsonAlias); ok {
		r.URL.Path = jsonPath + rest
	}
	if r.TLS == nil {
		if host := hostname(r); !allowed(a.hosts, host) {
			a.refuseHost(w, host)
			return
		}
	} else if a.server.ignoresName(r) {
		http.Error(w, "CommonName of client sending a request against gateway will be ignored and not used as expected", http.StatusBadRequest)
		return
	}
	origin := r.Header.Get("Origin")
	if a.origin(everybody) {
		origin = everybody
	}
	if a.origin(origin) {
		h := w.Header()
		h.Add("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
		h.Add("Access-Control-Allow-Origin", origin)
		h.Add("Access-Control-Allow-Headers", "accept, content-type, authorization")
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return
	}
	a.next.ServeHTTP(w, r)
}

func (a *access) refuseHost(w http.ResponseWriter, host string) {
	if skipped, ok := a.refused.Allow(a.server.clock.Now()); ok {
		a.server.log.Warn("refused an HTTP request for a host that --host-whitelist does not have",
			slog.String("host", host), slog.Int("suppressed", skipped))
	}
	http.Error(w, "pebbledash: this is not a host by which the server may be asked without TLS; --host-whitelist names them",
		http.StatusMisdirectedRequest)
}

// hostname is the name, or the address, that a client has for the server.
func hostname(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		return r.Host
	}
	return host
}

// ignoresName says whether a client would not be taken for whom its certificate
// says: names do not pass the JSON gateway.
func (s *Server) ignoresName(r *http.Request) bool {
	if !s.cfg.CommonNames || s.cfg.DisableJSON || !strings.HasPrefix(r.URL.Path, jsonPath) || !s.auth.current().Enabled() {
		return false
	}
	return slices.ContainsFunc(r.TLS.VerifiedChains, func(chain []*x509.Certificate) bool {
		return len(chain) > 0 && chain[0].Subject.CommonName != ""
	})
}
