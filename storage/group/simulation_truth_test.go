package group_test

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// truth is what the groups have committed, as the first replica that applied it
// has told, and everything that follows for those who come later:
//
//   - all replicas of a group apply the same, in the same order, with the same
//     revisions, and nothing twice;
//   - a revision that anybody was shown, in a header, a promise, a notice of
//     progress or a row that a restart reads, is not greater than what some
//     replica has applied, and what comes into being later is greater;
//   - what was said to be closed has no holes that are filled later.
type truth struct {
	groups []groupTruth
	// at has the changes of each revision, revisions are those in order.
	at        map[int64]*revision
	revisions []int64
	// shown is the greatest revision that anybody was shown, closed the greatest
	// that was said to be closed.
	shown, closed int64
}

// groupTruth is what one group has committed.
type groupTruth struct {
	// revisions are those of its changes, in the order of its log.
	revisions []int64
	// places says for some indexes of the log how far it is applied there.
	places map[uint64]mvcc.Applied
}

// revision is what one revision has changed.
type revision struct {
	main int64
	// parts are the groups' shares.
	parts []part
	// judged says that the model has it.
	judged bool
}

// part is one group's share of a revision.
type part struct {
	group  int
	events []*mvccpb.Event
	subs   []uint32
}

func newTruth(groups int) truth {
	t := truth{at: map[int64]*revision{}, shown: mvcc.FirstRevision, closed: mvcc.FirstRevision}
	for range groups {
		t.groups = append(t.groups, groupTruth{places: map[uint64]mvcc.Applied{}})
	}
	return t
}

// last is the greatest revision that some replica has applied.
func (t *truth) last() int64 {
	if len(t.revisions) == 0 {
		return mvcc.FirstRevision
	}
	return t.revisions[len(t.revisions)-1]
}

// upTo returns how many of a group's revisions are not greater than rev.
func (g *groupTruth) upTo(rev int64) int {
	n, found := slices.BinarySearch(g.revisions, rev)
	if found {
		n++
	}
	return n
}

// applied takes in what a replica of group g, which had the first pos of the
// group's revisions, has applied, and returns how many it has now.
func (t *truth) applied(g, pos int, place mvcc.Applied, out *mvcc.Outcome) int {
	gt := &t.groups[g]
	for i := 0; i < len(out.Events); pos++ {
		main := out.Events[i].Kv.ModRevision
		n := i + 1
		for n < len(out.Events) && out.Events[n].Kv.ModRevision == main {
			n++
		}
		p := part{g, out.Events[i:n:n], out.Subs[i:n:n]}
		i = n
		if pos < len(gt.revisions) {
			if gt.revisions[pos] != main {
				violated("group %d: revision %d where another replica has %d", g, main, gt.revisions[pos])
			}
			t.at[main].same(p)
			continue
		}
		t.add(g, main, p)
	}
	t.place(g, place)
	if want := gt.revisionAt(pos); place.Revision != want {
		violated("group %d: entry %d ends at revision %d, which should be %d", g, place.Index, place.Revision, want)
	}
	return pos
}

func (g *groupTruth) revisionAt(pos int) int64 {
	if pos == 0 {
		return mvcc.FirstRevision
	}
	return g.revisions[pos-1]
}

// place holds that all replicas are in the same place behind the same entry.
func (t *truth) place(g int, place mvcc.Applied) {
	places := t.groups[g].places
	if before, ok := places[place.Index]; ok && before != place {
		violated("group %d: behind entry %d a replica is at %+v, another at %+v", g, place.Index, place, before)
	}
	places[place.Index] = place
}

// add takes in a revision that nobody has applied before.
func (t *truth) add(g int, main int64, p part) {
	gt := &t.groups[g]
	if last := gt.revisionAt(len(gt.revisions)); main <= last {
		violated("group %d: revision %d follows %d", g, main, last)
	}
	if main <= t.closed {
		violated("group %d: revision %d has come after %d was said to be closed", g, main, t.closed)
	}
	gt.revisions = append(gt.revisions, main)
	r := t.at[main]
	if r == nil {
		r = &revision{main: main}
		t.at[main] = r
		i, _ := slices.BinarySearch(t.revisions, main)
		t.revisions = slices.Insert(t.revisions, i, main)
	}
	if r.judged {
		violated("group %d: a share of revision %d has come late", g, main)
	}
	r.parts = append(r.parts, p)
}

// show holds that a revision may be shown.
func (t *truth) show(rev int64, what string) {
	if rev > t.last() {
		violated("%s shows revision %d, and nobody has applied more than %d", what, rev, t.last())
	}
	t.shown = max(t.shown, rev)
}

// events returns the changes of a revision in their order.
func (r *revision) events() []*mvccpb.Event {
	if len(r.parts) == 1 {
		return r.parts[0].events
	}
	type placed struct {
		e   *mvccpb.Event
		sub uint32
	}
	var all []placed
	for _, p := range r.parts {
		for i, e := range p.events {
			all = append(all, placed{e, p.subs[i]})
		}
	}
	slices.SortFunc(all, func(a, b placed) int { return int(a.sub) - int(b.sub) })
	events := make([]*mvccpb.Event, len(all))
	for i, p := range all {
		if int(p.sub) != i {
			violated("revision %d has change %d in place %d", r.main, p.sub, i)
		}
		events[i] = p.e
	}
	return events
}

// same holds that another replica has applied the same share.
func (r *revision) same(p part) {
	for _, q := range r.parts {
		if q.group == p.group {
			if !slices.Equal(p.subs, q.subs) || !slices.EqualFunc(p.events, q.events, sameEvent) {
				violated("revision %d of group %d is, on two replicas,\n%s\nand\n%s", r.main, p.group,
					sim.FormatEvents(p.events, false), sim.FormatEvents(q.events, false))
			}
			return
		}
	}
	violated("revision %d has no share of group %d", r.main, p.group)
}

func sameEvent(a, b *mvccpb.Event) bool {
	return a.Type == b.Type && bytes.Equal(a.Kv.Key, b.Kv.Key) && bytes.Equal(a.Kv.Value, b.Kv.Value) &&
		a.Kv.CreateRevision == b.Kv.CreateRevision && a.Kv.ModRevision == b.Kv.ModRevision &&
		a.Kv.Version == b.Kv.Version && a.Kv.Lease == b.Kv.Lease
}

// between returns all changes with a revision above from and up to to.
func (t *truth) between(from, to int64) []*mvccpb.Event {
	i, found := slices.BinarySearch(t.revisions, from)
	if found {
		i++
	}
	var events []*mvccpb.Event
	for ; i < len(t.revisions) && t.revisions[i] <= to; i++ {
		events = append(events, t.at[t.revisions[i]].events()...)
	}
	return events
}

// violation is what a checker has found.
type violation string

// violated ends the schedule.
func violated(format string, args ...any) { panic(violation(fmt.Sprintf(format, args...))) }

// must is for what may not fail.
func must(err error) {
	if err != nil {
		violated("an error: %v", err)
	}
}
