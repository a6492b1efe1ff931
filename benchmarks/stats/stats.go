// Package stats says what a few measurements of the same thing have to say:
// their median, and how far they lie apart. It is pure.
package stats

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Summary is what is reported of several measurements.
type Summary struct {
	Median, Low, High float64
}

// Summarize summarizes measurements. NaN is none; of none, everything is NaN.
func Summarize(xs []float64) Summary {
	sorted := slices.DeleteFunc(slices.Sorted(slices.Values(xs)), math.IsNaN)
	n := len(sorted)
	if n == 0 {
		return Summary{math.NaN(), math.NaN(), math.NaN()}
	}
	median := sorted[n/2]
	if n%2 == 0 {
		median = (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return Summary{median, sorted[0], sorted[n-1]}
}

// Spread is how far the measurements lie apart, in proportion to the median.
func (s Summary) Spread() float64 { return (s.High - s.Low) / s.Median }

// String is the median, and the least and the greatest in brackets if they
// differ.
func (s Summary) String() string {
	switch {
	case math.IsNaN(s.Median):
		return "-"
	case s.Low == s.High:
		return Format(s.Median)
	}
	return fmt.Sprintf("%s (%s-%s)", Format(s.Median), Format(s.Low), Format(s.High))
}

// Format writes a number with three significant digits, or all digits that are
// before the point.
func Format(x float64) string {
	switch size := math.Abs(x); {
	case size >= 99.95:
		return fmt.Sprintf("%.0f", x)
	case size >= 9.995:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

// Ratios divides measurements pair by pair: those of one pair were made right
// after one another, so what was wrong with the machine was wrong for both.
// Those without a partner count for nothing.
func Ratios(xs, ys []float64) []float64 {
	n := min(len(xs), len(ys))
	ratios := make([]float64, 0, n)
	for i := range n {
		if ys[i] != 0 {
			ratios = append(ratios, xs[i]/ys[i])
		}
	}
	return ratios
}

// Quantile is the least of the sorted values that at least the share q of them
// does not exceed. Of none, it is zero.
func Quantile[T cmp.Ordered](sorted []T, q float64) T {
	if len(sorted) == 0 {
		var zero T
		return zero
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
