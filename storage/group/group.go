package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

var (
	// ErrStopped says that the member is stopping or has failed. Whether the
	// request takes effect is not known.
	ErrStopped = errors.New("group: stopped")
	// ErrLeaderChanged says that the leader changed while the request was under
	// way. Whether it takes effect is not known.
	ErrLeaderChanged = errors.New("group: leader changed")
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

// Observer is told of what a group applies, by its applier, in order. It must
// not block.
type Observer interface {
	// Applied is called for each batch after it can be read and before its
	// callers are answered.
	Applied(mvcc.Outcome)
	// Leading is called when this replica begins and ends to evaluate.
	Leading(leading bool)
}

// Transport carries raft messages to other members. Send must not block.
type Transport interface {
	Send(group mvcc.GroupID, messages []*raftpb.Message)
}

// Config of a Group. All fields are required unless said.
type Config struct {
	ID      mvcc.GroupID
	Replica uint64
	Log     *Log
	Writer  *LogWriter
	Store   *mvcc.Store
	// Leases and MinTTL are for evaluation.
	Leases    evaluate.Leases
	MinTTL    int64
	Sequencer *revline.Sequencer
	Observer  Observer
	// Transport may be nil in a group of one.
	Transport Transport
	Clock     clock.Clock
	Tick      time.Duration
	// ElectionTicks is the number of ticks without a leader before an election.
	ElectionTicks int
	Logger        *slog.Logger
	// ApplySeconds observes what each commit to the state takes; may be nil.
	ApplySeconds prometheus.Observer
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
	// appending counts the appends of entries that are under way.
	appending int
	// leading says that this replica evaluates: it has applied its own term's
	// first entry.
	leading bool
	role    raft.StateType
	number  uint64
	// drain holds evaluation up until nothing is in flight; forget says that
	// what was evaluated last will not be applied, so that the evaluator must
	// then begin again from the applied state.
	drain, forget bool
	reads         readQueue
	queue         []*proposal
	voters        []uint64

	// status is published by the loop for Status.
	status atomic.Pointer[Status]
	// sole says that this replica leads and is the only voter: nobody can have
	// deposed it, so that leadership needs no confirmation.
	sole atomic.Bool
	// refusals counts the entries that raft did not take.
	refusals atomic.Int64
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
	Commit  uint64
	Leading bool
}

// Start opens the replica and runs it. The log must be bootstrapped.
func Start(cfg Config) (*Group, error) {
	g, err := open(cfg)
	if err != nil {
		return nil, err
	}
	go g.applier.run()
	go g.run()
	return g, nil
}

func open(cfg Config) (*Group, error) {
	g := &Group{
		cfg: cfg, stop: make(chan struct{}), stopped: make(chan struct{}), ready: make(chan struct{}),
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
	g.voters = conf.GetVoters()
	applied := cfg.Store.Applied()
	if err := cfg.Log.start(applied.Index, conf); err != nil {
		return nil, err
	}
	g.rn, err = raft.NewRawNode(&raft.Config{
		ID:                        cfg.Replica,
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             1,
		Storage:                   cfg.Log,
		Applied:                   applied.Index,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             maxMessageBytes,
		MaxCommittedSizePerReady:  16 << 20,
		MaxInflightMsgs:           maxInflightMessages,
		CheckQuorum:               true,
		PreVote:                   true,
		DisableProposalForwarding: true,
		Logger:                    raftLogger{cfg.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("group: start raft: %w", err)
	}
	g.eval = evaluate.New(evaluate.Config{
		Store: cfg.Store, Leases: cfg.Leases, MinTTL: cfg.MinTTL, Next: cfg.Sequencer.Next, Panicked: g.panicked,
	})
	// An answer to a question that was asked before a restart must not pass for
	// one to a question after it.
	g.reads.number = rand.Uint64()
	g.applier.init(g)
	return g, nil
}

// Ready is closed once the group has served or can serve a request here.
func (g *Group) Ready() <-chan struct{} { return g.ready }

// Sole says that this replica leads and is the only voter, so that nothing but
// it can acknowledge a request.
func (g *Group) Sole() bool { return g.sole.Load() }

// Queued returns how many requests wait for their evaluation.
func (g *Group) Queued() int64 { return g.inbox.queued.Load() }

// Refused returns how many entries raft has refused to log.
func (g *Group) Refused() int64 { return g.refusals.Load() }

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
	if len(g.voters) == 1 && g.voters[0] == g.cfg.Replica {
		// Nobody else can lead: waiting for an election timeout helps nobody.
		if err := g.rn.Campaign(); err != nil {
			g.cfg.Logger.Warn("could not campaign", "error", err)
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

func (g *Group) tick() {
	g.rn.Tick()
	g.reads.tick(g.cfg.ElectionTicks)
}

// handle takes in what has arrived.
func (g *Group) handle(box *letters) {
	for _, m := range box.steps {
		switch m.GetType() {
		case raftpb.MsgStorageAppend:
			// The log's answer that the message is durable.
			if len(m.GetEntries()) > 0 {
				g.appending--
			}
			for _, r := range m.GetResponses() {
				g.deliver(r)
			}
		default:
			g.step(m)
		}
	}
	for _, call := range box.calls {
		call()
	}
	for _, a := range box.applied {
		for range a.own {
			g.eval.Applied()
		}
		g.step(a.response)
		g.drained()
		g.noteApplied(a)
	}
	g.queue = append(g.queue, box.proposals...)
	g.reads.add(box.reads)
	box.reset()
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
		g.reads.leaderChanged(g, rd.Lead)
		if g.role != raft.StateLeader && g.leading {
			g.setLeading(false)
		}
	}
	var out []*raftpb.Message
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			g.submit(m)
		case raft.LocalApplyThread:
			g.applier.submit(m)
		default:
			out = append(out, m)
		}
	}
	g.send(out)
	for _, rs := range rd.ReadStates {
		g.reads.confirmed(rs.RequestCtx, rs.Index)
	}
}

// submit hands an append to the log writer. A message that only moves the
// commit index needs no write: a restart finds the commit index anew.
func (g *Group) submit(m *raftpb.Message) {
	if len(m.GetEntries()) == 0 && len(m.GetResponses()) == 0 && m.Snapshot == nil && !g.cfg.Log.votes(m) {
		return
	}
	if len(m.GetEntries()) > 0 {
		g.appending++
	}
	g.cfg.Writer.submit(appendRequest{log: g.cfg.Log, msg: m, done: g.inbox.step})
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

// noteApplied begins to lead once this term's first entry is applied: then
// nothing of an earlier term can still be applied.
func (g *Group) noteApplied(a appliedNote) {
	if g.role != raft.StateLeader || g.leading || a.term != g.rn.BasicStatus().GetTerm() {
		return
	}
	g.applier.flight.fail(a.term, ErrLeaderChanged)
	g.cfg.Sequencer.Begin(a.term, g.cfg.Store.Revision())
	g.eval.Reset()
	g.number, g.drain, g.forget = 0, false, false
	g.setLeading(true)
	g.readyOnce.Do(func() { close(g.ready) })
}

func (g *Group) setLeading(leading bool) {
	g.leading = leading
	g.sole.Store(leading && len(g.voters) == 1)
	g.cfg.Observer.Leading(leading)
}

func (g *Group) publish() {
	s := g.rn.BasicStatus()
	now := Status{Leader: s.Lead, Term: s.GetTerm(), Commit: s.GetCommit(), Leading: g.leading}
	if *g.status.Load() != now {
		g.status.Store(&now)
	}
}

// applyConfChange applies a committed change of the configuration and returns
// the one after it, encoded. For the loop.
func (g *Group) applyConfChange(cc raftpb.ConfChangeI) []byte {
	cs := g.rn.ApplyConfChange(cc)
	g.voters = cs.GetVoters()
	g.sole.Store(g.leading && len(g.voters) == 1)
	row, err := proto.Marshal(cs)
	if err != nil {
		panic(err)
	}
	return row
}

// failAll answers everybody who still waits when the loop has ended.
func (g *Group) failAll() {
	box := g.inbox.close()
	for _, p := range append(g.queue, box.proposals...) {
		p.fail(ErrStopped)
	}
	g.reads.add(box.reads)
	g.reads.fail(g, ErrStopped)
	g.applier.flight.fail(1<<64-1, ErrStopped)
}

// Step takes a raft message of another member. Messages that only this replica
// may send itself are dropped, and so are proposals: an entry is evaluated where
// it is proposed.
func (g *Group) Step(m *raftpb.Message) {
	if t := m.GetType(); raft.IsLocalMsg(t) || t == raftpb.MsgProp {
		return
	}
	g.inbox.step(m)
}

// Bootstrap writes the beginning of a group whose members are voters, all of
// which must write the same. It may be repeated until it has succeeded. flush
// makes the state durable.
func Bootstrap(l *Log, store *mvcc.Store, voters []uint64, flush func() error) error {
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
		if err := errors.Join(b.Add(index, term, nil), b.SetConfState(row)); err != nil {
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

// Do evaluates, logs and applies a request and returns its answer. The error is
// one of evaluation (nothing was changed), one of this package's, or ctx's: then
// whether the request takes effect is not known.
func (g *Group) Do(ctx context.Context, op evaluate.Op, size int) (evaluate.Result, error) {
	p := &proposal{ctx: ctx, op: op, size: size, done: make(chan struct{})}
	if err := g.inbox.propose(p); err != nil {
		return evaluate.Result{}, err
	}
	select {
	case <-p.done:
		return p.res, p.err
	case <-ctx.Done():
		return evaluate.Result{}, ctx.Err()
	}
}

// ReadIndex returns when the state here holds everything that was acknowledged
// anywhere before the call.
func (g *Group) ReadIndex(ctx context.Context) error {
	if g.sole.Load() {
		// Whoever was acknowledged was so after its entry was applied here.
		return nil
	}
	r := &read{done: make(chan error, 1)}
	if err := g.inbox.read(r); err != nil {
		return err
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
