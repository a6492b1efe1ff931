package tracing

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

func TestMarks(t *testing.T) {
	c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
	r := New(c)
	_, ok := r.At(Logged)
	require.False(t, ok)
	r.Mark(Logged)
	c.Advance(time.Second)
	r.Mark(Logged) // The last time counts.
	at, ok := r.At(Logged)
	require.True(t, ok)
	require.True(t, c.Now().Equal(at), "%v", at)
	_, ok = r.At(Applied)
	require.False(t, ok)
}

func TestContext(t *testing.T) {
	require.Nil(t, From(t.Context()))
	r := New(clock.Real{})
	require.Same(t, r, From(NewContext(t.Context(), r)))
}

// TestNotTraced marks a request that is not traced: that allocates nothing, and
// does no harm.
func TestNotTraced(t *testing.T) {
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() { From(ctx).Mark(Applied) }))
	_, ok := From(ctx).At(Applied)
	require.False(t, ok)
}
