package member

import (
	"sync"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// observer is the member as its group at a place sees it.
type observer struct {
	m     *Member
	place int
}

func (o observer) isCore() bool { return o.place == 0 }

// Applied implements group.Observer.
func (o observer) Applied(_ uint64, out *mvcc.Outcome) {
	if len(out.Leases) > 0 && o.isCore() {
		o.m.leases.applied(out.Leases)
	}
	if len(out.Records) > 0 {
		o.m.recordsChanged(out.Records)
	}
	if out.Compacted > 0 {
		o.m.decided.Store(out.Compacted)
		o.m.compact()
	}
}

// Restoring implements group.Observer.
func (o observer) Restoring(floor int64) { o.m.space.RaiseFloor(floor) }

// Restored implements group.Observer.
func (o observer) Restored(mvcc.Applied) {
	if !o.isCore() {
		return
	}
	store := o.m.core.store
	if err := o.m.leases.load(store); err != nil {
		o.m.fail(err)
		return
	}
	o.m.recordsChanged(nil)
	o.m.decided.Store(max(o.m.decided.Load(), store.Decided()))
	o.m.compact()
}

// Leads implements group.Observer.
func (o observer) Leads(term uint64) {
	if o.isCore() {
		o.m.reign.Lead(term)
	}
	o.m.news.tell()
}

// Fenced implements group.Observer.
func (o observer) Fenced(epoch, part uint64) { o.m.reign.Fenced(o.place, epoch, part) }

// Changed implements group.Observer.
func (o observer) Changed() { o.m.news.tell() }

// Configured implements group.Observer.
func (o observer) Configured() {
	if o.isCore() {
		if err := o.m.loadMembers(); err != nil {
			o.m.fail(err)
			return
		}
	}
	o.m.cluster.changed.tell()
}

// begun is told that this member reigns.
func (m *Member) begun(uint64) {
	m.reigning.Store(true)
	// A lease must not run out for the time in which nobody could renew it.
	extend := m.cfg.electionTimeout()
	if r := m.core.Replicas(); len(r.Voters) == 1 {
		extend = 0
	}
	m.leases.Promote(extend)
	m.hasReigned.Store(true)
	m.maybeReady()
	m.news.tell()
}

// ended is told that this member does not reign any more.
func (m *Member) ended() {
	m.reigning.Store(false)
	m.leases.Demote()
	m.news.tell()
}

// compact makes the last compaction effective if everything up to it is here.
func (m *Member) compact() {
	// NB: the space may refuse reads below rev already, because of a snapshot; its
	// stores are told only here.
	rev := m.decided.Load()
	if rev <= m.compacted.Load() || rev > m.line.Closed() {
		return
	}
	// Whoever finds it done must find it done in every store.
	m.compacting.Lock()
	defer m.compacting.Unlock()
	if rev > m.compacted.Load() {
		m.space.SetCompacted(rev)
		m.compacted.Store(rev)
		m.scrub.signal()
	}
}

// news is told of by closing a channel.
type news struct {
	mu sync.Mutex // guards the field below; nothing is taken after it
	ch chan struct{}
}

// wait returns what is closed by the next tell.
func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}
