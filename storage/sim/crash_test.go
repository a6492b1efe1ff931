package sim_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// generations is how often one data directory crashes in a test.
const generations = 6

// TestCrashes has several callers work on a member until the power fails at
// some write to the file system, be it in the middle of the start. What a next
// member finds on the disk must be all that was acknowledged before, at the same
// revisions, and of the rest whole changes in order or nothing; but with several
// groups a change that nobody was told of may be missing among later ones. The
// next member crashes in its turn.
func TestCrashes(t *testing.T) {
	var total sim.Tally
	for i := range histories(40) {
		seed := seedOf(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			replay(t, seed)
			l := newLineage(t, seed)
			for range generations {
				l.crash()
			}
			total.Add(l.tally)
		})
	}
	t.Logf("%+v", total)
}

// TestFaults has several callers work on a member until a write to the file
// system fails, or all of them do from there on. The member may go on only if it
// keeps its word; if it can not write, it must not acknowledge anything.
func TestFaults(t *testing.T) {
	var total sim.Tally
	for i := range histories(40) {
		seed := seedOf(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			replay(t, seed)
			l := newLineage(t, seed)
			for range generations {
				l.fault()
			}
			total.Add(l.tally)
		})
	}
	t.Logf("%+v", total)
}

// lineage is one data directory over its crashes.
type lineage struct {
	tb   testing.TB
	rng  *rand.Rand
	disk disk
	// routes are nil half of the time: core alone.
	routes *route.Table
	// model is what must be on the disk.
	model *sim.Model
	tally sim.Tally
}

func newLineage(tb testing.TB, seed uint64) *lineage {
	tb.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	l := &lineage{tb: tb, rng: rng, disk: newDisk(rng), model: sim.NewModel()}
	if seed%4 >= 2 {
		l.routes = groupsTable(tb)
	}
	return l
}

// moment picks the write at which something happens: during the start, soon
// after it, or later.
func (l *lineage) moment() int64 {
	switch l.rng.IntN(4) {
	case 0:
		return 1 + l.rng.Int64N(60)
	case 1:
		return 1 + l.rng.Int64N(500)
	default:
		return 1 + l.rng.Int64N(3000)
	}
}

// crash runs one member until the power fails, and checks what the next finds.
func (l *lineage) crash() {
	l.tb.Helper()
	l.tally.Crashes++
	var left disk
	var from, to int64 // the moments between which the power fails
	recorder := sim.NewRecorder(crewSize)
	chance := rand.New(rand.NewPCG(l.rng.Uint64(), 4)) // For whoever makes that write.
	power := &outage{at: l.moment(), struck: make(chan struct{})}
	power.strike = func() {
		from = recorder.Now()
		left = l.disk.afterCrash(chance)
		to = recorder.Now()
	}
	target, err := newMember(l.disk, power, l.routes)
	require.NoError(l.tb, err)
	require.NoError(l.tb, sim.Same(target, l.model))

	crew := newCrew(l.rng.Uint64(), recorder, target, l.model)
	crew.start(150)
	select {
	case <-power.struck:
	case <-crew.done():
		power.fail()
	}
	crew.stop()
	calls := recorder.Calls()

	// This member does not know that it is gone, so it can still tell what the
	// calls' answers are.
	whole := l.model.Clone()
	require.NoError(l.tb, (&sim.Replay{Model: whole, Calls: calls}).Run())
	require.NoError(l.tb, sim.Same(target, whole))
	require.NoError(l.tb, target.failed())
	require.NoError(l.tb, target.sink.check(whole.History()))
	require.NoError(l.tb, target.Close())

	l.disk = left
	l.recover(calls, from, to)
}

// recover opens a member on what is left and checks it against calls, of which
// those that had ended at from must be there, and those that began after to
// must not.
func (l *lineage) recover(calls []*sim.Call, from, to int64) {
	l.tb.Helper()
	l.tally.Add(tally(calls))
	target, err := newMember(l.disk, nil, l.routes)
	require.NoError(l.tb, err, "a start after a crash")
	defer func() { require.NoError(l.tb, target.Close()) }()
	head := target.Revision()
	for _, c := range calls {
		if c.Unknown || c.Err != nil {
			continue
		}
		if c.End < from && c.Result.Revision > head {
			l.tb.Fatalf("this was answered before the crash, but the revision is %d after it:\n%s", head, c)
		}
	}
	l.checkCompaction(target, calls, from, to)

	unsure := func(lease int64) bool {
		return slices.ContainsFunc(calls, func(c *sim.Call) bool {
			return (c.End > from || c.Unknown) && leaseOf(c.Op) == lease
		})
	}
	again := &sim.Replay{Model: l.model, Calls: calls, UpTo: head, Witness: witness(target)}
	if l.routes != nil {
		again.Crash = from
	}
	err = again.Run()
	if errors.Is(err, mvcc.ErrCompacted) {
		l.tb.Skip("a compaction has taken what would show who wrote a revision")
	}
	require.NoError(l.tb, err)
	require.Equal(l.tb, head, l.model.Revision())
	require.NoError(l.tb, l.model.Adopt(target, unsure))
	require.NoError(l.tb, sim.Same(target, l.model))
	l.checkHash(target)
	require.NoError(l.tb, target.failed())
	require.NoError(l.tb, target.sink.check(l.model.History()))
}

// witness tells the events of a revision as the store has them.
func witness(target *memberTarget) func(int64) ([]*mvccpb.Event, error) {
	return func(revision int64) ([]*mvccpb.Event, error) {
		return target.Changes([]byte{0}, []byte{0}, revision, revision)
	}
}

func leaseOf(op evaluate.Op) int64 {
	switch op := op.(type) {
	case *evaluate.LeaseGrant:
		return op.ID
	case *evaluate.LeaseRevoke:
		return op.ID
	}
	return 0
}

// checkCompaction checks that no acknowledged compaction is lost, and that
// there is none that nobody asked for.
func (l *lineage) checkCompaction(target *memberTarget, calls []*sim.Call, from, to int64) {
	l.tb.Helper()
	least := max(0, l.model.Compacted())
	possible := []int64{least}
	for _, c := range calls {
		op, ok := c.Op.(*evaluate.Compact)
		if !ok || c.Err != nil && !c.Unknown || c.Begin > to {
			continue
		}
		possible = append(possible, op.Revision)
		if !c.Unknown && c.End < from {
			least = max(least, op.Revision)
		}
	}
	require.GreaterOrEqual(l.tb, target.Compacted(), least, "a compaction is lost")
	require.Contains(l.tb, possible, target.Compacted())
}

func (l *lineage) checkHash(target *memberTarget) {
	l.tb.Helper()
	want, err := l.model.HashKV(0)
	require.NoError(l.tb, err)
	got, err := target.HashKV(0)
	require.NoError(l.tb, err)
	require.Equal(l.tb, want, got)
	l.tally.Hashes++
}

// exhaust writes to a member on a disk that is broken for good until it gives
// up: at once if it can not write its log; and if it is the state that it can
// not write, before it would have to wait for ever.
func (l *lineage) exhaust(target *memberTarget, crew *crew) {
	l.tb.Helper()
	big := bytes.Repeat([]byte("x"), 32<<10)
	for range 100 {
		for _, w := range crew.members {
			if w.lost || w.call(&evaluate.Put{Key: []byte("s"), Value: big}).Unknown {
				target.awaitFailure()
				require.Error(l.tb, target.failed(), "the member waits for its disk without a word")
				return
			}
		}
	}
	l.tb.Fatal("the member acknowledges as if it had a disk")
}

// fault runs one member until the disk fails, and checks what the next finds.
func (l *lineage) fault() {
	l.tb.Helper()
	broken := &fault{
		at: l.moment(), lasting: l.rng.IntN(2) == 0,
		path: []string{"", "data/log", "data/state"}[l.rng.IntN(3)],
	}
	recorder := sim.NewRecorder(crewSize)
	// A start on a faulty disk is not tried: Pebble's Open may then hang or
	// panic, which ends a start as well but this test too.
	target, err := newMember(l.disk, broken, l.routes)
	require.NoError(l.tb, err)
	broken.armed.Store(true)
	crew := newCrew(l.rng.Uint64(), recorder, target, l.model)
	crew.start(150)
	crew.workers.Wait()
	if broken.hit.Load() {
		l.tally.Faults++
	}
	if broken.hit.Load() && broken.lasting {
		l.exhaust(target, crew)
	}
	if err := target.Close(); err != nil {
		require.True(l.tb, broken.hit.Load(), err)
	}
	broken.armed.Store(false) // Whatever still runs of it shall end.
	l.disk = l.disk.afterCrash(l.rng)
	l.recover(recorder.Calls(), recorder.Now(), recorder.Now())
}
