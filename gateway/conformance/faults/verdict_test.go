package faults

import (
	"fmt"
	"slices"
	"sync"
)

// verdict collects violations. It is safe for concurrent use.
type verdict struct {
	mu    sync.Mutex
	lines []string // guarded by mu; the first maxLines
	count int      // guarded by mu
}

const maxLines = 20

func (v *verdict) violation(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.count++; len(v.lines) < maxLines {
		v.lines = append(v.lines, fmt.Sprintf(format, args...))
	}
}

func (v *verdict) violations() (int, []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.count, slices.Clone(v.lines)
}

const maxDifferences = 3

// difference says where two lists part.
func difference[T comparable](want, got []T, show func(T) string) string {
	s := fmt.Sprintf("%d, want %d", len(got), len(want))
	shown := 0
	for i := range max(len(want), len(got)) {
		a, b := "nothing", "nothing"
		if i < len(want) {
			a = show(want[i])
		}
		if i < len(got) {
			b = show(got[i])
		}
		if i < len(want) && i < len(got) && want[i] == got[i] {
			continue
		}
		if shown++; shown > maxDifferences {
			return s + "; ..."
		}
		s += fmt.Sprintf("; [%d] is %s, want %s", i, b, a)
	}
	return s
}

func showTold(e told) string { return e.Value().String() }
