package crash_test

import (
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// verdict collects violations of what doc.go promises. It is safe for
// concurrent use.
type verdict struct {
	// first is closed at the first violation: there is no use in going on.
	first chan struct{}

	mu    sync.Mutex
	lines []string // guarded by mu; the first maxLines
	count int      // guarded by mu
}

const maxLines = 20

func newVerdict() *verdict { return &verdict{first: make(chan struct{})} }

func (v *verdict) violation(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.count++; v.count == 1 {
		close(v.first)
	}
	if len(v.lines) < maxLines {
		v.lines = append(v.lines, fmt.Sprintf(format, args...))
	}
}

func (v *verdict) violations() (int, []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.count, v.lines
}

// life is one run of the server, from a start that ended in "ready".
type life struct {
	// mark is the revision of the first write of this life. Nothing that was
	// sent in an earlier one may come after it.
	mark int64
	// told is the highest revision that anybody had been told when the server
	// was gone.
	told int64
}

// lease is a granted lease, or one that may have been.
type lease struct {
	id, ttl int64 // ttl in seconds
	// asked is when it was asked for: it cannot end before asked + ttl.
	asked   time.Time
	granted bool // acknowledged
	// revoking is set before its revocation is sent, revoked when that was
	// acknowledged.
	revoking, revoked bool
}

// short leases end by themselves during the test, others outlive it.
func (l *lease) short() bool { return l.ttl < longTTL }

// compaction is a request to compact that may have been carried out.
type compaction struct {
	rev   int64
	acked bool
}

// hash is an answer to HashKV.
type hash struct {
	rev, compacted int64
	sum            uint32
}

// ledger is what clients have been told. Clients write it concurrently; the
// checker reads it when no client is at work.
type ledger struct {
	*verdict

	mu sync.Mutex
	// All below is guarded by mu.

	told    int64          // the highest revision in any answer
	toldBy  string         // which answer, or whom
	down    bool           // the server is being killed: errors are no news
	open    map[string]*op // to be accounted for, by id
	writes  map[int64]*op  // acknowledged with a revision of their own
	revokes map[int64][]*op
	looks   []look
	lives   []life
	leases  map[int64]*lease
	hashes  []hash
	// compactions are in the order of their revisions.
	compactions []compaction
	cluster     uint64 // ids in every header
	member      uint64
	term        uint64

	acks int // of the present life
	goal int // at which reached is closed
	// reached is nil if nobody waits.
	reached chan struct{}
}

func newLedger(v *verdict) *ledger {
	return &ledger{
		verdict: v,
		open:    map[string]*op{}, writes: map[int64]*op{}, revokes: map[int64][]*op{}, leases: map[int64]*lease{},
	}
}

// begin notes that an op is about to be sent.
func (l *ledger) begin(o *op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.life, o.told, o.toldBy = len(l.lives)-1, l.told, l.toldBy
	l.open[o.id] = o
}

// done notes an op's answer.
func (l *ledger) done(o *op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks++
	if l.reached != nil && l.acks >= l.goal {
		close(l.reached)
		l.reached = nil
	}
	atLeast := o.told
	if o.changed() {
		atLeast++
	}
	if o.rev < atLeast {
		l.violation("%v, and before it was sent revision %d was told by %s", o, o.told, o.toldBy)
	}
	l.tellLocked(o.rev, o.String)
	switch {
	case o.outcome == refused:
		l.looks = append(l.looks, look{"the else branch of " + o.String(), o.guard.key, "", o.rev, o.found})
		if len(o.found) > 0 && o.found[0].mod == o.guard.mod || len(o.found) == 0 && o.guard.mod == 0 {
			l.violation("%v, but its guard holds for %v", o, o.found)
		}
	case o.revoke != 0:
		l.revokes[o.rev] = append(l.revokes[o.rev], o)
	case o.changed():
		if other := l.writes[o.rev]; other != nil {
			l.violation("%v and %v were told the same revision", other, o)
		}
		l.writes[o.rev] = o
	default:
		for _, s := range o.steps {
			l.looks = append(l.looks, look{"the answer to " + o.String(), s.key, s.end, o.rev, nil})
		}
	}
}

// looked notes what a range showed. rev is the revision that it was asked for,
// or 0; toldBefore is 0 for one that may be stale.
func (l *ledger) looked(what string, req *pb.RangeRequest, r *pb.RangeResponse, toldBefore int64, toldBy string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Header.Revision < toldBefore {
		l.violation("%s of %s is answered at revision %d, and before it was sent revision %d was told by %s",
			what, req.Key, r.Header.Revision, toldBefore, toldBy)
	}
	l.tellLocked(r.Header.Revision, func() string { return fmt.Sprintf("%s of %s", what, req.Key) })
	at := req.Revision
	if at == 0 {
		at = r.Header.Revision
	}
	if r.Count != int64(len(r.Kvs)) {
		l.violation("%s of %s counts %d keys and shows %d", what, req.Key, r.Count, len(r.Kvs))
	}
	l.looks = append(l.looks, look{what, string(req.Key), string(req.RangeEnd), at, itemsOf(r.Kvs)})
}

// heard notes a header.
func (l *ledger) heard(h *pb.ResponseHeader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cluster == 0 {
		l.cluster, l.member = h.ClusterId, h.MemberId
	}
	if h.ClusterId != l.cluster || h.MemberId != l.member {
		l.violation("the ids in a header were %x and %x, now they are %x and %x", l.cluster, l.member, h.ClusterId, h.MemberId)
	}
	if h.RaftTerm < l.term {
		l.violation("the term in a header was %d, now it is %d", l.term, h.RaftTerm)
	}
	l.term = h.RaftTerm
}

// highest is the highest revision that anybody was told.
func (l *ledger) highest() int64 {
	rev, _ := l.highestBy()
	return rev
}

// highestBy says by which answer, too.
func (l *ledger) highestBy() (int64, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told, l.toldBy
}

// tell notes that a watcher was told a revision.
func (l *ledger) tell(rev int64, by string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellLocked(rev, func() string { return by })
}

func (l *ledger) tellLocked(rev int64, by func() string) {
	if rev > l.told {
		l.told, l.toldBy = rev, by()
	}
}

// afterAcks is closed when n more ops have been answered.
func (l *ledger) afterAcks(n int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	reached := make(chan struct{})
	if n <= 0 {
		close(reached)
		return reached
	}
	l.goal, l.reached = l.acks+n, reached
	return reached
}

// goingDown is to be called before a kill, startLife after a start.
func (l *ledger) goingDown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down, l.reached = true, nil
}

func (l *ledger) isDown() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}

// endLife notes what was told before the server was gone.
//
// REQUIRES: no client is at work.
func (l *ledger) endLife() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives[len(l.lives)-1].told = l.told
}

func (l *ledger) startLife() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
	l.lives = append(l.lives, life{})
}

func (l *ledger) marked(rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives[len(l.lives)-1].mark = rev
}

// compactedAtLeast is the highest revision whose compaction was acknowledged.
func (l *ledger) compactedAtLeast() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rev int64
	for _, c := range l.compactions {
		if c.acked {
			rev = max(rev, c.rev)
		}
	}
	return rev
}

// compactedAtMost is the highest revision whose compaction was asked for.
func (l *ledger) compactedAtMost() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rev int64
	for _, c := range l.compactions {
		rev = max(rev, c.rev)
	}
	return rev
}

// compacting notes a request, compacted its success.
func (l *ledger) compacting(rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.compactions = append(l.compactions, compaction{rev: rev})
}

func (l *ledger) compacted(rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.compactions {
		if l.compactions[i].rev == rev {
			l.compactions[i].acked = true
		}
	}
}

// settleCompactions keeps those that happened: up to the revision that the
// server says it is compacted at.
func (l *ledger) settleCompactions(rev int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := rev == 0
	kept := l.compactions[:0]
	for _, c := range l.compactions {
		asked = asked || c.rev == rev
		if c.rev <= rev {
			kept = append(kept, compaction{rev: c.rev, acked: true})
		}
	}
	l.compactions = kept
	if !asked {
		return fmt.Errorf("compacted at %d, which nobody has asked for", rev)
	}
	return nil
}

// granting, granted, revoking and revoked follow a lease's life.
func (l *ledger) granting(of *lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases[of.id] = of
}

func (l *ledger) granted(of *lease, ttl int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of.granted, of.ttl = true, ttl
}

func (l *ledger) revoking(of *lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of.revoking = true
}

func (l *ledger) revoked(of *lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of.revoked = true
}

// hashed notes an answer to HashKV.
func (l *ledger) hashed(h hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hashes = append(l.hashes, h)
}
