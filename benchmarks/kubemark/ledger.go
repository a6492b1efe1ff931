//go:build linux

package main

import (
	"slices"
	"sync"
	"time"
)

// call is one request that a client of the load has had an answer to.
type call struct {
	at   time.Time
	took time.Duration
}

// ledger is what the load's clients have seen. All methods may be called concurrently.
type ledger struct {
	mu       sync.Mutex
	calls    map[string][]call // by kind; failures are not in it
	failures map[string]int    // by kind and what was said
	failed   int
}

func newLedger() *ledger {
	return &ledger{calls: map[string][]call{}, failures: map[string]int{}}
}

// add notes a call. A conflict is an answer like any other: whoever updates has to
// expect it.
func (l *ledger) add(kind string, at time.Time, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil || hasCode(err, 409) {
		l.calls[kind] = append(l.calls[kind], call{at, took})
		return
	}
	const maxText = 160
	text := err.Error()
	l.failures[kind+": "+text[:min(len(text), maxText)]]++
	l.failed++
}

// counts are how many calls were answered, and how many failed.
func (l *ledger) counts() (answered, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, calls := range l.calls {
		answered += len(calls)
	}
	return answered, l.failed
}

// latencies are sorted, by kind.
func (l *ledger) latencies() map[string][]time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	sorted := map[string][]time.Duration{}
	for kind, calls := range l.calls {
		for _, c := range calls {
			sorted[kind] = append(sorted[kind], c.took)
		}
		slices.Sort(sorted[kind])
	}
	return sorted
}
