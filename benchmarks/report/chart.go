package report

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/pebbledash/pebbledash/benchmarks/stats"
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

// The order and the colours of servers, the same everywhere; who is not there is grey.
var peerColors = []struct{ peer, color string }{
	{"pebbledash", "#1f63b5"},
	{"four-groups", "#1f63b5"},
	{"pebbledash-overrides", "#6fb1e0"},
	{"one-group", "#6fb1e0"},
	{"etcd", "#d9730d"},
	{"etcd-overrides", "#f2b266"},
	{"kine", "#3f8f3a"},
}

const otherColor = "#777777"

func colorOf(peer string) string {
	for _, p := range peerColors {
		if p.peer == peer {
			return p.color
		}
	}
	return otherColor
}

// rank orders servers as their colours are.
func rank(peer string) int {
	i := slices.IndexFunc(peerColors, func(p struct{ peer, color string }) bool { return p.peer == peer })
	if i < 0 {
		return len(peerColors)
	}
	return i
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
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
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
	s := &svg{width: max(chartWidth, left+300), height: first + float64(len(c.lines))*rowHeight + axisHeight}
	bottom := s.height - axisHeight
	x := newScale(c.values(), left, s.width-labelWidth-6, false)
	for i := range c.lines {
		if i%2 == 0 {
			s.rect(0, first+float64(i)*rowHeight, s.width, rowHeight, "band")
		}
	}
	for _, t := range x.ticks(5) {
		s.line(x.at(t), first, x.at(t), bottom, "grid", "")
		s.text(x.at(t), bottom+15, "middle", "tick", short(t))
		if len(c.lines) > manyLines {
			s.text(x.at(t), first-6, "middle", "tick", short(t))
		}
	}
	s.line(left, bottom, s.width-labelWidth, bottom, "axis", "")
	for i, l := range c.lines {
		top := first + float64(i)*rowHeight
		s.text(left-8, top+rowHeight/2+4, "end", "name", l.name)
		for _, p := range l.points {
			y := top + rowGap/2 + (float64(slices.Index(peers, p.peer))+0.5)*laneHeight
			color := colorOf(p.peer)
			s.line(x.at(p.Low), y, x.at(p.High), y, "spread", color)
			s.dot(x.at(p.Median), y, color, fmt.Sprintf("%s, %s: %s", l.name, p.peer, p.Summary))
			s.text(max(x.at(p.High), x.at(p.Median))+7, y+3.5, "start", "value", short(p.Median))
		}
	}
	return s.done(c.title)
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
	s := &svg{width: 376, height: lineHeight}
	bottom := s.height - belowHeight
	var xs []float64
	for _, l := range c.lines {
		v, _ := strconv.ParseFloat(l.name, 64) // numeric has tried.
		xs = append(xs, v)
	}
	x := newScale(xs, axisWidth, s.width-16, true)
	y := newScale(c.values(), bottom, 10, true)
	for _, t := range x.ticks(6) {
		s.line(x.at(t), 10, x.at(t), bottom, "grid", "")
		s.text(x.at(t), bottom+15, "middle", "tick", short(t))
	}
	for _, t := range y.ticks(6) {
		s.line(axisWidth, y.at(t), s.width-16, y.at(t), "grid", "")
		s.text(axisWidth-6, y.at(t)+3.5, "end", "tick", short(t))
	}
	s.line(axisWidth, bottom, s.width-16, bottom, "axis", "")
	s.line(axisWidth, 10, axisWidth, bottom, "axis", "")
	s.text((axisWidth+s.width-16)/2, s.height-6, "middle", "tick", below)
	for _, peer := range c.peers() {
		color := colorOf(peer)
		var points [][2]float64
		for i, l := range c.lines {
			for _, p := range l.points {
				if p.peer != peer || p.Median <= 0 {
					continue
				}
				at := [2]float64{x.at(xs[i]), y.at(p.Median)}
				points = append(points, at)
				s.line(at[0], y.at(p.Low), at[0], y.at(p.High), "spread", color)
				s.dot(at[0], at[1], color, fmt.Sprintf("%s, %s: %s", l.name, peer, p.Summary))
			}
		}
		s.path(points, color)
	}
	return s.done(c.title)
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
