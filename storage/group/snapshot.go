package group

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Rows are a group's rows that have come with a snapshot, not yet in the state.
type Rows interface {
	// Floor is the revision below which versions may be missing in them.
	Floor() int64
	// Commit puts them into the store, durably, in place of what there was.
	Commit() error
	// Drop forgets them. It may follow Commit.
	Drop()
}

// Incoming is a snapshot that has come.
type Incoming struct {
	// Message is raft's, of type MsgSnap; its metadata is that of Rows.
	Message *raftpb.Message
	Rows    Rows
}

// snapshotSource names a snapshot that could be sent: of what is applied, or of
// anything newer by the time that it is sent. For the loop.
func (g *Group) snapshotSource() (index, term uint64, conf *raftpb.ConfState) {
	index = g.applier.index.Load()
	term, err := g.cfg.Log.Term(index)
	if err != nil {
		return 0, 0, nil
	}
	return index, term, g.conf
}

// StepSnapshot takes a snapshot of another member, and Rows with it.
func (g *Group) StepSnapshot(in *Incoming) {
	err := g.inbox.call(func() {
		g.incoming = append(g.incoming, in)
		g.step(in.Message)
		g.handleReady()
		// What raft did not want is old.
		for _, in := range g.incoming {
			in.Rows.Drop()
		}
		g.incoming = g.incoming[:0]
	})
	if err != nil {
		in.Rows.Drop()
	}
}

// restore hands a snapshot that raft wants to the applier.
func (g *Group) restore(m *raftpb.Message) {
	index := m.GetSnapshot().GetMetadata().GetIndex()
	for i, in := range g.incoming {
		if in.Message.GetSnapshot().GetMetadata().GetIndex() == index {
			g.incoming = append(g.incoming[:i], g.incoming[i+1:]...)
			g.setConf(m.GetSnapshot().GetMetadata().GetConfState())
			g.restoring++
			g.counts.restoring.Add(1)
			g.applier.submit(task{m, in})
			return
		}
	}
	panic(fmt.Sprintf("group: raft restores a snapshot at %d that has not come", index))
}

// restore puts a snapshot's rows in place of the state, and then begins the log
// anew behind it: a crash in between finds the state ahead of the log.
func (a *applier) restore(m *raftpb.Message, in *Incoming) error {
	// Nobody may read below the floor from before the rows can be seen.
	a.g.cfg.Observer.Restoring(in.Rows.Floor())
	err := in.Rows.Commit()
	in.Rows.Drop()
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	applied := a.g.cfg.Store.Applied()
	a.index.Store(applied.Index)
	a.g.cfg.Log.setApplied(applied.Index)
	a.g.cfg.Observer.Restored(applied)
	a.g.cfg.Line.Restored(a.g.cfg.ID, applied)
	note := appliedNote{term: applied.Term, fence: applied.Epoch, part: applied.Part, epoch: applied.Epoch}
	for {
		f, ok := a.flight.takeUpTo(applied.Epoch, applied.Number)
		if !ok {
			break
		}
		for _, p := range f.waiting {
			close(p.done)
		}
		note.own++
		if f.evaluated {
			note.evaluated++
		}
		if f.applied != nil {
			note.calls = append(note.calls, appliedCall{f.applied, applied.Index})
		}
	}
	_ = a.g.inbox.apply(note)
	a.g.post(func() { a.g.restored(m) })
	a.g.cfg.Observer.Configured()
	return nil
}

// restored begins the log behind a snapshot that is in the state, and lets go
// what raft has asked of the log meanwhile: it wants all of it done in order.
func (g *Group) restored(m *raftpb.Message) {
	if len(m.GetEntries()) > 0 {
		g.appending++
	}
	g.write(m)
	g.counts.restoring.Add(-1)
	g.counts.restored.Add(1)
	if g.restoring--; g.restoring > 0 {
		return
	}
	waiting := g.appends
	g.appends = nil
	for _, m := range waiting {
		g.submit(m)
	}
}

// SnapshotSent tells raft whether a snapshot reached a member.
func (g *Group) SnapshotSent(to uint64, ok bool) {
	if ok {
		g.counts.snapshotsSent.Add(1)
	}
	g.post(func() {
		status := raft.SnapshotFinish
		if !ok {
			status = raft.SnapshotFailure
		}
		g.rn.ReportSnapshot(to, status)
	})
}

// TakeLead has this replica lead the group: its leader hands the lead over or,
// if it is gone, another is elected at once.
func (g *Group) TakeLead(gone bool) {
	g.post(func() {
		s := g.rn.BasicStatus()
		switch {
		case s.Lead == g.cfg.Replica:
		case gone || s.Lead == raft.None:
			// As if a leader had handed over: no pre-vote, and nobody waits to miss
			// the leader first.
			g.step(&raftpb.Message{
				Type: raftpb.MsgTimeoutNow.Enum(), From: &g.cfg.Replica, To: &g.cfg.Replica, Term: s.Term,
			})
		default:
			g.rn.TransferLeader(g.cfg.Replica)
		}
	})
}

// GiveLead hands the lead to another member, if this replica leads.
func (g *Group) GiveLead(to uint64) {
	g.post(func() {
		if g.role == raft.StateLeader {
			g.rn.TransferLeader(to)
		}
	})
}

// Lost tells that a member is gone for sure. If it leads, the group need not
// wait out its election timeout; campaign says that this replica stands at once.
func (g *Group) Lost(member uint64, campaign bool) {
	g.post(func() {
		if s := g.rn.BasicStatus(); s.Lead != member && s.Lead != raft.None {
			return
		}
		if err := g.rn.ForgetLeader(); err != nil {
			g.cfg.Logger.Debug("raft did not forget its leader", "error", err)
		}
		if campaign {
			if err := g.rn.Campaign(); err != nil {
				g.cfg.Logger.Debug("could not campaign", "error", err)
			}
		}
	})
}

// Progress says how far this replica, if it leads, knows another to be.
type Progress struct {
	// Leads is false if this replica does not lead: the rest is of no meaning.
	Leads bool
	// Match is the last entry that the other is known to have, Last the last here.
	Match, Last uint64
	// Active says that it was heard of within an election timeout.
	Active bool
}

// Progress calls fn, in the loop, with what is known of each other replica.
func (g *Group) Progress(fn func(map[uint64]Progress)) error {
	return g.inbox.call(func() {
		out := map[uint64]Progress{}
		if s := g.rn.Status(); s.RaftState == raft.StateLeader {
			last, _ := g.cfg.Log.LastIndex()
			for id, p := range s.Progress {
				out[id] = Progress{Leads: true, Match: p.Match, Last: max(last, p.Match), Active: p.RecentActive}
			}
		}
		fn(out)
	})
}
