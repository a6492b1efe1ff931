package group_test

import (
	"slices"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// plan decides what goes wrong in the next schedule, and how often.
func (c *cluster) plan() {
	r := c.rng
	c.faults = faults{
		tick: []int{60, 150, 400}[r.IntN(3)], request: 6 + r.IntN(25), guided: r.IntN(3) > 0,
	}
	f := &c.faults
	if r.IntN(8) == 0 {
		return // nothing goes wrong
	}
	if r.IntN(2) == 0 {
		f.lose, f.duplicate, f.reorder = 10+r.IntN(60), 10+r.IntN(60), 5+r.IntN(30)
	}
	f.some = 15 + r.IntN(150)
	// Some of the kinds, so that each schedule is another mix.
	all := []func(*cluster){
		(*cluster).crash, (*cluster).crashAll, (*cluster).restart, (*cluster).restart, (*cluster).stopOne,
		(*cluster).cutOne, (*cluster).cutSome, (*cluster).mend, (*cluster).breakConnection,
		(*cluster).pauseMember, (*cluster).pausePart, (*cluster).pausePart, (*cluster).pausePart, (*cluster).holdLink,
		(*cluster).moveLead, (*cluster).moveLead, (*cluster).standForCore, (*cluster).depose,
		(*cluster).flush, (*cluster).truncate, (*cluster).truncate, (*cluster).scrub, (*cluster).impatience,
	}
	if c.reconfigures {
		all = append(all, (*cluster).reconfigure, (*cluster).reconfigure)
	}
	share := 1 + r.IntN(4)
	for i, kind := range all {
		if r.IntN(4) < share || i == 2 {
			f.kinds = append(f.kinds, kind)
		}
	}
}

// one returns one of the members for which is holds, nil if there is none.
func (c *cluster) one(is func(*member) bool) *member {
	var some []*member
	for _, m := range c.members {
		if is(m) {
			some = append(some, m)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return some[c.rng.IntN(len(some))]
}

func isUp(m *member) bool { return m.up }

// likely returns a member that runs, most often the one that reigns, or thinks so.
func (c *cluster) likely() *member {
	if c.rng.IntN(2) == 0 {
		if m := c.one(func(m *member) bool { return m.up && m.reigning }); m != nil {
			return m
		}
	}
	return c.one(isUp)
}

// crash has a member lose its power, maybe in the middle of a write.
func (c *cluster) crash() {
	if m := c.likely(); m != nil {
		c.crashMember(m)
	}
}

func (c *cluster) crashMember(m *member) {
	c.tally.Crashes++
	keptLog, keptState := c.rng.IntN(2) == 0, c.rng.IntN(2) == 0
	if n := m.writer.Waiting(); n > 0 && keptLog {
		must(m.writer.WriteUnsynced(c.rng.IntN(n + 1)))
	}
	c.trace("member %d crashes; what is not synced is kept: log %t, state %t", m.id, keptLog, keptState)
	m.close(keptLog, keptState)
	for id := range c.members {
		other := uint64(id + 1)
		c.net.drop(other, m.id)
		if c.rng.IntN(2) == 0 {
			c.net.drop(m.id, other)
		}
		if o := c.members[id]; o.up && !c.net.links[m.id][other].cut && c.rng.IntN(3) > 0 {
			o.lost(m.id)
		}
	}
	if c.rng.IntN(2) == 0 {
		m.open()
	}
}

func (c *cluster) crashAll() {
	if c.rng.IntN(4) > 0 {
		return
	}
	for _, m := range c.members {
		if m.up {
			c.crashMember(m)
		}
	}
}

func (c *cluster) restart() {
	if m := c.one(func(m *member) bool { return !m.up && !m.gone }); m != nil {
		m.open()
	}
}

// stopOne stops a member in good order.
func (c *cluster) stopOne() {
	m := c.likely()
	if m == nil {
		return
	}
	c.tally.Stops++
	c.trace("member %d stops", m.id)
	m.stop()
	if c.rng.IntN(2) == 0 {
		m.open()
	}
}

func (c *cluster) cutOne() {
	a, b := c.likely(), c.one(isUp)
	if a == nil || a == b {
		return
	}
	if c.rng.IntN(2) == 0 {
		a, b = b, a
	}
	c.tally.Cuts++
	c.trace("nothing goes from member %d to %d", a.id, b.id)
	c.net.cutOff(a.id, b.id, true)
}

// cutSome parts some of the members from the others.
func (c *cluster) cutSome() {
	side := map[uint64]bool{}
	if m := c.likely(); m != nil {
		side[m.id] = true
	}
	for _, m := range c.members {
		if c.rng.IntN(4) == 0 {
			side[m.id] = true
		}
	}
	c.tally.Cuts++
	c.trace("a partition: %v", side)
	for _, a := range c.members {
		for _, b := range c.members {
			if side[a.id] != side[b.id] {
				c.net.cutOff(a.id, b.id, true)
			}
		}
	}
}

func (c *cluster) mend() {
	if c.net.cuts > 0 {
		c.trace("the network is whole")
	}
	for _, a := range c.members {
		for _, b := range c.members {
			c.net.cutOff(a.id, b.id, false)
		}
	}
}

// breakConnection loses everything between two members.
func (c *cluster) breakConnection() {
	a, b := c.likely(), c.one(isUp)
	if a == nil || a == b {
		return
	}
	c.trace("the connections of members %d and %d break", a.id, b.id)
	c.net.drop(a.id, b.id)
	c.net.drop(b.id, a.id)
}

// aWhile returns a step that is some time away.
func (c *cluster) aWhile() int { return c.now + 1<<c.rng.IntN(10) + c.rng.IntN(50) }

// pauseMember has a member stand still: when it goes on the world may be another.
func (c *cluster) pauseMember() {
	if m := c.likely(); m != nil {
		c.tally.Pauses++
		m.pause.all = c.aWhile()
		c.trace("member %d stands still until %d", m.id, m.pause.all)
	}
}

// pausePart has a part of a member stand still.
func (c *cluster) pausePart() {
	m := c.likely()
	if m == nil {
		return
	}
	c.tally.Pauses++
	until, g := c.aWhile(), c.rng.IntN(len(m.groups))
	switch c.rng.IntN(5) {
	case 0:
		m.pause.disk = until
		c.trace("the disk of member %d stands still until %d", m.id, until)
	case 1:
		m.pause.tasks = until
		c.trace("the callers of member %d stand still until %d", m.id, until)
	case 2, 3:
		m.pause.appliers[g] = until
		c.trace("the applier of group %d of member %d stands still until %d", g, m.id, until)
	default:
		m.pause.loops[g] = until
		c.trace("the loop of group %d of member %d stands still until %d", g, m.id, until)
	}
}

func (c *cluster) holdLink() {
	a, b := c.likely(), c.one(isUp)
	if a == nil || a == b {
		return
	}
	if c.rng.IntN(2) == 0 {
		a, b = b, a
	}
	c.net.links[a.id][b.id].held = c.aWhile()
	c.trace("what goes from member %d to %d waits until %d", a.id, b.id, c.net.links[a.id][b.id].held)
}

// moveLead has a group led by another.
func (c *cluster) moveLead() {
	m := c.likely()
	if m == nil {
		return
	}
	g := c.rng.IntN(len(m.groups))
	switch c.rng.IntN(3) {
	case 0:
		gone := c.rng.IntN(2) == 0
		c.trace("member %d takes the lead of group %d, gone %t", m.id, g, gone)
		m.groups[g].TakeLead(gone)
	case 1:
		if to := m.another(); to != 0 {
			c.trace("member %d gives the lead of group %d to %d", m.id, g, to)
			m.groups[g].GiveLead(to)
		}
	default:
		if l := m.groups[g].Status().Leader; l != 0 && l != m.id {
			c.trace("member %d loses the leader of group %d", m.id, g)
			m.groups[g].Lost(l, c.rng.IntN(2) == 0)
		}
	}
}

// standForCore has somebody take core, most often from one that reigns.
func (c *cluster) standForCore() {
	if m := c.one(func(m *member) bool { return m.up && !m.reigning }); m != nil {
		c.trace("member %d stands for core", m.id)
		m.core().TakeLead(c.rng.IntN(2) == 0)
	}
}

// depose has another member reign, and the one that did not hear of it: it goes on
// as if nothing had happened, and is asked (request).
func (c *cluster) depose() {
	m := c.one(func(m *member) bool { return m.up && m.reigning })
	if m == nil {
		return
	}
	other := c.one(func(o *member) bool { return o.up && o != m })
	if other == nil {
		return
	}
	c.tally.Cuts++
	c.trace("member %d is deposed by %d, and not told", m.id, other.id)
	c.deposed = m
	for _, o := range c.members {
		if o != m {
			c.net.cutOff(m.id, o.id, true)
			c.net.cutOff(o.id, m.id, true)
		}
	}
	for g, h := range other.groups {
		if g == 0 || c.rng.IntN(2) == 0 {
			h.TakeLead(true)
		}
	}
}

// flush has what a member has applied survive a crash.
func (c *cluster) flush() {
	if m := c.likely(); m != nil {
		must(m.state.Flush())
	}
}

// truncate truncates a member's logs, or those of all, as far as they may be or
// almost.
func (c *cluster) truncate() {
	for _, m := range c.members {
		if !m.up || c.rng.IntN(3) == 0 {
			continue
		}
		if c.rng.IntN(2) == 0 {
			must(m.state.Flush())
		}
		keep := uint64(0)
		if c.rng.IntN(2) == 0 {
			keep = c.rng.Uint64N(20)
		}
		for g, s := range m.stores {
			durable, err := s.DurableApplied()
			must(err)
			if durable.Index > keep {
				must(m.logOf[g].Truncate(durable.Index - keep))
			}
		}
	}
}

func (c *cluster) scrub() {
	if m := c.one(isUp); m != nil {
		for _, s := range m.stores {
			must(s.Scrub(1+c.rng.IntN(8), func() bool { return c.rng.IntN(3) > 0 }))
		}
	}
}

// impatience has a client give up.
func (c *cluster) impatience() {
	if len(c.open) == 0 {
		return
	}
	k := c.open[c.rng.IntN(len(c.open))]
	if k.kind == probes {
		return
	}
	c.trace("call %d is given up", k.n)
	k.task.next = nil
	c.end(k, evaluate.Result{}, errGaveUp)
}

// heal ends all faults. What was asked is answered soon, what is asked then is
// answered well, and in the end all members have the same.
func (c *cluster) heal() {
	c.faults = faults{tick: 400, guided: true}
	c.deposed = nil
	c.trace("everything works again")
	c.mend()
	for _, m := range c.members {
		m.pause = pause{loops: make([]int, len(c.groups)), appliers: make([]int, len(c.groups))}
		for from := range c.members {
			c.net.links[from+1][m.id].held = 0
		}
	}
	before := c.tally.Ticks
	c.until("what was asked is not answered", func() bool { return len(c.open) == 0 })
	c.again = nil
	for _, m := range c.members {
		if m.up {
			c.send(m, &evaluate.Range{Key: []byte{0}, End: []byte{0}}, reads)
			c.again = append(c.again, m)
		}
	}
	c.until("what is asked is not answered well", func() bool {
		again := c.again
		c.again = nil
		for _, m := range again {
			if m.up {
				c.requests.put = 0
				c.send(m, c.requests.putOf(c.requests.group()), probes)
			}
		}
		return len(c.open) == 0
	})
	c.until("the members do not come to rest", c.quiet)
	for _, m := range c.members {
		if m.up {
			must(m.state.Flush())
			must(m.logs.Flush())
		}
	}
	c.tally.LongestHeal = max(c.tally.LongestHeal, c.tally.Ticks-before)
}

// patience is how many election timeouts everything may take at the most.
const patience = 30

func (c *cluster) until(what string, is func() bool) {
	limit := c.tally.Ticks + patience*c.electionTicks*len(c.members)
	for !is() {
		if c.tally.Ticks > limit {
			violated("%s: %s", what, c.describe())
		}
		for _, m := range c.members {
			if !m.up && !m.gone {
				m.open()
			}
		}
		c.step()
	}
}

// quiet says that nothing is under way, and that everybody has everything.
func (c *cluster) quiet() bool {
	c.look()
	if len(c.can)+len(c.tasks) > 0 {
		return false
	}
	var sequencer *member
	for _, m := range c.members {
		if m.up && m.reigning {
			sequencer = m
		}
	}
	if sequencer == nil {
		return false
	}
	core := sequencer.core().Replicas()
	for _, m := range c.members {
		if !m.up {
			continue
		}
		if !core.Has(m.id) {
			return false
		}
		if m.changing || m.line.Closed() != c.truth.last() || m.space.Compacted() != m.decided {
			return false
		}
		for g, h := range m.groups {
			a, b := h.Status(), sequencer.groups[g].Status()
			if !h.Quiet() || a.Leader == 0 || a != b || !h.Replicas().Equal(core) {
				return false
			}
		}
	}
	return true
}

// hasLink says whether something is on its way.
func (n *network) onItsWay() (k int) {
	for i := range n.links {
		for j := range n.links[i] {
			k += len(n.links[i][j].queue)
		}
	}
	return k
}

var _ = slices.Max[[]int]
