package group

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

func TestAnswers(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	require.True(t, r.Sole())
	require.EqualValues(t, 2, r.do(t, put("a", 1)).Revision)
	require.EqualValues(t, 3, r.do(t, put("b", 1)).Revision)
	// What changes nothing has the revision of what it saw, and no entry.
	index := r.AppliedIndex()
	require.EqualValues(t, 3, r.do(t, unchanged("a")).Revision)
	require.EqualValues(t, 3, r.do(t, &evaluate.DeleteRange{Key: []byte("zz")}).Revision)
	require.Equal(t, index, r.AppliedIndex())
	require.NoError(t, r.confirm())
	// A failure of evaluation changes nothing and is the caller's alone.
	_, err := r.Do(t.Context(), &evaluate.Compact{Revision: 99}, 0)
	require.ErrorIs(t, err, mvcc.ErrFutureRevision)
	require.Equal(t, index, r.AppliedIndex())
	require.Equal(t, "a=1@2 b=1@3 ", contents(t, r.store))
	require.Len(t, r.seen.events, 2)
	status := r.Status()
	require.EqualValues(t, 1, status.Leader)
	require.Equal(t, index, status.Commit)
	require.Equal(t, []uint64{status.Term}, r.seen.leads)
	require.Equal(t, []uint64{status.Term}, r.seen.fences)
	require.EqualValues(t, 3, r.line.Present())
	require.EqualValues(t, 3, r.line.Closed())
}

// TestRestartReplays stops or loses the power of a replica again and again.
// Everything that was acknowledged is there afterwards, and revisions go on
// where they were.
func TestRestartReplays(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			fs := engine.NewCrashableMem()
			revision := int64(1)
			want := map[string]string{}
			for range 6 {
				r := startReplica(t, fs)
				require.Equal(t, revision, r.store.Revision())
				for range rng.IntN(60) {
					key, value := fmt.Sprintf("k%d", rng.IntN(20)), fmt.Sprint(rng.IntN(1000))
					revision++
					require.Equal(t, revision, r.do(t, put(key, value)).Revision)
					want[key] = fmt.Sprintf("%s=%s@%d", key, value, revision)
					if rng.IntN(20) == 0 {
						require.NoError(t, r.files.state.Flush())
						durable, err := r.store.DurableApplied()
						require.NoError(t, err)
						require.NoError(t, r.log.Truncate(durable.Index))
					}
				}
				got := contents(t, r.store)
				require.Len(t, strings.Fields(got), len(want))
				for _, kv := range strings.Fields(got) {
					key, _, _ := strings.Cut(kv, "=")
					require.Equal(t, want[key], kv)
				}
				if rng.IntN(2) == 0 {
					fs = fs.CrashClone(engine.CrashCloneCfg{UnsyncedDataPercent: 25 * rng.IntN(5), RNG: rng})
				}
				r.stop(t)
			}
		})
	}
}

// TestReplayBeginsBehindTheState: what the state holds already is not applied
// again.
func TestReplayBeginsBehindTheState(t *testing.T) {
	fs := engine.NewMem()
	r := startReplica(t, fs)
	for i := range 10 {
		r.do(t, put("k", i))
	}
	require.NoError(t, r.files.state.Flush())
	applied := r.AppliedIndex()
	for i := range 5 {
		r.do(t, put("k", 10+i))
	}
	lost := fs
	// The state's write-ahead log is the raft log: without a flush the last
	// five are only there.
	r.stop(t)
	r = startReplica(t, lost)
	defer r.stop(t)
	require.Len(t, r.seen.events, 5)
	require.EqualValues(t, 12, r.seen.events[0].Kv.ModRevision)
	require.Greater(t, r.AppliedIndex(), applied)
}

// TestLargeMessage: entries that are small in the log only because they are compressed do
// not all go into one batch, and raft is answered once.
func TestLargeMessage(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	for i := range 5 {
		r.do(t, &evaluate.Put{Key: fmt.Append(nil, i), Value: make([]byte, maxBatchBytes*2/5)})
	}
	first, err := r.log.FirstIndex()
	require.NoError(t, err)
	last, err := r.log.LastIndex()
	require.NoError(t, err)
	entries, err := r.log.Entries(first, last+1, math.MaxUint64)
	require.NoError(t, err)
	r.stop(t)
	size := 0
	for _, e := range entries {
		size += len(e.GetData())
	}
	require.Less(t, size, maxBatchBytes)

	again := makeReplica(t, nil, engine.NewMem(), 1, []uint64{1}, nil)
	response := &raftpb.Message{}
	require.NoError(t, again.applier.apply(&raftpb.Message{Entries: entries, Responses: []*raftpb.Message{response}}))
	require.Equal(t, 2, again.seen.batches)
	require.Len(t, again.seen.events, 5)
	require.Equal(t, last, again.AppliedIndex())
	var box letters
	again.inbox.take(&box)
	require.Len(t, box.applied, 2)
	require.Nil(t, box.applied[0].response)
	require.Same(t, response, box.applied[1].response)
	again.writer.Close()
	again.files.close(t)
}

// TestCanceled gives up waiting.
func TestCanceled(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	release := r.block(t)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { _, err := r.Do(ctx, put("late", 1), 10); errs <- err }()
	r.waitQueued(1)
	cancel()
	require.ErrorIs(t, <-errs, context.Canceled)

	// It was not evaluated yet, and is not any more.
	release()
	r.do(t, put("next", 1))
	require.Equal(t, "next=1@2 ", contents(t, r.store))
	_, err := r.Do(ctx, put("never", 1), 10)
	require.ErrorIs(t, err, context.Canceled)
	r.do(t, put("next", 2))
	require.Equal(t, "next=2@3 ", contents(t, r.store))
}

// block holds the loop up until release is called.
func (r *replica) block(tb testing.TB) (release func()) {
	tb.Helper()
	held, free := make(chan struct{}), make(chan struct{})
	require.NoError(tb, r.inbox.call(func() {
		close(held)
		<-free
	}))
	<-held
	return sync.OnceFunc(func() { close(free) })
}

// waitQueued waits until n requests lie in the inbox of a blocked loop.
func (r *replica) waitQueued(n int) {
	for {
		r.inbox.mu.Lock()
		queued := len(r.inbox.box.proposals) + len(r.inbox.box.reads)
		r.inbox.mu.Unlock()
		if queued >= n {
			return
		}
		runtime.Gosched()
	}
}

// TestBatching has many requests wait while the loop is busy: they share one
// entry.
func TestBatching(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	release := r.block(t)
	before := r.AppliedIndex()
	const n = 500
	revisions := make([]int64, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { revisions[i] = r.do(t, put(fmt.Sprintf("k%03d", i), i)).Revision })
	}
	r.waitQueued(n)
	release()
	wg.Wait()
	require.Equal(t, before+1, r.AppliedIndex(), "all of them in one entry")
	unique := map[int64]bool{}
	for _, rev := range revisions {
		unique[rev] = true
	}
	require.Len(t, unique, n)
	require.EqualValues(t, n+1, r.store.Revision())
}

// TestEntriesAreBounded has more requests wait than an entry takes.
func TestEntriesAreBounded(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	release := r.block(t)
	before := r.AppliedIndex()
	const n, size = 8, 300 << 10
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { r.do(t, put(fmt.Sprintf("k%03d", i), strings.Repeat("x", size))) })
	}
	r.waitQueued(n)
	release()
	wg.Wait()
	require.Equal(t, before+2, r.AppliedIndex(), "eight requests, of which four fill an entry")
}

// TestUnchangedBacklog has more requests wait than one entry takes, all of
// which change nothing. They are all answered at once: no tick has to pass.
func TestUnchangedBacklog(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	r.do(t, put("a", 1))
	release := r.block(t)
	var wg sync.WaitGroup
	const n = 2*maxEntryRequests + 5
	for range n {
		wg.Go(func() { r.do(t, unchanged("a")) })
	}
	r.waitQueued(n)
	release()
	wg.Wait()
}

// TestQueueIsBounded: a request too many is refused at once, wherever those
// before it wait.
func TestQueueIsBounded(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	for _, begun := range []bool{true, false} {
		// They wait in the inbox or, if the loop may not evaluate yet, behind it.
		release := r.block(t)
		if !begun {
			release()
			r.inLoop(t, func() { r.reign.begun = false })
		}
		answered := make(chan error, maxQueued+1)
		for range maxQueued + 1 {
			go func() {
				op := unchanged("a")
				_, err := r.Do(t.Context(), op, 10)
				answered <- err
			}()
		}
		require.ErrorIs(t, <-answered, ErrTooManyRequests)
		release()
		if !begun {
			r.inLoop(t, func() { r.reign.begun = true })
		}
		for range maxQueued {
			require.NoError(t, <-answered)
		}
	}
}

// inLoop runs f in the loop.
func (r *replica) inLoop(tb testing.TB, f func()) {
	tb.Helper()
	done := make(chan struct{})
	require.NoError(tb, r.inbox.call(func() { f(); close(done) }))
	<-done
}

// TestAnswersAreVisible: whoever was answered with a revision, changed
// something or not, finds the store at it.
func TestAnswersAreVisible(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	var stop atomic.Bool
	var writers, readers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for n := range 500 {
				res := r.do(t, put(fmt.Sprintf("k%d", i), n))
				if got := r.store.Revision(); got < res.Revision {
					t.Errorf("answered with %d, but the store is at %d", res.Revision, got)
				}
			}
		})
		readers.Go(func() {
			for !stop.Load() {
				res := r.do(t, unchanged("k0"))
				if got := r.store.Revision(); got < res.Revision {
					t.Errorf("answered with %d, but the store is at %d", res.Revision, got)
				}
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
}

// TestStopAnswersEverybody stops a replica with requests everywhere in it.
func TestStopAnswersEverybody(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		r := startReplica(t, engine.NewMem())
		const n = 50
		answered := make(chan error, n)
		for i := range n {
			go func() {
				var err error
				switch i % 3 {
				case 0:
					_, err = r.Do(context.Background(), put("a", i), 10)
				case 1:
					_, err = r.Do(context.Background(), unchanged("a"), 10)
				default:
					err = r.confirm()
				}
				answered <- err
			}()
		}
		first := <-answered
		r.Stop()
		r.Stop() // again is no harm
		for _, err := range append([]error{first}, receive(answered, n-1)...) {
			if err != nil {
				require.ErrorIs(t, err, ErrStopped)
			}
		}
		_, err := r.Do(context.Background(), put("a", 1), 10)
		require.ErrorIs(t, err, ErrStopped)
		r.stop(t)
	}
	waitForGoroutines(t, before)
}

func receive(c chan error, n int) []error {
	var all []error
	for range n {
		all = append(all, <-c)
	}
	return all
}

// waitForGoroutines waits until there are no more than n.
func waitForGoroutines(t *testing.T, n int) {
	t.Helper()
	for range 1_000_000 {
		if runtime.NumGoroutine() <= n {
			return
		}
		runtime.Gosched()
	}
	stacks := make([]byte, 1<<20)
	t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), n, stacks[:runtime.Stack(stacks, true)])
}

// TestFailedLog breaks the log's disk: what was not durable is not
// acknowledged, whoever waits is told when the replica stops, and what was
// acknowledged is there after a restart.
func TestFailedLog(t *testing.T) {
	mem := engine.NewCrashableMem()
	var broken atomic.Bool
	fs := engine.WrapFaulty(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.HasPrefix(op.Path, "log/") {
			return errors.New("the disk is gone")
		}
		return nil
	}))
	r := newReplica(t, mem, fs)
	<-r.Ready()
	r.do(t, put("a", 1))
	broken.Store(true)
	const n = 10
	answered := make(chan error, n)
	for i := range n {
		go func() { _, err := r.Do(context.Background(), put("b", i), 10); answered <- err }()
	}
	require.ErrorContains(t, <-r.fatal, "the disk is gone")
	r.Stop()
	for _, err := range receive(answered, n) {
		require.ErrorIs(t, err, ErrStopped)
	}
	require.True(t, r.writer.writeNow(appendRequest{
		log: r.log, msg: appendMessage(0, 0, 0, logEntry(100, 2, 10)),
		done: func(*raftpb.Message) { t.Error("something was written behind what failed") },
	}))
	r.writer.Close()
	require.Equal(t, "a=1@2 ", contents(t, r.store))

	r = startReplica(t, mem.CrashClone(engine.CrashCloneCfg{}))
	defer r.stop(t)
	require.Equal(t, "a=1@2 ", contents(t, r.store))
}

// TestCommitIsSeenBeforeApply: also where the loop applies by itself, Status shows what is
// committed before that is applied, for the state's disk may stand still.
func TestCommitIsSeenBeforeApply(t *testing.T) {
	mem := engine.NewMem()
	r := makeReplica(t, mem, mem, 1, []uint64{1}, nil)
	applied := 0
	r.cfg.Observer.(*crown).applied = func(index uint64) {
		assert.GreaterOrEqual(t, r.Status().Commit, index)
		applied++
	}
	r.Start()
	<-r.Ready()
	for i := range 10 {
		r.do(t, put("a", i))
	}
	r.stop(t)
	require.GreaterOrEqual(t, applied, 10)
}

// TestUnreadableEntry commits an entry that this version can't read: it stops,
// and does not go on behind it.
func TestUnreadableEntry(t *testing.T) {
	for name, data := range map[string][]byte{
		"format":  {9, 1, 1, 1},
		"kind":    {entryFormat, 9, 1, 1},
		"header":  {entryFormat, byte(KindEffects), 0xff},
		"effects": append(appendHeader(nil, 2, 1), 99),
	} {
		t.Run(name, func(t *testing.T) {
			r := startReplica(t, engine.NewMem())
			index := r.AppliedIndex()
			require.EqualValues(t, 2, r.Status().Term)
			r.inLoop(t, func() { require.NoError(t, r.rn.Propose(data)) })
			err := <-r.fatal
			require.ErrorContains(t, err, "group: apply: ")
			require.ErrorContains(t, err, fmt.Sprintf("entry %d", index+1))
			require.Equal(t, index, r.AppliedIndex())
			require.Equal(t, index, r.store.Applied().Index)
			answered := make(chan error, 1)
			go func() { _, err := r.Do(context.Background(), put("a", 1), 10); answered <- err }()
			r.Stop()
			require.ErrorIs(t, <-answered, ErrStopped)
			r.writer.Close()
			r.files.close(t)
		})
	}
}

// TestDrain runs a transaction that reads a revision which is still in flight:
// it waits until that is applied, and those behind it wait with it.
func TestDrain(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	release := r.block(t)
	var wg sync.WaitGroup
	results := make([]evaluate.Result, 4)
	for i, op := range []evaluate.Op{
		put("a", 1),
		&evaluate.Txn{Success: []evaluate.Op{
			&evaluate.Range{Key: []byte("a"), Revision: 2}, put("b", 1),
		}},
		put("c", 1),
		&evaluate.Txn{Success: []evaluate.Op{
			&evaluate.Range{Key: []byte("a"), End: []byte("z"), Revision: 4}, put("d", 1),
		}},
	} {
		wg.Go(func() { results[i] = r.do(t, op) })
		r.waitQueued(i + 1)
	}
	release()
	wg.Wait()
	for i, res := range results {
		require.EqualValues(t, i+2, res.Revision)
	}
	require.Len(t, results[1].Responses[0].KVs, 1)
	require.Len(t, results[3].Responses[0].KVs, 3)
	require.Equal(t, "a=1@2 b=1@3 c=1@4 d=1@5 ", contents(t, r.store))
}

// TestPanic has one of several requests of an entry panic.
func TestPanic(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	release := r.block(t)
	var wg sync.WaitGroup
	for i, op := range []evaluate.Op{
		put("a", 1),
		&evaluate.Txn{Success: []evaluate.Op{put("b", 1), (*evaluate.DeleteRange)(nil)}},
		put("c", 1),
	} {
		wg.Go(func() {
			_, err := r.Do(t.Context(), op, 10)
			if i == 1 {
				if !errors.Is(err, evaluate.ErrInternal) {
					t.Errorf("got %v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
		})
		r.waitQueued(i + 1)
	}
	release()
	wg.Wait()
	require.Equal(t, "a=1@2 c=1@3 ", contents(t, r.store))
}

// TestObserverSeesRevisionsInOrder checks that events come in revision order,
// each once, those of one revision together, and before the answer.
func TestObserverSeesRevisionsInOrder(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 50 {
				res := r.do(t, &evaluate.Txn{Success: []evaluate.Op{
					put(fmt.Sprintf("a%d", i), n), put(fmt.Sprintf("b%d", i), n),
				}})
				r.seen.mu.Lock()
				last := r.seen.events[len(r.seen.events)-1].Kv.ModRevision
				r.seen.mu.Unlock()
				if last < res.Revision {
					t.Errorf("answered with %d before it was published", res.Revision)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, r.seen.events, 800)
	for i := 0; i < len(r.seen.events); i += 2 {
		a, b := r.seen.events[i], r.seen.events[i+1]
		require.EqualValues(t, 2+i/2, a.Kv.ModRevision)
		require.Equal(t, a.Kv.ModRevision, b.Kv.ModRevision)
		require.Equal(t, mvccpb.Event_PUT, a.Type)
		require.Equal(t, string(a.Kv.Key[1:]), string(b.Kv.Key[1:]))
	}
}
