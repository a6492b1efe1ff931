package route

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

const core, events, leases, pods = mvcc.CoreGroup, mvcc.GroupID(2), mvcc.GroupID(3), mvcc.GroupID(4)

func mustParse(tb testing.TB, resourceGroups string) *Table {
	tb.Helper()
	table, err := Parse(resourceGroups, DefaultEtcdPrefix)
	require.NoError(tb, err)
	return table
}

func TestOf(t *testing.T) {
	table := mustParse(t, DefaultResourceGroups)
	for _, c := range []struct {
		key  string
		want mvcc.GroupID
	}{
		{"", core},
		{"\x00", core},
		{"/", core},
		{"/pods/a", core},
		{"pods", core},
		{"/registry", core},
		{"/registry/", core},
		{"/registry//pods/a", core},
		{"/registry/configmaps/default/pods/", core},
		{"/registry/event", core},
		{"/registry/events", events},
		{"/registry/events\x00", core},
		{"/registry/events-x/a", core},
		{"/registry/events.", core},
		{"/registry/events.\xff\xff", core},
		{"/registry/events/", events},
		{"/registry/events/\x00", events},
		{"/registry/events/default/a.17c", events},
		{"/registry/events/\xff\xff\xff", events},
		{"/registry/events0", core},
		{"/registry/events.k8s.io/events/a", core},
		{"/registry/eventsa", core},
		{"/registry/leases/kube-node-lease/n1", leases},
		{"/registry/leasecandidates/a", core},
		{"/registry/masterleases/10.0.0.1", core},
		{"/registry/minions/n1", core},
		{"/registry/pod", core},
		{"/registry/podr", core},
		{"/registry/pods", pods},
		{"/registry/pods\x00", core},
		{"/registry/pods\x00\x00", core},
		{"/registry/pods ", core},
		{"/registry/pods-x", core},
		{"/registry/pods-x/a", core},
		{"/registry/pods.example.com/a", core},
		{"/registry/pods/", pods},
		{"/registry/pods//", pods},
		{"/registry/pods/default/a", pods},
		{"/registry/pods0", core},
		{"/registry/pods0/a", core},
		{"/registry/podsa", core},
		{"/registry/podtemplates", core},
		{"/registry/podtemplates/default/a", core},
		{"/registry0", core},
		{"/Registry/pods/a", core},
		{"compact_rev_key", core},
		{"\xff", core},
		{"\xff\xff", core},
	} {
		require.Equal(t, c.want, table.Of([]byte(c.key)), "%q", c.key)
		require.Equal(t, core, CoreOnly().Of([]byte(c.key)), "%q", c.key)
	}
	require.Equal(t, core, table.Of(nil))
}

// TestSegments also has what Touches returns: the groups that are in the segments.
func TestSegments(t *testing.T) {
	table := mustParse(t, DefaultResourceGroups)
	for _, c := range []struct{ key, end, want string }{
		// One key.
		{"/registry/pods/a", "", `pods ["/registry/pods/a","/registry/pods/a\x00")`},
		{"/registry/pods", "", `pods ["/registry/pods","/registry/pods\x00")`},
		{"/registry/pods\x00", "", `core ["/registry/pods\x00","/registry/pods\x00\x00")`},
		{"a", "", `core ["a","a\x00")`},
		{"\x00", "", `core ["\x00","\x00\x00")`},
		// One group, up to its last key.
		{"/registry/pods/", "/registry/pods0", `pods ["/registry/pods/","/registry/pods0")`},
		{"/registry/pods/default/", "/registry/pods/default0", `pods ["/registry/pods/default/","/registry/pods/default0")`},
		{"/registry/pods0", "/registry/pods1", `core ["/registry/pods0","/registry/pods1")`},
		{"/registry/minions/", "/registry/minions0", `core ["/registry/minions/","/registry/minions0")`},
		// Without the slash the span has the bare key and its neighbours in it.
		{
			"/registry/pods", "/registry/podt",
			`pods ["/registry/pods","/registry/pods\x00"); core ["/registry/pods\x00","/registry/pods/"); ` +
				`pods ["/registry/pods/","/registry/pods0"); core ["/registry/pods0","/registry/podt")`,
		},
		{
			"/registry/pods-x", "/registry/pods/b",
			`core ["/registry/pods-x","/registry/pods/"); pods ["/registry/pods/","/registry/pods/b")`,
		},
		// Borders of groups that do not touch.
		{
			"/registry/events/z", "/registry/leases/a",
			`events ["/registry/events/z","/registry/events0"); core ["/registry/events0","/registry/leases"); ` +
				`leases ["/registry/leases","/registry/leases\x00"); core ["/registry/leases\x00","/registry/leases/"); ` +
				`leases ["/registry/leases/","/registry/leases/a")`,
		},
		// No bound.
		{
			"/registry/pods/x", "\x00",
			`pods ["/registry/pods/x","/registry/pods0"); core ["/registry/pods0",)`,
		},
		{"/registry/pods0", "\x00", `core ["/registry/pods0",)`},
		{"\xff", "\x00", `core ["\xff",)`},
		{
			"\x00", "\x00",
			`core ["\x00","/registry/events"); events ["/registry/events","/registry/events\x00"); ` +
				`core ["/registry/events\x00","/registry/events/"); events ["/registry/events/","/registry/events0"); ` +
				`core ["/registry/events0","/registry/leases"); leases ["/registry/leases","/registry/leases\x00"); ` +
				`core ["/registry/leases\x00","/registry/leases/"); leases ["/registry/leases/","/registry/leases0"); ` +
				`core ["/registry/leases0","/registry/pods"); pods ["/registry/pods","/registry/pods\x00"); ` +
				`core ["/registry/pods\x00","/registry/pods/"); pods ["/registry/pods/","/registry/pods0"); ` +
				`core ["/registry/pods0",)`,
		},
		// Nothing.
		{"/registry/pods/b", "/registry/pods/a", ""},
		{"/registry/pods/", "/registry/pods/", ""},
		{"b", "\x00\x00", ""},
	} {
		span := mvcc.SpanOf([]byte(c.key), []byte(c.end))
		segments := table.Segments(span, nil)
		require.Equal(t, c.want, show(table, segments), "[%q,%q)", c.key, c.end)
		require.Equal(t, maskOf(segments), table.Touches(span), "[%q,%q)", c.key, c.end)

		// They are appended, and core alone is never cut.
		both := CoreOnly().Segments(span, segments[:len(segments):len(segments)])
		if span.Empty() {
			require.Empty(t, both)
			continue
		}
		require.Equal(t, append(segments, Segment{core, span}), both)
		require.Equal(t, uint64(1<<core), CoreOnly().Touches(span))
	}
	require.Len(t, table.Segments(mvcc.Span{}, nil), 13, "from the empty key on")
}

func show(table *Table, segments []Segment) string {
	var parts []string
	for _, s := range segments {
		var name string
		for _, g := range table.Groups() {
			if g.ID == s.Group {
				name = g.Name
			}
		}
		end := ""
		if s.Span.End != nil {
			end = fmt.Sprintf("%q", s.Span.End)
		}
		parts = append(parts, fmt.Sprintf("%s [%q,%s)", name, s.Span.Key, end))
	}
	return strings.Join(parts, "; ")
}

func maskOf(segments []Segment) (mask uint64) {
	for _, s := range segments {
		mask |= 1 << s.Group
	}
	return mask
}

// Segments are a partition of the span, each the longest that its owner has; and
// they agree with Of, and both with what a route is said to own.
func TestSegmentsAndOf(t *testing.T) {
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, flags := range []string{
		DefaultResourceGroups, "", "pods#pods", "pods#a;services#a;endpoints#a;nodes#b",
		"pods#a;podtemplates#b;example.com/pods#c;leases#core",
	} {
		table := mustParse(t, flags)
		for range 20_000 {
			span := mvcc.SpanOf(randomKey(rng), randomKey(rng))
			segments := table.Segments(span, nil)
			require.Equal(t, maskOf(segments), table.Touches(span))
			require.Equal(t, span.Empty(), len(segments) == 0)
			if span.Empty() {
				continue
			}
			require.Equal(t, span.Key, segments[0].Span.Key)
			require.Equal(t, span.End, segments[len(segments)-1].Span.End)
			for i, s := range segments {
				require.False(t, s.Span.Empty())
				if i > 0 {
					require.Equal(t, segments[i-1].Span.End, s.Span.Key)
					require.NotEqual(t, segments[i-1].Group, s.Group)
				}
			}
			for range 5 {
				key := randomKey(rng)
				require.Equal(t, slowOf(table, key), table.Of(key), "%q, seed %d", key, seed)
				owners := 0
				for _, s := range segments {
					if s.Span.Contains(key) {
						owners++
						require.Equal(t, s.Group, table.Of(key), "%q, seed %d", key, seed)
					}
				}
				require.Equal(t, span.Contains(key), owners == 1, "%q in %q, seed %d", key, span, seed)
				require.LessOrEqual(t, owners, 1)
			}
		}
	}
}

// slowOf reads the owner from the table's text.
func slowOf(table *Table, key []byte) mvcc.GroupID {
	for _, g := range table.Groups()[1:] {
		_, list, _ := strings.Cut(table.String(), fmt.Sprintf(" %s=%d:", g.Name, g.ID))
		list, _, _ = strings.Cut(list, " ")
		for name := range strings.SplitSeq(list, ",") {
			if string(key) == name || strings.HasSuffix(name, "/") && strings.HasPrefix(string(key), name) {
				return g.ID
			}
		}
	}
	return core
}

// randomKey returns one that is often near a border.
func randomKey(rng *rand.Rand) []byte {
	var key []byte
	for _, pieces := range [][]string{
		{"/registry", "/registry", "/registry", "/", "", "\x00", "z"},
		{"/", "/", "/", "/", "", "0", "//"},
		{
			"pods", "pods", "podtemplates", "events", "leases", "minions", "services/specs", "services", "services/endpoints",
			"example.com/pods", "", "pod",
		},
		{"/", "/", "", "\x00", "0", "-x", ".", "\xff", "a", "/default/a", "/\xff"},
		{"", "", "", "\x00", "/", "\xff", "b"},
	} {
		key = append(key, pieces[rng.IntN(len(pieces))]...)
	}
	if rng.IntN(4) == 0 {
		key = key[:rng.IntN(len(key)+1)]
	}
	return key
}

// Who appends to a key of a segment does not change the table.
func TestSegmentsAreSafe(t *testing.T) {
	table := mustParse(t, DefaultResourceGroups)
	for _, s := range table.Segments(mvcc.Span{}, nil) {
		_ = append(s.Span.Key, "zzzzzzzz"...)
		_ = append(s.Span.End, "zzzzzzzz"...)
	}
	require.True(t, bytes.Equal([]byte("/registry/events"), table.borders[1]))
	require.Len(t, table.Segments(mvcc.Span{}, nil), 13)
	table.Groups()[0].Name = "changed"
	require.Equal(t, CoreName, table.Groups()[0].Name)
}

func TestNoAllocations(t *testing.T) {
	table := mustParse(t, DefaultResourceGroups)
	key := []byte("/registry/pods/default/a")
	all := mvcc.Span{}
	dst := make([]Segment, 0, 16)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		table.Of(key)
		table.Touches(all)
		dst = table.Segments(all, dst[:0])
	}))
}

func BenchmarkOf(b *testing.B) {
	table := mustParse(b, DefaultResourceGroups)
	key := []byte("/registry/pods/kube-system/coredns-5d78c9869d-4xk2p")
	for b.Loop() {
		table.Of(key)
	}
}
