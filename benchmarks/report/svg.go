package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// svg is a drawing under way.
type svg struct {
	strings.Builder
	width, height float64
}

func (s *svg) line(x1, y1, x2, y2 float64, class, color string) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"%s/>`, x1, y1, x2, y2, class, stroke(color))
}

func (s *svg) dot(x, y float64, color, title string) {
	fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="3.6" fill="%s"><title>%s</title></circle>`, x, y, color, html.EscapeString(title))
}

// text writes a text whose start, middle or end is at x.
func (s *svg) text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">%s</text>`, x, y, anchor, class, html.EscapeString(text))
}

func (s *svg) path(points [][2]float64, color string) {
	fmt.Fprint(s, `<polyline fill="none" class="curve" points="`)
	for _, p := range points {
		fmt.Fprintf(s, "%.1f,%.1f ", p[0], p[1])
	}
	fmt.Fprintf(s, `"%s/>`, stroke(color))
}

func (s *svg) rect(x, y, w, h float64, class string) {
	fmt.Fprintf(s, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="%s"/>`, x, y, w, h, class)
}

// done is the whole drawing.
func (s *svg) done(label string) string {
	return fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-label="%s">%s</svg>`,
		s.width, s.height, s.width, s.height, html.EscapeString(label), s.String())
}

func stroke(color string) string {
	if color == "" {
		return ""
	}
	return ` stroke="` + color + `"`
}

// scale puts values between two places, by their logarithms if that is asked for.
type scale struct {
	low, high float64
	from, to  float64
	log       bool
}

// decades is from what ratio of the greatest to the least value on a scale is
// logarithmic.
const decades = 12

// newScale makes a scale for values: from zero, or logarithmic if they lie far apart or
// it is wanted. Only what is positive can be on the latter.
func newScale(values []float64, from, to float64, wantLog bool) scale {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if v > 0 && !math.IsInf(v, 0) {
			low, high = min(low, v), max(high, v)
		}
	}
	s := scale{from: from, to: to}
	switch {
	case math.IsInf(low, 1): // Nothing is positive.
		s.high = 1
	case wantLog || high/low > decades:
		s.log = true
		s.low, s.high = low/1.15, high*1.15
		if s.high/s.low < 4 { // A flat line is to look flat.
			middle := math.Sqrt(s.low * s.high)
			s.low, s.high = middle/2, middle*2
		}
	default:
		s.high = high * 1.08
	}
	return s
}

// at is where a value is; what is not on the scale is at its beginning.
func (s scale) at(v float64) float64 {
	if s.log {
		if v <= s.low {
			return s.from
		}
		return s.from + (s.to-s.from)*math.Log(v/s.low)/math.Log(s.high/s.low)
	}
	return s.from + (s.to-s.from)*(v-s.low)/(s.high-s.low)
}

// ticks are round values on the scale, n or so.
func (s scale) ticks(n int) []float64 {
	var ticks []float64
	if !s.log {
		step := round((s.high - s.low) / float64(n))
		for i := math.Ceil(s.low / step); i*step <= s.high*1.0001; i++ {
			ticks = append(ticks, i*step)
		}
		return ticks
	}
	spread := math.Log10(s.high / s.low)
	steps := []float64{1}
	if spread < 1.2 {
		steps = []float64{1, 2, 3, 5}
	} else if spread < 2.6 {
		steps = []float64{1, 3}
	}
	every := max(1, math.Ceil(spread/float64(n)))
	for d := math.Floor(math.Log10(s.low)); d <= math.Ceil(math.Log10(s.high)); d += every {
		for _, step := range steps {
			if v := step * math.Pow(10, d); v >= s.low && v <= s.high {
				ticks = append(ticks, v)
			}
		}
	}
	return ticks
}

// round is the next of 1, 2 and 5 times a power of ten.
func round(x float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= x*0.9999 {
			return m * power
		}
	}
	return 10 * power
}

// short writes a number for an axis or beside a point.
func short(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 999_500:
		return trim(v/1e6) + "M"
	case a >= 9995:
		return trim(v/1e3) + "k"
	default:
		return trim(v)
	}
}

// trim writes three significant digits at most.
func trim(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	case a >= 0.01:
		return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	}
	return fmt.Sprintf("%.1g", v)
}
