package crash_test

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// history is what watchers of all keys were told of each revision. Whoever is
// told of a revision first decides; everybody else must be told the same.
type history struct {
	clk clock.Clock

	mu        sync.Mutex
	revisions map[int64]account // guarded by mu
	events    int               // compared or noted; guarded by mu
}

// account is a revision as a watcher was told of it, and when.
type account struct {
	events []event
	when   time.Time
}

func newHistory(clk clock.Clock) *history {
	return &history{clk: clk, revisions: map[int64]account{}}
}

// add notes that somebody was told of a whole revision. It is an error if it
// had other events before.
func (h *history) add(rev int64, events []event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events += len(events)
	first, ok := h.revisions[rev]
	if !ok {
		h.revisions[rev] = account{events, h.clk.Now()}
		return nil
	}
	if !slices.Equal(first.events, events) {
		return fmt.Errorf("revision %d is %v, and was %v", rev, events, first.events)
	}
	return nil
}

func (h *history) at(rev int64) (account, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := h.revisions[rev]
	return r, ok
}

func (h *history) compared() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events
}
