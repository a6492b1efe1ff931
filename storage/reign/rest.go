package reign

import (
	"context"
	"slices"

	"github.com/pebbledash/pebbledash/storage/group"
)

// Rest stops evaluation in all groups, and returns nil once nothing is in flight: who
// hands the reign over then leaves no request whose outcome nobody knows. What arrives
// from then on waits; it is answered with group.ErrNotSequencer when the reign ends, and
// served when resume is called. After an error there is nothing to resume.
func (r *Reign) Rest(ctx context.Context) (resume func(), err error) {
	c := &call{ctx: ctx, done: make(chan struct{}), rests: true}
	r.mu.Lock()
	if !r.begun {
		r.mu.Unlock()
		return nil, group.ErrNotSequencer
	}
	r.queue = append(r.queue, c)
	r.stepLocked()
	r.mu.Unlock()
	resume = func() { r.resume(c) }
	select {
	case <-c.done:
		return resume, c.err
	case <-ctx.Done():
		resume()
		return nil, ctx.Err()
	}
}

func (r *Reign) resume(c *call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.round != nil && r.round.rest == c {
		r.releaseLocked(r.round)
		return
	}
	r.queue = slices.DeleteFunc(r.queue, func(other *call) bool { return other == c })
}
