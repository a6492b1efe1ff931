package sim

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// A Call is one request of a concurrent history and its answer.
type Call struct {
	// Worker made the call; a worker makes one after another.
	Worker int
	Op     evaluate.Op
	Result evaluate.Result
	// Err is a semantic failure, or nil.
	Err error
	// Unknown says that the call failed in another way: it may have had its
	// effect or not. It is its worker's last.
	Unknown bool
	// Begin and End are moments of the Recorder's clock, before and after.
	Begin, End int64
}

func (c *Call) String() string {
	s := fmt.Sprintf("worker %d, %d to %d: %s\n\t-> ", c.Worker, c.Begin, c.End, FormatOp(c.Op))
	if c.Unknown {
		return s + "unknown"
	}
	return s + FormatResult(c.Op, c.Result, c.Err)
}

// Recorder notes calls. Its methods may be called concurrently, but those of
// one worker one after another.
type Recorder struct {
	clock atomic.Int64
	calls [][]*Call
}

// NewRecorder returns a Recorder for workers 0 to n-1.
func NewRecorder(n int) *Recorder { return &Recorder{calls: make([][]*Call, n)} }

// Now returns a new moment: later than every one before.
func (r *Recorder) Now() int64 { return r.clock.Add(1) }

// Do makes a call through do and notes it.
func (r *Recorder) Do(worker int, op evaluate.Op, do func(evaluate.Op) (evaluate.Result, error)) *Call {
	c := &Call{Worker: worker, Op: op, Begin: r.Now()}
	c.Result, c.Err = do(op)
	if c.Err != nil {
		if e := Semantic(c.Err); e != nil {
			c.Err = e
		} else {
			c.Unknown = true
		}
	}
	c.End = r.Now()
	r.calls[worker] = append(r.calls[worker], c)
	return c
}

// Calls returns every call, each worker's in order. Nothing may be recorded
// any more.
func (r *Recorder) Calls() []*Call { return slices.Concat(r.calls...) }

// A Replay finds the one order of concurrent calls that their revisions allow,
// runs them through the model in it and compares every answer.
//
// A call that changed something takes its place by its revision. One that
// changed nothing has its place after the change whose revision its answer
// shows, if it shows one; a failure shows none, and has its place anywhere
// between the changes that were answered before it began and those that had
// begun before it ended. Two rules make this enough: leases are granted,
// revoked and named by one worker each, and all compactions are worker 0's.
type Replay struct {
	Model *Model
	Calls []*Call
	// UpTo is the last revision that there is; calls beyond it are left out.
	// 0 is no bound.
	UpTo int64
	// Witness tells the events of a revision that no answered call has; nil
	// says that there can be none.
	Witness func(revision int64) ([]*mvccpb.Event, error)
	// Crash, if not 0, is the moment of a crash that may have taken a change which
	// nobody was told of before it, and left a later one of another group. What was
	// answered afterwards may have seen it.
	Crash int64

	// queues are each worker's calls that have no place yet.
	queues [][]*Call
	// changed are the calls that must have made a revision.
	changed map[int64]*Call
	bounds  bounds
	// gap says that the crash has taken a revision.
	gap bool
	// compacted are the compactions that a reader may see as the last one, as far
	// as moments tell.
	compacted []compaction
}

// compaction is one that was the last until the moment at which the next was
// answered.
type compaction struct{ revision, until int64 }

// Run runs the calls; the model is then what the store must be.
func (r *Replay) Run() error {
	r.bounds = newBounds(r.Calls)
	if err := r.sort(); err != nil {
		return err
	}
	r.compacted = []compaction{{r.Model.compacted, math.MaxInt64}}
	if err := r.place(); err != nil {
		return err
	}
	last := r.UpTo
	if last == 0 {
		last = math.MaxInt64
	}
	for r.Model.revision < last {
		done, err := r.advance()
		if err != nil {
			return err
		}
		if done {
			break
		}
		if err := r.place(); err != nil {
			return err
		}
	}
	return r.rest()
}

// sort fills the queues and finds out who made which revision.
func (r *Replay) sort() error {
	r.changed = map[int64]*Call{}
	for _, c := range r.Calls {
		for len(r.queues) <= c.Worker {
			r.queues = append(r.queues, nil)
		}
		r.queues[c.Worker] = append(r.queues[c.Worker], c)
		if c.Unknown || c.Err != nil {
			continue
		}
		low, high := r.bounds.of(c)
		if c.Result.Revision < low {
			return fmt.Errorf("sim: this call has a lower revision than one that was answered before it began:\n%s\n%s",
				c, r.bounds.last(c))
		}
		if c.Result.Revision > high {
			return fmt.Errorf("sim: nobody who could have made that revision had begun before this call ended:\n%s", c)
		}
		if !changes(c.Op, c.Result) {
			continue
		}
		if c.Result.Revision == low {
			return fmt.Errorf("sim: this change has a revision that was answered before it began:\n%s\n%s", c, r.bounds.last(c))
		}
		if other := r.changed[c.Result.Revision]; other != nil {
			return fmt.Errorf("sim: one revision for two changes:\n%s\n%s", other, c)
		}
		r.changed[c.Result.Revision] = c
	}
	return nil
}

// changes says whether the answer shows that the call has changed a key. It
// does not show it for a LeaseRevoke.
func changes(op evaluate.Op, res evaluate.Result) bool {
	switch op := op.(type) {
	case *evaluate.Put:
		return true
	case *evaluate.DeleteRange:
		return res.Deleted > 0
	case *evaluate.Txn:
		branch := op.Failure
		if res.Succeeded {
			branch = op.Success
		}
		for i, o := range branch {
			if i < len(res.Responses) && changes(o, res.Responses[i]) {
				return true
			}
		}
	}
	return false
}

// advance gives the next revision to the call that made it. done says that
// there is none.
func (r *Replay) advance() (done bool, err error) {
	revision := r.Model.revision + 1
	if lost, err := r.lost(revision); lost || err != nil {
		return false, err
	}
	if c := r.changed[revision]; c != nil {
		if r.queues[c.Worker][0] != c {
			return false, fmt.Errorf("sim: calls of one worker are out of order: the first has no place before the second\n%s\n%s",
				r.queues[c.Worker][0], c)
		}
		if diff := r.try(c); diff != nil {
			return false, diff
		}
		return false, r.made(c, revision)
	}
	for _, q := range r.queues {
		if len(q) == 0 || q[0].Unknown || q[0].Err != nil || q[0].Result.Revision != revision {
			continue
		}
		if op, ok := q[0].Op.(*evaluate.LeaseRevoke); ok && len(r.Model.attached(op.ID)) > 0 {
			if diff := r.try(q[0]); diff != nil {
				return false, diff
			}
			return false, r.made(q[0], revision)
		}
	}
	if r.Witness == nil {
		return true, nil
	}
	return r.witnessed(revision)
}

// lost says whether the crash has taken a revision, and leaves it out then.
func (r *Replay) lost(revision int64) (bool, error) {
	if r.Crash == 0 || revision >= r.UpTo {
		return false, nil
	}
	// shown are the workers who were answered with it: after the crash, and so
	// everything that they did later.
	shown := make([]bool, len(r.queues))
	for w, q := range r.queues {
		shown[w] = len(q) > 0 && !q[0].Unknown && q[0].Err == nil && q[0].Result.Revision == revision
		if shown[w] && q[0].End <= r.Crash {
			return false, nil // it must be there
		}
	}
	if events, err := r.Witness(revision); err != nil || len(events) > 0 {
		return false, err
	}
	for w := range shown {
		if shown[w] {
			r.queues[w] = nil
			maps.DeleteFunc(r.changed, func(_ int64, c *Call) bool { return c.Worker == w })
		}
	}
	r.Model.revision, r.gap = revision, true
	return true, nil
}

// made takes a call that has made a revision out of its queue.
func (r *Replay) made(c *Call, revision int64) error {
	if r.Model.revision != revision {
		return fmt.Errorf("sim: the call should have made revision %d, the model is at %d:\n%s", revision, r.Model.revision, c)
	}
	r.queues[c.Worker] = r.queues[c.Worker][1:]
	return nil
}

// witnessed finds the unanswered call that made a revision.
func (r *Replay) witnessed(revision int64) (done bool, err error) {
	events, err := r.Witness(revision)
	if err != nil || len(events) == 0 {
		return true, err
	}
	want := FormatEvents(events, false)
	for _, q := range r.queues {
		if len(q) == 0 || !q[0].Unknown {
			continue
		}
		back := r.Model.mark()
		if _, err := r.Model.Do(q[0].Op); err == nil && r.Model.revision == revision {
			got, err := r.Model.Changes([]byte{0}, []byte{0}, revision, revision)
			if err == nil && FormatEvents(got, false) == want {
				return false, r.made(q[0], revision)
			}
		}
		back()
	}
	return false, fmt.Errorf("sim: nobody wrote revision %d:\n%s", revision, want)
}

// place gives a place to every call that belongs after the model's revision
// and before the next.
func (r *Replay) place() error {
	for w := range r.queues {
		for len(r.queues[w]) > 0 {
			placed, err := r.placeOne(r.queues[w][0])
			if err != nil {
				return err
			}
			if !placed {
				break
			}
			r.queues[w] = r.queues[w][1:]
		}
	}
	return nil
}

func (r *Replay) placeOne(c *Call) (bool, error) {
	now := r.Model.revision
	switch low, high := r.bounds.of(c); {
	case c.Unknown:
		return !evaluate.Writes(c.Op), nil
	case r.gap && c.End > r.Crash && r.changed[c.Result.Revision] != c && (c.Err != nil || c.Result.Revision <= now):
		_ = r.try(c) // it may have seen what was lost
		return true, nil
	case c.Err != nil:
		if now < low {
			return false, nil
		}
		diff := r.try(c)
		if diff != nil && now >= high {
			return false, diff
		}
		return diff == nil, nil
	case c.Result.Revision > now || r.changed[c.Result.Revision] == c:
		return false, nil
	case c.Result.Revision < now:
		return false, fmt.Errorf("sim: at revision %d it is too late for\n%s", now, c)
	default:
		return true, r.try(c)
	}
}

// try runs a call in the model and says in what its answer differs; then the
// model is as before. A reader that looks at an old revision while a
// compaction is under way may see it or not, even at a later revision than the
// compaction shows: it is done when it is answered.
func (r *Replay) try(c *Call) error {
	var diff error
	latest := r.Model.compacted
	compact, compacts := c.Op.(*evaluate.Compact)
	for _, last := range slices.Backward(r.compacted) {
		if last.until < c.Begin || compacts && last.revision != latest {
			break
		}
		back := r.Model.mark()
		r.Model.compacted = last.revision
		res, err := r.Model.Do(c.Op)
		if d := differ(FormatResult(c.Op, c.Result, c.Err), FormatResult(c.Op, res, err)); d != nil {
			diff = fmt.Errorf("%w\n%s", d, c)
			back()
			continue
		}
		if r.Model.compacted = latest; compacts && err == nil {
			r.Model.compacted = compact.Revision
			r.compacted[len(r.compacted)-1].until = c.End
			r.compacted = append(r.compacted, compaction{compact.Revision, math.MaxInt64})
		}
		return nil
	}
	return diff
}

// rest looks at what has found no place.
func (r *Replay) rest() error {
	for _, q := range r.queues {
		if len(q) == 0 || q[0].Unknown {
			continue
		}
		c := q[0]
		low, high := r.bounds.of(c)
		if c.Err == nil {
			low, high = c.Result.Revision, c.Result.Revision
		}
		if r.UpTo == 0 || low <= r.UpTo && high <= r.UpTo {
			return fmt.Errorf("sim: at the end, at revision %d, there is no place for\n%s", r.Model.revision, c)
		}
	}
	return nil
}

// mark returns what brings the model back to where it is now.
func (m *Model) mark() (back func()) {
	n, revision, compacted, leases := len(m.history), m.revision, m.compacted, maps.Clone(m.leases)
	return func() {
		m.undo(n)
		m.revision, m.compacted, m.leases = revision, compacted, leases
	}
}

// Adopt takes over what a store has of the things that have no revision, where
// it could not be known: the last compaction, and which of the leases exist
// that unsure names.
func (m *Model) Adopt(t Target, unsure func(lease int64) bool) error {
	if m.compacted = t.Compacted(); m.compacted == 0 {
		m.compacted = -1
	}
	ids, err := t.Leases()
	if err != nil {
		return err
	}
	for id := range m.leases {
		if unsure(id) && !slices.Contains(ids, id) {
			delete(m.leases, id)
		}
	}
	for _, id := range ids {
		if _, ok := m.leases[id]; !ok && unsure(id) {
			if m.leases[id], _, err = t.Lease(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// bounds tells between which revisions a call can have had its place.
type bounds struct {
	// ended and begun hold, for each moment at which a call ended or began, the
	// greatest revision of those up to it.
	ended, begun []bound
}

type bound struct {
	moment, revision int64
	call             *Call
}

func newBounds(calls []*Call) bounds {
	var b bounds
	for _, c := range calls {
		revision := c.Result.Revision
		if c.Unknown {
			revision = 0
		}
		b.ended = append(b.ended, bound{c.End, revision, c})
		if c.Unknown {
			revision = math.MaxInt64
		}
		b.begun = append(b.begun, bound{c.Begin, revision, c})
	}
	for _, bs := range [][]bound{b.ended, b.begun} {
		slices.SortFunc(bs, func(x, y bound) int { return cmp.Compare(x.moment, y.moment) })
		for i := 1; i < len(bs); i++ {
			if last := bs[i-1]; last.revision > bs[i].revision {
				bs[i].revision, bs[i].call = last.revision, last.call
			}
		}
	}
	return b
}

// of returns the greatest revision that was answered before c began, and the
// greatest of those calls that had begun before it ended.
func (b bounds) of(c *Call) (low, high int64) {
	return before(b.ended, c.Begin).revision, before(b.begun, c.End).revision
}

// last returns the call with the greatest revision that was answered before c
// began.
func (b bounds) last(c *Call) *Call { return before(b.ended, c.Begin).call }

func before(bs []bound, moment int64) bound {
	i, _ := slices.BinarySearchFunc(bs, moment, func(b bound, m int64) int { return cmp.Compare(b.moment, m) })
	if i == 0 {
		return bound{}
	}
	return bs[i-1]
}
