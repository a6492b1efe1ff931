package revline

import (
	"context"
	"errors"
	"slices"
)

// ErrEnded says that the reign that was waited on has ended.
var ErrEnded = errors.New("revline: the reign has ended")

// Mask is a set of groups: bit i is the group at place i of Config.Groups.
type Mask uint64

// Point is where to read: at Revision, once the groups that are read have applied
// Indexes, which are in the order of Config.Groups.
type Point struct {
	Revision int64
	Indexes  []uint64
	// Compacted is the compacted revision at the sequencer.
	Compacted int64
}

// waiters are those who wait for the line to get on.
type waiters struct{ list []*waiter }

// waiter waits until ready says so.
type waiter struct {
	// ready says whether the wait is over, under the line's lock, and may set err.
	ready func(w *waiter) bool
	fn    func(error)
	err   error
	gone  bool
}

func (w *waiter) call() { w.fn(w.err) }

// take returns those whose wait is over.
func (ws *waiters) take(*Line) (due []*waiter) {
	if len(ws.list) == 0 {
		return nil
	}
	ws.list = slices.DeleteFunc(ws.list, func(w *waiter) bool {
		if !w.gone && !w.ready(w) {
			return false
		}
		if !w.gone {
			due = append(due, w)
		}
		return true
	})
	return due
}

// when calls fn once ready says so: at once, if it does already.
func (l *Line) when(ready func(w *waiter) bool, fn func(error)) *waiter {
	w := &waiter{ready: ready, fn: fn}
	l.mu.Lock()
	done := ready(w)
	if !done {
		l.waiters.list = append(l.waiters.list, w)
	}
	l.mu.Unlock()
	if done {
		w.call()
	}
	return w
}

// wait is when for a caller that may wait.
func (l *Line) wait(ctx context.Context, ready func(w *waiter) bool) error {
	done := make(chan error, 1)
	w := l.when(ready, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	default:
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		l.mu.Lock()
		w.gone = true
		l.mu.Unlock()
		return ctx.Err()
	}
}

// Settled calls fn once nothing at or below revision is outstanding in the
// groups of mask, with where to read; or with ErrEnded if the reign of epoch has
// ended.
func (l *Line) Settled(epoch uint64, mask Mask, revision int64, fn func(Point, error)) {
	p := Point{Revision: revision}
	l.when(func(w *waiter) bool {
		if l.epoch != epoch {
			w.err = ErrEnded
			return true
		}
		if l.outstandingLocked(mask, revision) {
			return false
		}
		p.Indexes = make([]uint64, len(l.groups))
		for i := range l.groups {
			p.Indexes[i] = l.groups[i].index
		}
		return true
	}, func(err error) { fn(p, err) })
}

// IsSettled says whether this member reigns and nothing at or below revision is
// outstanding in the groups of mask.
func (l *Line) IsSettled(mask Mask, revision int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch != 0 && !l.outstandingLocked(mask, revision)
}

func (l *Line) outstandingLocked(mask Mask, revision int64) bool {
	if l.crossingMask&mask != 0 && len(l.crossing) > 0 && l.crossing[0] <= revision {
		return true
	}
	for i := range l.groups {
		if o := l.groups[i].outstanding; mask>>i&1 == 1 && len(o) > 0 && o[0] <= revision {
			return true
		}
	}
	return false
}

// WaitPoint returns when the groups of mask have applied what p asks for.
func (l *Line) WaitPoint(ctx context.Context, mask Mask, p Point) error {
	return l.wait(ctx, func(*waiter) bool {
		for i, index := range p.Indexes {
			if mask>>i&1 == 1 && l.groups[i].index < index {
				return false
			}
		}
		return true
	})
}

// WaitClosed returns when the closed revision has reached revision.
func (l *Line) WaitClosed(ctx context.Context, revision int64) error {
	if l.closed.Load() >= revision {
		return nil
	}
	return l.wait(ctx, func(*waiter) bool { return l.closed.Load() >= revision })
}
