package revline

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// history is a random history of several groups, some of whose revisions cross
// them, on its way through a line.
type history struct {
	t    *testing.T
	rng  *rand.Rand
	line *Line
	// truth are all events, in order.
	truth []*mvccpb.Event
	// entries are what each group has to apply, of which at has been.
	entries [][]change
	at      []int
	applied []mvcc.Applied
	// published is up to where the sink was told something.
	published          int64
	restored, together int
	maxBytes           int
}

// change is one group's part of a revision.
type change struct {
	revision int64
	events   []*mvccpb.Event
	subs     []uint32
}

func newHistory(t *testing.T, seed uint64) *history {
	t.Helper()
	h := &history{t: t, rng: rand.New(rand.NewPCG(seed, 0)), published: 1}
	groups := 1 + h.rng.IntN(5)
	h.entries, h.at = make([][]change, groups), make([]int, groups)
	revision := int64(1)
	for range 150 {
		revision += 1 + h.rng.Int64N(2)*h.rng.Int64N(2) // gaps are legal
		parts := map[int]*change{}
		for sub := range 1 + h.rng.IntN(4) {
			// The events of a revision are those of one group, mostly.
			g := int(revision) % groups
			if revision%5 == 0 {
				g = h.rng.IntN(groups)
			}
			e := &mvccpb.Event{Kv: &mvccpb.KeyValue{
				Key: fmt.Appendf(nil, "%d.%d", revision, sub), ModRevision: revision,
				Value: make([]byte, h.rng.IntN(200)),
			}}
			h.truth = append(h.truth, e)
			if parts[g] == nil {
				parts[g] = &change{revision: revision}
			}
			parts[g].events, parts[g].subs = append(parts[g].events, e), append(parts[g].subs, uint32(sub))
		}
		for g, p := range parts {
			h.entries[g] = append(h.entries[g], *p)
		}
	}
	cfg := Config{Sink: h}
	if h.rng.IntN(2) == 0 {
		h.maxBytes = 1000 + h.rng.IntN(5000)
		cfg.MaxHeldBytes = h.maxBytes
	}
	for g := range groups {
		cfg.Groups = append(cfg.Groups, mvcc.GroupID(g+1))
		cfg.Applied = append(cfg.Applied, mvcc.Applied{Index: 1, Revision: 1})
	}
	h.applied = slices.Clone(cfg.Applied)
	h.line = New(cfg)
	return h
}

// between returns the true events above from up to to.
func (h *history) between(from, to int64) (names []string) {
	for _, e := range h.truth {
		if e.Kv.ModRevision > from && e.Kv.ModRevision <= to {
			names = append(names, string(e.Kv.Key))
		}
	}
	return names
}

// Publish implements Sink: everything since the last time, in order.
func (h *history) Publish(events []*mvccpb.Event, revision int64) {
	require.Greater(h.t, revision, h.published)
	var got []string
	for _, e := range events {
		got = append(got, string(e.Kv.Key))
	}
	require.Equal(h.t, strings.Join(h.between(h.published, revision), " "), strings.Join(got, " "))
	h.published = revision
	h.together += len(events)
}

// Restored implements Sink.
func (h *history) Restored(revision int64) {
	require.Greater(h.t, revision, h.published)
	h.published = revision
	h.restored++
}

// apply has a group apply its next changes as a batch; false if there are none.
func (h *history) apply(g int) bool {
	left := h.entries[g][h.at[g]:]
	if len(left) == 0 {
		return false
	}
	out := &mvcc.Outcome{}
	for _, c := range left[:1+h.rng.IntN(min(4, len(left)))] {
		h.at[g]++
		h.applied[g].Index++
		h.applied[g].Revision = c.revision
		out.Events, out.Subs = append(out.Events, c.events...), append(out.Subs, c.subs...)
	}
	h.line.Applied(mvcc.GroupID(g+1), h.applied[g], out)
	return true
}

// restore gives a group a snapshot with its next changes in it.
func (h *history) restore(g int) {
	n := h.rng.IntN(10)
	for ; n > 0 && h.at[g] < len(h.entries[g]); n-- {
		h.applied[g].Index++
		h.applied[g].Revision = h.entries[g][h.at[g]].revision
		h.at[g]++
	}
	h.line.Restored(mvcc.GroupID(g+1), h.applied[g])
}

// promise tells the line what is true of some revision, reached or not.
func (h *history) promise() {
	closed := h.truth[h.rng.IntN(len(h.truth))].Kv.ModRevision
	if h.rng.IntN(3) > 0 {
		// Most often one near what is applied.
		closed = h.applied[h.rng.IntN(len(h.applied))].Revision + h.rng.Int64N(5)
	}
	closed = min(closed, h.truth[len(h.truth)-1].Kv.ModRevision)
	p := Promise{Closed: closed}
	for _, entries := range h.entries {
		n := 0
		for n < len(entries) && entries[n].revision <= closed {
			n++
		}
		p.Indexes = append(p.Indexes, uint64(1+n))
	}
	h.line.Promised(p)
}

func (h *history) check() {
	var held int
	for _, q := range h.line.merge.queues {
		require.Len(h.t, q.subs, len(q.events))
		for _, e := range q.events {
			held += eventBytes(e)
			require.Greater(h.t, e.Kv.ModRevision, h.line.Closed(), "published already")
		}
	}
	require.Equal(h.t, held, h.line.merge.held)
	if h.maxBytes > 0 {
		require.LessOrEqual(h.t, held, h.maxBytes)
	}
	require.Equal(h.t, h.line.Closed(), h.published)
}

// TestMerge applies the changes of several groups in any order and closes
// revisions in any order of promises. What is published is the truth, sorted, but
// for what the sink was told that it has missed.
func TestMerge(t *testing.T) {
	var restored, together int
	for seed := range uint64(300) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			h := newHistory(t, seed)
			snapshots := h.rng.IntN(3) == 0
			for left := len(h.entries); left > 0; {
				switch n := h.rng.IntN(40); {
				case n < 10:
					h.promise()
				case n == 10 && snapshots:
					h.restore(h.rng.IntN(len(h.entries)))
				default:
					h.apply(h.rng.IntN(len(h.entries)))
				}
				h.check()
				left = 0
				for g := range h.entries {
					if h.at[g] < len(h.entries[g]) {
						left++
					}
				}
			}
			last := h.truth[len(h.truth)-1].Kv.ModRevision
			p := Promise{Closed: last}
			for g := range h.applied {
				p.Indexes = append(p.Indexes, h.applied[g].Index)
			}
			h.line.Promised(p)
			require.Equal(t, last, h.published)
			h.check()
			require.Zero(t, h.line.merge.held)
			if h.maxBytes == 0 && !snapshots {
				require.Zero(t, h.restored)
				require.Equal(t, len(h.truth), h.together)
			}
			restored += h.restored
			together += h.together
		})
	}
	require.Greater(t, restored, 300)
	require.Greater(t, together, 20_000)
}

// TestReignsPublish is TestMerge at a sequencer: revisions are handed out, applied
// and closed in one member.
func TestReignsPublish(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			h := newHistory(t, seed)
			for g := range h.applied {
				h.applied[g].Epoch = 1
				h.line.Applied(mvcc.GroupID(g+1), h.applied[g], &mvcc.Outcome{})
			}
			require.True(t, h.line.Begin(1))
			// Those of one group are its own; those of several are crossing.
			owners := map[int64][]int{}
			for g, entries := range h.entries {
				for _, c := range entries {
					owners[c.revision] = append(owners[c.revision], g)
				}
			}
			var handedOut int64 = 1
			last := h.truth[len(h.truth)-1].Kv.ModRevision
			var crossing int64
			for h.published < last {
				if handedOut < last && h.rng.IntN(3) == 0 && crossing == 0 {
					handedOut++
					switch groups := owners[handedOut]; len(groups) {
					case 0: // its request has failed after all
						g := mvcc.GroupID(1 + h.rng.IntN(len(h.entries)))
						require.Equal(t, handedOut, h.line.Next(g))
						h.line.mu.Lock()
						s := h.line.slot(g)
						s.outstanding = s.outstanding[:len(s.outstanding)-1]
						h.line.mu.Unlock()
					case 1:
						require.Equal(t, handedOut, h.line.Next(mvcc.GroupID(groups[0]+1)))
					default:
						var mask Mask
						for _, g := range groups {
							mask |= 1 << g
						}
						h.line.BeginCrossing(mask)
						require.Equal(t, handedOut, h.line.NextCrossing())
						crossing = handedOut
					}
				}
				g := h.rng.IntN(len(h.entries))
				if h.at[g] < len(h.entries[g]) && h.entries[g][h.at[g]].revision <= handedOut {
					// One at a time: what is not handed out is not applied.
					c := h.entries[g][h.at[g]]
					h.at[g]++
					h.applied[g].Index++
					h.applied[g].Revision = c.revision
					h.line.Applied(mvcc.GroupID(g+1), h.applied[g], &mvcc.Outcome{Events: c.events, Subs: c.subs})
				}
				if crossing > 0 {
					require.Less(t, h.published, crossing)
					if !slices.ContainsFunc(owners[crossing], func(g int) bool { return h.applied[g].Revision < crossing }) {
						h.line.SettleCrossing()
						crossing = 0
					}
				}
				h.check()
			}
		})
	}
}

// TestMergeOfTheSamePlace: two groups can't have made the same change; going on
// would publish it twice.
func TestMergeOfTheSamePlace(t *testing.T) {
	r := newRig(2, nil)
	for g := range mvcc.GroupID(2) {
		r.groups[g].Revision = 5
		r.Applied(g+1, r.groups[g], &mvcc.Outcome{
			Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{ModRevision: 5}}}, Subs: []uint32{3},
		})
	}
	require.PanicsWithValue(t, "revline: two groups have changed something at 5.3", func() {
		r.Promised(Promise{Closed: 5, Indexes: []uint64{1, 1}})
	})
}
