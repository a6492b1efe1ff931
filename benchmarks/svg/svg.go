// Package svg draws charts: a canvas, scales with round ticks, and the colours of servers.
package svg

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Canvas is a drawing under way.
type Canvas struct {
	Width, Height float64

	drawn strings.Builder
}

// Line draws a straight line; color may be "", for that of its class.
func (c *Canvas) Line(x1, y1, x2, y2 float64, class, color string) {
	fmt.Fprintf(&c.drawn, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"%s/>`, x1, y1, x2, y2, class, stroke(color))
}

// Dot draws a point that tells its title.
func (c *Canvas) Dot(x, y float64, color, title string) {
	fmt.Fprintf(&c.drawn, `<circle cx="%.1f" cy="%.1f" r="3.6" fill="%s"><title>%s</title></circle>`, x, y, color, html.EscapeString(title))
}

// Text writes a text whose start, middle or end is at x.
func (c *Canvas) Text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(&c.drawn, `<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">%s</text>`, x, y, anchor, class, html.EscapeString(text))
}

// Path draws a curve through points.
func (c *Canvas) Path(points [][2]float64, color string) {
	fmt.Fprint(&c.drawn, `<polyline fill="none" class="curve" points="`)
	for _, p := range points {
		fmt.Fprintf(&c.drawn, "%.1f,%.1f ", p[0], p[1])
	}
	fmt.Fprintf(&c.drawn, `"%s/>`, stroke(color))
}

// Rect fills a rectangle.
func (c *Canvas) Rect(x, y, w, h float64, class string) {
	fmt.Fprintf(&c.drawn, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="%s"/>`, x, y, w, h, class)
}

// Across draws the grid of a scale from left to right, some n lines, with its ticks below.
func (c *Canvas) Across(x Scale, n int, top, bottom float64) {
	for _, t := range x.Ticks(n) {
		c.Line(x.At(t), top, x.At(t), bottom, "grid", "")
		c.Text(x.At(t), bottom+15, "middle", "tick", Short(t))
	}
}

// Up draws that of a scale from the bottom up, with its ticks on the left.
func (c *Canvas) Up(y Scale, n int, left, right float64) {
	for _, t := range y.Ticks(n) {
		c.Line(left, y.At(t), right, y.At(t), "grid", "")
		c.Text(left-6, y.At(t)+3.5, "end", "tick", Short(t))
	}
}

// Done is the whole drawing.
func (c *Canvas) Done(label string) string {
	return fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-label="%s">%s</svg>`,
		c.Width, c.Height, c.Width, c.Height, html.EscapeString(label), c.drawn.String())
}

func stroke(color string) string {
	if color == "" {
		return ""
	}
	return ` stroke="` + color + `"`
}

// Kind is how a scale places values.
type Kind int

// Linear scales begin at zero; of Auto ones those are logarithmic whose values lie far
// apart.
const (
	Linear Kind = iota
	Log
	Auto
)

// Scale puts values between two places.
type Scale struct {
	low, high float64
	from, to  float64
	log       bool
}

// farApart is from what ratio of the greatest to the least value on a scale is
// logarithmic by itself.
const farApart = 12

// NewScale makes a scale for values. Only what is positive can be on a logarithmic one.
func NewScale(values []float64, from, to float64, kind Kind) Scale {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if v > 0 && !math.IsInf(v, 0) {
			low, high = min(low, v), max(high, v)
		}
	}
	s := Scale{from: from, to: to}
	switch {
	case math.IsInf(low, 1): // Nothing is positive.
		s.high = 1
	case kind == Log || kind == Auto && high/low > farApart:
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

// At is where a value is; what is not on the scale is at its beginning.
func (s Scale) At(v float64) float64 {
	if s.log {
		if v <= s.low {
			return s.from
		}
		return s.from + (s.to-s.from)*math.Log(v/s.low)/math.Log(s.high/s.low)
	}
	return s.from + (s.to-s.from)*(v-s.low)/(s.high-s.low)
}

// Ticks are round values on the scale, n or so.
func (s Scale) Ticks(n int) []float64 {
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

// Short writes a number for an axis or beside a point.
func Short(v float64) string {
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
