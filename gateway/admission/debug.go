package admission

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"

	"k8s.io/apiserver/pkg/util/flowcontrol/debug"
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

func (l *Limiter) dump(to io.Writer) {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	gates := l.allGates()
	dumps := make([]debug.QueueSetDump, len(gates))
	fmt.Fprint(w, "PriorityLevel\tSeats\tUsed\tWaiting\tWaitingBytes\tQueued\tRejected\tCancelled\n")
	for i, g := range gates {
		d := g.set.Dump(false)
		dumps[i] = d
		state := g.state.Load()
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", g.name, g.limit, seatsIn(state), waitingIn(state),
			g.waitingBytes.Load(), d.Waiting, d.Rejected, d.Cancelled)
	}
	fmt.Fprint(w, "\nPriorityLevel\tQueue\tWaiting\tExecuting\tSeats\tVirtualStart\n")
	for i, g := range gates {
		for j, q := range dumps[i].Queues {
			if len(q.Requests)+len(q.RequestsExecuting) > 0 {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", g.name, j, len(q.Requests), len(q.RequestsExecuting), q.SeatsInUse, q.NextDispatchR)
			}
		}
	}
	fmt.Fprint(w, "\nPriorityLevel\tResource\tClient\tWaiting\tExecuting\n")
	for i, g := range gates {
		dumpFlows(w, g.name, &dumps[i])
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

// dumpFlows shows the requests that came through the queues, by flow.
func dumpFlows(w io.Writer, gate string, d *debug.QueueSetDump) {
	waiting, executing := map[flow]int{}, map[flow]int{}
	for _, q := range d.Queues {
		for _, r := range q.Requests {
			waiting[flow{r.MatchedFlowSchema, r.FlowDistinguisher}]++
		}
		for _, r := range q.RequestsExecuting {
			f := flow{r.MatchedFlowSchema, r.FlowDistinguisher}
			executing[f]++
			waiting[f] += 0 // So that it is in both.
		}
	}
	flows := slices.SortedFunc(maps.Keys(waiting), func(a, b flow) int {
		return cmp.Or(cmp.Compare(a.resource, b.resource), cmp.Compare(a.client, b.client))
	})
	for _, f := range flows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", gate, f.resource, f.client, waiting[f], executing[f])
	}
}
