package reign

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// TestReign: nothing is served before the reign has begun, or after its end.
func TestReign(t *testing.T) {
	r := newRig(t, engine.NewMem())
	defer r.stop()
	for _, op := range []evaluate.Op{put("core", "x"), put(keys[3], "x"), everywhere("x")} {
		_, err := r.do(t.Context(), op)
		require.ErrorIs(t, err, group.ErrNotSequencer)
	}
	r.ReadPoint(1, func(_ revline.Point, err error) { require.ErrorIs(t, err, group.ErrNotSequencer) })
	epoch := r.begin()
	got, begun := r.Epoch()
	require.Equal(t, epoch, got)
	require.True(t, begun)
	require.EqualValues(t, 2, r.must(put("core", "x")).Revision)
	require.EqualValues(t, 3, r.must(put(keys[3], "x")).Revision)
	require.EqualValues(t, 4, r.must(everywhere("x")).Revision)
	require.Equal(t, same("x@4"), r.all())
	require.EqualValues(t, 4, r.line.Closed())
	// Told again is no news.
	r.Lead(epoch)
	require.EqualValues(t, 1, r.begins.Load())

	r.Lead(0)
	r.Lead(0)
	require.EqualValues(t, 1, r.ends.Load())
	_, begun = r.Epoch()
	require.False(t, begun)
	_, err := r.do(t.Context(), everywhere("y"))
	require.ErrorIs(t, err, group.ErrNotSequencer)
	r.begin()
	require.EqualValues(t, 5, r.must(everywhere("z")).Revision)
	// Another member's fence ends it, in whatever group.
	r.Fenced(2, epoch, 0) // an old one does not
	require.EqualValues(t, 1, r.ends.Load())
	r.Fenced(2, epoch+10, 0)
	require.EqualValues(t, 2, r.ends.Load())
	require.Zero(t, r.begun.Load())
}

// TestCrossingTransactions moves amounts between accounts in different groups,
// beside writers of single groups. Whoever reads finds the sum, at every revision.
func TestCrossingTransactions(t *testing.T) {
	r := newRig(t, engine.NewMem())
	defer r.stop()
	r.begin()
	const accounts, sum = 8, 8000
	account := func(i int) string { return fmt.Sprintf("%s/account%d", keys[i%4], i) }
	for i := range accounts {
		r.must(put(account(i), "1000"))
	}
	var stop atomic.Bool
	var movers, others sync.WaitGroup
	var moved, failed atomic.Int64
	for m := range 4 {
		movers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(m), 0))
			for range 60 {
				from, to := rng.IntN(accounts), rng.IntN(accounts)
				if from == to {
					continue
				}
				txn := &evaluate.Txn{}
				for i, k := range []string{account(from), account(to)} {
					kv, err := r.space.Latest([]byte(k))
					if err != nil {
						t.Error(err)
						return
					}
					n, _ := strconv.Atoi(string(kv.Value))
					txn.Compare = append(txn.Compare, evaluate.Compare{
						Key: []byte(k), Target: evaluate.CompareMod, Result: evaluate.CompareEqual, Number: kv.ModRevision,
					})
					txn.Success = append(txn.Success, put(k, strconv.Itoa(n+[]int{-1, 1}[i])))
				}
				res, err := r.do(t.Context(), txn)
				if err != nil {
					t.Error(err)
				}
				if res.Succeeded {
					moved.Add(1)
				} else {
					failed.Add(1)
				}
			}
		})
	}
	for g := range 4 {
		others.Go(func() {
			for n := 0; !stop.Load(); n++ {
				if _, err := r.do(t.Context(), put(fmt.Sprintf("%s/other%d", keys[g], n%5), "x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	others.Go(func() {
		for !stop.Load() {
			got := make(chan revline.Point, 1)
			r.ReadPoint(0b1111, func(p revline.Point, err error) {
				if err != nil {
					t.Error(err)
				}
				got <- p
			})
			p := <-got
			if total := sumAt(t, r, account, accounts, p.Revision); total != sum {
				t.Errorf("the accounts have %d at revision %d", total, p.Revision)
			}
		}
	})
	movers.Wait()
	stop.Store(true)
	others.Wait()
	require.Positive(t, moved.Load())
	closed := r.line.Closed()
	require.Equal(t, r.line.Present(), closed)
	for rev := int64(accounts + 1); rev <= closed; rev++ {
		require.Equal(t, sum, sumAt(t, r, account, accounts, rev), "revision %d", rev)
	}
	t.Logf("moved %d times, %d did not match, %d revisions", moved.Load(), failed.Load(), closed)
}

func sumAt(t *testing.T, r *rig, account func(int) string, n int, rev int64) (total int) {
	t.Helper()
	for i := range n {
		kv, err := r.space.Get([]byte(account(i)), rev)
		if err != nil || kv == nil {
			t.Errorf("account %d at %d: %v", i, rev, err)
			return 0
		}
		v, _ := strconv.Atoi(string(kv.Value))
		total += v
	}
	return total
}

// TestRounds: requests that wait for a round share it, and each sees those before
// it. One that reads at the revision of another waits for the next.
func TestRounds(t *testing.T) {
	r := newRig(t, engine.NewMem())
	defer r.stop()
	r.begin()
	r.gate.closed.Store(true)
	var calls []*call
	queue := func(ctx context.Context, op evaluate.Op) {
		c, err := r.enqueue(ctx, op, evaluate.Size(op))
		require.NoError(t, err)
		calls = append(calls, c)
	}
	queue(t.Context(), everywhere("1"))
	require.True(t, r.inRound())
	for i := range 5 {
		txn := everywhere(fmt.Sprint(i + 2))
		txn.Success[0].(*evaluate.Put).PrevKV = true
		queue(t.Context(), txn)
	}
	queue(t.Context(), &evaluate.Txn{Success: []evaluate.Op{
		&evaluate.Range{Key: []byte(keys[3]), Revision: 4}, put(keys[0], "read"), put(keys[1], "read"),
	}})
	unchanged := everywhere("never")
	unchanged.Compare = []evaluate.Compare{{Key: []byte(keys[2]), Target: evaluate.CompareVersion, Result: evaluate.CompareLess}}
	unchanged.Failure = []evaluate.Op{&evaluate.Range{Key: []byte(keys[1])}}
	queue(t.Context(), unchanged)
	canceled, cancel := context.WithCancel(t.Context())
	queue(canceled, everywhere("canceled"))
	cancel()
	require.Equal(t, 8, r.queued())

	before := r.members[0].AppliedIndex()
	r.gate.open()
	for i, c := range calls {
		<-c.done
		if i == 8 {
			require.ErrorIs(t, c.err, context.Canceled)
			continue
		}
		require.NoError(t, c.err)
		switch i {
		case 6:
			require.EqualValues(t, 8, c.res.Revision)
			require.Equal(t, "3", string(c.res.Responses[0].KVs[0].Value))
		case 7:
			require.EqualValues(t, 8, c.res.Revision, "it has changed nothing")
			require.Equal(t, "read", string(c.res.Responses[0].KVs[0].Value))
		default:
			require.EqualValues(t, i+2, c.res.Revision)
			if i > 0 {
				require.Equal(t, fmt.Sprint(i), string(c.res.Responses[0].PrevKVs[0].Value))
			}
		}
	}
	require.Equal(t, []string{"read@8", "read@8", "6@7", "6@7"}, r.all())
	require.LessOrEqual(t, r.members[0].AppliedIndex()-before, uint64(4), "they share a decision")
}

func (r *rig) inRound() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.round != nil
}

func (r *rig) queued() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue)
}

// TestOneGroupAfterAll: a transaction that only asks another group changes one, and
// needs no decision.
func TestOneGroupAfterAll(t *testing.T) {
	r := newRig(t, engine.NewMem())
	defer r.stop()
	r.begin()
	txn := &evaluate.Txn{
		Compare: []evaluate.Compare{{Key: []byte(keys[1]), Target: evaluate.CompareVersion, Result: evaluate.CompareEqual}},
		Success: []evaluate.Op{put(keys[3], "x")},
	}
	require.EqualValues(t, 2, r.must(txn).Revision)
	require.Equal(t, "x@2", r.get(keys[3]))
	id, _, err := r.stores[0].Decision()
	require.NoError(t, err)
	require.Zero(t, id)
	require.Zero(t, r.applied(3).Part)
	require.EqualValues(t, 2, r.line.Closed())
	// An error of evaluation is the caller's alone.
	_, err = r.do(t.Context(), &evaluate.Txn{Success: []evaluate.Op{
		put(keys[1], "y"), &evaluate.Range{Key: []byte(keys[3]), Revision: 99},
	}})
	require.ErrorIs(t, err, mvcc.ErrFutureRevision)
	require.EqualValues(t, 3, r.must(everywhere("z")).Revision)
	id, _, err = r.stores[0].Decision()
	require.NoError(t, err)
	require.NotZero(t, id)
	for place := 1; place < len(r.stores); place++ {
		require.Equal(t, id, r.applied(place).Part)
	}
}

// TestLeases: the first key that a group attaches to a lease joins the group, later
// ones ask nobody, and the lease's end deletes the keys of all groups at once.
func TestLeases(t *testing.T) {
	fs := engine.NewMem()
	r := newRig(t, fs)
	r.begin()
	attach := func(g int, key string) evaluate.Op {
		return &evaluate.Put{Key: []byte(keys[g] + key), Value: []byte("x"), Lease: 7}
	}
	_, err := r.do(t.Context(), attach(1, "a"))
	require.ErrorIs(t, err, lease.ErrNotFound)
	r.must(&evaluate.LeaseGrant{ID: 7, TTL: 60})
	decision := func() uint64 {
		id, _, err := r.stores[0].Decision()
		require.NoError(t, err)
		return id
	}
	for g := range keys {
		before := decision()
		_, err := r.members[g].Do(t.Context(), attach(g, "a"), 10)
		if g == 0 {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, evaluate.ErrCrossing, "the group has not joined")
		r.must(attach(g, "a"))
		require.Greater(t, decision(), before)
		before = decision()
		_, err = r.members[g].Do(t.Context(), attach(g, "b"), 10)
		require.NoError(t, err)
		require.Equal(t, before, decision())
	}
	require.ElementsMatch(t, []mvcc.GroupID{2, 3, 4}, r.leases.Groups(7))
	// A crash forgets none of it.
	r.stop()
	r = newRig(t, fs)
	defer r.stop()
	r.begin()
	require.ElementsMatch(t, []mvcc.GroupID{2, 3, 4}, r.leases.Groups(7))
	attached, err := r.space.LeaseKeys(7)
	require.NoError(t, err)
	require.Len(t, attached, 7)
	_, err = r.members[0].Do(t.Context(), &evaluate.LeaseRevoke{ID: 7}, 10)
	require.ErrorIs(t, err, evaluate.ErrCrossing)
	rev := r.must(&evaluate.LeaseRevoke{ID: 7}).Revision
	for g, k := range keys {
		require.Equal(t, "none", r.get(k+"a"))
		kv, err := r.space.Get([]byte(k+"a"), rev-1)
		require.NoError(t, err)
		require.NotNil(t, kv, "not before")
		require.Equal(t, rev, r.applied(g).Revision, "at one revision")
	}
	require.Empty(t, r.leases.Groups(7))
	require.False(t, r.leases.Exists(7))
	_, err = r.do(t.Context(), attach(3, "a"))
	require.ErrorIs(t, err, lease.ErrNotFound)
	r.must(&evaluate.LeaseGrant{ID: 7, TTL: 60})
	_, err = r.members[3].Do(t.Context(), attach(3, "a"), 10)
	require.ErrorIs(t, err, evaluate.ErrCrossing, "a new lease is joined anew")
	r.must(attach(3, "a"))
}

// TestJoinsAndRevokesRace: a key is never left with a lease that is gone.
func TestJoinsAndRevokesRace(t *testing.T) {
	r := newRig(t, engine.NewMem())
	defer r.stop()
	r.begin()
	var stop atomic.Bool
	var work, owner sync.WaitGroup
	owner.Go(func() {
		for i := range 100 {
			for _, op := range []evaluate.Op{&evaluate.LeaseGrant{ID: 7, TTL: 60}, put("pause", fmt.Sprint(i)), &evaluate.LeaseRevoke{ID: 7}} {
				if _, err := r.do(t.Context(), op); err != nil {
					t.Errorf("%T: %v", op, err)
				}
			}
		}
	})
	var attached atomic.Int64
	for g := range 4 {
		work.Go(func() {
			for n := 0; !stop.Load(); n++ {
				op := &evaluate.Put{Key: fmt.Appendf(nil, "%s/%d", keys[g], n%3), Lease: 7}
				switch _, err := r.do(t.Context(), op); {
				case err == nil:
					attached.Add(1)
				case err.Error() != lease.ErrNotFound.Error():
					t.Error(err)
				}
			}
		})
	}
	owner.Wait()
	stop.Store(true)
	work.Wait()
	require.Positive(t, attached.Load())
	left, err := r.space.LeaseKeys(7)
	require.NoError(t, err)
	require.Empty(t, left)
	for _, k := range keys {
		for n := range 3 {
			require.Equal(t, "none", r.get(fmt.Sprintf("%s/%d", k, n)))
		}
	}
}

// TestQueueIsBounded: what waits for a round has a bound, and who is too much is
// refused at once. The end of the reign answers all of them, each once.
func TestQueueIsBounded(t *testing.T) {
	r := newRig(t, engine.NewMem())
	defer r.stop()
	r.begin()
	r.gate.closed.Store(true)
	first := r.async(everywhere("x"))
	r.until(func() bool { return r.inRound() })
	answers := make(chan error, maxQueued)
	for range maxQueued {
		c, err := r.enqueue(t.Context(), everywhere("y"), 10)
		require.NoError(t, err)
		go func() { <-c.done; answers <- c.err }()
	}
	_, err := r.Do(t.Context(), everywhere("z"), 10)
	require.ErrorIs(t, err, group.ErrTooManyRequests)
	r.Lead(0)
	for range maxQueued {
		require.ErrorIs(t, <-answers, group.ErrNotSequencer)
	}
	require.ErrorIs(t, (<-first).err, group.ErrLeaderChanged)
	require.Zero(t, r.queued())
}

// TestRoundIsBounded in requests and in bytes.
func TestRoundIsBounded(t *testing.T) {
	r := newRig(t, engine.NewMem())
	defer r.stop()
	r.begin()
	r.gate.closed.Store(true)
	first := r.async(everywhere("x"))
	r.until(func() bool { return r.inRound() })
	var answers []*call
	add := func(n, size int) {
		for range n {
			c, err := r.enqueue(t.Context(), everywhere("y"), size)
			require.NoError(t, err)
			answers = append(answers, c)
		}
	}
	add(maxRound+1, 1)
	add(5, maxRoundBytes/2)
	r.gate.open()
	require.NoError(t, (<-first).err)
	for i, c := range answers {
		<-c.done
		require.NoError(t, c.err)
		require.EqualValues(t, i+3, c.res.Revision)
	}
	// The rounds: 512; one and two of half the bytes; two; one.
	require.EqualValues(t, maxRound+1+5+2, r.line.Present())
}

// TestEndInEachState ends the reign at each step of a transaction over several
// groups. Its caller is answered once, and with the next reign it has taken effect
// in all groups or in none.
func TestEndInEachState(t *testing.T) {
	for _, c := range []struct {
		name string
		// reach brings the rig to where the reign ends.
		reach func(t *testing.T, r *rig)
		op    evaluate.Op
		// decided says that the transaction has got into core's log.
		decided bool
	}{
		{name: "a group is not held yet", reach: func(t *testing.T, r *rig) {
			t.Helper()
			r.mu.Lock()
			defer r.mu.Unlock()
			require.NotZero(t, r.round.waiting)
			require.Zero(t, r.round.mask&1, "core comes last")
		}},
		{name: "the decision is not applied", decided: true, reach: func(t *testing.T, r *rig) {
			t.Helper()
			r.until(func() bool { return r.pastEvaluation() })
			id, _, err := r.stores[0].Decision()
			require.NoError(t, err)
			require.Zero(t, id)
		}},
		{name: "the parts are not applied", decided: true, reach: func(t *testing.T, r *rig) {
			t.Helper()
			r.until(func() bool { return r.applied(0).Revision >= 3 })
			for place := 1; place < len(r.stores); place++ {
				require.Less(t, r.applied(place).Revision, int64(3))
			}
		}},
		{name: "the reign is not confirmed", op: &evaluate.Txn{
			Compare: []evaluate.Compare{{Key: []byte(keys[2]), Target: evaluate.CompareVersion, Result: evaluate.CompareLess}},
			Success: everywhere("never").Success,
		}, reach: func(t *testing.T, r *rig) {
			t.Helper()
			r.until(func() bool { return len(*r.deferred.Load()) > 0 })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, engine.NewMem())
			defer r.stop()
			r.begin()
			r.deferred.Store(&[]func(){})
			r.gate.closed.Store(true)
			// Something is in flight in a group that the transaction touches.
			busy := r.async(put(keys[3], "busy"))
			r.until(func() bool { return r.gate.waiting.Load() > 0 })
			if c.op == nil {
				c.op = everywhere("x")
			}
			crossing := r.async(c.op)
			r.settle(func() bool { return r.inRound() })
			r.until(func() bool { return r.inRound() })
			queued := r.async(everywhere("queued"))
			r.settle(func() bool { return r.queued() == 1 })
			c.reach(t, r)
			r.Lead(0)
			require.ErrorIs(t, (<-crossing).err, group.ErrLeaderChanged)
			require.ErrorIs(t, (<-queued).err, group.ErrNotSequencer)
			for _, f := range *r.deferred.Load() {
				f() // the confirmation comes too late
			}
			r.gate.open()
			if a := <-busy; a.err != nil {
				require.ErrorIs(t, a.err, group.ErrLeaderChanged)
			}
			r.begin()
			got := r.all()
			if c.decided {
				require.Equal(t, same("x@3"), got)
			} else {
				require.Equal(t, []string{"none", "none", "none"}, got[:3])
			}
			require.Equal(t, r.line.Present(), r.line.Closed())
			rev := r.line.Present()
			require.Equal(t, rev+1, r.must(everywhere("next")).Revision)
			require.Equal(t, same(fmt.Sprintf("next@%d", rev+1)), r.all())
		})
	}
}

// pastEvaluation says that a round was evaluated, and that something of it is in
// flight.
func (r *rig) pastEvaluation() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.round != nil && len(r.round.parts) > 0
}

// TestEndBeforeItBegins ends reigns while they are fencing, and while they complete
// what was decided before.
func TestEndBeforeItBegins(t *testing.T) {
	r := newRig(t, engine.NewMem())
	defer r.stop()
	r.begin()
	r.must(put("core", "x"))
	r.gate.closed.Store(true)
	// It will be decided, and nobody is there to propose the parts.
	crossing := r.async(everywhere("y"))
	r.until(func() bool { return r.pastEvaluation() })
	r.Lead(0)
	require.ErrorIs(t, (<-crossing).err, group.ErrLeaderChanged)

	// Fencing.
	r.lead()
	r.settle(func() bool { return false })
	_, err := r.Do(t.Context(), everywhere("z"), 10)
	require.ErrorIs(t, err, group.ErrNotSequencer)
	r.Lead(0)
	// Completing.
	r.lead()
	r.until(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.missing > 0
	})
	_, err = r.Do(t.Context(), everywhere("z"), 10)
	require.ErrorIs(t, err, group.ErrNotSequencer)
	for range 2 {
		r.Lead(0)
	}
	require.EqualValues(t, 1, r.ends.Load(), "only one had begun")
	r.gate.open()
	r.begin()
	require.Equal(t, same("y@3"), r.all())
	for place := range r.stores {
		require.EqualValues(t, 3, r.applied(place).Revision, "group %d has its part once", place)
	}
	require.EqualValues(t, 4, r.must(everywhere("z")).Revision)
}

// TestPowerLostBetweenDecisionAndParts loses power at every sync of the log while
// transactions over several groups come one after another. What is found is whole
// transactions, among them all that were answered; a decision that was logged is
// completed before anything is served.
func TestPowerLostBetweenDecisionAndParts(t *testing.T) {
	type crash struct {
		fs    *engine.MemFS
		acked int64
	}
	var crashes []crash
	var acked atomic.Int64
	rng := rand.New(rand.NewPCG(1, 0))
	mem := engine.NewCrashableMem()
	r := newRig(t, mem)
	r.begin()
	r.gate.synced = func() {
		n := acked.Load() // before: what is answered later need not be there
		crashes = append(crashes, crash{mem.CrashClone(engine.CrashCloneCfg{UnsyncedDataPercent: 25 * rng.IntN(5), RNG: rng}), n})
	}
	r.must(&evaluate.LeaseGrant{ID: 7, TTL: 60})
	for i := int64(1); i <= 12; i++ {
		txn := everywhere(fmt.Sprint(i))
		if i == 6 {
			require.NoError(t, r.state.Flush())
		}
		if i > 8 {
			// With a lease the decision has a part of core's that is no key.
			for _, op := range txn.Success {
				op.(*evaluate.Put).Lease = 7
			}
		}
		r.must(txn)
		acked.Store(i)
	}
	r.stop()
	r.gate.synced = nil
	completed, lost := 0, 0
	for _, c := range crashes {
		r := newRig(t, c.fs)
		id, _, err := r.stores[0].Decision()
		require.NoError(t, err)
		for place := 1; place < len(r.stores); place++ {
			if r.applied(place).Part < id {
				completed++
				break
			}
		}
		r.begin()
		value, rev, ok := strings.Cut(r.get(keys[0]), "@")
		n, _ := strconv.ParseInt(value, 10, 64)
		require.GreaterOrEqual(t, n, c.acked)
		if n > c.acked {
			lost++ // it was on its way
		}
		require.Equal(t, same(r.get(keys[0])), r.all())
		if ok {
			require.Equal(t, fmt.Sprint(n+1), rev)
		}
		require.Equal(t, max(n+1, 1), r.line.Present())
		require.Equal(t, r.line.Present(), r.line.Closed())
		if n > 8 {
			attached, err := r.space.LeaseKeys(7)
			require.NoError(t, err)
			require.Len(t, attached, 4)
			require.Len(t, r.leases.Groups(7), 3)
		}
		require.Equal(t, n+2, r.must(everywhere("next")).Revision)
		require.Equal(t, same(fmt.Sprintf("next@%d", n+2)), r.all())
		r.stop()
	}
	t.Logf("%d crashes, %d with a decision to complete, %d with one that nobody was told of", len(crashes), completed, lost)
	require.Greater(t, completed, 5)
}

func TestParts(t *testing.T) {
	for _, parts := range [][]evaluate.Part{
		nil,
		{{Group: 2, Effects: []byte("x")}},
		{{Group: 2, Effects: bytes.Repeat([]byte("x"), 300)}, {Group: 65535, Effects: []byte{}}, {Group: 3, Effects: []byte("y")}},
	} {
		data := encodeParts(parts)
		got, err := decodeParts(data)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(parts), fmt.Sprint(got))
		if len(parts) == 1 {
			for n := 1; n < len(data); n++ {
				_, err := decodeParts(data[:n])
				require.ErrorIs(t, err, errShortPart, "the first %d bytes", n)
			}
		}
	}
	// Part of the log's format.
	require.Equal(t, "\x02\x01x\xac\x02\x02yz", string(encodeParts([]evaluate.Part{
		{Group: 2, Effects: []byte("x")}, {Group: 300, Effects: []byte("yz")},
	})))
	for _, data := range []string{"\x00\x01x", "\x80\x80\x04\x01x"} {
		_, err := decodeParts([]byte(data))
		require.ErrorContains(t, err, "a part of group")
	}
}

func FuzzDecodeParts(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeParts([]evaluate.Part{{Group: 2, Effects: []byte("x")}, {Group: 300, Effects: []byte("yz")}}))
	f.Add([]byte("\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parts, err := decodeParts(data)
		if err != nil {
			return
		}
		again, err := decodeParts(encodeParts(parts))
		require.NoError(t, err)
		require.Equal(t, parts, again)
	})
}
