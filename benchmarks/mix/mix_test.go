package mix

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The rates are those that were observed, and all but a few grow with the nodes.
func TestRates(t *testing.T) {
	of := func(nodes int) map[Kind]float64 {
		m := map[Kind]float64{}
		for _, r := range rates(nodes) {
			require.Positive(t, r.perSecond, r.kind)
			m[r.kind] = r.perSecond
		}
		return m
	}
	hundred, thousand := of(100), of(1000)
	require.InDelta(t, 10, hundred[Renew], 0, "each node every ten seconds")
	require.InDelta(t, 5.0, hundred[Get], 0.1)
	require.InDelta(t, 2.0, hundred[Bare], 0.1)
	for kind := range hundred {
		if kind == Health || kind == Count {
			require.InDelta(t, hundred[kind], thousand[kind], 0, kind)
		} else {
			require.InDelta(t, 10*hundred[kind], thousand[kind], 1e-9, kind)
		}
	}
	require.InDelta(t, leastASecond, of(1)[Bare], 0, "an idle cluster asks, too")

	// Every kind can be sent.
	r := &run{cfg: Config{Nodes: 100, Measure: time.Second}}
	require.Len(t, r.kinds(), len(hundred))
	for kind := range hundred {
		require.NotNil(t, r.kinds()[kind], kind)
	}
}

func TestReport(t *testing.T) {
	r := &Report{Kinds: []KindReport{
		{Renew, []time.Duration{1, 5}}, {List, []time.Duration{100}}, {Get, []time.Duration{3}}, {Watched, []time.Duration{50}},
	}}
	require.Equal(t, []time.Duration{1, 3, 5}, r.Singles(), "lists are others' matter")
	require.Equal(t, []time.Duration{3}, r.Of(Get))
	require.Empty(t, r.Of(Grant))
}
