package admission

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"
)

// Handler shows everything as text: gates, queues that are in use, flows, and what
// is known of lists.
func (l *Limiter) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		l.dump(w)
	})
}

// all are the resources, in the order of their names.
func (l *Limiter) all() []*resource {
	known := *l.resources.Load()
	list := slices.SortedFunc(maps.Values(known), func(a, b *resource) int { return cmp.Compare(a.name, b.name) })
	return append(list, l.other)
}

// allGates are those of the classes, and then those of resources.
func (l *Limiter) allGates() []*gate {
	var list []*gate
	for _, g := range l.gates {
		if g != nil {
			list = append(list, g)
		}
	}
	for _, r := range l.all() {
		if r.gate != nil {
			list = append(list, r.gate)
		}
	}
	return list
}

// flow is a client's requests about a resource, at one gate.
type flow struct{ resource, client string }

func (f flow) compare(g flow) int {
	return cmp.Or(cmp.Compare(f.resource, g.resource), cmp.Compare(f.client, g.client))
}

func (l *Limiter) dump(to io.Writer) {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	gates := l.allGates()
	fmt.Fprint(w, "PriorityLevel\tSeats\tUsed\tWaiting\tWaitingBytes\tRejected\tCancelled\n")
	for _, g := range gates {
		state := g.state.Load()
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\n", g.name, g.limit, seatsIn(state), waitingIn(state),
			g.waitingBytes.Load(), g.rejected.Load(), g.cancelled.Load())
	}
	fmt.Fprint(w, "\nPriorityLevel\tQueue\tWaiting\tExecuting\tSeats\tVirtualStart\n")
	flows := make([]map[flow]int, len(gates))
	for i, g := range gates {
		flows[i] = g.dump(w)
	}
	fmt.Fprint(w, "\nPriorityLevel\tResource\tClient\tWaiting\n")
	for i, g := range gates {
		for _, f := range slices.SortedFunc(maps.Keys(flows[i]), flow.compare) {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", g.name, f.resource, f.client, flows[i][f])
		}
	}
	fmt.Fprint(w, "\nPriorityLevel\tResource\tExecuting\tSeats\tWaiting\tDispatched\tRejected\n")
	for _, r := range l.all() {
		for c := range r.counts {
			n := &r.counts[c]
			if refused := n.rejectedAll(); n.dispatched.Load()+n.waiting.Load()+refused > 0 {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\n", Class(c), r.name,
					n.executing.Load(), n.seats.Load(), n.waiting.Load(), n.dispatched.Load(), refused)
			}
		}
	}
	fmt.Fprint(w, "\nResource\tKeys\tBytesOfOne\tKeysInPart\tBytesOfOneInPart\n")
	for _, r := range l.all() {
		if r.whole.keys.Load()+r.part.keys.Load() > 0 {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", r.name,
				r.whole.keys.Load(), r.whole.bytes.Load(), r.part.keys.Load(), r.part.bytes.Load())
		}
	}
	_ = w.Flush() // The client may have left.
}

// dump shows the queues that are in use, and returns how many wait of each flow.
func (g *gate) dump(w io.Writer) map[flow]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	flows := map[flow]int{}
	for i := range g.fair.all {
		q := &g.fair.all[i]
		if q.length > 0 || q.executing > 0 {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", g.name, i, q.length, q.executing, q.seats, q.start)
		}
		for one := q.first; one != nil; one = one.next {
			flows[flow{one.resource, nameOf(one.client)}]++
		}
	}
	return flows
}
