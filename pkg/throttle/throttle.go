// Package throttle keeps a log from filling with what strangers can cause at
// will: one line a second, which says how many were left out.
package throttle

import (
	"sync"
	"time"
)

// every is the least time between two lines.
const every = time.Second

// Throttle decides what is logged. Its zero value is ready, and its methods may be
// called concurrently.
type Throttle struct {
	// mu guards the fields below; nothing is taken after it.
	mu      sync.Mutex
	last    time.Time
	skipped int
}

// Allow says whether there may be a line now, and if so how many there were not
// since the last.
func (t *Throttle) Allow(now time.Time) (skipped int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() && now.Sub(t.last) < every {
		t.skipped++
		return 0, false
	}
	skipped = t.skipped
	t.last, t.skipped = now, 0
	return skipped, true
}
