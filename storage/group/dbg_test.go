package group
import ("testing";"fmt")
func (c *cluster) where(k *call) {
	for _, n := range c.nodes {
		g := n.group
		fmt.Println("node", n.id, "role", g.role, "leading", g.leading, "queue", len(g.queue), "drain", g.drain, g.forget, "appending", g.appending, "flight", len(g.applier.flight.entries), "reads", len(g.reads.waiting), len(g.reads.asked), len(g.reads.ready), "lead", g.reads.lead, "evalInFlight", g.eval.InFlight())
		for _, f := range g.applier.flight.entries { fmt.Println("  flying", f.term, f.number, len(f.waiting)) }
		for _, p := range g.queue { if p==k.p {fmt.Println("  in queue")} }
	}
	fmt.Printf("call %+v\n", k)
	if k.p!=nil { fmt.Printf(" %T %+v\n", k.p.op,k.p.op) }
}
func TestDbg(t *testing.T) {}
