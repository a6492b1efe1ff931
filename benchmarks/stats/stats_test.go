package stats

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummarize(t *testing.T) {
	for _, c := range []struct {
		xs   []float64
		want Summary
	}{
		{[]float64{7}, Summary{7, 7, 7}},
		{[]float64{3, 1, 2}, Summary{2, 1, 3}},
		{[]float64{4, 1, 3, 2}, Summary{2.5, 1, 4}},
		{[]float64{5, 5, 5, 100}, Summary{5, 5, 100}},
	} {
		before := append([]float64(nil), c.xs...)
		require.Equal(t, c.want, Summarize(c.xs))
		require.Equal(t, before, c.xs, "the measurements keep their order")
	}
	require.Equal(t, Summary{2, 1, 3}, Summarize([]float64{3, math.NaN(), 1}), "what was not measured does not count")
	require.True(t, math.IsNaN(Summarize(nil).Median))
	require.InDelta(t, 1.0, Summarize([]float64{1, 2, 3}).Spread(), 0)
}

func TestString(t *testing.T) {
	require.Equal(t, "2.00 (1.00-3.00)", Summarize([]float64{1, 2, 3}).String())
	require.Equal(t, "2.00", Summarize([]float64{2}).String())
	require.Equal(t, "-", Summarize(nil).String())
	for x, want := range map[float64]string{
		0: "0.00", 0.254: "0.25", 9.994: "9.99", 9.996: "10.0", 99.94: "99.9", 99.96: "100", 12539.4: "12539",
	} {
		require.Equal(t, want, Format(x))
	}
}

func TestRatios(t *testing.T) {
	require.Equal(t, []float64{0.5, 2}, Ratios([]float64{1, 4}, []float64{2, 2}))
	require.Equal(t, []float64{2}, Ratios([]float64{1, 4}, []float64{0, 2}), "nothing is said of nothing")
	// A machine that becomes slower moves both of a pair, and no ratio.
	require.Equal(t, Summary{0.5, 0.5, 0.5}, Summarize(Ratios([]float64{1, 2, 4}, []float64{2, 4, 8})))
}

func TestQuantile(t *testing.T) {
	var hundred []int
	for i := 1; i <= 100; i++ {
		hundred = append(hundred, i)
	}
	for q, want := range map[float64]int{0: 1, 0.005: 1, 0.01: 1, 0.011: 2, 0.5: 50, 0.99: 99, 0.991: 100, 1: 100} {
		require.Equal(t, want, Quantile(hundred, q), "%v", q)
	}
	require.Equal(t, 3, Quantile([]int{1, 3}, 0.99))
	require.Equal(t, 1, Quantile([]int{1, 3}, 0.5))
	require.Zero(t, Quantile([]int(nil), 0.5))
}
