package member

import (
	"context"
	"slices"
	"time"

	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// guideLeads keeps the groups' leads where they belong: with core's leader or,
// if they are spread, at their homes. It also repeats promises that may have been
// lost, and gives leads away when the disk has stalled.
func (m *Member) guideLeads(ctx context.Context) {
	ticker := m.cfg.Clock.NewTicker(m.cfg.TickInterval)
	defer ticker.Stop()
	g := &guide{m: m, since: make([]int, len(m.parts))}
	for {
		news := m.news.wait()
		select {
		case <-ctx.Done():
			return
		case <-news:
			g.look()
		case <-ticker.C():
			m.ticks.Add(1)
			for i := range g.since {
				g.since[i]++
			}
			g.look()
			m.promise()
			m.lookForStills()
			g.checkDisk()
			g.checkReign()
		}
	}
}

// guide is what guideLeads remembers.
type guide struct {
	m *Member
	// since counts the ticks since something was done about a group's lead, so
	// that it is given time to work.
	since []int
	// reigned says that this member led core when it last looked.
	reigned bool
	// waiting counts the ticks for which it has led core and not reigned.
	waiting int
}

func (g *guide) look() {
	m := g.m
	leads := m.core.Status().Leader == m.id.MemberID
	if leads && !g.reigned {
		// A new leader of core does not wait for anything.
		for i := range g.since {
			g.since[i] = m.cfg.ElectionTicks
		}
	}
	g.reigned = leads
	for i, p := range m.parts[1:] {
		g.lookAt(i+1, p, leads)
	}
}

// lookAt does what is to be done about one group's lead.
func (g *guide) lookAt(i int, p *part, leadsCore bool) {
	m := g.m
	patience := m.cfg.ElectionTicks / 2
	if g.since[i] < patience {
		return
	}
	s := p.Status()
	switch {
	case s.Leader == m.id.MemberID && m.cfg.SpreadLeaders:
		if home := m.home(p); home != m.id.MemberID && m.isConnected(home) {
			g.since[i] = 0
			p.GiveLead(home)
		}
	case !leadsCore || s.Leader == m.id.MemberID:
	case s.Leader == 0 || !m.isConnected(s.Leader) || m.isSilent(s.Leader):
		// If this member's log is behind it can't win, and has made the others wait for
		// an election timeout anew, which may be of twice the ticks. They are given it.
		g.since[i] = -2 * m.cfg.ElectionTicks
		p.TakeLead(true)
	case !m.cfg.SpreadLeaders:
		g.since[i] = 0
		p.TakeLead(false)
	}
}

// home returns the member that should lead a group when leads are spread.
func (m *Member) home(p *part) uint64 {
	voters := m.core.Replicas().Voters
	if len(voters) == 0 || p.id == mvcc.CoreGroup {
		return m.id.MemberID
	}
	core := max(slices.Index(voters, m.core.Status().Leader), 0)
	return voters[(core+int(p.id-mvcc.CoreGroup))%len(voters)]
}

func (m *Member) isConnected(id uint64) bool {
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	_, ok := m.cluster.since[id]
	return ok || id == m.id.MemberID
}

// heardFrom notes that a member has sent something.
func (m *Member) heardFrom(id uint64) { m.heard.Store(id, m.ticks.Load()) }

// isSilent says that a member has sent nothing for about an election timeout: it
// is cut off, or stands still, though its connection does not say so yet.
func (m *Member) isSilent(id uint64) bool {
	at, ok := m.heard.Load(id)
	return ok && m.ticks.Load()-at.(uint64)+2 > uint64(m.cfg.ElectionTicks)
}

// checkDisk gives all leads away when the log has not been written for an
// election timeout: raft's ticks do not wait for the disk, so that nobody else
// would notice.
func (g *guide) checkDisk() {
	m := g.m
	if stalled := m.writer.Stalled(); stalled < m.cfg.electionTimeout() {
		return
	}
	if to := m.successor(); to != 0 {
		for _, p := range m.parts {
			if p.Status().Leader == m.id.MemberID {
				m.cfg.Logger.Warn("the disk of the log has stalled, giving the lead away", "group", p.name, "to", FormatID(to))
				p.GiveLead(to)
			}
		}
	}
}

// checkReign gives core's lead away if this member leads it and can't begin to
// reign, or can't do so in all groups: it lags far behind in another one, has no
// replica of it yet, or none any more, because the sequencer before was about to
// remove this member.
func (g *guide) checkReign() {
	m := g.m
	if m.core.Status().Leader != m.id.MemberID || m.reigning.Load() && m.isInAll() {
		g.waiting = 0
		return
	}
	if g.waiting++; g.waiting < 3*m.cfg.ElectionTicks {
		return
	}
	g.waiting = 0
	if to := m.successor(); to != 0 {
		m.cfg.Logger.Warn("this member leads core and can not be the sequencer of all groups, giving the lead away", "to", FormatID(to))
		m.core.GiveLead(to)
	}
}

// isInAll says whether this member has a replica of every group.
func (m *Member) isInAll() bool {
	return !slices.ContainsFunc(m.parts, func(p *part) bool { return !p.Replicas().Has(m.id.MemberID) })
}

// successor returns the voter that should lead after this one: the connected one
// that has most of core's log; 0 if there is none.
func (m *Member) successor() uint64 {
	if v := m.core.Replicas().Voters; len(v) == 0 || len(v) == 1 && v[0] == m.id.MemberID {
		return 0 // and core's loop may wait for the disk
	}
	got := make(chan map[uint64]group.Progress, 1)
	if err := m.core.Progress(func(all map[uint64]group.Progress) { got <- all }); err != nil {
		return 0
	}
	var all map[uint64]group.Progress
	select {
	case all = <-got:
	case <-m.stopCtx.Done():
		return 0
	}
	var best uint64
	for _, id := range m.core.Replicas().Voters {
		pr, ok := all[id]
		if id == m.id.MemberID || !ok || !pr.Active || !m.isConnected(id) {
			continue
		}
		if best == 0 || pr.Match > all[best].Match {
			best = id
		}
	}
	return best
}

// handOver gives core's lead away before this member stops, and waits for that a
// little: then nobody has to wait out an election timeout.
func (m *Member) handOver() {
	if m.core == nil || m.core.Group == nil || m.Err() != nil || m.core.Status().Leader != m.id.MemberID {
		return
	}
	to := m.successor()
	if to == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(m.stopCtx, min(m.cfg.electionTimeout(), 500*time.Millisecond))
	defer cancel()
	if err := m.MoveLeader(ctx, to); err != nil {
		m.cfg.Logger.Warn("could not hand the lead over before stopping", "to", FormatID(to), "error", err)
	}
}

// MoveLeader hands the lead of core, and with it the sequencer, to another voter. The error
// is ErrUnhealthy if that is not connected, for everybody would wait for it in vain, and
// group.ErrTimeout if it does not take the lead.
// REQUIRES: this member leads core.
func (m *Member) MoveLeader(ctx context.Context, to uint64) error {
	if to != m.id.MemberID && !m.isConnected(to) {
		return ErrUnhealthy
	}
	// Raft gives a transfer up after an election timeout.
	ctx, cancel := context.WithTimeoutCause(ctx, 2*m.cfg.electionTimeout(), group.ErrTimeout)
	defer cancel()
	// What is in flight when a reign ends may or may not come to be, and whoever has
	// sent it is told so. So nothing shall be.
	if resume, err := m.reign.Rest(ctx); err == nil {
		defer resume() // if it is not over
	}
	for {
		news := m.news.wait()
		switch leader := m.core.Status().Leader; leader {
		case to:
			return nil
		case m.id.MemberID:
			m.core.GiveLead(to)
		}
		timer := m.cfg.Clock.NewTimer(m.cfg.TickInterval)
		select {
		case <-news:
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return m.cause(ctx)
		}
		timer.Stop()
	}
}

// lost is told that another member's process is gone. If it led, the others need
// not wait out the election timeout: they stand for core one after another.
func (m *Member) lost(id uint64) {
	led := m.core.Status().Leader == id
	for _, p := range m.parts {
		p.Lost(id, false)
	}
	r := m.core.Replicas()
	if !led || !slices.Contains(r.Voters, m.id.MemberID) {
		return
	}
	rank := 0
	for _, v := range r.Voters {
		if v < m.id.MemberID && v != id && m.isConnected(v) {
			rank++
		}
	}
	m.run(func(ctx context.Context) { m.stand(ctx, id, rank) })
}

// stand has this member stand for core, in the place of a member that is gone,
// until somebody leads it.
func (m *Member) stand(ctx context.Context, gone uint64, rank int) {
	// The others need a moment to find out for themselves; and who comes later in
	// the row gives those before it time to win.
	wait := m.cfg.TickInterval / 10
	wait += time.Duration(rank) * m.cfg.TickInterval
	for range m.cfg.ElectionTicks / 2 {
		timer := m.cfg.Clock.NewTimer(wait)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if l := m.core.Status().Leader; l != 0 && l != gone {
			return
		}
		m.core.Lost(gone, true)
		wait = m.cfg.TickInterval
	}
}
