package exposition

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// Histogram counts values by upper bounds, cumulatively as in Prometheus.
type Histogram struct {
	// Buckets are by upper bound; the greatest is infinite.
	Buckets map[float64]float64
	// Sum is of all values.
	Sum float64
}

// Histograms adds up the series of one histogram by what key makes of their labels, ""
// for those that do not count.
func Histograms(samples []Sample, name string, key func(labels map[string]string) string) map[string]Histogram {
	all := map[string]Histogram{}
	for _, s := range samples {
		kind, ok := strings.CutPrefix(s.Name, name)
		if !ok || (kind != "_bucket" && kind != "_sum") {
			continue
		}
		k := key(s.Labels)
		if k == "" {
			continue
		}
		h, ok := all[k]
		if !ok {
			h.Buckets = map[float64]float64{}
		}
		if kind == "_sum" {
			h.Sum += s.Value
		} else if bound, err := strconv.ParseFloat(s.Labels["le"], 64); err == nil {
			h.Buckets[bound] += s.Value
		}
		all[k] = h
	}
	return all
}

// Since is what has come since an earlier reading.
func (h Histogram) Since(earlier Histogram) Histogram {
	d := Histogram{Buckets: map[float64]float64{}, Sum: h.Sum - earlier.Sum}
	for bound, n := range h.Buckets {
		d.Buckets[bound] = n - earlier.Buckets[bound]
	}
	return d
}

// Plus is both together.
func (h Histogram) Plus(other Histogram) Histogram {
	d := Histogram{Buckets: map[float64]float64{}, Sum: h.Sum + other.Sum}
	for bound, n := range h.Buckets {
		d.Buckets[bound] = n
	}
	for bound, n := range other.Buckets {
		d.Buckets[bound] += n
	}
	return d
}

// Count is how many values there are.
func (h Histogram) Count() float64 { return h.Buckets[math.Inf(1)] }

// Quantile interpolates within a bucket as Prometheus' histogram_quantile does. What
// lies above the greatest finite bound is said to be that bound. Of none, it is NaN.
func (h Histogram) Quantile(q float64) float64 {
	rank := q * h.Count()
	if h.Count() <= 0 {
		return math.NaN()
	}
	bounds := make([]float64, 0, len(h.Buckets))
	for bound := range h.Buckets {
		bounds = append(bounds, bound)
	}
	slices.Sort(bounds)
	low, below := 0.0, 0.0
	for _, bound := range bounds {
		n := h.Buckets[bound]
		switch {
		case n < rank:
			low, below = bound, n
		case math.IsInf(bound, 1):
			return low
		case n == below:
			return bound
		default:
			return low + (bound-low)*(rank-below)/(n-below)
		}
	}
	return low
}
