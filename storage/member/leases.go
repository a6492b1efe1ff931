package member

import (
	"slices"
	"sync"

	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// leases are the leases as evaluation asks for them: those that are applied,
// and the groups that take part in each (storage/PROTOCOL.md, 7).
type leases struct {
	*lease.Lessor

	mu     sync.RWMutex // guards the field below; nothing is taken after it
	joined map[int64][]mvcc.GroupID
}

// load reads everything anew from core's state.
func (l *leases) load(core *mvcc.Store) error {
	there := map[int64]bool{}
	err := core.Leases(func(id, ttl, remaining int64) {
		there[id] = true
		l.Load(id, ttl, remaining)
	})
	if err != nil {
		return err
	}
	for _, id := range l.Leases() {
		if !there[id] {
			l.Revoked(id)
		}
	}
	joined := map[int64][]mvcc.GroupID{}
	if err := core.Joins(func(id int64, g mvcc.GroupID) { joined[id] = append(joined[id], g) }); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.joined = joined
	return nil
}

// applied takes in what core has applied.
func (l *leases) applied(changes []mvcc.LeaseChange) {
	for _, c := range changes {
		switch c.Kind {
		case mvcc.LeaseGranted:
			l.Granted(c.ID, c.TTL)
		case mvcc.LeaseRevoked:
			l.Revoked(c.ID)
		case mvcc.LeaseCheckpointed:
			l.Checkpointed(c.ID, c.Remaining)
		case mvcc.LeaseJoined, mvcc.LeaseLeft:
			l.note(c)
		}
	}
}

func (l *leases) note(c mvcc.LeaseChange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	groups := slices.DeleteFunc(slices.Clone(l.joined[c.ID]), func(g mvcc.GroupID) bool { return g == c.Group })
	if c.Kind == mvcc.LeaseJoined {
		groups = append(groups, c.Group)
	}
	if len(groups) == 0 {
		delete(l.joined, c.ID)
		return
	}
	l.joined[c.ID] = groups
}

// Joined implements evaluate.Leases.
func (l *leases) Joined(id int64, g mvcc.GroupID) bool { return slices.Contains(l.Groups(id), g) }

// Groups implements evaluate.Leases. What it returns must not be changed.
func (l *leases) Groups(id int64) []mvcc.GroupID {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.joined[id]
}
