package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
)

// healthKey is read by health checks. Nobody else needs it to be there or not.
var healthKey = []byte("health")

// serveHealth answers with etcd's JSON. ?serializable=true asks for this
// process only; ?exclude= names an alarm to overlook.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	serializable := r.URL.Query().Get("serializable") == "true"
	answer := struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{Health: "true"}
	if alarm := s.alarmed(r.URL.Query()["exclude"]); alarm != "" {
		answer.Health, answer.Reason = "false", "ALARM "+alarm
	} else if !serializable && s.headers.raft.Leader() == 0 {
		answer.Health, answer.Reason = "false", "RAFT NO LEADER"
	} else if err := s.read(r.Context(), serializable); err != nil {
		answer.Health, answer.Reason = "false", fmt.Sprintf("RANGE ERROR:%s", err)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if answer.Health != "true" {
		s.metrics.healthFailures.Inc()
		s.log.Warn("unhealthy", slog.String("path", r.URL.Path), slog.String("reason", answer.Reason))
		http.Error(w, string(body), http.StatusServiceUnavailable)
		return
	}
	s.metrics.healthSuccess.Inc()
	_, _ = w.Write(body)
}

func (s *Server) read(ctx context.Context, serializable bool) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	_, err := s.store.Read(ctx, &evaluate.Range{Key: healthKey, Limit: 1, KeysOnly: true}, serializable)
	return toGRPC(err)
}

// A check is one part of /livez or /readyz.
type check struct {
	name string
	run  func(context.Context) error
}

func (s *Server) serializableRead() check {
	return check{"serializable_read", func(ctx context.Context) error { return s.read(ctx, true) }}
}

func (s *Server) linearizableRead() check {
	return check{"linearizable_read", func(ctx context.Context) error { return s.read(ctx, false) }}
}

func (s *Server) dataCorruption() check {
	return check{"data_corruption", func(context.Context) error {
		if s.alarms.now.Load().corrupt {
			return fmt.Errorf("alarm activated: %s", pb.AlarmType_CORRUPT)
		}
		return nil
	}}
}

// alarmed returns the first alarm that is not to be overlooked, empty if there is none.
func (s *Server) alarmed(overlook []string) string {
	for _, a := range s.alarms.now.Load().members() {
		if name := a.Alarm.String(); !slices.Contains(overlook, name) {
			return name
		}
	}
	return ""
}

func (s *Server) nonLearner() check {
	return check{"non_learner", func(context.Context) error {
		if s.store.Status().IsLearner {
			return errors.New("not supported for learner")
		}
		return nil
	}}
}

// storeChecks are those that the store knows beside etcd's. A Store need not have
// any.
func (s *Server) storeChecks() []check {
	checker, ok := s.store.(interface{ Checks() []member.Check })
	if !ok {
		return nil
	}
	var checks []check
	for _, c := range checker.Checks() {
		checks = append(checks, check{c.Name, c.Run})
	}
	return checks
}

// installChecks serves /kind, which runs all checks that ?exclude= does not
// name, and /kind/name for each.
func (s *Server) installChecks(p *Pages, kind string, checks ...check) {
	serve := func(checks []check) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if onlyGet(w, r) {
				s.runChecks(w, r, kind, checks)
			}
		}
	}
	p.Handle("/"+kind, serve(checks))
	for _, c := range checks {
		p.Handle("/"+kind+"/"+c.name, serve([]check{c}))
	}
}

func (s *Server) runChecks(w http.ResponseWriter, r *http.Request, kind string, checks []check) {
	query := r.URL.Query()
	var report strings.Builder
	healthy := true
	for _, c := range checks {
		if slices.Contains(query["exclude"], c.name) {
			continue
		}
		outcome, value := "success", 1.0
		if err := c.run(r.Context()); err != nil {
			outcome, value, healthy = "error", 0, false
			fmt.Fprintf(&report, "[-]%s failed: %v\n", c.name, err)
		} else {
			fmt.Fprintf(&report, "[+]%s ok\n", c.name)
		}
		s.metrics.healthcheck.WithLabelValues(kind, c.name).Set(value)
		s.metrics.healthchecks.WithLabelValues(kind, c.name, outcome).Inc()
	}
	if !healthy {
		s.log.Error("a health check failed", slog.String("path", r.URL.Path), slog.String("reason", report.String()))
		http.Error(w, report.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if query.Has("verbose") {
		_, _ = w.Write([]byte(report.String()))
	}
	_, _ = w.Write([]byte("ok\n"))
}

func onlyGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}
