package autocompact

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// rig is a runner over a store in which each minute makes ten revisions.
type rig struct {
	*runner
	clk       *clock.Manual
	start     time.Time
	leads     bool
	fails     error
	compacted []int64
}

func newRig(period time.Duration, revisions int64) *rig {
	start := time.Unix(1_000_000, 0)
	r := &rig{clk: clock.NewManual(start), start: start, leads: true}
	r.runner = newRunner(Config{
		Period: period, Revisions: revisions, Clock: r.clk, Logger: slog.New(slog.DiscardHandler),
		Leads:    func() bool { return r.leads },
		Revision: r.revision,
		Compact: func(_ context.Context, rev int64) error {
			if r.fails == nil {
				r.compacted = append(r.compacted, rev)
			}
			return r.fails
		},
	})
	return r
}

func (r *rig) revision() int64 { return 1 + 10*int64(r.clk.Since(r.start)/time.Minute) }

// pass lets time go by, tick after tick, and returns what was compacted meanwhile.
func (r *rig) pass(t *testing.T, d time.Duration) []int64 {
	t.Helper()
	r.compacted = nil
	for ; d > 0; d -= r.tick {
		r.clk.Advance(r.tick)
		r.note()
		r.compact(t.Context())
	}
	return r.compacted
}

func TestPeriodic(t *testing.T) {
	// What is older than the period goes, once in a period.
	r := newRig(10*time.Minute, 0)
	require.Empty(t, r.pass(t, 9*time.Minute))
	require.Empty(t, r.pass(t, time.Minute), "the first revision is none to compact at")
	require.Equal(t, []int64{11, 111, 211}, r.pass(t, 30*time.Minute))

	// Of a long period, every hour.
	r = newRig(24*time.Hour, 0)
	require.Empty(t, r.pass(t, 24*time.Hour))
	require.Equal(t, []int64{61, 661}, r.pass(t, 2*time.Hour))
}

func TestRevisions(t *testing.T) {
	r := newRig(0, 100)
	require.Empty(t, r.pass(t, 10*time.Minute))
	require.Equal(t, []int64{51, 101}, r.pass(t, 10*time.Minute))
}

// TestOnlyTheLeaderCompacts: and who becomes one knows the revisions of before.
func TestOnlyTheLeaderCompacts(t *testing.T) {
	r := newRig(10*time.Minute, 0)
	r.leads = false
	require.Empty(t, r.pass(t, 35*time.Minute))
	r.leads = true
	require.Equal(t, []int64{261}, r.pass(t, time.Minute))
}

func TestFailures(t *testing.T) {
	r := newRig(10*time.Minute, 0)
	r.fails = errors.New("no leader")
	require.Empty(t, r.pass(t, 30*time.Minute))
	r.fails = nil
	require.Equal(t, []int64{211}, r.pass(t, time.Minute), "it does not try again at once")

	// What somebody else has compacted is done.
	r.fails = mvcc.ErrCompacted
	r.pass(t, 10*time.Minute)
	r.fails = nil
	require.Empty(t, r.pass(t, 9*time.Minute))
}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	r := newRig(10*time.Minute, 0)
	go func() {
		defer close(done)
		Run(ctx, r.Config)
	}()
	r.clk.WaitForTimers(1)
	cancel()
	<-done
}
