package group_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/keyspace"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/reign"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// member is a member as storage/member makes it, of the same parts, but without
// goroutines, sockets and clocks: the cluster says what happens when.
type member struct {
	c  *cluster
	id uint64
	// logFS and stateFS lose what was not synced each for itself.
	logFS, stateFS *engine.MemFS
	// joined says that it came to a cluster that was there.
	joined bool
	// up says that it runs; life counts its runs. gone says that it will not run
	// again, because it was removed.
	up, gone bool
	life     int
	drift    int

	// What follows is of this run.
	logs, state *engine.DB
	writer      *group.LogWriter
	logOf       []*group.Log
	stores      []*mvcc.Store
	groups      []*group.Hand
	space       *keyspace.Space
	line        *revline.Line
	reign       *reign.Reign
	leases      leases
	decided     int64
	reigning    bool
	// firstPromise is the closed revision of the first promise that has come.
	firstPromise int64
	ready        bool
	// news and changed count what member.Member tells by channels.
	news, changed int
	ticks         int
	points        points
	guide         guide
	// removed are the members that core says were removed, connected the others
	// that this one has a connection with.
	removed, connected [maxMembers + 1]bool
	// standing says for how many ticks more it stands for core, in the place of
	// gone.
	standing  int
	standsFor uint64
	// changing says that a change of the members is under way.
	changing bool
	exports  []export
	pause    pause
	// waits are those of its appliers that wait for their loop.
	waits []*waitingApplier
	// dead is closed when the run ends.
	dead chan struct{}

	// What the checkers know of it. pos is how many of each group's revisions it
	// has applied, published up to where the sink was told.
	pos       []int
	published int64
	// told is what the sink was told and was not checked.
	told []told
	// shown are revisions that were shown and not checked.
	shown []int64
}

// pause says before which step parts of a member do nothing.
type pause struct {
	all, disk, tasks int
	loops, appliers  []int
}

// told is one call of the sink.
type told struct {
	events   []*mvccpb.Event
	revision int64
	restored bool
}

var quietLog = slog.New(slog.DiscardHandler)

// open starts a run.
func (m *member) open() {
	c := m.c
	m.life++
	*m = member{
		c: c, id: m.id, logFS: m.logFS, stateFS: m.stateFS, joined: m.joined, life: m.life, drift: m.drift, up: true,
		waits: make([]*waitingApplier, len(c.groups)), dead: make(chan struct{}), pos: make([]int, len(c.groups)),
		pause: pause{loops: make([]int, len(c.groups)), appliers: make([]int, len(c.groups))},
	}
	c.tally.Starts++
	m.logs, m.state = c.openDB(m.logFS, "log"), c.openDB(m.stateFS, "state")
	m.writer = group.NewIdleLogWriter(m.logs)
	must(mvcc.RemoveIngests(m.stateFS, "ingest"))
	m.openParts()
	m.leases.load(m.stores[0])
	m.openLine()
	m.openGroups()
	c.synced()
	c.trace("member %d runs: closed %d, revisions %v", m.id, m.line.Closed(), m.revisions())
}

func (c *cluster) openDB(fs engine.FS, dir string) *engine.DB {
	db, err := engine.Open(engine.Config{
		Dir: dir, FS: fs, Log: dir == "log", CacheBytes: 8 << 10, Logger: quietLog, Fatal: c.fatal,
		// NB: it is flushed before it is full: when that is goes by random numbers of
		// Pebble's.
		MemTableBytes: 1 << 20,
	})
	must(err)
	return db
}

func (m *member) openParts() {
	stores := map[mvcc.GroupID]*mvcc.Store{}
	rows := map[uint64][]byte{}
	for _, v := range m.c.founders {
		rows[v] = memberRow(v)
	}
	for _, g := range m.c.groups {
		store, err := mvcc.Open(m.state, g)
		must(err)
		log, err := group.OpenLog(m.logs, g)
		must(err)
		switch {
		case log.Bootstrapped():
		case m.joined:
			must(log.BeginEmpty())
		default:
			must(group.Bootstrap(log, store, m.c.founders, rows, m.state.Flush))
		}
		rows = nil
		m.decided = max(m.decided, store.DeferCompactions())
		stores[g] = store
		m.stores, m.logOf = append(m.stores, store), append(m.logOf, log)
	}
	m.space = keyspace.New(m.c.table, stores)
}

func memberRow(id uint64) []byte { return fmt.Appendf(nil, "member %d", id) }

func (m *member) openLine() {
	cfg := revline.Config{
		Groups: m.c.groups, Sink: sink{m}, Advanced: func(int64) { m.compact(); m.maybeReady() }, Tell: m.promise,
		MaxHeldBytes: m.c.heldBytes,
	}
	for g, s := range m.stores {
		closed, err := s.Closed()
		must(err)
		cfg.Applied = append(cfg.Applied, s.Applied())
		cfg.Closed = max(cfg.Closed, closed)
		m.found(g)
	}
	m.line = revline.New(cfg)
	m.published = m.line.Closed()
	m.c.closes(m, m.published, "the rows of a restart")
	m.compact()
	m.reign = reign.New(reign.Config{
		Line: m.line, Core: m.stores[0], Needs: m.needs, Logger: quietLog,
		Crossing: evaluate.NewCrossing(evaluate.CrossingConfig{
			Space: m.space, Route: m.c.table.Of, Leases: &m.leases, MinTTL: 2,
			Next: m.line.NextCrossing, GiveBack: m.line.GiveBackCrossing,
			Present: m.line.Present, Compacted: m.space.Compacted, Panicked: m.c.panicked,
		}),
		Begun: m.begun, Ended: m.ended, Fatal: m.c.fatal,
		Go: func(f func()) { m.newTask().wait(always, f) },
	})
}

// found finds the place of a group whose rows did not come through its log.
func (m *member) found(g int) {
	a := m.stores[g].Applied()
	t := &m.c.truth
	if a.Index == 0 {
		return
	}
	t.place(g, a)
	m.pos[g] = t.groups[g].upTo(a.Revision)
	if want := t.groups[g].revisionAt(m.pos[g]); want != a.Revision {
		violated("member %d: the rows of group %d have revision %d, which is none of the group's", m.id, g, a.Revision)
	}
}

func (m *member) openGroups() {
	var groups []*group.Group
	for i, g := range m.c.groups {
		h, err := group.OpenByHand(group.Config{
			ID: g, Replica: m.id, Log: m.logOf[i], Writer: m.writer, Store: m.stores[i],
			Line: m.line, Compacted: m.space.Compacted, Leases: &m.leases, MinTTL: 2,
			Observer: observer{m, i}, Confirm: m.confirm, Sole: m.sole, Transport: m,
			Clock: gate{m.c.clock, m, i}, Tick: 100 * time.Millisecond, ElectionTicks: m.c.electionTicks,
			Logger: quietLog, Fatal: m.c.fatal,
		})
		must(err)
		m.groups = append(m.groups, h)
		groups = append(groups, h.Group)
	}
	m.loadMembers()
	m.guide.since = make([]int, len(m.groups))
	m.reign.Start(groups)
	for _, h := range m.groups {
		h.Wake()
	}
}

func (m *member) core() *group.Hand { return m.groups[0] }

func (m *member) confirm(answer func(error)) { m.core().Confirm(answer) }

func (m *member) sole() bool { return m.core().Sole() }

// maybeReady is member.Member's.
func (m *member) maybeReady() {
	if m.firstPromise > 0 && m.line.Closed() >= m.firstPromise {
		m.ready = true
	}
}

func (m *member) begun(epoch uint64) {
	m.reigning, m.ready = true, true
	m.news++
	m.c.begun(m, epoch)
}

func (m *member) ended() {
	m.reigning = false
	m.news++
	m.c.trace("member %d reigns no more", m.id)
}

// compact makes the last compaction effective if everything up to it is here.
func (m *member) compact() {
	if m.line != nil && m.decided > m.space.Compacted() && m.decided <= m.line.Closed() {
		m.space.SetCompacted(m.decided)
	}
}

// needs returns the groups that a request touches.
func (m *member) needs(op evaluate.Op) revline.Mask {
	mask := revline.Mask(evaluate.Needs(op, m.space) >> mvcc.CoreGroup)
	if r, ok := op.(*evaluate.LeaseRevoke); ok {
		for _, g := range m.leases.Groups(r.ID) {
			mask |= 1 << (g - mvcc.CoreGroup)
		}
	}
	return mask
}

// loadMembers reads from core's state who was removed. Who is refused must not be
// forgotten.
func (m *member) loadMembers() {
	before := m.removed
	must(m.stores[0].Members(func(id uint64, row []byte) { m.removed[id] = len(row) == 0 }))
	if before != m.removed {
		must(m.state.Flush())
	}
}

// meetRefusal has a member that was removed stop when it talks with one that knows.
func (m *member) meetRefusal() {
	for _, o := range m.c.members {
		if o != m && o.up && o.removed[m.id] && !m.c.net.links[m.id][o.id].cut && !m.c.net.links[o.id][m.id].cut {
			m.gone = true
		}
	}
}

func (m *member) revisions() []int64 {
	var revs []int64
	for _, s := range m.stores {
		revs = append(revs, s.Revision())
	}
	return revs
}

// close ends a run; kept says that what was not synced is kept, in the log and in
// the state.
func (m *member) close(keptLog, keptState bool) {
	crash := func(fs *engine.MemFS, kept bool) *engine.MemFS {
		cfg := engine.CrashCloneCfg{}
		if kept {
			// NB: all or nothing, by numbers that nobody else uses: what lies between
			// goes by the order of a map.
			cfg.UnsyncedDataPercent, cfg.RNG = 100, rand.New(rand.NewPCG(0, 0))
		}
		return fs.CrashClone(cfg)
	}
	m.c.synced()
	logFS, stateFS := crash(m.logFS, keptLog), crash(m.stateFS, keptState)
	m.end()
	m.logFS, m.stateFS = logFS, stateFS
}

// end ends a run; the files are left as they are.
func (m *member) end() {
	m.up, m.pause.all = false, 0
	close(m.dead)
	for _, h := range m.groups {
		h.Die()
	}
	m.reign.End()
	m.c.hangUp(m)
	m.c.synced()
	must(m.logs.Close())
	must(m.state.Close())
	m.logs, m.state, m.exports = nil, nil, nil
}

// stop ends a run in good order: the state is flushed.
func (m *member) stop() {
	m.reign.End()
	for m.writer.Waiting() > 0 {
		m.writer.Write(m.writer.Waiting())
	}
	must(m.state.Flush())
	m.end()
}

// Send implements group.Transport.
func (m *member) Send(g mvcc.GroupID, ms []*raftpb.Message) {
	for _, msg := range ms {
		m.c.net.send(m, msg.GetTo(), &packet{kind: carriesRaft, group: int(g - mvcc.CoreGroup), raft: msg})
	}
}

// SendSnapshot implements group.Transport.
func (m *member) SendSnapshot(g mvcc.GroupID, msg *raftpb.Message) {
	m.exports = append(m.exports, export{int(g - mvcc.CoreGroup), msg})
}

// sink checks what a member publishes, when the step is over: then the truth has
// it.
type sink struct{ m *member }

// Publish implements revline.Sink.
func (s sink) Publish(events []*mvccpb.Event, revision int64) {
	s.m.told = append(s.m.told, told{events: events, revision: revision})
}

// Restored implements revline.Sink.
func (s sink) Restored(revision int64) {
	s.m.told = append(s.m.told, told{revision: revision, restored: true})
}

// check checks what the member has told since the last step.
func (m *member) check() {
	if len(m.told) > 0 {
		all := m.told
		m.told = nil
		for _, t := range all {
			m.checkTold(t)
		}
	}
	if len(m.shown) > 0 {
		for _, rev := range m.shown {
			m.c.truth.show(rev, fmt.Sprintf("member %d", m.id))
		}
		m.shown = m.shown[:0]
	}
	if present := m.line.Present(); present > m.c.truth.shown {
		m.c.truth.show(present, fmt.Sprintf("the line of member %d", m.id))
	}
}

func (m *member) checkTold(t told) {
	if t.revision < m.published || t.restored && t.revision == m.published {
		violated("member %d publishes %d after %d", m.id, t.revision, m.published)
	}
	m.c.closes(m, t.revision, "what is published")
	want := m.c.truth.between(m.published, t.revision)
	if t.restored {
		m.c.tally.Restored++
		m.checkChanges(m.published, t.revision, want)
	} else if !slices.EqualFunc(t.events, want, sameEvent) {
		violated("member %d publishes, after %d and up to %d,\n%s\nwhich should be\n%s", m.id, m.published, t.revision,
			formatEvents(t.events), formatEvents(want))
	}
	m.published = t.revision
}

// checkChanges holds that who watches finds in the store what was not published.
func (m *member) checkChanges(after, upTo int64, want []*mvccpb.Event) {
	var got []*mvccpb.Event
	from := after + 1
	if from <= m.space.Compacted() {
		return
	}
	err := m.space.Changes(context.Background(), mvcc.Span{}, from, upTo, func(e *mvccpb.Event) error {
		got = append(got, e)
		return nil
	})
	must(err)
	if !slices.EqualFunc(got, want, sameEvent) {
		violated("the store of member %d has, from %d to %d,\n%s\nwhich should be\n%s", m.id, from, upTo,
			formatEvents(got), formatEvents(want))
	}
}

// leases are the leases that a member's core has applied.
type leases struct {
	there  map[int64]int64
	joined map[int64][]mvcc.GroupID
}

func (l *leases) load(core *mvcc.Store) {
	l.there, l.joined = map[int64]int64{}, map[int64][]mvcc.GroupID{}
	must(core.Leases(func(id, ttl, _ int64) { l.there[id] = ttl }))
	must(core.Joins(func(id int64, g mvcc.GroupID) { l.joined[id] = append(l.joined[id], g) }))
}

func (l *leases) applied(changes []mvcc.LeaseChange) {
	for _, c := range changes {
		switch c.Kind {
		case mvcc.LeaseGranted:
			l.there[c.ID] = c.TTL
		case mvcc.LeaseRevoked:
			delete(l.there, c.ID)
		case mvcc.LeaseJoined:
			l.joined[c.ID] = append(slices.Clip(l.joined[c.ID]), c.Group)
		case mvcc.LeaseLeft:
			l.joined[c.ID] = slices.DeleteFunc(slices.Clone(l.joined[c.ID]), func(g mvcc.GroupID) bool { return g == c.Group })
			if len(l.joined[c.ID]) == 0 {
				delete(l.joined, c.ID)
			}
		case mvcc.LeaseCheckpointed:
		}
	}
}

// String says what is there, in order.
func (l *leases) String() string {
	s := fmt.Sprint(l.there)
	for _, id := range slices.Sorted(maps.Keys(l.joined)) {
		s += fmt.Sprintf(" %d:%v", id, slices.Sorted(slices.Values(l.joined[id])))
	}
	return s
}

// Exists implements evaluate.Leases.
func (l *leases) Exists(id int64) bool { return l.there[id] != 0 }

// Joined implements evaluate.Leases.
func (l *leases) Joined(id int64, g mvcc.GroupID) bool { return slices.Contains(l.joined[id], g) }

// Groups implements evaluate.Leases.
func (l *leases) Groups(id int64) []mvcc.GroupID { return l.joined[id] }

// observer is the member as its group at a place sees it.
type observer struct {
	m     *member
	place int
}

// Applied implements group.Observer.
func (o observer) Applied(_ uint64, out *mvcc.Outcome) {
	m := o.m
	m.pos[o.place] = m.c.truth.applied(o.place, m.pos[o.place], m.stores[o.place].Applied(), out)
	if o.place == 0 {
		m.leases.applied(out.Leases)
	}
	if out.Compacted > 0 {
		m.decided = out.Compacted
		m.compact()
	}
}

// Restoring implements group.Observer.
func (o observer) Restoring(floor int64) { o.m.space.RaiseFloor(floor) }

// Restored implements group.Observer.
func (o observer) Restored(mvcc.Applied) {
	o.m.c.tally.Snapshots++
	o.m.found(o.place)
	if o.place != 0 {
		return
	}
	o.m.leases.load(o.m.stores[0])
	o.m.decided = max(o.m.decided, o.m.stores[0].Decided())
	o.m.compact()
}

// Leads implements group.Observer.
func (o observer) Leads(term uint64) {
	if term != 0 {
		o.m.c.tally.Elections++
		o.m.c.trace("member %d leads group %d in term %d", o.m.id, o.place, term)
	}
	if o.place == 0 {
		o.m.reign.Lead(term)
	}
	o.m.news++
}

// Fenced implements group.Observer.
func (o observer) Fenced(epoch, part uint64) { o.m.reign.Fenced(o.place, epoch, part) }

// Changed implements group.Observer.
func (o observer) Changed() { o.m.news++ }

// Configured implements group.Observer.
func (o observer) Configured() {
	if o.place == 0 {
		o.m.loadMembers()
		o.m.c.admit(o.m.core().Replicas())
	}
	o.m.changed++
}

var _ group.Observer = observer{}

// waitingApplier is an applier that runs on a goroutine, because it waits for its
// loop. What it does with what the loop tells it is another step.
type waitingApplier struct {
	atGate atomic.Bool
	open   chan struct{}
}

// gate is the clock of a group. Its applier looks at it when it is about to
// commit.
type gate struct {
	clock.Clock
	m     *member
	place int
}

// Now implements clock.Clock.
func (g gate) Now() time.Time {
	if w := g.m.waits[g.place]; w != nil {
		w.atGate.Store(true)
		select {
		case <-w.open:
		case <-g.m.dead:
			runtime.Goexit()
		}
	}
	return g.Clock.Now()
}

// apply has the applier of a group do its next task: on a goroutine of its own,
// if it will wait for the loop.
func (m *member) apply(g int) {
	h := m.groups[g]
	if !h.ApplyWaits() {
		must(h.Apply())
		return
	}
	m.waits[g] = &waitingApplier{open: make(chan struct{})}
	go func() {
		defer func() {
			if found := recover(); found != nil {
				m.c.failure = found
			}
			m.waits[g] = nil
		}()
		if err := h.Apply(); err != group.ErrStopped { //nolint:errorlint // as the applier has it.
			must(err)
		}
	}()
}
