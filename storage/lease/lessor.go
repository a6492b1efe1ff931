package lease

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// MaxTTL is the longest TTL that can be granted, in seconds; etcd's.
const MaxTTL = 9_000_000_000

var (
	// ErrNotFound means that there is no such lease, or none any more.
	ErrNotFound = errors.New("lease not found")
	// ErrExists means that a lease can't be granted because its ID is taken.
	ErrExists = errors.New("lease already exists")
	// ErrTTLTooLarge means that a lease was asked for with a TTL over MaxTTL.
	ErrTTLTooLarge = errors.New("too large lease TTL")
	// ErrNotPrimary means that only the primary knows. Nothing has happened, and
	// the request may go to the new one.
	ErrNotPrimary = errors.New("not a primary lessor")
)

const (
	defaultCheckpointInterval = 5 * time.Minute
	defaultRetryInterval      = 500 * time.Millisecond
	// Of etcd's 1000 revocations in a second, those that etcd lets a promotion
	// plan for, so that leases which end by themselves find room beside them.
	defaultMaxExpiriesPerSecond = 750
	// maxCheckpointsPerSecond spreads the checkpoints that a promotion plans.
	maxCheckpointsPerSecond = 1000
	// checkpointGrain is what checkpoint times are rounded up to, so that leases
	// of nearly the same age share a log entry.
	checkpointGrain = time.Second
)

// forever is the expiry of leases while nobody counts.
const forever = time.Duration(math.MaxInt64)

// Config of a Lessor; every field has a usable zero value.
type Config struct {
	// Clock is where time comes from; nil is the system's.
	Clock clock.Clock
	// CheckpointInterval is the time between two checkpoints of a lease. Leases
	// with no more than this left need none.
	CheckpointInterval time.Duration
	// RetryInterval is when a failed revocation or checkpoint is due again.
	RetryInterval time.Duration
	// MaxExpiriesPerSecond bounds how many leases a promotion lets expire within
	// any one second.
	MaxExpiriesPerSecond int
	// Registerer gets the metrics; nil is nobody.
	Registerer prometheus.Registerer
}

// MinTTL returns the least TTL, in seconds, that etcd grants with a heartbeat
// of tick and an election timeout of electionTicks ticks. A shorter lease could
// end before its owner finds a new leader.
func MinTTL(tick time.Duration, electionTicks int) int64 {
	return int64(math.Ceil((time.Duration(3*electionTicks/2) * tick).Seconds()))
}

// GrantTTL returns the TTL that is granted to whom asks for ttl, where least is
// the least, or ErrTTLTooLarge. It is for the leader that evaluates a grant.
func GrantTTL(ttl, least int64) (int64, error) {
	if ttl > MaxTTL {
		return 0, ErrTTLTooLarge
	}
	return max(ttl, least), nil
}

// Lessor is one member's view of all leases.
type Lessor struct {
	clock   clock.Clock
	base    time.Time // what the durations below are counted from
	cfg     Config
	metrics metrics
	// wake has room for one: it tells Wait that something is due earlier than
	// what it sleeps for.
	wake chan struct{}

	// mu guards everything below, and every lease. Nothing but the clock's own
	// lock is taken after it.
	mu      sync.RWMutex
	primary bool
	// paused says that no lease runs out.
	paused bool
	leases map[int64]*lease
	// queues hold, on the primary, what is to come; on others they are empty.
	queues [numQueues]queue
	// revoking counts the leases that are handed out.
	revoking int
	// waiting has a channel for each lease that renewals wait for. It is closed
	// when the lease's fate is decided.
	waiting map[int64]chan struct{}
	// armed is the deadline that Wait sleeps for.
	armed time.Duration
}

// lease is kept small, there may be millions: 64 bytes.
type lease struct {
	id  int64
	ttl int64 // seconds
	// remaining is what the last checkpoint left, in seconds; 0 is none.
	remaining int64
	// due and pos are the lease's key and place in each queue. due[byExpiry] is
	// when it expires also while it is in no queue.
	//
	// Invariant: pos[q] < 0, or queues[q].items[pos[q]] is the lease.
	due [numQueues]time.Duration
	pos [numQueues]int32
	// Invariant: revoking implies primary and no place in byCheckpoint.
	revoking bool
	// checkpointing says that DueCheckpoints has handed the lease out.
	checkpointing bool
	// unsettled says that a checkpoint failed, and may be applied after all.
	unsettled bool
}

// left returns the seconds that a new primary has to give the lease.
func (l *lease) left() int64 {
	if l.remaining > 0 {
		return l.remaining
	}
	return l.ttl
}

// New returns a Lessor without leases that is not primary.
func New(cfg Config) *Lessor {
	if cfg.Clock == nil {
		cfg.Clock = clock.Real{}
	}
	cfg.CheckpointInterval = cmp.Or(cfg.CheckpointInterval, defaultCheckpointInterval)
	cfg.RetryInterval = cmp.Or(cfg.RetryInterval, defaultRetryInterval)
	cfg.MaxExpiriesPerSecond = cmp.Or(cfg.MaxExpiriesPerSecond, defaultMaxExpiriesPerSecond)
	le := &Lessor{
		clock:   cfg.Clock,
		base:    cfg.Clock.Now(),
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		leases:  map[int64]*lease{},
		waiting: map[int64]chan struct{}{},
		armed:   forever,
	}
	for q := range le.queues {
		le.queues[q].by = q
	}
	le.metrics = newMetrics(cfg.Registerer, le)
	return le
}

// Granted notes that the log has granted a lease. One of the same ID is
// replaced.
func (le *Lessor) Granted(id, ttl int64) {
	le.metrics.granted.Inc()
	le.metrics.ttl.Observe(float64(ttl))
	le.Load(id, ttl, 0)
}

// Load notes a lease that the store holds; remaining is its last checkpoint's,
// 0 if it has none.
func (le *Lessor) Load(id, ttl, remaining int64) {
	le.mu.Lock()
	defer le.mu.Unlock()
	if old := le.leases[id]; old != nil {
		le.dropLocked(old)
	}
	l := &lease{id: id, ttl: ttl, remaining: remaining}
	for q := range numQueues {
		l.due[q], l.pos[q] = forever, -1
	}
	le.leases[id] = l
	if le.primary {
		now := le.now()
		le.expireAtLocked(l, after(now, seconds(l.left())))
		le.planCheckpointLocked(l, now)
	}
}

// Revoked notes that the log has ended a lease. Renewals that wait for it get
// ErrNotFound.
func (le *Lessor) Revoked(id int64) {
	le.mu.Lock()
	defer le.mu.Unlock()
	l := le.leases[id]
	if l == nil {
		return
	}
	if l.revoking {
		le.metrics.expired.Inc()
	}
	le.metrics.revoked.Inc()
	le.dropLocked(l)
	delete(le.leases, id)
}

// Checkpointed notes what remains of a lease by the log's word; 0 takes back an
// earlier checkpoint. It does not change when the lease expires here: it is for
// the next primary.
func (le *Lessor) Checkpointed(id, remaining int64) {
	le.mu.Lock()
	defer le.mu.Unlock()
	if l := le.leases[id]; l != nil {
		l.remaining = remaining
		l.unsettled = false
	}
}

// Reset forgets all leases, because a raft snapshot is about to replace the
// store. The new ones come by Load. REQUIRES: not primary.
func (le *Lessor) Reset() {
	le.mu.Lock()
	defer le.mu.Unlock()
	if le.primary {
		panic("lease: the primary's leases can't be replaced")
	}
	le.leases = map[int64]*lease{}
	le.settleAllLocked()
}

// Promote makes this member the one that counts: every lease gets all of its
// time to live, or what its last checkpoint left of it, plus extend. Where more
// than MaxExpiriesPerSecond of them would end within a second, as after an
// outage in which nobody could renew, the later ones get some more.
//
// REQUIRES: whatever earlier leaders have put in the log is applied, so that no
// revocation of theirs can come later.
func (le *Lessor) Promote(extend time.Duration) {
	le.mu.Lock()
	defer le.mu.Unlock()
	le.promoteLocked(extend)
}

// Pause has all leases stand still, on any member, or run again: then they have, on the
// primary, as much as Promote gives them.
func (le *Lessor) Pause(on bool, extend time.Duration) {
	le.mu.Lock()
	defer le.mu.Unlock()
	if le.paused == on {
		return
	}
	le.paused = on
	if le.primary {
		le.promoteLocked(extend)
	}
}

func (le *Lessor) promoteLocked(extend time.Duration) {
	if le.primary {
		le.stopLocked()
	}
	le.primary = true
	now := le.now()

	all := le.entriesLocked(func(l *lease) time.Duration { return after(now, seconds(l.left()), extend) })
	sortEntries(all)
	// Sorted is a heap already, and stays sorted: both sides of the max only
	// grow with i.
	items := make([]*lease, len(all))
	for i, rate := 0, le.cfg.MaxExpiriesPerSecond; i < len(all); i++ {
		if i >= rate {
			all[i].due = max(all[i].due, after(all[i-rate].due, time.Second))
		}
		items[i] = all[i].lease
		items[i].due[byExpiry], items[i].pos[byExpiry] = all[i].due, int32(i)
	}
	le.queues[byExpiry].items = items

	planned := 0
	for _, l := range items {
		if le.planCheckpointLocked(l, after(now, seconds(int64(planned/maxCheckpointsPerSecond)))) {
			planned++
		}
	}
	le.kickLocked()
}

// Demote ends this member's counting: no lease expires here any more, and
// waiting renewals get ErrNotPrimary.
func (le *Lessor) Demote() {
	le.mu.Lock()
	defer le.mu.Unlock()
	le.stopLocked()
	le.primary = false
}

// Exists reports whether there is a lease of that ID.
func (le *Lessor) Exists(id int64) bool {
	_, ok := le.TTL(id)
	return ok
}

// TTL returns the TTL with which the lease was granted, on any member.
func (le *Lessor) TTL(id int64) (ttl int64, ok bool) {
	le.mu.RLock()
	defer le.mu.RUnlock()
	if l := le.leases[id]; l != nil {
		return l.ttl, true
	}
	return 0, false
}

// TimeToLive returns the TTL with which the lease was granted and the whole
// seconds that are left of it: 0 for one that has expired and whose revocation
// is still to be applied.
func (le *Lessor) TimeToLive(id int64) (granted, remaining int64, err error) {
	le.mu.RLock()
	defer le.mu.RUnlock()
	l := le.leases[id]
	switch {
	case !le.primary:
		return 0, 0, ErrNotPrimary
	case l == nil:
		return 0, 0, ErrNotFound
	case le.paused:
		remaining = l.left()
	case !l.revoking:
		remaining = max(0, int64((l.due[byExpiry]-le.now())/time.Second))
	}
	return l.ttl, remaining, nil
}

// Len returns the number of leases.
func (le *Lessor) Len() int {
	le.mu.RLock()
	defer le.mu.RUnlock()
	return len(le.leases)
}

// Leases returns all IDs: on the primary in the order in which they will
// expire, as etcd does, elsewhere by ID.
func (le *Lessor) Leases() []int64 {
	le.mu.RLock()
	all := le.entriesLocked(func(l *lease) time.Duration { return l.due[byExpiry] })
	le.mu.RUnlock()
	sortEntries(all)
	ids := make([]int64, len(all))
	for i, e := range all {
		ids[i] = e.id
	}
	return ids
}

// entry is what leases are sorted by, copied, so that sorting a million of them
// does not visit each twenty times.
type entry struct {
	due   time.Duration
	id    int64
	lease *lease
}

func (le *Lessor) entriesLocked(due func(*lease) time.Duration) []entry {
	all := make([]entry, 0, len(le.leases))
	for id, l := range le.leases {
		all = append(all, entry{due(l), id, l})
	}
	return all
}

func sortEntries(all []entry) {
	slices.SortFunc(all, func(a, b entry) int {
		if a.due != b.due {
			return cmp.Compare(a.due, b.due)
		}
		return cmp.Compare(a.id, b.id)
	})
}

func (le *Lessor) now() time.Duration { return le.clock.Since(le.base) }

// stopLocked takes back everything that the last primary of this member has
// planned and promised.
func (le *Lessor) stopLocked() {
	for _, l := range le.leases {
		for q := range numQueues {
			l.due[q], l.pos[q] = forever, -1
		}
		l.revoking, l.checkpointing, l.unsettled = false, false, false
	}
	for q := range le.queues {
		le.queues[q].items = nil
	}
	le.revoking = 0
	le.settleAllLocked()
}

// dropLocked takes l out of everything but the map of leases.
func (le *Lessor) dropLocked(l *lease) {
	for q := range le.queues {
		le.queues[q].remove(l)
	}
	if l.revoking {
		l.revoking = false
		le.revoking--
	}
	le.settleLocked(l.id)
}

// expireAtLocked plans the lease's expiry.
func (le *Lessor) expireAtLocked(l *lease, at time.Duration) {
	le.queues[byExpiry].set(l, at)
	le.kickLocked()
}

// waitingLocked returns the channel that is closed when the fate of id is
// decided.
func (le *Lessor) waitingLocked(id int64) <-chan struct{} {
	c := le.waiting[id]
	if c == nil {
		c = make(chan struct{})
		le.waiting[id] = c
	}
	return c
}

func (le *Lessor) settleLocked(id int64) {
	if c := le.waiting[id]; c != nil {
		close(c)
		delete(le.waiting, id)
	}
}

func (le *Lessor) settleAllLocked() {
	for id := range le.waiting {
		le.settleLocked(id)
	}
}

func seconds(n int64) time.Duration {
	if n > int64(forever/time.Second) {
		return forever
	}
	return time.Duration(max(n, 0)) * time.Second
}

// ceilSeconds rounds up; adding first could overflow.
func ceilSeconds(d time.Duration) int64 {
	n := int64(d / time.Second)
	if d%time.Second > 0 {
		n++
	}
	return n
}

// after returns t plus all of ds, or forever where that is too much. REQUIRES:
// none is negative.
func after(t time.Duration, ds ...time.Duration) time.Duration {
	for _, d := range ds {
		if t > forever-d {
			return forever
		}
		t += d
	}
	return t
}
