package lease

import (
	"cmp"
	"errors"
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

var seed = flag.Uint64("seed", 0, "seed of TestModel; 0 is a new one each time")

// model is the Lessor without queues: it looks at every lease each time. It
// knows the durable state of the log besides, which is what a new primary has.
type model struct {
	cfg     Config
	now     time.Duration
	primary bool
	leases  map[int64]*modelLease
}

type modelLease struct {
	ttl, remaining int64
	expiry         time.Duration
	lost           bool          // handed out
	retry          time.Duration // when a lost one is handed out again; forever while it is out
	checkpoint     time.Duration // when it is due; forever if it is not planned or handed out
	out, unsettled bool
	// promised is until when the last acknowledged renewal has to hold.
	promised time.Duration
}

func (l *modelLease) left() int64 {
	if l.remaining > 0 {
		return l.remaining
	}
	return l.ttl
}

func (m *model) plan(l *modelLease) {
	if l.expiry-m.now > m.cfg.CheckpointInterval {
		l.checkpoint = (m.now + m.cfg.CheckpointInterval + time.Second - 1).Truncate(time.Second)
	}
}

func (m *model) grant(id, ttl, remaining int64) {
	l := &modelLease{ttl: ttl, remaining: remaining, expiry: forever, retry: forever, checkpoint: forever}
	m.leases[id] = l
	if m.primary {
		l.expiry = m.now + time.Duration(l.left())*time.Second
		m.plan(l)
	}
	l.promised = m.now + time.Duration(l.left())*time.Second
}

// due returns when the lease is to be handed out.
func (l *modelLease) due() time.Duration {
	if l.lost {
		return l.retry
	}
	return l.expiry
}

func (m *model) expired(limit int) []int64 {
	var ids []int64
	for id, l := range m.leases {
		if m.primary && l.due() <= m.now {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b int64) int {
		return cmp.Or(cmp.Compare(m.leases[a].due(), m.leases[b].due()), cmp.Compare(a, b))
	})
	if limit == 0 || len(ids) == 0 {
		return nil
	}
	ids = ids[:min(limit, len(ids))]
	for _, id := range ids {
		l := m.leases[id]
		l.lost, l.retry, l.checkpoint = true, forever, forever
	}
	return ids
}

func (m *model) dueCheckpoints() []Remaining {
	var ids []int64
	for id, l := range m.leases {
		if l.checkpoint <= m.now {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b int64) int {
		return cmp.Or(cmp.Compare(m.leases[a].checkpoint, m.leases[b].checkpoint), cmp.Compare(a, b))
	})
	var out []Remaining
	for _, id := range ids {
		l := m.leases[id]
		l.checkpoint = forever
		left := int64((l.expiry - m.now + time.Second - 1) / time.Second)
		switch {
		case left <= 0:
		case left >= l.left():
			m.plan(l)
		default:
			l.out = true
			out = append(out, Remaining{id, left})
		}
	}
	return out
}

func (m *model) next() time.Duration {
	next := forever
	for _, l := range m.leases {
		if m.primary {
			next = min(next, l.due(), l.checkpoint)
		}
	}
	return next
}

func (m *model) demote() {
	m.primary = false
	for _, l := range m.leases {
		l.expiry, l.retry, l.checkpoint = forever, forever, forever
		l.lost, l.out, l.unsettled = false, false, false
	}
}

// TestModel does the same at random to a Lessor and to the model. It also
// checks, at each handing out, that no promise is broken: neither the grant's,
// nor that of any acknowledged renewal, over any number of primaries.
func TestModel(t *testing.T) {
	runs := 50
	if testing.Short() {
		runs = 10
	}
	for range runs {
		s := *seed
		if s == 0 {
			s = rand.Uint64()
		}
		if !runModel(t, s) {
			return
		}
		if *seed != 0 {
			return
		}
	}
}

func runModel(t *testing.T, seed uint64) bool {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("again: go test ./storage/lease -run TestModel -seed %d", seed)
		}
	}()
	rng := rand.New(rand.NewPCG(seed, 0))
	clk := clock.NewManual(time.Unix(0, 0))
	cfg := Config{
		Clock:              clk,
		CheckpointInterval: 20 * time.Second,
		RetryInterval:      700 * time.Millisecond,
		// Spreading is the scripts' matter.
		MaxExpiriesPerSecond: 1 << 20,
	}
	le := New(cfg)
	m := &model{cfg: cfg, leases: map[int64]*modelLease{}}
	var batch []Remaining // on its way into the log

	// settle ends the checkpoint that is on its way. One that fails may be
	// applied all the same, before anything that is proposed later.
	settle := func(failed, applied bool) {
		if batch == nil {
			return
		}
		for _, r := range batch {
			if l := m.leases[r.ID]; l != nil && applied {
				l.remaining = r.Seconds
				le.Checkpointed(r.ID, r.Seconds)
				l.unsettled = false
			}
		}
		var err error
		if failed {
			err = errors.New("no leader")
		}
		le.CheckpointDone(batch, err)
		for _, r := range batch {
			l := m.leases[r.ID]
			if l == nil || !l.out {
				continue
			}
			l.out = false
			switch {
			case l.lost:
			case failed:
				l.unsettled = true
				l.checkpoint = m.now + cfg.RetryInterval
			default:
				m.plan(l)
			}
		}
		batch = nil
	}

	for step := range 400 {
		id := int64(rng.IntN(12))
		l := m.leases[id]
		switch op := rng.IntN(100); {
		case op < 15: // Time passes, sometimes exactly to the next deadline.
			d := time.Duration(rng.Int64N(int64(8 * time.Second)))
			if next := m.next(); rng.IntN(2) == 0 && next != forever {
				d = max(0, next-m.now)
			}
			clk.Advance(d)
			m.now += d

		case op < 30:
			// NB: An ID that is granted anew while a checkpoint of its former
			// lease is still to be proposed would get that. Nothing here can
			// prevent it, only the caller, who proposes at once.
			if l == nil && !slices.ContainsFunc(batch, func(r Remaining) bool { return r.ID == id }) {
				ttl := 1 + rng.Int64N(60)
				le.Granted(id, ttl)
				m.grant(id, ttl, 0)
			}

		case op < 35: // A client revokes.
			if !slices.ContainsFunc(batch, func(r Remaining) bool { return r.ID == id }) {
				le.Revoked(id)
				delete(m.leases, id)
			}

		case op < 65:
			ttl, reset, wait, err := le.renew(id)
			switch {
			case !m.primary:
				require.ErrorIs(t, err, ErrNotPrimary)
			case l == nil:
				require.ErrorIs(t, err, ErrNotFound)
			case l.lost:
				require.NotNil(t, wait)
			default:
				l.expiry = m.now + time.Duration(l.ttl)*time.Second
				if l.out {
					require.NotNil(t, wait)
					break
				}
				if l.checkpoint == forever {
					m.plan(l)
				}
				require.NoError(t, err)
				require.Nil(t, wait)
				require.Equal(t, l.ttl, ttl)
				require.Equal(t, l.remaining > 0 || l.unsettled, reset)
				// Without the reset the client gets an error, and no promise.
				if reset && rng.IntN(3) == 0 {
					break
				}
				if reset {
					le.Checkpointed(id, 0)
					l.remaining, l.unsettled = 0, false
				}
				l.promised = l.expiry
			}

		case op < 75:
			limit := rng.IntN(4)
			ids := le.Expired(limit)
			require.Equal(t, m.expired(limit), ids)
			for _, id := range ids {
				require.LessOrEqual(t, m.leases[id].promised, m.now, "lease %d was promised more", id)
			}

		case op < 82: // What became of a revocation.
			if l != nil && l.lost {
				if rng.IntN(3) > 0 {
					le.Revoked(id)
					delete(m.leases, id)
				} else {
					le.RevokeFailed(id)
					if l.retry == forever {
						l.retry = m.now + cfg.RetryInterval
					}
				}
			}

		case op < 88:
			if batch == nil {
				batch = le.DueCheckpoints(100)
				require.Equal(t, m.dueCheckpoints(), batch)
			}

		case op < 95:
			failed := rng.IntN(3) == 0
			settle(failed, !failed || rng.IntN(2) == 0)

		case op < 97:
			// What is in the log is applied before a new primary begins.
			settle(true, rng.IntN(2) == 0)
			le.Demote()
			m.demote()

		default:
			settle(true, rng.IntN(2) == 0)
			extend := time.Duration(rng.Int64N(int64(3 * time.Second)))
			le.Promote(extend)
			m.demote()
			m.primary = true
			for _, l := range m.leases {
				l.expiry = m.now + time.Duration(l.left())*time.Second + extend
				m.plan(l)
			}
		}

		le.check(t)
		require.Equal(t, len(m.leases), le.Len())
		next, ok := le.nextDeadline()
		require.Equal(t, m.next() != forever, ok, "step %d", step)
		if ok {
			require.Equal(t, max(0, m.next()-m.now), next, "step %d", step)
		}
		for id, l := range m.leases {
			granted, remaining, err := le.TimeToLive(id)
			if !m.primary {
				require.ErrorIs(t, err, ErrNotPrimary)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, l.ttl, granted)
			want := max(0, int64((l.expiry-m.now)/time.Second))
			if l.lost {
				want = 0
			}
			require.Equal(t, want, remaining, "step %d, lease %d", step, id)
		}
	}
	return !t.Failed()
}
