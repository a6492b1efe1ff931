//go:build linux

package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A chart's measures, in its own units.
const (
	chartWidth  = 540.0
	chartHeight = 210.0
	marginLeft  = 48.0
	marginRight = 16.0
	marginTop   = 24.0
	marginLow   = 22.0
)

// axis puts values between two places, by their logarithms if that is asked for.
type axis struct {
	low, high, from, to float64
	log                 bool
}

func (a axis) at(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		v, low, high = math.Log(max(v, a.low)), math.Log(low), math.Log(high)
	}
	if high == low {
		return a.from
	}
	return a.from + (v-low)/(high-low)*(a.to-a.from)
}

// ticks are round values on the axis.
func (a axis) ticks() []float64 {
	var all []float64
	if a.log {
		for v := math.Pow(10, math.Ceil(math.Log10(a.low)-1e-9)); v <= a.high*(1+1e-9); v *= 10 {
			all = append(all, v)
		}
		return all
	}
	step := math.Pow(10, math.Floor(math.Log10((a.high-a.low)/2)))
	for (a.high-a.low)/step > 6 {
		step *= 2
	}
	for v := math.Ceil(a.low/step) * step; v <= a.high*(1+1e-9); v += step {
		all = append(all, v)
	}
	return all
}

// extent are the least and the greatest values, widened to whole powers of ten if the
// axis is to be logarithmic, and else down to zero.
func extent(values []float64, log bool) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if !math.IsNaN(v) && (v > 0 || !log) {
			low, high = min(low, v), max(high, v)
		}
	}
	switch {
	case math.IsInf(low, 1):
		return 1, 10
	case log:
		low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
		if low == high {
			high *= 10
		}
		return low, high
	case high <= 0:
		return 0, 1
	default:
		return 0, high * 1.05
	}
}

// svg is a drawing under way.
type svg struct{ strings.Builder }

func newSVG(title string, height float64) *svg {
	s := &svg{}
	fmt.Fprintf(s, `<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, chartWidth, height, html.EscapeString(title))
	s.text(0, 14, "start", "title", title)
	return s
}

func (s *svg) text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">%s</text>`, x, y, anchor, class, html.EscapeString(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, x1, y1, x2, y2, class)
}

// across draws the grid of an axis from left to right.
func (s *svg) across(x axis, top, bottom float64) {
	for _, v := range x.ticks() {
		s.line(x.at(v), top, x.at(v), bottom, "grid")
		s.text(x.at(v), bottom+14, "middle", "tick", fmt.Sprintf("%.4g", v))
	}
}

func (s *svg) done() string { return s.String() + "</svg>" }

// lines draws curves; bound is a line at an x, or NaN for none.
func lines(title string, curves []curve, log bool, bound float64) string {
	xs, ys := []float64{bound}, []float64(nil)
	for _, c := range curves {
		for _, p := range c.points {
			xs, ys = append(xs, p[0]), append(ys, p[1])
		}
	}
	bottom := chartHeight - marginLow
	x, y := axis{from: marginLeft, to: chartWidth - marginRight, log: log}, axis{from: bottom, to: marginTop}
	x.low, x.high = extent(xs, log)
	y.low, y.high = extent(ys, false)
	s := newSVG(title, chartHeight)
	s.across(x, marginTop, bottom)
	for _, v := range y.ticks() {
		s.line(marginLeft, y.at(v), chartWidth-marginRight, y.at(v), "grid")
		s.text(marginLeft-6, y.at(v)+4, "end", "tick", fmt.Sprintf("%.4g", v))
	}
	if !math.IsNaN(bound) {
		s.line(x.at(bound), marginTop, x.at(bound), bottom, "bound")
	}
	for _, c := range curves {
		fmt.Fprintf(s, `<polyline fill="none" stroke="%s" stroke-width="1.6" points="`, c.color)
		for _, p := range c.points {
			fmt.Fprintf(s, "%.1f,%.1f ", x.at(p[0]), y.at(p[1]))
		}
		s.WriteString(`"/>`)
	}
	return s.done()
}

// dots draws a row of dots, one a store, for each name.
func dots(title string, stores, names []string, rows map[string]map[string]float64, bound float64) string {
	const row, nameWidth = 17.0, 230.0
	values := []float64{bound}
	for _, byStore := range rows {
		for _, v := range byStore {
			values = append(values, v)
		}
	}
	bottom := marginTop + row*float64(max(len(names), 1))
	x := axis{from: nameWidth, to: chartWidth - marginRight, log: true}
	x.low, x.high = extent(values, true)
	s := newSVG(title, bottom+marginLow)
	s.across(x, marginTop, bottom)
	s.line(x.at(bound), marginTop, x.at(bound), bottom, "bound")
	for i, name := range names {
		y := marginTop + (float64(i)+0.5)*row
		s.text(nameWidth-8, y+4, "end", "tick", name)
		for _, store := range stores {
			if v, ok := rows[name][store]; ok && !math.IsNaN(v) {
				fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s" fill-opacity=".8"><title>%s: %.3g s</title></circle>`,
					x.at(v), y, color(store), html.EscapeString(store), v)
			}
		}
	}
	return s.done()
}
