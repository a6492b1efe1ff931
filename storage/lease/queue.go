package lease

import "time"

// The queues that a lease may stand in.
const (
	byExpiry     = iota // to be revoked
	byCheckpoint        // to be checkpointed
	numQueues
)

// queue is a binary heap of leases, the one that is due first on top. Leases
// that are due at the same time come in the order of their IDs, so that equal
// histories make equal choices. (container/heap would cost an interface call
// for each comparison, and renewals are frequent.)
type queue struct {
	by    int
	items []*lease
}

func (q *queue) less(a, b *lease) bool {
	if a.due[q.by] != b.due[q.by] {
		return a.due[q.by] < b.due[q.by]
	}
	return a.id < b.id
}

// first returns the lease that is due first, and when; nil and forever if there
// is none.
func (q *queue) first() (*lease, time.Duration) {
	if len(q.items) == 0 {
		return nil, forever
	}
	return q.items[0], q.items[0].due[q.by]
}

// set puts l in, or moves it, so that it is due at at.
func (q *queue) set(l *lease, at time.Duration) {
	l.due[q.by] = at
	if l.pos[q.by] < 0 {
		l.pos[q.by] = int32(len(q.items))
		q.items = append(q.items, l)
	}
	q.fix(int(l.pos[q.by]))
}

// remove takes l out if it is in.
func (q *queue) remove(l *lease) {
	i := int(l.pos[q.by])
	if i < 0 {
		return
	}
	end := len(q.items) - 1
	q.place(i, q.items[end])
	q.items[end] = nil
	q.items = q.items[:end]
	l.pos[q.by] = -1
	if i < end {
		q.fix(i)
	}
}

func (q *queue) place(i int, l *lease) {
	q.items[i] = l
	l.pos[q.by] = int32(i)
}

// fix moves the lease at i to where it belongs.
func (q *queue) fix(i int) {
	l := q.items[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !q.less(l, q.items[parent]) {
			break
		}
		q.place(i, q.items[parent])
		i = parent
	}
	for {
		child := 2*i + 1
		if child >= len(q.items) {
			break
		}
		if right := child + 1; right < len(q.items) && q.less(q.items[right], q.items[child]) {
			child = right
		}
		if !q.less(q.items[child], l) {
			break
		}
		q.place(i, q.items[child])
		i = child
	}
	q.place(i, l)
}
