package svg

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScale(t *testing.T) {
	s := NewScale([]float64{1, 2, 5}, 100, 200, Auto)
	require.False(t, s.log)
	require.InDelta(t, 100, s.At(0), 0)
	require.Less(t, s.At(5), 200.0)
	require.Equal(t, []float64{0, 2, 4}, s.Ticks(5))

	s = NewScale([]float64{1, 1000, math.NaN(), 0}, 100, 200, Auto)
	require.True(t, s.log, "values far apart")
	require.InDelta(t, (s.At(1)+s.At(100))/2, s.At(10), 1e-9)
	require.InDelta(t, 100, s.At(0), 0, "what is not on it is at its beginning")
	for _, tick := range s.Ticks(5) {
		require.GreaterOrEqual(t, s.At(tick), 100.0)
		require.LessOrEqual(t, s.At(tick), 200.0)
	}
	s = NewScale([]float64{10, 10.1}, 0, 100, Log)
	require.InDelta(t, s.At(10), s.At(10.1), 2, "a flat line looks flat")
	s = NewScale([]float64{1, 1000}, 100, 200, Linear)
	require.False(t, s.log, "whatever the values")
	require.InDelta(t, 100, s.At(0), 0)
	require.NotEmpty(t, NewScale(nil, 0, 1, Auto).Ticks(3))
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.254: "0.25", 1.5: "1.5", 12.04: "12", 226: "226", 9000: "9000", 12_345: "12.3k", 1e6: "1M", 0.001: "0.001"} {
		require.Equal(t, want, Short(v))
	}
}

func TestColors(t *testing.T) {
	require.Equal(t, ColorOf("pebbledash"), ColorOf("four-groups"))
	require.NotEqual(t, ColorOf("pebbledash"), ColorOf("etcd"))
	require.NotEqual(t, ColorOf("kine"), ColorOf("etcd"))
	require.Equal(t, otherColor, ColorOf("before"))
}
