//go:build linux

package main

import (
	"fmt"
	"math"

	"github.com/pebbledash/pebbledash/benchmarks/svg"
)

// A chart's measures, in its own units.
const (
	chartWidth  = 540.0
	chartHeight = 210.0
	marginLeft  = 48.0
	marginRight = 16.0
	marginTop   = 24.0
	marginLow   = 22.0
	// ticks is how many lines a grid has, or so.
	ticks = 6
)

func newChart(title string, height float64) *svg.Canvas {
	c := &svg.Canvas{Width: chartWidth, Height: height}
	c.Text(0, 14, "start", "title", title)
	return c
}

// curve is a line of a chart.
type curve struct {
	color  string
	points [][2]float64
}

// lines draws curves; bound is a line at an x, or NaN for none.
func lines(title string, curves []curve, kind svg.Kind, bound float64) string {
	xs, ys := []float64{bound}, []float64(nil)
	for _, c := range curves {
		for _, p := range c.points {
			xs, ys = append(xs, p[0]), append(ys, p[1])
		}
	}
	bottom := chartHeight - marginLow
	x := svg.NewScale(xs, marginLeft, chartWidth-marginRight, kind)
	y := svg.NewScale(ys, bottom, marginTop, svg.Linear)
	s := newChart(title, chartHeight)
	s.Across(x, ticks, marginTop, bottom)
	s.Up(y, ticks, marginLeft, chartWidth-marginRight)
	if !math.IsNaN(bound) {
		s.Line(x.At(bound), marginTop, x.At(bound), bottom, "bound", "")
	}
	for _, c := range curves {
		var placed [][2]float64
		for _, p := range c.points {
			placed = append(placed, [2]float64{x.At(p[0]), y.At(p[1])})
		}
		s.Path(placed, c.color)
	}
	return s.Done(title)
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
	x := svg.NewScale(values, nameWidth, chartWidth-marginRight, svg.Log)
	s := newChart(title, bottom+marginLow)
	s.Across(x, ticks, marginTop, bottom)
	s.Line(x.At(bound), marginTop, x.At(bound), bottom, "bound", "")
	for i, name := range names {
		y := marginTop + (float64(i)+0.5)*row
		s.Text(nameWidth-8, y+4, "end", "tick", name)
		for _, store := range stores {
			if v, ok := rows[name][store]; ok {
				s.Dot(x.At(v), y, svg.ColorOf(store), fmt.Sprintf("%s: %.3g s", store, v))
			}
		}
	}
	return s.Done(title)
}
