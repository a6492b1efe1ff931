package group_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing/synctest"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// maxMembers bounds the members that there ever are in a cluster.
const maxMembers = 14

// cluster is a cluster of several members and groups in which one source of
// random numbers decides what happens next. So a seed replays exactly.
type cluster struct {
	seed  uint64
	rng   *rand.Rand
	table *route.Table
	clock *clock.Manual
	// groups are in the order of the line's.
	groups   []mvcc.GroupID
	founders []uint64
	members  []*member
	net      network
	faults   faults
	requests requests
	// What is the same for the life of the cluster.
	electionTicks int
	heldBytes     int
	reconfigures  bool

	// now counts the steps.
	now   int
	tasks []*task
	calls []*remoteCall
	can   []action

	truth truth
	model *sim.Model
	// open are the calls that are not answered, sent all of this schedule, answers
	// those that were answered well. owners has who was answered with a revision of
	// its own, made what each call has made.
	open []*call
	sent map[int]*call
	// deposed is the member that was deposed last and may not know it.
	deposed *member
	// again are the members at which a probe has failed.
	again   []*member
	answers []*call
	owners  map[int64]*call
	made    map[int]int64
	// answered and compacted are the greatest that a client was told, compacting
	// the greatest that one has asked for.
	answered, compacted, compacting int64
	leases                          map[int64]*leaseTruth
	newestLease                     int64
	callCount, judgedRevisions      int
	// reigns counts those that have begun.
	reigns int

	tally   tally
	tracing bool
	out     io.Writer
	digest  uint64
	// failure is what another goroutine has found.
	failure any
}

// tally counts what was done, to show that it was not idle.
type tally struct {
	Schedules, Steps, Ticks                                 int
	Answered, Refused, Unknown, Reads                       int
	Revisions, Crossings, Compactions, Revoked              int
	Elections, Reigns, Starts, Crashes, Stops               int
	Snapshots, Restored, ConfChanges, Dropped, Cuts, Pauses int
	LongestHeal                                             int
}

// faults say what goes wrong in a schedule: numbers are "once in so many", 0 is
// never.
type faults struct {
	// tick and request are about steps, as is some, which is about everything that
	// is no matter of single packets.
	tick, request, some      int
	lose, duplicate, reorder int
	// guided has the leads of the groups follow core's.
	guided bool
	// kinds are the faults that there are.
	kinds []func(*cluster)
}

// action is something that may happen next.
type action struct {
	kind actionKind
	m    *member
	i    int
	t    *task
}

type actionKind int

const (
	turns actionKind = iota
	applies
	appliesOn
	writesLog
	exports
	delivers
	deliversPromise
	goesOn
)

func newCluster(seed uint64) *cluster {
	c := &cluster{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), clock: clock.NewManual(time.Unix(0, 0)), model: sim.NewModel(),
		sent: map[int]*call{}, owners: map[int64]*call{}, made: map[int]int64{}, leases: map[int64]*leaseTruth{},
		answered: mvcc.FirstRevision, out: io.Discard,
	}
	var err error
	c.table, err = route.Parse(route.DefaultResourceGroups, route.DefaultEtcdPrefix)
	must(err)
	for _, g := range c.table.Groups() {
		c.groups = append(c.groups, g.ID)
	}
	c.net.c, c.requests.c = c, c
	c.truth = newTruth(len(c.groups))
	c.electionTicks = 4 + c.rng.IntN(5)
	c.heldBytes = []int{0, 0, 3000}[c.rng.IntN(3)]
	c.reconfigures = c.rng.IntN(4) == 0
	size := []int{1, 3, 3, 3, 3, 3, 5, 5}[c.rng.IntN(8)]
	for id := range uint64(size) {
		c.founders = append(c.founders, id+1)
	}
	for range c.founders {
		c.newMember(false).open()
	}
	return c
}

// newMember makes a member that has never run.
func (c *cluster) newMember(joined bool) *member {
	m := &member{
		c: c, id: uint64(len(c.members) + 1), joined: joined, drift: 1 + c.rng.IntN(3),
		logFS: engine.NewCrashableMem(), stateFS: engine.NewCrashableMem(),
	}
	c.members = append(c.members, m)
	return m
}

// synced returns when nothing runs beside the cluster: the few goroutines that
// the product starts for a moment, and those of the databases.
func (c *cluster) synced() {
	synctest.Wait()
	if c.failure != nil {
		panic(c.failure)
	}
}

func (c *cluster) fatal(err error) { violated("a member can not go on: %v", err) }

func (c *cluster) panicked(op evaluate.Op, cause any, stack []byte) {
	violated("evaluation of %s panics: %v\n%s", sim.FormatOp(op), cause, stack)
}

func (c *cluster) trace(format string, args ...any) {
	if c.tracing {
		fmt.Fprintf(c.out, "%d: %s\n", c.now, fmt.Sprintf(format, args...))
	}
}

// note takes what happens into the digest of the schedule.
func (c *cluster) note(values ...uint64) {
	const prime = 1099511628211 // as FNV-1a's
	for _, v := range values {
		c.digest = (c.digest ^ v) * prime
	}
}

// begun is told that a member reigns.
func (c *cluster) begun(m *member, epoch uint64) {
	c.reigns++
	c.tally.Reigns++
	c.trace("member %d reigns in epoch %d from revision %d on", m.id, epoch, m.line.Present())
}

// closes holds that a member has everything up to rev: in every group, and for
// good.
func (c *cluster) closes(m *member, rev int64, what string) {
	t := &c.truth
	t.show(rev, fmt.Sprintf("member %d, %s,", m.id, what))
	for g := range t.groups {
		if n := t.groups[g].upTo(rev); m.pos[g] < n {
			violated("member %d has %d closed, %s, and group %d at %d only", m.id, rev, what, g, t.groups[g].revisionAt(m.pos[g]))
		}
	}
	t.closed = max(t.closed, rev)
}

// look finds everything that may happen next.
func (c *cluster) look() {
	c.can = c.can[:0]
	for _, m := range c.members {
		if !m.up || m.pause.all > c.now {
			continue
		}
		for i, h := range m.groups {
			if m.pause.loops[i] <= c.now && h.HasMail() {
				c.can = append(c.can, action{kind: turns, m: m, i: i})
			}
			switch w := m.waits[i]; {
			case m.pause.appliers[i] > c.now:
			case w != nil && w.atGate.Load():
				c.can = append(c.can, action{kind: appliesOn, m: m, i: i})
			case w == nil && h.Unapplied() > 0:
				c.can = append(c.can, action{kind: applies, m: m, i: i})
			}
		}
		if m.pause.disk <= c.now && m.writer.Waiting() > 0 {
			c.can = append(c.can, action{kind: writesLog, m: m})
		}
		if len(m.exports) > 0 {
			c.can = append(c.can, action{kind: exports, m: m})
		}
	}
	for _, m := range c.members {
		if m.pause.all > c.now {
			continue
		}
		for from := range c.members {
			l := &c.net.links[from+1][m.id]
			if l.held > c.now {
				continue
			}
			if len(l.queue) > 0 {
				c.can = append(c.can, action{kind: delivers, m: m, i: from + 1})
			}
			if l.promise != nil {
				c.can = append(c.can, action{kind: deliversPromise, m: m, i: from + 1})
			}
		}
	}
	c.tasks = slices.DeleteFunc(c.tasks, (*task).over)
	for _, t := range c.tasks {
		if t.at.pause.all <= c.now && t.at.pause.tasks <= c.now && t.ready() {
			c.can = append(c.can, action{kind: goesOn, m: t.at, t: t})
		}
	}
}

// step lets one thing happen.
func (c *cluster) step() {
	c.now++
	c.tally.Steps++
	f := &c.faults
	switch {
	case f.tick > 0 && c.rng.IntN(f.tick) == 0:
		c.tick()
	case f.some > 0 && len(f.kinds) > 0 && c.rng.IntN(f.some) == 0:
		f.kinds[c.rng.IntN(len(f.kinds))](c)
	case f.request > 0 && c.rng.IntN(f.request) == 0:
		c.request()
	default:
		c.look()
		if len(c.can) == 0 {
			c.tick()
			break
		}
		c.act(c.can[c.rng.IntN(len(c.can))])
	}
	c.after()
}

func (c *cluster) act(a action) {
	c.note(uint64(a.kind), a.m.id, uint64(a.i))
	m := a.m
	if *simActions {
		c.trace("action %d of member %d, %d", a.kind, m.id, a.i)
	}
	switch a.kind {
	case turns:
		m.groups[a.i].Turn()
	case applies:
		m.apply(a.i)
	case appliesOn:
		close(m.waits[a.i].open)
	case writesLog:
		m.writer.Write(1 + c.rng.IntN(m.writer.Waiting()))
	case exports:
		m.export()
	case delivers:
		c.net.deliver(uint64(a.i), m.id)
	case deliversPromise:
		c.net.deliverPromise(uint64(a.i), m.id)
	case goesOn:
		a.t.run()
	}
}

// tick is a tick of some member; the clocks of some go faster.
func (c *cluster) tick() {
	c.tally.Ticks++
	n := 0
	for _, m := range c.members {
		if m.up && m.pause.all <= c.now {
			n += m.drift
		}
	}
	if n == 0 {
		return
	}
	n = c.rng.IntN(n)
	for _, m := range c.members {
		if m.up && m.pause.all <= c.now {
			if n -= m.drift; n < 0 {
				c.note(100, m.id)
				m.tick()
				return
			}
		}
	}
}

// maxOpen bounds the calls at a member that are not answered.
const maxOpen = 6

// request sends something to some member. Where more than one think that they
// reign, it is most often one of those.
func (c *cluster) request() {
	open := map[*member]int{}
	for _, k := range c.open {
		open[k.task.at]++
	}
	var up, reigning []*member
	for _, m := range c.members {
		if !m.up || open[m] >= maxOpen {
			continue
		}
		up = append(up, m)
		if m.reigning {
			reigning = append(reigning, m)
		}
	}
	if len(reigning) > 1 && c.rng.IntN(4) > 0 {
		up = reigning
	}
	if len(up) == 0 {
		return
	}
	m := up[c.rng.IntN(len(up))]
	op, kind := c.requests.next()
	if m == c.deposed && m.reigning {
		// What changes something would never be committed, and hold up the rest.
		op, kind = c.requests.unchanging()
	}
	c.send(m, op, kind)
}

// after is what follows on each step.
func (c *cluster) after() {
	c.synced()
	for _, m := range c.members {
		if m.up {
			m.check()
		}
		if m.up && m.gone {
			c.trace("member %d was removed and stops", m.id)
			m.end()
		}
	}
	c.open = slices.DeleteFunc(c.open, func(k *call) bool {
		if !k.ended && k.task.over() {
			c.end(k, evaluate.Result{}, group.ErrStopped)
		}
		return k.ended
	})
}

// hangUp ends the calls that a member was serving when it ended.
func (c *cluster) hangUp(m *member) {
	c.calls = slices.DeleteFunc(c.calls, func(k *remoteCall) bool {
		if k.server == m.id {
			k.end(nil, group.ErrLeaderChanged)
		}
		return k.over
	})
}
