package evaluate_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/keyspace"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// TestGroupsDataDriven runs the stories in testdata/groups. Each begins with three
// empty groups: events (2) has the keys below /r/events/, pods (3) those below
// /r/pods/, and core (1) all others.
func TestGroupsDataDriven(t *testing.T) {
	datadriven.Walk(t, "testdata/groups", func(t *testing.T, path string) {
		s := newGroupScript(t)
		datadriven.RunTest(t, path, s.run)
	})
}

// groupScript is several groups, each with its Evaluator and what it has in
// flight, and a Crossing.
type groupScript struct {
	tb       testing.TB
	table    *route.Table
	space    *keyspace.Space
	groups   map[mvcc.GroupID]*scriptGroup
	crossing *evaluate.Crossing
	// revision is the last that was handed out, shown the least that may be shown,
	// compacted that of the last compaction applied.
	revision, shown, compacted int64
	// leases are those that are applied, with the groups that have joined.
	leases   map[int64][]mvcc.GroupID
	panicked int
	// mirroring says that another cluster is mirrored, taken what a mirror has taken.
	mirroring bool
	taken     []int64
	// gone are the revisions that were given back.
	gone []int64
}

type scriptGroup struct {
	id     mvcc.GroupID
	store  *mvcc.Store
	eval   *evaluate.Evaluator
	flight [][]byte
	index  uint64
}

func newGroupScript(tb testing.TB) *groupScript {
	tb.Helper()
	s := &groupScript{
		tb: tb, revision: mvcc.FirstRevision,
		groups: map[mvcc.GroupID]*scriptGroup{}, leases: map[int64][]mvcc.GroupID{},
	}
	db, err := engine.Open(engine.Config{
		Dir: "state", FS: engine.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 256 << 10,
		Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { tb.Error(err) },
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close()) })
	s.table, err = route.Parse("events#events;pods#pods", "/r")
	require.NoError(tb, err)
	stores := map[mvcc.GroupID]*mvcc.Store{}
	panicked := func(evaluate.Op, any, []byte) { s.panicked++ }
	for _, g := range s.table.Groups() {
		stores[g.ID], err = mvcc.Open(db, g.ID)
		require.NoError(tb, err)
		stores[g.ID].DeferCompactions()
		s.groups[g.ID] = &scriptGroup{id: g.ID, store: stores[g.ID], eval: evaluate.New(evaluate.Config{
			Store: stores[g.ID], Group: g.ID, Leases: s, MinTTL: 2,
			Next: s.next, GiveBack: s.giveBack, Present: s.present, Compacted: s.decided, Panicked: panicked, Mirroring: s.isMirroring,
		})}
	}
	s.space = keyspace.New(s.table, stores)
	s.crossing = evaluate.NewCrossing(evaluate.CrossingConfig{
		Space: s.space, Route: s.table.Of, Leases: s, MinTTL: 2,
		Next: s.next, GiveBack: s.giveBack, Present: s.present, Compacted: s.decided, Panicked: panicked,
		Mirroring: s.isMirroring, NextAt: s.take,
	})
	return s
}

// TestCrossingShowsNoMore: what a group has applied and nobody is shown yet, the answer to
// a transaction of other groups that changed nothing does not show, and no revision is
// taken twice for it.
func TestCrossingShowsNoMore(t *testing.T) {
	s := newGroupScript(t)
	batch := s.space.Store(s.table.Of([]byte("/r/pods/a"))).NewBatch()
	e := mvcc.NewEffects(nil)
	e.Revision(7)
	e.Put(0, []byte("/r/pods/a"), mvcc.Head{Create: 7, Version: 1}, 0, []byte("x"))
	require.NoError(t, batch.Add(1, 1, e.Bytes()))
	_, err := batch.Commit()
	require.NoError(t, err)
	require.EqualValues(t, 7, s.space.Revision())
	var crossing *evaluate.Crossing
	crossing = evaluate.NewCrossing(evaluate.CrossingConfig{
		Space: s.space, Route: s.table.Of, Leases: s, MinTTL: 2, Compacted: s.decided,
		Next:    func() int64 { return max(5, crossing.Head()+1) },
		Present: func() int64 { return 4 },
	})
	crossing.Begin()
	unchanged := &evaluate.Txn{Success: []evaluate.Op{
		&evaluate.DeleteRange{Key: []byte("/r/events/none")}, &evaluate.DeleteRange{Key: []byte("none")},
	}}
	res, err := crossing.Do(t.Context(), unchanged)
	require.NoError(t, err)
	require.EqualValues(t, 4, res.Revision)
	res, err = crossing.Do(t.Context(), &evaluate.Put{Key: []byte("k")})
	require.NoError(t, err)
	require.EqualValues(t, 8, res.Revision)
}

func (s *groupScript) next() int64 {
	s.revision++
	return s.revision
}

func (s *groupScript) isMirroring() bool { return s.mirroring }

func (s *groupScript) take(rev int64) {
	s.revision = rev
	s.taken = append(s.taken, rev)
}

func (s *groupScript) giveBack(rev int64) {
	require.Equal(s.tb, s.revision, rev)
	s.revision--
	s.gone = append(s.gone, rev)
}

func (s *groupScript) present() int64 { return max(s.shown, s.space.Revision()) }
func (s *groupScript) decided() int64 { return s.compacted }

// Exists implements evaluate.Leases.
func (s *groupScript) Exists(id int64) bool {
	_, ok := s.leases[id]
	return ok
}

// Joined implements evaluate.Leases.
func (s *groupScript) Joined(id int64, g mvcc.GroupID) bool { return slices.Contains(s.leases[id], g) }

// Groups implements evaluate.Leases.
func (s *groupScript) Groups(id int64) []mvcc.GroupID { return s.leases[id] }

func (s *groupScript) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	switch d.Cmd {
	// entry group=ID evaluates the lines below into one entry of the group, and
	// puts it in flight if it holds anything. A line is as in the stories about one
	// group.
	case "entry":
		g := s.group(t, d)
		g.eval.Begin(nil)
		out := s.do(t, d.Input, g.eval.Do)
		if effects, ok := g.eval.Seal(0); ok {
			g.flight = append(g.flight, effects)
		}
		return out

	// apply group=ID applies everything in flight in the group, and shows what it
	// has changed: events with their revisions, and leases.
	case "apply":
		g := s.group(t, d)
		var out []string
		for len(g.flight) > 0 {
			outcome := s.apply(g, g.flight[0])
			g.flight = g.flight[1:]
			g.eval.Applied()
			out = append(out, formatOutcome(g.id, outcome)...)
		}
		return strings.Join(out, "\n")

	// cross evaluates the lines as a batch over all groups, which have nothing in
	// flight, shows its parts, and applies them.
	case "cross":
		s.crossing.Begin()
		out := []string{s.do(t, d.Input, s.crossing.Do)}
		for _, p := range s.crossing.Seal() {
			g := s.groups[p.Group]
			require.Zero(t, g.eval.InFlight())
			out = append(out, fmt.Sprintf("part of group %d, revisions %d", p.Group, p.Revisions))
			outcome := s.apply(g, p.Effects)
			var keys [][]byte
			for _, e := range outcome.Events {
				keys = append(keys, e.Kv.Key)
			}
			g.eval.Advance(keys)
			out = append(out, formatOutcome(g.id, outcome)...)
		}
		return strings.Join(out, "\n")

	// needs shows which groups each line touches.
	case "needs":
		var out []string
		for line := range strings.Lines(d.Input) {
			mask := evaluate.Needs(parseLine(t, line), s.table)
			groups := "groups"
			for ; mask != 0; mask &= mask - 1 {
				groups += fmt.Sprintf(" %d", bits.TrailingZeros64(mask))
			}
			out = append(out, groups)
		}
		return strings.Join(out, "\n")

	// present REVISION lets a revision be handed out, and shown, that no group here
	// has applied.
	case "present":
		_, err := fmt.Sscan(d.CmdArgs[0].Key, &s.shown)
		require.NoError(t, err)
		s.revision = max(s.revision, s.shown)
		return ""

	// effective makes the last compaction effective.
	case "effective":
		s.space.SetCompacted(s.compacted)
		return ""

	// read answers ranges, and txns of ranges, from what is applied in all groups.
	case "read":
		return s.do(t, d.Input, func(ctx context.Context, op evaluate.Op) (evaluate.Result, error) {
			if r, ok := op.(*evaluate.Range); ok {
				return evaluate.Read(ctx, s.space, s.present(), r)
			}
			return evaluate.ReadTxn(ctx, s.space, s.present(), op.(*evaluate.Txn))
		})

	default:
		t.Fatalf("unknown command %q", d.Cmd)
		return ""
	}
}

func (s *groupScript) group(t *testing.T, d *datadriven.TestData) *scriptGroup {
	t.Helper()
	var id int
	d.ScanArgs(t, "group", &id)
	return s.groups[mvcc.GroupID(id)]
}

// do gives each line to one, and returns the answers, and which revisions were
// given back meanwhile.
func (s *groupScript) do(
	t *testing.T, input string, one func(context.Context, evaluate.Op) (evaluate.Result, error),
) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(input) {
		op := parseLine(t, line)
		s.gone = nil
		res, err := one(t.Context(), op)
		answer := sim.FormatResult(op, res, err)
		if len(s.gone) > 0 {
			answer += fmt.Sprintf(" (gives back %d)", s.gone)
		}
		out = append(out, answer)
	}
	return strings.Join(out, "\n")
}

func (s *groupScript) apply(g *scriptGroup, effects []byte) *mvcc.Outcome {
	s.tb.Helper()
	g.index++
	b := g.store.NewBatch()
	require.NoError(s.tb, b.Add(g.index, 1, effects))
	out, err := b.Commit()
	require.NoError(s.tb, err)
	s.compacted = max(s.compacted, out.Compacted)
	for _, l := range out.Leases {
		switch l.Kind {
		case mvcc.LeaseGranted:
			s.leases[l.ID] = nil
		case mvcc.LeaseRevoked:
			delete(s.leases, l.ID)
		case mvcc.LeaseJoined:
			s.leases[l.ID] = append(s.leases[l.ID], l.Group)
		case mvcc.LeaseLeft, mvcc.LeaseCheckpointed:
		}
	}
	return &out
}

func formatOutcome(g mvcc.GroupID, out *mvcc.Outcome) (lines []string) {
	for i, e := range out.Events {
		lines = append(lines, fmt.Sprintf("%d: %d.%d %s", g, e.Kv.ModRevision, out.Subs[i], sim.FormatEvent(e, false)))
	}
	for _, l := range out.Leases {
		what := map[mvcc.LeaseChangeKind]string{
			mvcc.LeaseGranted: "granted", mvcc.LeaseRevoked: "revoked", mvcc.LeaseCheckpointed: "checkpointed",
			mvcc.LeaseJoined: fmt.Sprintf("joined by group %d", l.Group), mvcc.LeaseLeft: fmt.Sprintf("left by group %d", l.Group),
		}[l.Kind]
		lines = append(lines, fmt.Sprintf("%d: lease %d %s", g, l.ID, what))
	}
	if out.Compacted != 0 {
		lines = append(lines, fmt.Sprintf("%d: compacted at %d", g, out.Compacted))
	}
	return lines
}

// The panic of one request of a batch leaves the others as they are, in all
// groups, and its revision to them.
func TestPanicOverGroups(t *testing.T) {
	s := newGroupScript(t)
	s.crossing.Begin()
	do := func(op evaluate.Op) (evaluate.Result, error) { return s.crossing.Do(t.Context(), op) }
	_, err := do(put("/r/pods/a", "1"))
	require.NoError(t, err)
	_, err = do(&evaluate.Txn{Success: []evaluate.Op{put("b", "lost"), put("/r/pods/a", "lost"), (*evaluate.DeleteRange)(nil)}})
	require.ErrorIs(t, err, evaluate.ErrInternal)
	require.Equal(t, 1, s.panicked)
	require.Equal(t, []int64{3}, s.gone)
	res, err := do(&evaluate.Txn{Success: []evaluate.Op{
		&evaluate.Range{Key: []byte{0}, End: []byte{0}}, put("/r/events/a", "1"),
	}})
	require.NoError(t, err)
	require.EqualValues(t, 3, res.Revision)
	require.Len(t, res.Responses[0].KVs, 1)
	parts := s.crossing.Seal()
	require.Len(t, parts, 2)
	require.Equal(t, []int64{3}, parts[0].Revisions)
	require.Equal(t, []int64{2}, parts[1].Revisions)
	require.Empty(t, s.crossing.Seal(), "a batch is sealed once")
}

// A batch knows nothing of one before it that was not applied, whether that was
// sealed or not.
func TestBatchIsGivenUp(t *testing.T) {
	s := newGroupScript(t)
	s.leases[7] = nil
	for _, seal := range []bool{false, true, false} {
		s.revision = 1
		s.crossing.Begin()
		res, err := s.crossing.Do(t.Context(), &evaluate.Txn{Success: []evaluate.Op{
			&evaluate.Range{Key: []byte{0}, End: []byte{0}}, &evaluate.Put{Key: []byte("/r/pods/a"), Lease: 7},
		}})
		require.NoError(t, err)
		require.Empty(t, res.Responses[0].KVs)
		require.EqualValues(t, 2, res.Revision)
		require.Equal(t, []mvcc.GroupID{3}, s.crossing.Groups(7))
		if seal {
			parts := s.crossing.Seal()
			require.Len(t, parts, 2, "the group joins")
			require.Equal(t, []int64{2}, parts[1].Revisions)
		}
	}
	s.crossing.Begin()
	require.Empty(t, s.crossing.Groups(7))
	require.Empty(t, s.crossing.Seal())
}

// A request whose context ends when it has changed something gives its revision
// back, and so does one that fails in the middle.
func TestRevisionsAreGivenBack(t *testing.T) {
	s := newScript(t)
	s.eval.Begin(nil)
	for i := range 3000 {
		_, err := s.eval.Do(t.Context(), &evaluate.Put{Key: fmt.Appendf(nil, "k%04d", i)})
		require.NoError(t, err)
	}
	effects, _ := s.eval.Seal(0)
	s.flight = append(s.flight, effects)
	s.apply(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.eval.Begin(nil)
	for range 2 {
		_, err := s.eval.Do(ctx, &evaluate.Txn{Success: []evaluate.Op{
			put("new", "1"), &evaluate.Range{Key: []byte{0}, End: []byte{0}},
		}})
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 3001, s.revision)
	}
	res, err := s.eval.Do(t.Context(), put("new", "2"))
	require.NoError(t, err)
	require.EqualValues(t, 3002, res.Revision)
}

// A revision that is not greater than those before it would break the line: that
// is no failure of one request.
func TestRevisionsGrow(t *testing.T) {
	s := newScript(t)
	s.eval.Begin(nil)
	_, err := s.eval.Do(t.Context(), put("a", "1"))
	require.NoError(t, err)
	s.revision--
	require.PanicsWithValue(t, "evaluate: revision 2 follows 2", func() {
		_, _ = s.eval.Do(t.Context(), put("b", "1"))
	})
}

// Every head that the evaluator has remembered is forgotten when the part of
// another changes its key: what it has found lately, and a while ago.
func TestAdvanceForgetsHeads(t *testing.T) {
	s := newGroupScript(t)
	pods := s.groups[3]
	do := func(op evaluate.Op) evaluate.Result {
		pods.eval.Begin(nil)
		res, err := pods.eval.Do(t.Context(), op)
		require.NoError(t, err)
		if effects, ok := pods.eval.Seal(0); ok {
			s.apply(pods, effects)
			pods.eval.Applied()
		}
		return res
	}
	isThere := func(key []byte) bool {
		return do(&evaluate.Txn{
			Compare: []evaluate.Compare{{Target: evaluate.CompareVersion, Key: key, Number: 1}},
		}).Succeeded
	}
	long, late := []byte("/r/pods/long-ago"), []byte("/r/pods/late")
	require.False(t, isThere(long))
	// Fills the younger of the two generations of what is remembered, just.
	pad := strings.Repeat("x", 1000)
	for i := range 10 {
		var ops []evaluate.Op
		for j := range 1700 {
			ops = append(ops, &evaluate.Put{Key: fmt.Appendf(nil, "/r/pods/%s-%d-%d", pad, i, j)})
		}
		do(&evaluate.Txn{Success: ops})
	}
	require.False(t, isThere(late))

	s.crossing.Begin()
	for _, k := range [][]byte{long, late} {
		_, err := s.crossing.Do(t.Context(), &evaluate.Put{Key: k})
		require.NoError(t, err)
	}
	parts := s.crossing.Seal()
	require.Len(t, parts, 1)
	s.apply(pods, parts[0].Effects)
	require.EqualValues(t, 11, pods.eval.Head())
	require.False(t, isThere(late), "it is remembered so")
	pods.eval.Advance([][]byte{long, late})
	require.EqualValues(t, 13, pods.eval.Head())
	require.True(t, isThere(late))
	require.True(t, isThere(long))
}

var (
	_ evaluate.Leases = (*groupScript)(nil)
	_ evaluate.State  = (*mvcc.Store)(nil)
	_ evaluate.State  = (*keyspace.Space)(nil)
	_ evaluate.Router = (*keyspace.Space)(nil)
	_ evaluate.Router = (*route.Table)(nil)
)
