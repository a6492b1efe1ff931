package exposition

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const before = `# HELP took_seconds how long
# TYPE took_seconds histogram
took_seconds_bucket{verb="GET",path="a\"b,}",le="0.1"} 10
took_seconds_bucket{verb="GET",path="a\"b,}",le="1"} 10
took_seconds_bucket{verb="GET",path="a\"b,}",le="+Inf"} 10
took_seconds_sum{verb="GET",path="a\"b,}"} 0.5
took_seconds_count{verb="GET",path="a\"b,}"} 10
other 7 1700000000
`

const after = `took_seconds_bucket{verb="GET",path="a",le="0.1"} 50
took_seconds_bucket{verb="GET",path="a",le="1"} 100
took_seconds_bucket{verb="GET",path="a",le="+Inf"} 110
took_seconds_sum{verb="GET",path="a"} 60.5
took_seconds_bucket{verb="GET",path="b",le="0.1"} 10
took_seconds_bucket{verb="GET",path="b",le="1"} 10
took_seconds_bucket{verb="GET",path="b",le="+Inf"} 10
took_seconds_sum{verb="GET",path="b"} 0
took_seconds_bucket{verb="WATCH",path="b",le="+Inf"} 1
`

func verb(labels map[string]string) string {
	if labels["verb"] == "WATCH" {
		return ""
	}
	return labels["verb"]
}

func histograms(t *testing.T, text string) map[string]Histogram {
	t.Helper()
	samples, err := Parse(strings.NewReader(text), func(name string) bool { return strings.HasPrefix(name, "took") })
	require.NoError(t, err)
	return Histograms(samples, "took_seconds", verb)
}

func TestParse(t *testing.T) {
	samples, err := Parse(strings.NewReader(before), func(string) bool { return true })
	require.NoError(t, err)
	require.Len(t, samples, 6)
	require.Equal(t, `a"b,}`, samples[0].Labels["path"])
	require.Equal(t, Sample{Name: "other", Labels: map[string]string{}, Value: 7}, samples[5])
	for _, bad := range []string{"a x", `a{b="c} 1`, "a{b} 1"} {
		_, err := Parse(strings.NewReader(bad), func(string) bool { return true })
		require.Error(t, err, bad)
	}
}

func TestHistogramDelta(t *testing.T) {
	all := histograms(t, after)
	require.Len(t, all, 1)
	// 50, 50 and 10 values in the three buckets.
	d := all["GET"].Since(histograms(t, before)["GET"])
	require.InDelta(t, 110, d.Count(), 0)
	require.InDelta(t, 60, d.Sum, 1e-9)
	require.InDelta(t, 0.05, d.Quantile(25.0/110), 1e-9)
	require.InDelta(t, 0.1, d.Quantile(50.0/110), 1e-9)
	require.InDelta(t, 0.55, d.Quantile(75.0/110), 1e-9)
	require.InDelta(t, 1, d.Quantile(0.99), 0, "above the greatest bound")
	require.InDelta(t, 220, d.Plus(d).Count(), 0)
	// What was not there before counts from zero.
	require.InDelta(t, 120, all["GET"].Since(Histogram{}).Count(), 0)
}

func TestQuantileOfNone(t *testing.T) {
	require.True(t, math.IsNaN(Histogram{}.Quantile(0.5)))
}
