package group

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/pkg/tracing"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

var (
	// ErrStopped says that the member is stopping or has failed. Whether the
	// request takes effect is not known.
	ErrStopped = errors.New("group: stopped")
	// ErrLeaderChanged says that this member's reign ended while the request was
	// under way. Whether it takes effect is not known.
	ErrLeaderChanged = errors.New("group: leader changed")
	// ErrNotSequencer says that this member does not reign, and so can not run
	// the request. It had no effect.
	ErrNotSequencer = errors.New("group: this member is not the sequencer")
	// ErrNoLeader says that no leader is known. The request had no effect.
	ErrNoLeader = errors.New("group: no leader")
	// ErrTimeout says that a read's confirmation took too long.
	ErrTimeout = errors.New("group: request timed out")
	// ErrTooManyRequests says that the group's queue is full. The request had
	// no effect.
	ErrTooManyRequests = errors.New("group: too many requests")
)

// Bounds of what one group holds.
const (
	// maxQueued bounds the requests that wait for evaluation.
	maxQueued = 5000
	// maxEntryRequests and maxEntryBytes bound what goes into one entry; an
	// entry has one request at least.
	maxEntryRequests = 2048
	maxEntryBytes    = 1 << 20
	// maxMessageBytes bounds the entries of one raft message.
	maxMessageBytes = 1 << 20
	// maxInflightMessages bounds raft's unacknowledged messages to a peer.
	maxInflightMessages = 256
)

// Observer is told of what becomes of a group. Its methods must not block.
type Observer interface {
	// Applied is called for each batch after it can be read and before its
	// callers are answered, by the applier, in order. index is that of the last
	// entry.
	Applied(index uint64, out *mvcc.Outcome)
	// Restoring is called before the rows of a snapshot can be read, in which
	// versions below a revision may be missing.
	Restoring(floor int64)
	// Restored is called in place of Applied when the group was given a snapshot.
	Restored(applied mvcc.Applied)
	// Leads is called by the loop when this replica leads the group's raft, with
	// its term, and has applied everything of earlier terms; and with 0 when
	// it does not lead any more.
	Leads(term uint64)
	// Fenced is called by the loop when the group has applied the fence of epoch,
	// with the id of its last part.
	Fenced(epoch, part uint64)
	// Changed is called by the loop when Status has another leader or term.
	Changed()
	// Configured is called when raft's configuration has changed and is stored.
	Configured()
}

// Transport carries raft messages to other members. It must not block.
type Transport interface {
	Send(group mvcc.GroupID, messages []*raftpb.Message)
	// SendSnapshot sends m, of type MsgSnap, with the group's rows, and tells of
	// its end by Group.SnapshotSent.
	SendSnapshot(group mvcc.GroupID, m *raftpb.Message)
}

// Config of a Group. All fields are required unless said.
type Config struct {
	ID      mvcc.GroupID
	Replica uint64
	Log     *Log
	Writer  *LogWriter
	Store   *mvcc.Store
	// Line hands out revisions; Closed is what the state remembers as closed,
	// and may be nil.
	Line *revline.Line
	// Compacted is the revision of the last compaction that core has applied here,
	// effective or not; nil for the store's.
	Compacted func() int64
	// Leases, MinTTL and Mirroring are for evaluation; Mirroring may be nil.
	Leases    evaluate.Leases
	MinTTL    int64
	Mirroring func() bool
	Observer  Observer
	// Confirm calls back once a quorum has confirmed, after the call, that this
	// member reigns; nil if nobody could have ended its reign.
	Confirm func(answer func(error))
	// Sole says that there is nobody who could have ended it.
	Sole func() bool
	// Transport may be nil in a group of one.
	Transport Transport
	Clock     clock.Clock
	Tick      time.Duration
	// ElectionTicks is the number of ticks without a leader before an election.
	ElectionTicks int
	Logger        *slog.Logger
	// ApplySeconds observes what each commit to the state takes; may be nil.
	ApplySeconds prometheus.Observer
	// Traced says that the contexts of requests may have a tracing.Request.
	Traced bool
	// Fatal is told of a state that can't be gone on from.
	Fatal func(error)
}

// Group is this member's replica of one raft group. Methods may be called
// concurrently.
type Group struct {
	cfg  Config
	rn   *raft.RawNode
	eval *evaluate.Evaluator

	inbox   inbox
	applier applier
	stop    chan struct{}
	stopped chan struct{}
	once    sync.Once

	// The fields from here on belong to the loop.
	// appending counts the appends of entries that are under way, writing all that the
	// log writer was given.
	appending int
	writing   int
	// taken is how many requests were evaluated the last time.
	taken      int
	compressor compressor
	role       raft.StateType
	// ledTerm is the term that Observer.Leads was told of, 0 for none.
	ledTerm uint64
	reign   reign
	reads   readQueue
	queue   []*proposal
	// unconfirmed are answered by the loop, or when it has ended.
	unconfirmed map[*unconfirmed]struct{}
	conf        *raftpb.ConfState
	// incoming are the snapshots that have come and are not restored yet.
	incoming []*Incoming
	// restoring counts the snapshots that are being put into the state; appends
	// wait until the last of them is.
	restoring int
	appends   []*raftpb.Message
	// unlogged are the traced requests whose entries are not synced yet.
	unlogged []*tracing.Request

	// status is published by the loop for Status.
	status atomic.Pointer[Status]
	// sole says that this member reigns and this replica is the only voter:
	// nobody can have ended the reign, so that it needs no confirmation.
	sole atomic.Bool
	// confState is conf, for others than the loop.
	confState atomic.Pointer[raftpb.ConfState]
	counts    counts
	// ready is closed when the group can first serve.
	ready     chan struct{}
	readyOnce sync.Once
}

// Status is what a group says of itself.
type Status struct {
	// Leader is the replica that leads, 0 if none is known.
	Leader uint64
	Term   uint64
	// Commit is the index of the last committed entry.
	Commit uint64
}

// Open opens the replica. Nothing of it runs before Start.
func Open(cfg Config) (*Group, error) {
	g := &Group{
		cfg: cfg, stop: make(chan struct{}), stopped: make(chan struct{}), ready: make(chan struct{}),
		unconfirmed: map[*unconfirmed]struct{}{},
	}
	g.inbox.wake = make(chan struct{}, 1)
	g.status.Store(&Status{})
	row, err := cfg.Store.ConfState()
	if err != nil {
		return nil, err
	}
	conf := &raftpb.ConfState{}
	if err := proto.Unmarshal(row, conf); err != nil {
		return nil, fmt.Errorf("group: bad configuration row: %w", err)
	}
	g.setConf(conf)
	applied := cfg.Store.Applied()
	if err := cfg.Log.finishRestore(cfg.Store); err != nil {
		return nil, err
	}
	if err := cfg.Log.start(applied.Index, conf); err != nil {
		return nil, err
	}
	cfg.Log.setSnapshotSource(g.snapshotSource)
	cfg.Log.setKnown(applied.Index)
	g.rn, err = raft.NewRawNode(&raft.Config{
		ID:                       cfg.Replica,
		ElectionTick:             cfg.ElectionTicks,
		HeartbeatTick:            1,
		Storage:                  cfg.Log,
		Applied:                  applied.Index,
		AsyncStorageWrites:       true,
		MaxSizePerMsg:            maxMessageBytes,
		MaxCommittedSizePerReady: 16 << 20,
		MaxInflightMsgs:          maxInflightMessages,
		CheckQuorum:              true,
		PreVote:                  true,
		// A leader that is no voter any more would confirm its lead to itself.
		StepDownOnRemoval: true,
		Logger:            raftLogger{cfg.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("group: start raft: %w", err)
	}
	g.eval = evaluate.New(evaluate.Config{
		Store: cfg.Store, Group: cfg.ID, Leases: cfg.Leases, MinTTL: cfg.MinTTL,
		Next:     g.nextRevision,
		GiveBack: func(rev int64) { cfg.Line.GiveBack(cfg.ID, rev) },
		Present:  cfg.Line.Present, Compacted: cfg.Compacted, Panicked: g.panicked,
		Mirroring: cfg.Mirroring,
	})
	// An answer to a question that was asked before a restart must not pass for
	// one to a question after it.
	g.reads.number = rand.Uint64()
	g.applier.init(g)
	return g, nil
}

// nextRevision hands out a request's revision. It is above everything that the
// evaluator stands on, also if the reign has ended and the loop was not told yet:
// then the state may have the next sequencer's entries, and what is evaluated will
// be dropped.
func (g *Group) nextRevision() int64 {
	return max(g.cfg.Line.Next(g.cfg.ID), g.eval.Head()+1)
}

// Start runs the replica.
func (g *Group) Start() {
	go g.applier.run()
	go g.run()
}

// Learns says whether this replica is a learner.
func (g *Group) Learns() bool {
	c := g.confState.Load()
	return len(c.GetLearners()) > 0 && slices.Contains(c.GetLearners(), g.cfg.Replica)
}

// ID returns the group's id.
func (g *Group) ID() mvcc.GroupID { return g.cfg.ID }

// Ready is closed once the group has served or can serve a request here.
func (g *Group) Ready() <-chan struct{} { return g.ready }

// Sole says that this member reigns and is the only voter, so that nothing but
// it can acknowledge a request.
func (g *Group) Sole() bool { return g.sole.Load() }

// Queued returns how many requests wait for their evaluation.
func (g *Group) Queued() int64 { return g.inbox.queued.Load() }

// AppliedIndex returns the index of the last applied entry.
func (g *Group) AppliedIndex() uint64 { return g.applier.index.Load() }

// Status returns the group's newest status.
func (g *Group) Status() Status { return *g.status.Load() }

// Stop ends the replica. Requests under way get ErrStopped. It returns when
// nothing of it runs any more.
func (g *Group) Stop() {
	g.once.Do(func() { close(g.stop) })
	<-g.stopped
	g.applier.close()
}

func (g *Group) panicked(op evaluate.Op, cause any, stack []byte) {
	g.cfg.Logger.Error("evaluation of a request panicked, the request had no effect",
		"request", fmt.Sprintf("%T", op), "cause", cause, "stack", string(stack))
}

func (g *Group) run() {
	defer close(g.stopped)
	defer g.failAll()
	ticker := g.cfg.Clock.NewTicker(g.cfg.Tick)
	defer ticker.Stop()
	if g.isAlone() {
		g.standAlone()
	} else {
		// Where somebody leads, a heartbeat comes before the tick that is left, or a
		// pre-vote is refused; where nobody does, nobody has to be waited for, as in
		// etcd (--initial-election-tick-advance).
		for range g.cfg.ElectionTicks - 1 {
			g.rn.Tick()
		}
	}
	var box letters
	for {
		g.handleReady()
		select {
		case <-g.stop:
			return
		case <-ticker.C():
			g.tick()
		case <-g.inbox.wake:
			g.inbox.take(&box)
			g.handle(&box)
		}
		g.evaluate()
	}
}

// isAlone says whether this replica is the only voter.
func (g *Group) isAlone() bool {
	v := g.conf.GetVoters()
	return len(v) == 1 && v[0] == g.cfg.Replica
}

// standAlone has the only voter lead: to wait for an election timeout helps nobody.
// Raft refuses while it knows of a change of the configuration that is committed and
// not applied, as there often is after a restart; noteApplied comes here again.
func (g *Group) standAlone() {
	if s := g.rn.BasicStatus(); s.RaftState != raft.StateFollower || s.Applied < s.GetCommit() {
		return
	}
	if err := g.rn.Campaign(); err != nil {
		g.cfg.Logger.Warn("could not campaign", "error", err)
	}
}

func (g *Group) tick() {
	g.rn.Tick()
	g.reads.tick(g.cfg.ElectionTicks)
	if g.reign.epoch == 0 {
		return
	}
	if !g.reign.fenced {
		g.proposeFence()
	}
	g.reign.quiet++
	g.proposeAgain()
}

// handle takes in what has arrived.
func (g *Group) handle(box *letters) {
	for _, m := range box.steps {
		switch m.GetType() {
		case raftpb.MsgStorageAppend:
			g.writing--
			g.stored(m)
		default:
			g.step(m)
		}
	}
	for _, call := range box.calls {
		call()
	}
	for _, a := range box.applied {
		g.noteApplied(a)
	}
	g.queue = append(g.queue, box.proposals...)
	g.reads.add(box.reads)
	box.reset()
}

// stored takes in that an append is durable.
func (g *Group) stored(m *raftpb.Message) {
	if len(m.GetEntries()) > 0 {
		g.appending--
		g.logged()
	}
	for _, r := range m.GetResponses() {
		g.deliver(r)
	}
}

// deliver takes a response of a storage message to where it belongs.
func (g *Group) deliver(m *raftpb.Message) {
	if m.GetTo() == g.cfg.Replica {
		g.step(m)
		return
	}
	g.send([]*raftpb.Message{m})
}

func (g *Group) step(m *raftpb.Message) {
	if err := g.rn.Step(m); err != nil {
		g.cfg.Logger.Debug("raft did not take a message", "type", m.GetType().String(), "error", err)
	}
}

func (g *Group) send(ms []*raftpb.Message) {
	if g.cfg.Transport != nil && len(ms) > 0 {
		g.cfg.Transport.Send(g.cfg.ID, ms)
	}
}

// handleReady does what raft asks for, until it asks for nothing.
func (g *Group) handleReady() {
	for {
		for g.rn.HasReady() {
			g.handleOne(g.rn.Ready())
		}
		// A read that needs a confirmation has raft ask for more.
		g.reads.serve(g)
		if !g.rn.HasReady() {
			break
		}
	}
	g.publish()
}

func (g *Group) handleOne(rd raft.Ready) {
	if rd.SoftState != nil {
		g.role = rd.RaftState
		g.reads.leaderChanged(g)
		if g.role != raft.StateLeader && g.ledTerm != 0 {
			g.setLeads(0)
		}
		if g.reign.epoch != 0 && rd.Lead != raft.None {
			if !g.reign.fenced {
				g.proposeFence()
			}
			g.proposeAgain()
		}
	}
	var out []*raftpb.Message
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			if m.Snapshot != nil {
				g.restore(m)
			} else {
				g.submit(m)
			}
		case raft.LocalApplyThread:
			g.apply(m)
		default:
			if m.GetType() == raftpb.MsgSnap {
				g.cfg.Transport.SendSnapshot(g.cfg.ID, m)
			} else {
				out = append(out, m)
			}
		}
	}
	g.send(out)
	for _, rs := range rd.ReadStates {
		g.reads.confirmed(g, rs.RequestCtx)
	}
}

// apply has committed entries applied.
func (g *Group) apply(m *raftpb.Message) {
	if g.unhurried() {
		// Whoever looks is to see what is committed, should it not be applied for long.
		g.publish()
		if g.applier.applyNow(m) {
			return
		}
	}
	g.applier.submit(task{m: m})
}

// submit hands an append to the log writer. A message that only moves the
// commit index needs no write: a restart finds the commit index anew.
func (g *Group) submit(m *raftpb.Message) {
	if g.restoring > 0 {
		g.appends = append(g.appends, m)
		return
	}
	if len(m.GetEntries()) == 0 && len(m.GetResponses()) == 0 && !g.cfg.Log.votes(m) {
		return
	}
	if len(m.GetEntries()) > 0 {
		g.appending++
	}
	// Where nobody else votes there is nothing to do for the loop until it is durable:
	// nothing is evaluated before (room).
	if g.writing == 0 && g.isAlone() && g.cfg.Writer.writeNow(appendRequest{log: g.cfg.Log, msg: m, done: g.stored}) {
		return
	}
	g.write(m)
}

// write hands an append to the log writer, which sends it back when it is durable.
func (g *Group) write(m *raftpb.Message) {
	g.writing++
	g.cfg.Writer.submit(appendRequest{log: g.cfg.Log, msg: m, done: g.inbox.step})
}

// fewRequests are not worth another goroutine.
const fewRequests = 2

// unhurried says that the loop may apply: there is no other replica that would miss it,
// and there are not many requests, which could be evaluated meanwhile.
func (g *Group) unhurried() bool {
	return g.isAlone() && g.taken <= fewRequests && g.inbox.queued.Load() == 0
}

// votes says whether m changes the term or the vote of the log's hard state.
func (l *Log) votes(m *raftpb.Message) bool {
	if m.Term == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return m.GetTerm() != l.hard.GetTerm() || m.GetVote() != l.hard.GetVote()
}

// noteApplied takes in what the applier has applied.
func (g *Group) noteApplied(a appliedNote) {
	if a.epoch == g.reign.epoch {
		for range a.evaluated {
			g.eval.Applied()
		}
		for _, c := range a.calls {
			c.fn(c.index)
		}
		if a.own > 0 {
			g.reign.quiet = 0
		}
	}
	if a.response != nil {
		g.step(a.response)
		g.cfg.Log.setKnown(g.rn.BasicStatus().Applied)
		if g.ledTerm == 0 && g.isAlone() {
			g.standAlone()
		}
	}
	if a.fence != 0 {
		g.counts.fences.Add(1)
		if a.fence == g.reign.epoch {
			g.reign.fenced = true
		}
		g.cfg.Observer.Fenced(a.fence, a.part)
	}
	// Once this term's first entry is applied, nothing of an earlier term can
	// still be.
	if term := g.rn.BasicStatus().GetTerm(); g.role == raft.StateLeader && g.ledTerm != term && a.term == term {
		g.setLeads(term)
	}
	g.drained()
}

func (g *Group) setLeads(term uint64) {
	g.ledTerm = term
	g.cfg.Observer.Leads(term)
}

func (g *Group) setSole() {
	v := g.conf.GetVoters()
	g.sole.Store(g.reign.begun && len(v) == 1 && v[0] == g.cfg.Replica)
}

func (g *Group) publish() {
	s := g.rn.BasicStatus()
	now := Status{Leader: s.Lead, Term: s.GetTerm(), Commit: s.GetCommit()}
	before := *g.status.Load()
	if before == now {
		return
	}
	g.status.Store(&now)
	if before.Leader != now.Leader && now.Leader != raft.None {
		g.counts.leaderChanges.Add(1)
	}
	if before.Leader != now.Leader || before.Term != now.Term {
		g.cfg.Observer.Changed()
	}
}

func (g *Group) setConf(conf *raftpb.ConfState) {
	g.conf = conf
	g.confState.Store(conf)
	g.setSole()
}

// failAll answers everybody who still waits when the loop has ended.
func (g *Group) failAll() {
	box := g.inbox.close()
	for _, p := range append(g.queue, box.proposals...) {
		p.fail(ErrStopped)
	}
	g.reads.add(box.reads)
	g.reads.fail(g, ErrStopped)
	g.applier.flight.fail(ErrStopped)
	for u := range g.unconfirmed {
		u.fail(ErrStopped)
	}
	for _, in := range g.incoming {
		in.Rows.Drop()
	}
}

// post has fn run by the loop; not at all once the group has stopped.
func (g *Group) post(fn func()) { _ = g.inbox.call(fn) }

// Step takes a raft message of another member. Messages that only this replica
// may send itself are dropped.
func (g *Group) Step(m *raftpb.Message) {
	if raft.IsLocalMsg(m.GetType()) || m.GetType() == raftpb.MsgSnap {
		return
	}
	g.inbox.step(m)
}

// Bootstrap writes the beginning of a group whose members are voters, all of
// which must write the same; members are the members' rows, if there are any. It
// may be repeated until it has succeeded. flush makes the state durable.
func Bootstrap(l *Log, store *mvcc.Store, voters []uint64, members map[uint64][]byte, flush func() error) error {
	const index, term = 1, 1
	if l.Bootstrapped() {
		return nil
	}
	row, err := proto.Marshal(&raftpb.ConfState{Voters: voters})
	if err != nil {
		return fmt.Errorf("group: bootstrap: %w", err)
	}
	if store.Applied().Index == 0 {
		b := store.NewBatch()
		err := errors.Join(b.Add(index, term, nil), b.SetConfState(row))
		for id, member := range members {
			err = errors.Join(err, b.SetMember(id, member))
		}
		if err != nil {
			b.Drop()
			return fmt.Errorf("group: bootstrap: %w", err)
		}
		if _, err := b.Commit(); err != nil {
			return err
		}
	}
	// The log must not begin before the state that it follows is safe.
	if err := flush(); err != nil {
		return fmt.Errorf("group: bootstrap: %w", err)
	}
	return l.Bootstrap(index, term)
}

// Confirm calls back, on any goroutine, once a quorum has confirmed after the
// call that this replica leads; or with an error if it does not.
func (g *Group) Confirm(answer func(error)) {
	if g.sole.Load() {
		answer(nil)
		return
	}
	if err := g.inbox.read(&read{answer: answer}); err != nil {
		answer(err)
	}
}
