// Package autocompact compacts the store by itself, as etcd does with
// --auto-compaction-mode and --auto-compaction-retention: of the members the one that
// leads, to the revision that there was some time ago, or to so many below the newest.
// What a compaction does is not here (storage/mvcc).
//
// Run calls what is in its Config on its own goroutine, one after another; nothing is
// shared between two of them.
package autocompact

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

const (
	// most is the longest between two compactions by time; etcd's.
	most = time.Hour
	// samples are how often the revision is noted between them.
	samples = 10
	// revisionInterval is between two compactions by revision; etcd's.
	revisionInterval = 5 * time.Minute
)

// Config says how much history is kept: that of Period, or so many Revisions, of which
// one is 0.
type Config struct {
	Period    time.Duration
	Revisions int64

	// Leads says whether this member is to do it.
	Leads func() bool
	// Revision is the newest revision.
	Revision func() int64
	// Compact drops the history below a revision, with mvcc.ErrCompacted if that was
	// done already.
	Compact func(ctx context.Context, revision int64) error

	Clock  clock.Clock
	Logger *slog.Logger
}

// Run compacts until ctx ends.
func Run(ctx context.Context, cfg Config) {
	r := newRunner(cfg)
	ticker := cfg.Clock.NewTicker(r.tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			r.note()
			r.compact(ctx)
		}
	}
}

func newRunner(cfg Config) *runner {
	r := &runner{Config: cfg, tick: revisionInterval, last: cfg.Clock.Now()}
	if cfg.Revisions == 0 {
		r.every = min(cfg.Period, most)
		r.tick = r.every / samples
		r.keep = int(cfg.Period / r.tick)
	}
	r.note()
	return r
}

type runner struct {
	Config
	// noted are the revisions of the last ticks, one for each and one for now: the
	// first is of Period ago once there are keep+1 of them.
	noted []int64
	keep  int
	// last is when this member has compacted, or has begun; every is the least time
	// until the next, tick that between two looks.
	last        time.Time
	every, tick time.Duration
	// done is the revision of the last.
	done int64
}

func (r *runner) note() {
	if r.noted = append(r.noted, r.Revision()); len(r.noted) > r.keep+1 {
		r.noted = r.noted[1:]
	}
}

func (r *runner) target() int64 {
	switch {
	case r.Revisions > 0:
		return r.Revision() - r.Revisions
	case len(r.noted) > r.keep:
		return r.noted[0]
	}
	return 0
}

func (r *runner) compact(ctx context.Context) {
	now := r.Clock.Now()
	target := r.target()
	// A tick may come a little early after one that came late.
	if now.Sub(r.last) < r.every-r.tick/2 || target <= r.done || target <= 1 {
		return
	}
	if !r.Leads() {
		return // but notes the revisions, for when it does
	}
	err := r.Compact(ctx, target)
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		// The next tick tries again.
		r.Logger.Warn("the store could not be compacted", slog.Int64("revision", target), slog.Any("error", err))
		return
	}
	r.last, r.done = now, target
	if err == nil {
		r.Logger.Info("compacted the store", slog.Int64("revision", target), slog.Duration("took", r.Clock.Since(now)))
	}
}
