package group

import "github.com/pebbledash/pebbledash/pkg/tracing"

// mark notes a step of those requests that are traced.
func mark(ps []*proposal, s tracing.Step) {
	for _, p := range ps {
		p.trace.Mark(s)
	}
}

// noteTraced notes that requests are proposed; those that are traced hear of it
// when their entry is logged.
func (g *Group) noteTraced(ps []*proposal) {
	if !g.cfg.Traced {
		return
	}
	for _, p := range ps {
		if p.trace != nil {
			p.trace.Mark(tracing.Proposed)
			g.unlogged = append(g.unlogged, p.trace)
		}
	}
}

// logged is told that an append of entries is durable here. A leader's log takes
// one append of its own entries at a time, so that everything that was proposed is
// in it. What went to another leader is logged there: nothing is noted.
func (g *Group) logged() {
	if len(g.unlogged) == 0 || g.appending > 0 {
		return
	}
	if g.ledTerm != 0 {
		for _, r := range g.unlogged {
			r.Mark(tracing.Logged)
		}
	}
	clear(g.unlogged)
	g.unlogged = g.unlogged[:0]
}
