package member

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/pebbledash/pebbledash/storage/group"
)

// scrubRows is how many rows a scrub deletes in one step.
const scrubRows = 1000

// scrubber deletes in the background what compactions free.
type scrubber struct {
	parts []*part
	log   *slog.Logger
	fail  func(error)
	wake  chan struct{}
	// progress is sent a channel by whoever waits; it is closed after a scrub.
	progress chan chan struct{}
}

func newScrubber(parts []*part, log *slog.Logger, fail func(error)) *scrubber {
	s := &scrubber{parts: parts, log: log, fail: fail, wake: make(chan struct{}, 1), progress: make(chan chan struct{})}
	s.signal()
	return s
}

func (s *scrubber) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *scrubber) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case done := <-s.progress:
			// Nothing is being scrubbed: let the waiter look.
			close(done)
			continue
		case <-s.wake:
		}
		for _, p := range s.parts {
			// Between steps everybody else goes first.
			err := p.store.Scrub(scrubRows, func() bool {
				runtime.Gosched()
				return ctx.Err() == nil
			})
			if err != nil {
				s.fail(fmt.Errorf("member: compaction of %s: %w", p.name, err))
				return
			}
		}
	}
}

// scrubbed says whether what a compaction at rev freed is deleted everywhere.
func (s *scrubber) scrubbed(rev int64) bool {
	for _, p := range s.parts {
		if p.store.Scrubbed() < rev && p.store.ScrubPending() {
			return false
		}
	}
	return true
}

// CompactWait returns when what a compaction at rev freed is deleted here.
func (m *Member) CompactWait(ctx context.Context, rev int64) error {
	for !m.scrub.scrubbed(rev) {
		done := make(chan struct{})
		select {
		case m.scrub.progress <- done:
			<-done
		case <-m.stopCtx.Done():
			return group.ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
