package group_test

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// The way of a request through a member is that of storage/member (sequencer.go,
// kv.go, lead.go), of which each wait is a task's here. So the cluster decides for
// how long somebody whose wait is over does not notice.

// task is something that goes on at a member whenever what it waits for has come.
type task struct {
	at   *member
	life int
	// ready says whether next is due; nil once nothing is to come.
	ready func() bool
	next  func()
}

func (m *member) newTask() *task {
	t := &task{at: m, life: m.life}
	m.c.tasks = append(m.c.tasks, t)
	return t
}

// wait has the task go on with next once ready says so.
func (t *task) wait(ready func() bool, next func()) { t.ready, t.next = ready, next }

// over says that the task will not go on.
func (t *task) over() bool { return t.next == nil || !t.at.up || t.at.life != t.life }

func (t *task) run() {
	next := t.next
	t.ready, t.next = nil, nil
	next()
}

// do is member.Member.Do.
func (m *member) do(ctx context.Context, t *task, op evaluate.Op, done func(evaluate.Result, error)) {
	var res evaluate.Result
	m.asSequencer(t, func(tried func(error)) {
		set := func(r evaluate.Result, err error) {
			res = r
			tried(err)
		}
		if m.reigning {
			m.doHere(ctx, t, op, set)
		} else {
			m.doThere(ctx, t, op, set)
		}
	}, func(err error) { done(res, err) })
}

// asSequencer tries, again and again, until there is another error than
// group.ErrNotSequencer.
func (m *member) asSequencer(t *task, try func(tried func(error)), done func(error)) {
	try(func(err error) {
		if !errors.Is(err, group.ErrNotSequencer) {
			done(err)
			return
		}
		news, ticks := m.news, m.ticks
		t.wait(func() bool { return m.news != news || m.ticks != ticks }, func() { m.asSequencer(t, try, done) })
	})
}

// doHere is do at the sequencer.
func (m *member) doHere(ctx context.Context, t *task, op evaluate.Op, done func(evaluate.Result, error)) {
	mask := m.needs(op)
	if bits.OnesCount64(uint64(mask)) != 1 {
		m.cross(ctx, t, op, done)
		return
	}
	p, err := m.groups[bits.TrailingZeros64(uint64(mask))].Propose(ctx, op, evaluate.Size(op))
	if err != nil {
		done(evaluate.Result{}, err)
		return
	}
	t.wait(p.Answered, func() {
		res, err := p.Answer()
		c, compacts := op.(*evaluate.Compact)
		switch {
		case errors.Is(err, evaluate.ErrCrossing):
			m.cross(ctx, t, op, done)
		case compacts && err == nil:
			t.wait(func() bool { return m.line.Closed() >= c.Revision }, func() {
				m.compact()
				done(res, nil)
			})
		default:
			done(res, err)
		}
	})
}

// cross is reign.Reign.Do, which needs a goroutine to wait in.
func (m *member) cross(ctx context.Context, t *task, op evaluate.Op, done func(evaluate.Result, error)) {
	var res evaluate.Result
	var err error
	var over atomic.Bool
	go func() {
		res, err = m.reign.Do(ctx, op, evaluate.Size(op))
		over.Store(true)
	}()
	m.c.synced()
	t.wait(over.Load, func() { done(res, err) })
}

// doThere has the sequencer do it, and waits until this member shows it.
func (m *member) doThere(ctx context.Context, t *task, op evaluate.Op, done func(evaluate.Result, error)) {
	m.call(t, &remoteCall{ctx: ctx, op: op}, func(k *remoteCall) {
		if k.err != nil {
			done(evaluate.Result{}, k.err)
			return
		}
		res := k.reply.res
		m.line.Saw(res.Revision)
		t.wait(func() bool { return m.line.Closed() >= res.Revision }, func() {
			if _, ok := op.(*evaluate.Compact); !ok {
				done(res, nil)
				return
			}
			m.confirmed(t, 0, func(_ int64, err error) { done(res, err) })
		})
	})
}

// read is member.Member.Read.
func (m *member) read(t *task, op evaluate.Op, serializable bool, done func(evaluate.Result, error)) {
	m.readRevision(t, m.needs(op), serializable, func(head int64, err error) {
		if err != nil {
			done(evaluate.Result{}, err)
			return
		}
		look := func() {
			m.c.truth.show(head, "a read")
			res, err := m.readAt(op, head)
			if errors.Is(err, mvcc.ErrCompacted) && m.space.Compacted() > head {
				m.read(t, op, serializable, done)
				return
			}
			done(res, err)
		}
		if m.c.rng.IntN(2) == 0 {
			look()
			return
		}
		t.wait(always, look)
	})
}

func always() bool { return true }

func (m *member) readAt(op evaluate.Op, head int64) (evaluate.Result, error) {
	if txn, ok := op.(*evaluate.Txn); ok {
		return evaluate.ReadTxn(context.Background(), m.space, head, txn)
	}
	return evaluate.Read(context.Background(), m.space, head, op.(*evaluate.Range))
}

func (m *member) readRevision(t *task, mask revline.Mask, serializable bool, done func(int64, error)) {
	if m.reigning && (serializable || m.core().Sole()) {
		if rev := m.line.Present(); m.line.IsSettled(mask, rev) {
			done(rev, nil)
			return
		}
	}
	if serializable && !m.reigning {
		m.closedRevision(t, done)
		return
	}
	m.confirmed(t, mask, done)
}

func (m *member) closedRevision(t *task, done func(int64, error)) {
	t.wait(func() bool { return m.ready }, func() {
		shown, until := m.line.Present(), m.ticks+m.c.electionTicks
		t.wait(func() bool { return m.line.Closed() >= shown || m.ticks >= until }, func() {
			compacted := m.space.Compacted()
			t.wait(func() bool { return m.line.Closed() >= compacted }, func() { done(m.line.Closed(), nil) })
		})
	})
}

func (m *member) confirmed(t *task, mask revline.Mask, done func(int64, error)) {
	var p revline.Point
	m.asSequencer(t, func(tried func(error)) {
		m.point(t, mask, func(q revline.Point, err error) {
			p = q
			tried(err)
		})
	}, func(err error) {
		if err != nil {
			done(0, err)
			return
		}
		m.line.Saw(p.Revision)
		compacted := int64(0)
		if p.Compacted > m.space.Compacted() {
			mask |= 1
			compacted = p.Compacted
		}
		t.wait(func() bool { return m.line.Closed() >= compacted && m.hasPoint(mask, p) }, func() {
			m.compact()
			done(p.Revision, nil)
		})
	})
}

// gaveUp is a context that is over: with it a wait is a question.
var gaveUp = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func (m *member) hasPoint(mask revline.Mask, p revline.Point) bool {
	return m.line.WaitPoint(gaveUp, mask, p) == nil
}

// points asks the sequencer where to read: those who come while a question is
// under way share the next.
type points struct {
	waiting []*pointWait
	asking  bool
}

type pointWait struct {
	mask  revline.Mask
	over  bool
	point revline.Point
	err   error
}

func (m *member) point(t *task, mask revline.Mask, done func(revline.Point, error)) {
	if m.reigning {
		m.pointHere(t, mask, done)
		return
	}
	w := &pointWait{mask: mask}
	m.points.waiting = append(m.points.waiting, w)
	if !m.points.asking {
		m.points.asking = true
		asker := m.newTask()
		asker.wait(always, func() { m.askPoints(asker) })
	}
	t.wait(func() bool { return w.over }, func() { done(w.point, w.err) })
}

// askPoints asks until nobody waits.
func (m *member) askPoints(t *task) {
	waiting := m.points.waiting
	m.points.waiting = nil
	m.points.asking = len(waiting) > 0
	if len(waiting) == 0 {
		return
	}
	var mask revline.Mask
	for _, w := range waiting {
		mask |= w.mask
	}
	m.call(t, &remoteCall{ctx: context.Background(), mask: mask}, func(k *remoteCall) {
		err := k.err
		if errors.Is(err, group.ErrLeaderChanged) {
			err = group.ErrNotSequencer // nothing was done
		}
		for _, w := range waiting {
			w.over, w.err = true, err
			if err == nil {
				w.point = k.reply.point
			}
		}
		t.wait(always, func() { m.askPoints(t) })
	})
}

// pointHere is point at the sequencer.
func (m *member) pointHere(t *task, mask revline.Mask, done func(revline.Point, error)) {
	w := &pointWait{}
	compacted := m.space.Compacted()
	m.reign.ReadPoint(mask, func(p revline.Point, err error) {
		p.Compacted = compacted
		w.over, w.point, w.err = true, p, err
		if err == nil {
			m.shown = append(m.shown, p.Revision)
		}
	})
	t.wait(func() bool { return w.over }, func() { done(w.point, w.err) })
}

// guide is what the keeper of the leads remembers.
type guide struct {
	since   []int
	reigned bool
	waiting int
}

// tick is a tick of all that goes by time at a member.
func (m *member) tick() {
	m.ticks++
	for _, h := range m.groups {
		h.Tick()
	}
	for i := range m.guide.since {
		m.guide.since[i]++
	}
	if m.c.faults.guided {
		m.look()
	}
	m.meetRefusal()
	m.promise()
	m.checkReign()
	m.followCore()
	if m.standing > 0 {
		m.standing--
		if l := m.core().Status().Leader; l != 0 && l != m.standsFor {
			m.standing = 0
		} else if m.standing < m.c.electionTicks/2 {
			m.core().Lost(m.standsFor, true)
		}
	}
}

func (m *member) look() {
	leads := m.core().Status().Leader == m.id
	if leads && !m.guide.reigned {
		for i := range m.guide.since {
			m.guide.since[i] = m.c.electionTicks
		}
	}
	m.guide.reigned = leads
	for i := 1; leads && i < len(m.groups); i++ {
		if m.guide.since[i] < m.c.electionTicks/2 {
			continue
		}
		switch s := m.groups[i].Status(); {
		case s.Leader == m.id:
		case s.Leader == 0 || !m.connected[s.Leader]:
			m.guide.since[i] = -2 * m.c.electionTicks
			m.groups[i].TakeLead(true)
		default:
			m.guide.since[i] = 0
			m.groups[i].TakeLead(false)
		}
	}
}

func (m *member) checkReign() {
	inAll := !slices.ContainsFunc(m.groups, func(h *group.Hand) bool { return !h.Replicas().Has(m.id) })
	if m.core().Status().Leader != m.id || m.reigning && inAll {
		m.guide.waiting = 0
		return
	}
	if m.guide.waiting++; m.guide.waiting < 3*m.c.electionTicks {
		return
	}
	m.guide.waiting = 0
	if to := m.another(); to != 0 {
		m.core().GiveLead(to)
	}
}

// another returns another voter, 0 if there is none.
func (m *member) another() uint64 {
	others := slices.DeleteFunc(m.core().Replicas().Voters, func(id uint64) bool { return id == m.id })
	if len(others) == 0 {
		return 0
	}
	return others[m.c.rng.IntN(len(others))]
}

// lost is told that another member's process is gone.
func (m *member) lost(id uint64) {
	m.connected[id] = false
	led := m.core().Status().Leader == id
	for _, h := range m.groups {
		h.Lost(id, false)
	}
	voters := m.core().Replicas().Voters
	if !led || !slices.Contains(voters, m.id) {
		return
	}
	rank := 0
	for _, v := range voters {
		if v < m.id && v != id && m.connected[v] {
			rank++
		}
	}
	m.standing, m.standsFor = m.c.electionTicks/2+rank, id
}
