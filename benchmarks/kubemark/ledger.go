//go:build linux

package main

import (
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// ledger is what the load's clients have seen. All methods may be called concurrently.
type ledger struct {
	mu       sync.Mutex
	calls    map[string][]time.Duration // by kind; failures are not in it
	failures map[string]int             // by kind and what was said
	failed   int
}

func newLedger() *ledger {
	return &ledger{calls: map[string][]time.Duration{}, failures: map[string]int{}}
}

// add notes a call. A conflict is an answer like any other: whoever updates has to
// expect it.
func (l *ledger) add(kind string, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil || hasCode(err, 409) {
		l.calls[kind] = append(l.calls[kind], took)
		return
	}
	const maxText = 160
	text := err.Error()
	// Without the addresses, which are others each time.
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		text = op.Op + ": " + op.Err.Error()
	}
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
		sorted[kind] = slices.Sorted(slices.Values(calls))
	}
	return sorted
}
