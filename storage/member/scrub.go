package member

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
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
	clock clock.Clock
	// metrics are told what each scrub took.
	metrics *metrics
	// progress is sent a channel by whoever waits; it is closed after a scrub.
	progress chan chan struct{}
}

func (m *Member) newScrubber() *scrubber {
	s := &scrubber{
		parts: m.parts, log: m.cfg.Logger, fail: m.fail, clock: m.cfg.Clock, metrics: m.metrics,
		wake: make(chan struct{}, 1), progress: make(chan chan struct{}),
	}
	s.signal()
	return s
}

func milliseconds(d time.Duration) float64 { return float64(d / time.Millisecond) }

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
		began, worked := s.clock.Now(), false
		for _, p := range s.parts {
			step := s.clock.Now()
			// Between steps everybody else goes first.
			err := p.store.Scrub(scrubRows, func() bool {
				worked = true
				s.metrics.pause.Observe(milliseconds(s.clock.Since(step)))
				runtime.Gosched()
				step = s.clock.Now()
				return ctx.Err() == nil
			})
			if err != nil {
				s.fail(fmt.Errorf("member: compaction of %s: %w", p.name, err))
				return
			}
		}
		if worked {
			s.metrics.compaction.Observe(milliseconds(s.clock.Since(began)))
			s.metrics.compacted.Store(s.clock.Now().Unix())
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
