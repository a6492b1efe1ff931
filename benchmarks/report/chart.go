package report

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/pebbledash/pebbledash/benchmarks/stats"
	"github.com/pebbledash/pebbledash/benchmarks/svg"
)

// point is what was measured of one server in one row.
type point struct {
	peer string
	stats.Summary
}

// line is a row of a chart.
type line struct {
	name   string
	points []point
}

// chart is a figure, by row and server.
type chart struct {
	title string
	lines []line
}

// peers are the servers in a chart, in order.
func (c *chart) peers() []string {
	var names []string
	for _, l := range c.lines {
		for _, p := range l.points {
			if !slices.Contains(names, p.peer) {
				names = append(names, p.peer)
			}
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return svg.Rank(a) - svg.Rank(b) })
	return names
}

func (c *chart) values() []float64 {
	var all []float64
	for _, l := range c.lines {
		for _, p := range l.points {
			all = append(all, p.Low, p.Median, p.High)
		}
	}
	return all
}

// Sizes in a drawing, in pixels.
const (
	chartWidth  = 560.0
	laneHeight  = 12.0
	rowGap      = 9.0
	charWidth   = 7.0 // of a row's name, at 11.5 px
	axisHeight  = 24.0
	labelWidth  = 46.0 // of a number behind a point
	lineHeight  = 250.0
	axisWidth   = 46.0
	belowHeight = 40.0
	// manyLines is from how many rows on a chart has its axis above, too.
	manyLines = 10
)

// dots draws a row a line: a point for each server, and from its least to its greatest
// value.
func (c *chart) dots() string {
	peers := c.peers()
	longest := 0
	for _, l := range c.lines {
		longest = max(longest, utf8.RuneCountInString(l.name))
	}
	left := max(12, float64(longest)*charWidth+12)
	rowHeight := float64(len(peers))*laneHeight + rowGap
	first := 4.0 // where the first row begins
	if len(c.lines) > manyLines {
		first += axisHeight // for a second axis: the other one is out of sight
	}
	s := &svg.Canvas{Width: max(chartWidth, left+300), Height: first + float64(len(c.lines))*rowHeight + axisHeight}
	bottom := s.Height - axisHeight
	x := svg.NewScale(c.values(), left, s.Width-labelWidth-6, svg.Auto)
	for i := range c.lines {
		if i%2 == 0 {
			s.Rect(0, first+float64(i)*rowHeight, s.Width, rowHeight, "band")
		}
	}
	const ticks = 5
	s.Across(x, ticks, first, bottom)
	if len(c.lines) > manyLines {
		for _, t := range x.Ticks(ticks) {
			s.Text(x.At(t), first-6, "middle", "tick", svg.Short(t))
		}
	}
	s.Line(left, bottom, s.Width-labelWidth, bottom, "axis", "")
	for i, l := range c.lines {
		top := first + float64(i)*rowHeight
		s.Text(left-8, top+rowHeight/2+4, "end", "name", l.name)
		for _, p := range l.points {
			y := top + rowGap/2 + (float64(slices.Index(peers, p.peer))+0.5)*laneHeight
			color := svg.ColorOf(p.peer)
			s.Line(x.At(p.Low), y, x.At(p.High), y, "spread", color)
			s.Dot(x.At(p.Median), y, color, fmt.Sprintf("%s, %s: %s", l.name, p.peer, p.Summary))
			s.Text(max(x.At(p.High), x.At(p.Median))+7, y+3.5, "start", "value", svg.Short(p.Median))
		}
	}
	return s.Done(c.title)
}

// numeric says that all rows are named by numbers, so that they can be an axis.
func (c *chart) numeric() bool {
	for _, l := range c.lines {
		if _, err := strconv.ParseFloat(l.name, 64); err != nil {
			return false
		}
	}
	return len(c.lines) > 1
}

// curves draws a curve for each server over what rows differ in, both logarithmic: what
// does not depend on it is level.
func (c *chart) curves(below string) string {
	s := &svg.Canvas{Width: 376, Height: lineHeight}
	bottom := s.Height - belowHeight
	var xs []float64
	for _, l := range c.lines {
		v, _ := strconv.ParseFloat(l.name, 64) // numeric has tried.
		xs = append(xs, v)
	}
	x := svg.NewScale(xs, axisWidth, s.Width-16, svg.Log)
	y := svg.NewScale(c.values(), bottom, 10, svg.Log)
	s.Across(x, 6, 10, bottom)
	s.Up(y, 6, axisWidth, s.Width-16)
	s.Line(axisWidth, bottom, s.Width-16, bottom, "axis", "")
	s.Line(axisWidth, 10, axisWidth, bottom, "axis", "")
	s.Text((axisWidth+s.Width-16)/2, s.Height-6, "middle", "tick", below)
	for _, peer := range c.peers() {
		color := svg.ColorOf(peer)
		var points [][2]float64
		for i, l := range c.lines {
			for _, p := range l.points {
				if p.peer != peer || p.Median <= 0 {
					continue
				}
				at := [2]float64{x.At(xs[i]), y.At(p.Median)}
				points = append(points, at)
				s.Line(at[0], y.At(p.Low), at[0], y.At(p.High), "spread", color)
				s.Dot(at[0], at[1], color, fmt.Sprintf("%s, %s: %s", l.name, peer, p.Summary))
			}
		}
		s.Path(points, color)
	}
	return s.Done(c.title)
}

// sortNumeric puts rows in the order of their numbers.
// REQUIRES: numeric.
func (c *chart) sortNumeric() {
	slices.SortStableFunc(c.lines, func(a, b line) int {
		x, _ := strconv.ParseFloat(a.name, 64) // numeric has tried.
		y, _ := strconv.ParseFloat(b.name, 64)
		return cmp.Compare(x, y)
	})
}

// nameNumbers says of rows that are named by a number only what it is of.
func (c *chart) nameNumbers(of string) {
	for i, l := range c.lines {
		if _, err := strconv.ParseFloat(l.name, 64); err == nil {
			c.lines[i].name += " " + of
		}
	}
}
