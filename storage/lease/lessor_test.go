package lease

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// nextDeadline returns the time that is left until Expired or DueCheckpoints
// has work, 0 if it has some now; false if nothing is planned.
func (le *Lessor) nextDeadline() (time.Duration, bool) {
	le.mu.RLock()
	defer le.mu.RUnlock()
	next := le.nextLocked()
	if next == forever {
		return 0, false
	}
	return max(0, next-le.now()), true
}

func TestMinTTL(t *testing.T) {
	for _, c := range []struct {
		tick  time.Duration
		ticks int
		want  int64
	}{
		{100 * time.Millisecond, 10, 2}, // etcd's defaults
		{10 * time.Millisecond, 10, 1},
		{500 * time.Millisecond, 10, 8},
		{time.Second, 1, 1},
		{100 * time.Millisecond, 100, 15},
	} {
		require.Equal(t, c.want, MinTTL(c.tick, c.ticks))
	}
}

// A renewal that comes too late learns what became of the lease.
func TestRenewWaits(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(le *Lessor, cancel context.CancelFunc)
		want error
	}{
		{"revoked", func(le *Lessor, _ context.CancelFunc) { le.Revoked(1) }, ErrNotFound},
		{"demoted", func(le *Lessor, _ context.CancelFunc) { le.Demote() }, ErrNotPrimary},
		{"canceled", func(_ *Lessor, cancel context.CancelFunc) { cancel() }, context.Canceled},
		// A failed revocation says nothing, the next one may say it.
		{"failed", func(le *Lessor, _ context.CancelFunc) {
			le.RevokeFailed(1)
			synctest.Wait()
			le.Revoked(1)
		}, ErrNotFound},
		// The same member leads again, and counts anew.
		{"promoted", func(le *Lessor, _ context.CancelFunc) { le.Promote(0) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clk := clock.NewManual(time.Unix(0, 0))
				le := New(Config{Clock: clk})
				le.Promote(0)
				le.Granted(1, 5)
				clk.Advance(5 * time.Second)
				require.Equal(t, []int64{1}, le.Expired(1))

				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				results := make(chan error, 2)
				for range cap(results) {
					go func() {
						_, _, err := le.Renew(ctx, 1)
						results <- err
					}()
				}
				synctest.Wait()
				require.Empty(t, results)
				c.end(le, cancel)
				for range cap(results) {
					require.ErrorIs(t, <-results, c.want)
				}
			})
		})
	}
}

// A renewal that waits for a checkpoint extends the lease already, and has to
// reset what the checkpoint said.
func TestRenewWaitsForCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clk := clock.NewManual(time.Unix(0, 0))
		le := New(Config{Clock: clk})
		le.Promote(0)
		le.Granted(1, 301)
		clk.Advance(300 * time.Second)
		batch := le.DueCheckpoints(1)
		require.Equal(t, []Remaining{{1, 1}}, batch)

		done := make(chan bool)
		go func() {
			ttl, reset, err := le.Renew(t.Context(), 1)
			assert.NoError(t, err)
			assert.EqualValues(t, 301, ttl)
			done <- reset
		}()
		synctest.Wait()
		clk.Advance(time.Second)
		require.Empty(t, le.Expired(1))
		le.Checkpointed(1, 1)
		le.CheckpointDone(batch, nil)
		require.True(t, <-done)
	})
}

// Wait sleeps until exactly the time at which something is due, whatever moves
// that time meanwhile.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clk := clock.NewManual(time.Unix(0, 0))
		le := New(Config{Clock: clk, RetryInterval: time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		woken := make(chan error)
		wait := func() { go func() { woken <- le.Wait(ctx) }() }
		asleep := func() {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-woken:
				t.Fatal("it has woken up", err)
			default:
			}
		}

		wait()
		le.Granted(1, 2)
		clk.Advance(time.Hour)
		asleep()
		le.Promote(0)
		clk.Advance(2*time.Second - 1)
		asleep()
		clk.Advance(1)
		require.NoError(t, <-woken)

		// Until that has been taken it does not sleep again.
		wait()
		require.NoError(t, <-woken)
		require.Equal(t, []int64{1}, le.Expired(1))

		wait()
		asleep()
		le.RevokeFailed(1)
		asleep()
		clk.Advance(time.Second)
		require.NoError(t, <-woken)
		require.Equal(t, []int64{1}, le.Expired(1))
		le.Revoked(1)

		// Something earlier wakes it in time; what goes away lets it sleep on.
		wait()
		le.Granted(2, 10)
		asleep()
		le.Granted(3, 4)
		clk.Advance(3 * time.Second)
		asleep()
		le.Revoked(3)
		clk.Advance(6 * time.Second)
		asleep()
		clk.Advance(time.Second)
		require.NoError(t, <-woken)
		require.Equal(t, []int64{2}, le.Expired(1))

		// So does a renewal.
		le.Granted(4, 5)
		wait()
		clk.Advance(4 * time.Second)
		_, _, err := le.Renew(ctx, 4)
		require.NoError(t, err)
		clk.Advance(4 * time.Second)
		asleep()
		clk.Advance(time.Second)
		require.NoError(t, <-woken)

		le.Demote()
		wait()
		asleep()
		cancel()
		require.ErrorIs(t, <-woken, context.Canceled)
		require.Zero(t, clk.Timers())
	})
}

// A promotion leaves room for other expiries in every second, whatever the TTLs.
func TestPromoteSpreads(t *testing.T) {
	const rate = 50
	rng := rand.New(rand.NewPCG(1, 2))
	clk := clock.NewManual(time.Unix(0, 0))
	le := New(Config{Clock: clk, MaxExpiriesPerSecond: rate})
	for id := range int64(2000) {
		le.Load(id, 1+rng.Int64N(20)*rng.Int64N(2), 0)
	}
	le.Promote(0)
	le.check(t)
	handed := map[int64]bool{}
	for range 60 {
		before := len(handed)
		for range 10 {
			clk.Advance(100 * time.Millisecond)
			for _, id := range le.Expired(1 << 20) {
				ttl, _ := le.TTL(id)
				require.GreaterOrEqual(t, le.now(), seconds(ttl))
				handed[id] = true
			}
		}
		require.LessOrEqual(t, len(handed)-before, rate)
	}
	require.Len(t, handed, 2000)
}

// Times that don't fit are as good as forever.
func TestOverflow(t *testing.T) {
	clk := clock.NewManual(time.Unix(0, 0))
	le := New(Config{Clock: clk, MaxExpiriesPerSecond: 1})
	le.Load(1, MaxTTL, 0)
	le.Load(2, 1<<62, 0)
	le.Load(3, 1<<62, 1<<62)
	le.Load(4, -5, -5)
	le.Promote(time.Hour)
	le.check(t)
	clk.Advance(time.Hour)
	require.Equal(t, []int64{4}, le.Expired(10))
	clk.Advance(time.Hour)
	require.Equal(t, []Remaining{{1, MaxTTL - 3600}}, le.DueCheckpoints(10))
	le.Revoked(4)
	le.Promote(time.Hour)
	clk.Advance(250 * 365 * 24 * time.Hour)
	require.Empty(t, le.Expired(10))
	le.Promote(time.Hour)
	require.Empty(t, le.DueCheckpoints(10))
	clk.Advance(42 * 365 * 24 * time.Hour)
	require.Empty(t, le.Expired(10))
	le.check(t)
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	clk := clock.NewManual(time.Unix(0, 0))
	le := New(Config{Clock: clk, Registerer: reg})
	le.Promote(0)
	for id := range int64(4) {
		le.Granted(id, 3)
	}
	_, _, err := le.Renew(t.Context(), 3)
	require.NoError(t, err)
	le.Revoked(3)
	clk.Advance(3 * time.Second)
	require.Len(t, le.Expired(2), 2)
	le.Revoked(0)
	families, err := reg.Gather()
	require.NoError(t, err)
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			values[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	require.Equal(t, map[string]float64{
		"etcd_debugging_lease_granted_total":        4,
		"etcd_debugging_lease_renewed_total":        1,
		"etcd_debugging_lease_revoked_total":        2,
		"etcd_debugging_lease_ttl_total":            12,
		"etcd_debugging_server_lease_expired_total": 1,
		"pebbledash_lease_leases":                   2,
		"pebbledash_lease_pending_revocations":      1,
	}, values)
}

// TestConcurrent is for the race detector, and for the queues to survive.
func TestConcurrent(t *testing.T) {
	le := New(Config{RetryInterval: time.Nanosecond})
	ctx, cancel := context.WithCancel(t.Context())
	var loop, wg sync.WaitGroup
	loop.Go(func() {
		for le.Wait(ctx) == nil {
			for _, id := range le.Expired(10) {
				if id%2 == 0 {
					le.RevokeFailed(id)
				}
				le.Revoked(id)
			}
			due := le.DueCheckpoints(10)
			for _, r := range due {
				le.Checkpointed(r.ID, r.Seconds)
			}
			le.CheckpointDone(due, nil)
		}
	})
	for w := range uint64(4) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(w, 1))
			for range 2000 {
				id := rng.Int64N(64)
				switch rng.IntN(12) {
				case 0:
					le.Revoked(id)
				case 1:
					le.Leases()
				case 2:
					if w == 0 {
						le.Demote()
						le.Promote(0)
					}
				case 3, 4:
					le.Granted(id, rng.Int64N(1000)*rng.Int64N(2))
				case 5:
					_, _, _ = le.TimeToLive(id)
				default:
					short, stop := context.WithTimeout(ctx, time.Millisecond)
					_, _, _ = le.Renew(short, id)
					stop()
				}
			}
		})
	}
	wg.Wait()
	cancel()
	loop.Wait()
	le.check(t)
}

const benchLeases = 1_000_000

func benchLessor(b *testing.B) *Lessor {
	b.Helper()
	le := New(Config{})
	for id := range int64(benchLeases) {
		le.Load(id*7919, 3600+id%60, 0)
	}
	return le
}

func BenchmarkRenewOfAMillion(b *testing.B) {
	le := benchLessor(b)
	le.Promote(0)
	rng := rand.New(rand.NewPCG(1, 1))
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := le.Renew(ctx, rng.Int64N(benchLeases)*7919); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPromoteAMillion(b *testing.B) {
	le := benchLessor(b)
	for b.Loop() {
		le.Promote(time.Second)
	}
}

func BenchmarkMemoryOfAMillion(b *testing.B) {
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		le := benchLessor(b)
		le.Promote(0)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/benchLeases, "B/lease")
		runtime.KeepAlive(le)
	}
}
