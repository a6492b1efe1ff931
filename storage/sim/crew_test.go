package sim_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// crew are callers that work on one store at once: each on keys of its own and
// on keys that all share, with leases of its own. Worker 0 alone compacts. That
// is what sim.Replay asks for.
type crew struct {
	target   *memberTarget
	recorder *sim.Recorder
	workers  sync.WaitGroup
	members  []*worker
	quit     atomic.Bool
	// revision and compacted are the greatest that a worker has seen.
	revision, compacted atomic.Int64
}

// leasesEach is how many lease ids a worker has.
const leasesEach = 8

// crewSize is how many workers a crew has.
const crewSize = 6

// newCrew prepares workers, whose calls recorder notes; the store is what model
// says.
func newCrew(seed uint64, recorder *sim.Recorder, target *memberTarget, model *sim.Model) *crew {
	c := &crew{target: target, recorder: recorder}
	c.revision.Store(model.Revision())
	c.compacted.Store(max(0, model.Compacted()))
	for i := range crewSize {
		w := &worker{
			crew: c, number: i,
			gen: sim.NewGenerator(seed<<8 + uint64(i)),
			rng: rand.New(rand.NewPCG(seed, uint64(i))),
		}
		w.gen.Keys = nil
		w.gen.LeaseBase = int64(i * leasesEach)
		shared, own := []string{"\x00", "s", "s\x00", "s/1", "\xff"}, []string{"w%d", "w%d\x00", "w%d/1", "w%d/2"}
		if target.routes != nil {
			shared = []string{"/registry/events/s", "/registry/minions/s", "/registry/pods/s", "/registry/pods0"}
			own = []string{"/registry/events/%d", "/registry/leases/%d", "/registry/pods/%d", "/registry/pods/%d/1", "w%d"}
		}
		for _, key := range shared {
			w.gen.Keys = append(w.gen.Keys, []byte(key))
		}
		for _, key := range own {
			w.gen.Keys = append(w.gen.Keys, fmt.Appendf(nil, key, i))
		}
		if i != 0 {
			w.gen.Weights.Compact = 0
		}
		for _, id := range model.Leases() {
			if (id-1)/leasesEach == int64(i) {
				w.leases = append(w.leases, id)
			}
		}
		c.members = append(c.members, w)
	}
	return c
}

// start lets every worker make n calls.
func (c *crew) start(n int) {
	for _, w := range c.members {
		c.workers.Go(func() { w.run(n) })
	}
}

// done is closed when all workers have ended.
func (c *crew) done() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		c.workers.Wait()
		close(done)
	}()
	return done
}

// stop lets every worker end the call it is in.
func (c *crew) stop() {
	c.quit.Store(true)
	c.workers.Wait()
}

// worker is one caller. It is the sim.State that its generator looks at.
type worker struct {
	crew   *crew
	number int
	gen    *sim.Generator
	rng    *rand.Rand
	leases []int64
	// lost says that a call's outcome is not known: there are no more.
	lost bool
}

func (w *worker) run(n int) {
	for range n {
		op := w.gen.Next(w)
		if w.lost || w.crew.quit.Load() {
			return
		}
		w.call(op)
	}
}

func (w *worker) call(op evaluate.Op) *sim.Call {
	do := w.crew.target.Do
	if r, ok := op.(*evaluate.Range); ok && w.rng.IntN(4) == 0 && streams(r) {
		do = func(evaluate.Op) (evaluate.Result, error) {
			return w.crew.target.RangeStream(r, 1<<w.rng.IntN(12))
		}
	}
	c := w.crew.recorder.Do(w.number, op, do)
	switch {
	case c.Unknown:
		w.lost = true
		return c
	case c.Err != nil:
		return c
	}
	raise(&w.crew.revision, c.Result.Revision)
	switch op := op.(type) {
	case *evaluate.Compact:
		raise(&w.crew.compacted, op.Revision)
	case *evaluate.LeaseGrant:
		w.leases = append(w.leases, op.ID)
	case *evaluate.LeaseRevoke:
		w.leases = slices.DeleteFunc(w.leases, func(id int64) bool { return id == op.ID })
	}
	return c
}

// streams says whether a range may be streamed.
func streams(r *evaluate.Range) bool {
	return r.SortTarget == evaluate.SortByKey && r.SortOrder == evaluate.SortNone &&
		r.MinMod == 0 && r.MaxMod == 0 && r.MinCreate == 0 && r.MaxCreate == 0
}

func raise(v *atomic.Int64, to int64) {
	for old := v.Load(); old < to && !v.CompareAndSwap(old, to); old = v.Load() {
	}
}

// Revision, Compacted, Leases and Get implement sim.State.
func (w *worker) Revision() int64  { return w.crew.revision.Load() }
func (w *worker) Compacted() int64 { return w.crew.compacted.Load() }
func (w *worker) Leases() []int64  { return w.leases }

func (w *worker) Get(key []byte) *mvccpb.KeyValue {
	if w.lost {
		return nil
	}
	if c := w.call(&evaluate.Range{Key: key}); !c.Unknown && len(c.Result.KVs) == 1 {
		return c.Result.KVs[0]
	}
	return nil
}

// tally counts calls.
func tally(calls []*sim.Call) sim.Tally {
	t := sim.Tally{Histories: 1}
	for _, c := range calls {
		t.Count(c.Op, c.Err)
	}
	return t
}

// follower reads a store's changes as they come, as a watch does that always
// lags.
type follower struct {
	target *memberTarget
	reads  []followed
	err    error
	quit   chan struct{}
	done   chan struct{}
}

// followed is one read of changes: all of those in [from, to].
type followed struct {
	from, to int64
	events   []*mvccpb.Event
}

func newFollower(target *memberTarget) *follower {
	f := &follower{target: target, quit: make(chan struct{}), done: make(chan struct{})}
	go f.run()
	return f
}

func (f *follower) run() {
	defer close(f.done)
	from := max(1, f.target.Compacted())
	for {
		to := f.target.Closed()
		events, err := f.target.Changes([]byte{0}, []byte{0}, from, to)
		switch {
		case errors.Is(err, mvcc.ErrCompacted):
			from = f.target.Compacted()
			continue
		case err != nil:
			f.err = err
			return
		}
		f.reads = append(f.reads, followed{from, to, events})
		from = to + 1
		select {
		case <-f.quit:
			return
		case <-f.target.sink.more:
		}
	}
}

func (f *follower) stop() error {
	close(f.quit)
	<-f.done
	return f.err
}

// check compares what was read with the history.
func (f *follower) check(history []*mvccpb.Event) error {
	for _, r := range f.reads {
		want := slices.DeleteFunc(slices.Clone(history), func(e *mvccpb.Event) bool {
			return e.Kv.ModRevision < r.from || e.Kv.ModRevision > r.to
		})
		// A compaction at r.from may have taken what was superseded there.
		got, want := lastOfEach(r.events), lastOfEach(want)
		if got, want := sim.FormatEvents(got, false), sim.FormatEvents(want, false); got != want {
			return fmt.Errorf("the changes from %d to %d were read as\n%s\nnot\n%s", r.from, r.to, got, want)
		}
	}
	return nil
}

// lastOfEach drops the events that one of the same revision and key follows.
func lastOfEach(events []*mvccpb.Event) []*mvccpb.Event {
	var kept []*mvccpb.Event
	for i, e := range events {
		if !slices.ContainsFunc(events[i+1:], func(f *mvccpb.Event) bool {
			return f.Kv.ModRevision == e.Kv.ModRevision && string(f.Kv.Key) == string(e.Kv.Key)
		}) {
			kept = append(kept, e)
		}
	}
	return kept
}
