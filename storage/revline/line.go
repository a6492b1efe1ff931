package revline

import (
	"fmt"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Sink takes the merged events of all groups. Its methods must not block.
type Sink interface {
	// Publish is given events in revision order, whole revisions only, and the
	// closed revision with them. There may be a revision and no events.
	Publish(events []*mvccpb.Event, revision int64)
	// Restored says that the closed revision is now revision, and that events up
	// to it were not published.
	Restored(revision int64)
}

// Config of a Line.
type Config struct {
	// Groups are the groups' ids.
	Groups []mvcc.GroupID
	// Applied is how far each group is applied, in the order of Groups.
	Applied []mvcc.Applied
	// Closed is a closed revision that is known from before.
	Closed int64
	// Sink may be nil.
	Sink Sink
	// Advanced is called when the closed revision has grown, before those who wait
	// for it; may be nil.
	Advanced func(closed int64)
	// Tell is called when there is a new promise to tell the other members; may
	// be nil.
	Tell func()
	// MaxHeldBytes bounds the events that wait for the closed revision: 64 MiB
	// if it is 0. Past it they are forgotten, and the sink is told.
	MaxHeldBytes int
}

const defaultMaxHeldBytes = 64 << 20

// Line is one member's end of the revision line.
type Line struct {
	cfg Config
	// present and closed are stored under mu.
	present, closed atomic.Int64

	// mu guards the fields below. publishMu may be taken after it.
	mu     sync.Mutex
	groups []groupLine
	// epoch is this member's reign, 0 if it does not reign; last the revision
	// handed out last in it.
	epoch uint64
	last  int64
	// crossing are the outstanding revisions of transactions of several groups, of
	// those of crossingMask.
	crossing     []int64
	crossingMask Mask
	promises     []Promise
	merge        merge
	waiters      waiters

	// publishMu makes the calls of the sink one after another, in the order in
	// which mu was held. Nothing is taken after it.
	publishMu sync.Mutex
}

// groupLine is what the line knows of one group here.
type groupLine struct {
	id mvcc.GroupID
	// index and revision are those of what is applied, epoch what it is fenced
	// with.
	index    uint64
	revision int64
	epoch    uint64
	// outstanding are the revisions that were handed out and are not applied,
	// increasing.
	outstanding []int64
}

// New makes the line of a member that does not reign.
func New(cfg Config) *Line {
	if cfg.MaxHeldBytes == 0 {
		cfg.MaxHeldBytes = defaultMaxHeldBytes
	}
	l := &Line{cfg: cfg, groups: make([]groupLine, len(cfg.Groups))}
	closed := max(cfg.Closed, mvcc.FirstRevision)
	for i, id := range cfg.Groups {
		a := cfg.Applied[i]
		l.groups[i] = groupLine{id: id, index: a.Index, revision: a.Revision, epoch: a.Epoch}
	}
	l.merge.init(len(cfg.Groups), cfg.MaxHeldBytes)
	l.merge.missed(l.revisionLocked(), closed)
	l.closed.Store(closed)
	l.present.Store(closed)
	return l
}

// Present returns the greatest revision that may be shown.
func (l *Line) Present() int64 { return l.present.Load() }

// Closed returns the greatest revision up to which everything is applied here.
func (l *Line) Closed() int64 { return l.closed.Load() }

// Epoch returns the epoch in which this member reigns, 0 if it does not.
func (l *Line) Epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

func (l *Line) slot(g mvcc.GroupID) *groupLine { return &l.groups[l.place(g)] }

// place returns the place of g in Config.Groups.
func (l *Line) place(g mvcc.GroupID) int {
	for i := range l.groups {
		if l.groups[i].id == g {
			return i
		}
	}
	panic(fmt.Sprintf("revline: no group %d", g))
}

// revisionLocked returns the greatest revision applied in any group.
func (l *Line) revisionLocked() int64 {
	var rev int64 = mvcc.FirstRevision
	for i := range l.groups {
		rev = max(rev, l.groups[i].revision)
	}
	return rev
}

// Begin begins this member's reign: it hands out revisions from now on, above
// everything that is applied here. It refuses if a group is fenced with another
// epoch: then the reign has ended before it began.
// REQUIRES: epoch is greater than every one before, and nothing that core has
// decided is missing in a group.
func (l *Line) Begin(epoch uint64) (ok bool) {
	l.update(func() {
		if epoch <= l.epoch {
			panic(fmt.Sprintf("revline: epoch %d follows %d", epoch, l.epoch))
		}
		for i := range l.groups {
			if l.groups[i].epoch != epoch {
				return
			}
		}
		ok = true
		l.epoch, l.last = epoch, l.revisionLocked()
		l.promises = nil
		l.clearLocked() // what a group took after the last reign ended here
	})
	return ok
}

// End ends this member's reign. What was outstanding may or may not come.
func (l *Line) End() { l.update(l.endLocked) }

func (l *Line) endLocked() {
	l.epoch = 0
	l.clearLocked()
}

func (l *Line) clearLocked() {
	l.crossing = nil
	for i := range l.groups {
		l.groups[i].outstanding = nil
	}
}

// Next hands out the next revision, to a request of group g.
// REQUIRES: this member reigns.
func (l *Line) Next(g mvcc.GroupID) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	s := l.slot(g)
	s.outstanding = append(s.outstanding, l.last)
	return l.last
}

// BeginCrossing says which groups the transactions of several groups that follow
// may change.
func (l *Line) BeginCrossing(mask Mask) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.crossingMask = mask
}

// NextCrossing hands out the next revision, to a request of several groups. It
// is outstanding in those of BeginCrossing until SettleCrossing.
func (l *Line) NextCrossing() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.crossing = append(l.crossing, l.last)
	return l.last
}

// TakeCrossing takes a revision that a request of several groups says itself, and has
// the line count on from there. It is outstanding as those of NextCrossing are.
// REQUIRES: nothing is outstanding in any group, and revision is greater than what is
// applied.
func (l *Line) TakeCrossing(revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// NB: what was given back may have left last above it, which nobody has.
	l.last = revision
	if n := len(l.crossing); n == 0 || l.crossing[n-1] < revision {
		l.crossing = append(l.crossing, revision)
	}
}

// GiveBack takes back the revision that Next has just given to g: nothing was
// changed after all.
func (l *Line) GiveBack(g mvcc.GroupID, revision int64) {
	l.update(func() {
		s := l.slot(g)
		s.outstanding = l.giveBackLocked(s.outstanding, revision)
	})
}

// GiveBackCrossing is GiveBack for NextCrossing.
func (l *Line) GiveBackCrossing(revision int64) {
	l.update(func() { l.crossing = l.giveBackLocked(l.crossing, revision) })
}

func (l *Line) giveBackLocked(outstanding []int64, revision int64) []int64 {
	n := len(outstanding) - 1
	if n < 0 || outstanding[n] != revision {
		return outstanding // the reign has ended meanwhile
	}
	if l.last == revision {
		l.last--
	}
	return outstanding[:n]
}

// SettleCrossing says that what NextCrossing has given is applied in every group.
func (l *Line) SettleCrossing() {
	l.update(func() { l.crossing = l.crossing[:0] })
}

// Applied tells what group g has applied: it can be read, and nobody was
// answered yet.
func (l *Line) Applied(g mvcc.GroupID, applied mvcc.Applied, out *mvcc.Outcome) {
	l.update(func() {
		l.appliedLocked(l.slot(g), applied)
		if len(out.Events) > 0 {
			l.merge.add(l.place(g), out)
		}
	})
}

// Restored tells that group g was given a snapshot: its events were not seen.
func (l *Line) Restored(g mvcc.GroupID, applied mvcc.Applied) {
	l.update(func() {
		l.appliedLocked(l.slot(g), applied)
		l.merge.missed(applied.Revision, l.closed.Load())
	})
}

func (l *Line) appliedLocked(s *groupLine, applied mvcc.Applied) {
	s.index, s.revision, s.epoch = applied.Index, applied.Revision, applied.Epoch
	if s.epoch > l.epoch && l.epoch != 0 {
		// NB: before anything is counted: what was applied may be the next
		// sequencer's, of whose other revisions this member knows nothing.
		l.endLocked()
		return
	}
	n := 0
	for n < len(s.outstanding) && s.outstanding[n] <= applied.Revision {
		n++
	}
	if n == len(s.outstanding) {
		s.outstanding = s.outstanding[:0]
	} else {
		s.outstanding = s.outstanding[n:]
	}
}

// update changes something, finds the closed revision anew, and tells everybody
// who waits for what follows.
func (l *Line) update(change func()) {
	l.mu.Lock()
	change()
	before := l.closed.Load()
	if l.epoch != 0 {
		l.raisePresent(l.revisionLocked())
	}
	closed := max(before, l.findClosedLocked())
	if closed > before {
		l.closed.Store(closed)
		l.raisePresent(closed)
	}
	due := l.waiters.take(l)
	reigns := l.epoch != 0
	if closed > before && l.cfg.Sink != nil {
		events, restored := l.merge.take(closed)
		l.publishMu.Lock()
		l.mu.Unlock()
		if restored > 0 {
			l.cfg.Sink.Restored(restored)
		}
		if restored < closed {
			l.cfg.Sink.Publish(events, closed)
		}
		l.publishMu.Unlock()
	} else {
		l.mu.Unlock()
	}
	if closed > before && l.cfg.Advanced != nil {
		l.cfg.Advanced(closed)
	}
	for _, w := range due {
		w.call()
	}
	if closed > before && reigns && l.cfg.Tell != nil {
		l.cfg.Tell()
	}
}

// Saw tells that the sequencer has shown revision, so that this member does not
// show less from then on.
func (l *Line) Saw(revision int64) {
	if revision <= l.present.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.raisePresent(revision)
}

func (l *Line) raisePresent(rev int64) {
	if rev > l.present.Load() {
		l.present.Store(rev)
	}
}

// findClosedLocked returns the closed revision as it follows from what is
// outstanding, or from the promises.
func (l *Line) findClosedLocked() int64 {
	if l.epoch == 0 {
		return l.reachedLocked()
	}
	closed := l.present.Load()
	bound := func(outstanding []int64) {
		if len(outstanding) > 0 {
			closed = min(closed, outstanding[0]-1)
		}
	}
	bound(l.crossing)
	for i := range l.groups {
		bound(l.groups[i].outstanding)
	}
	return closed
}
