package lease

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// TestScripts runs the stories in testdata. The clock is manual and starts at
// 0; the least TTL is 2 s, a promotion lets 3 leases expire in a second, and a retry is
// due after 500 ms.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{clock: clock.NewManual(time.Unix(0, 0)), waits: map[int64]<-chan struct{}{}}
		s.lessor = New(Config{Clock: s.clock, MaxExpiriesPerSecond: 3})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out := s.run(t, d)
			s.lessor.check(t)
			return out
		})
	})
}

type script struct {
	clock  *clock.Manual
	lessor *Lessor
	// waits has what a renewal was told to wait for.
	waits map[int64]<-chan struct{}
	// batch is what DueCheckpoints handed out last.
	batch []Remaining
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	var id, ttl, remaining int64
	var extend time.Duration
	d.MaybeScanArgs(t, "id", &id)
	d.MaybeScanArgs(t, "ttl", &ttl)
	d.MaybeScanArgs(t, "remaining", &remaining)
	limit := 100
	d.MaybeScanArgs(t, "limit", &limit)
	if d.HasArg("extend") {
		extend = duration(t, d, "extend")
	}

	switch d.Cmd {
	// advance by=DURATION moves the clock.
	case "advance":
		s.clock.Advance(duration(t, d, "by"))
		return ""

	// grant id=N ttl=SECONDS grants as the leader does, and applies it.
	case "grant":
		ttl, err := GrantTTL(ttl, 2)
		if err != nil {
			return err.Error()
		}
		s.lessor.Granted(id, ttl)
		return fmt.Sprintf("ttl %d", ttl)

	// load id=N ttl=SECONDS remaining=SECONDS reads a lease from the store.
	case "load":
		s.lessor.Load(id, ttl, remaining)
		return ""

	// revoked id=N applies a revocation.
	case "revoked":
		s.lessor.Revoked(id)
		return ""

	// checkpointed id=N remaining=SECONDS applies a checkpoint.
	case "checkpointed":
		s.lessor.Checkpointed(id, remaining)
		return ""

	// promote [extend=DURATION], demote, reset.
	case "promote":
		s.lessor.Promote(extend)
		return ""
	case "demote":
		s.lessor.Demote()
		return ""
	case "reset":
		s.lessor.Reset()
		return ""

	// renew id=N tries once. "waits" stays to be asked for by settled.
	case "renew":
		ttl, reset, wait, err := s.lessor.renew(id)
		switch {
		case wait != nil:
			s.waits[id] = wait
			return "waits"
		case err != nil:
			return err.Error()
		case reset:
			return fmt.Sprintf("ttl %d, after a reset", ttl)
		}
		return fmt.Sprintf("ttl %d", ttl)

	// settled id=N says whether the renewal that waits may try again.
	case "settled":
		select {
		case <-s.waits[id]:
			return "yes"
		default:
			return "no"
		}

	// expired [limit=N] hands out expired leases; failed id=N gives one back.
	case "expired":
		return fmt.Sprint(s.lessor.Expired(limit))
	case "failed":
		s.lessor.RevokeFailed(id)
		return ""

	// due [limit=N] hands out checkpoints; done [failed] gives them back,
	// applied or not.
	case "due":
		s.batch = s.lessor.DueCheckpoints(limit)
		return fmt.Sprint(s.batch)
	case "done":
		var err error
		if d.HasArg("failed") {
			err = errors.New("no leader")
		} else {
			for _, r := range s.batch {
				s.lessor.Checkpointed(r.ID, r.Seconds)
			}
		}
		s.lessor.CheckpointDone(s.batch, err)
		return ""

	// show prints every lease, and when the loop has to wake up.
	case "show":
		var b strings.Builder
		for _, id := range s.lessor.Leases() {
			granted, remaining, err := s.lessor.TimeToLive(id)
			if err != nil {
				ttl, _ := s.lessor.TTL(id)
				fmt.Fprintf(&b, "%d: ttl %d, %v\n", id, ttl, err)
				continue
			}
			fmt.Fprintf(&b, "%d: %d of %d\n", id, remaining, granted)
		}
		if next, ok := s.lessor.nextDeadline(); ok {
			fmt.Fprintf(&b, "wakes in %v\n", next)
		} else {
			b.WriteString("sleeps\n")
		}
		return b.String()
	}
	d.Fatalf(t, "no such command")
	return ""
}

func duration(t *testing.T, d *datadriven.TestData, key string) time.Duration {
	t.Helper()
	var s string
	d.ScanArgs(t, key, &s)
	v, err := time.ParseDuration(s)
	require.NoError(t, err)
	return v
}

// check asserts the invariants of the queues.
func (le *Lessor) check(tb testing.TB) {
	tb.Helper()
	le.mu.Lock()
	defer le.mu.Unlock()
	revoking := 0
	for id, l := range le.leases {
		require.Equal(tb, id, l.id)
		for q := range le.queues {
			if pos := l.pos[q]; pos >= 0 {
				require.Same(tb, l, le.queues[q].items[pos])
			}
		}
		if l.revoking {
			revoking++
			require.Negative(tb, l.pos[byCheckpoint])
		}
		// Nothing is ever forgotten by the queues of a primary.
		require.Equal(tb, le.primary && !l.revoking, le.primary && !l.revoking && l.pos[byExpiry] >= 0)
		if !le.primary {
			require.Equal(tb, forever, l.due[byExpiry])
		}
	}
	require.Equal(tb, revoking, le.revoking)
	for q := range le.queues {
		items := le.queues[q].items
		for i := range items {
			require.Same(tb, items[i], le.leases[items[i].id])
			if i > 0 {
				require.False(tb, le.queues[q].less(items[i], items[(i-1)/2]))
			}
		}
	}
}
