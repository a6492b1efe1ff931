//go:build linux

package kube

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"
)

// report collects what the closing table says.
type report struct {
	mu   sync.Mutex
	rows []row // guarded by mu

	// verified counts API objects whose content, revision or absence was
	// compared with what a client had been told.
	verified atomic.Int64
}

type row struct{ what, figure string }

func (r *report) measure(what string, took time.Duration) {
	r.add(what, fmt.Sprintf("%.2f s", took.Seconds()))
}

func (r *report) add(what, figure string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, row{what, figure})
}

// begin is the first call of each part of the session: it wants everything to
// be running, and has the part's time and outcome noted at its end.
func (c *cluster) begin(t *testing.T) {
	t.Helper()
	began := now()
	t.Cleanup(func() {
		verdict := "ok"
		if t.Failed() {
			verdict = "FAILED"
		}
		_, name, _ := strings.Cut(t.Name(), "/")
		c.report.add("  "+name, fmt.Sprintf("%.2f s  %s", now().Sub(began).Seconds(), verdict))
	})
	c.check(t)
}

// storeRequests is what kube-apiserver counts of its requests to the store, by
// operation: all of them, and those that failed. Some failures it works around
// without a word in its log.
type storeRequests struct{ all, failed map[string]float64 }

func (c *cluster) countStoreRequests(t *testing.T) storeRequests {
	t.Helper()
	resp, err := c.api.open(t.Context(), http.MethodGet, "/metrics", nil, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	counted := storeRequests{map[string]float64{}, map[string]float64{}}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		sums := counted.all
		labels, ok := strings.CutPrefix(lines.Text(), "etcd_requests_total{")
		if !ok {
			sums = counted.failed
			if labels, ok = strings.CutPrefix(lines.Text(), "etcd_request_errors_total{"); !ok {
				continue
			}
		}
		_, operation, _ := strings.Cut(labels, `operation="`)
		operation, _, _ = strings.Cut(operation, `"`)
		value, err := strconv.ParseFloat(labels[strings.LastIndex(labels, " ")+1:], 64)
		if err != nil {
			t.Fatal(err)
		}
		sums[operation] += value
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(counted.all) == 0 {
		t.Fatal("kube-apiserver's metrics do not count its requests to the store")
	}
	return counted
}

// wantNoFailures compares two counts between which the store was always there.
func (c *cluster) wantNoFailures(t *testing.T, what string, before, after storeRequests) {
	t.Helper()
	var made []string
	for _, operation := range slices.Sorted(maps.Keys(after.all)) {
		made = append(made, fmt.Sprintf("%s %.0f", operation, after.all[operation]-before.all[operation]))
	}
	c.report.add("requests to the store "+what, strings.Join(made, ", "))
	for operation, failed := range after.failed {
		if n := failed - before.failed[operation]; n > 0 {
			t.Errorf("%.0f requests to the store %s failed: %s", n, what, operation)
		}
	}
}

func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range r.rows {
		_, _ = fmt.Fprintf(w, "%s\t%s\n", row.what, row.figure)
	}
	_, _ = fmt.Fprintf(w, "API objects verified\t%d\n", r.verified.Load())
	_ = w.Flush()
	return b.String()
}
