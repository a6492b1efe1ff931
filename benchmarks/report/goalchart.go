package report

import (
	"fmt"
	"unicode/utf8"

	"github.com/pebbledash/pebbledash/benchmarks/svg"
)

// goalDots draws how far each goal is from its bound: left of the line is met, whatever
// the bound and which way it is.
func goalDots(verdicts []Verdict) string {
	var shares []float64
	longest := 0
	for _, v := range verdicts {
		longest = max(longest, utf8.RuneCountInString(v.What+v.Wanted())+2)
		if !v.Unknown() {
			shares = append(shares, v.share())
		}
	}
	const row = 19.0
	left := float64(longest)*charWidth + 12
	s := &svg.Canvas{Width: left + 430, Height: float64(len(verdicts))*row + axisHeight + 22}
	bottom := s.Height - axisHeight
	x := svg.NewScale(append(shares, 0.3, 3), left, s.Width-70, svg.Log)
	s.Rect(left, 18, x.At(1)-left, bottom-18, "good")
	s.Across(x, 6, 18, bottom)
	s.Line(x.At(1), 18, x.At(1), bottom, "axis", "")
	s.Text(x.At(1)-6, 12, "end", "tick", "met")
	s.Text(x.At(1)+6, 12, "start", "tick", "not met: share of what is wanted")
	for i, v := range verdicts {
		y := 18 + (float64(i)+0.5)*row
		s.Text(left-8, y+4, "end", "name", v.What+"  "+v.Wanted())
		if v.Unknown() {
			s.Text(left+6, y+4, "start", "value", "not measured")
			continue
		}
		color := "#b3261e"
		if v.Met() {
			color = "#2e7d32"
		}
		s.Dot(x.At(v.share()), y, color, fmt.Sprintf("%s: %s, %s", v.What, v.Measured, v.Word()))
		s.Text(x.At(v.share())+8, y+4, "start", "value", svg.Short(v.Measured.Median))
	}
	return s.Done("goals")
}

// share is 1 at the bound, and less if the goal is met with something to spare.
func (v Verdict) share() float64 {
	if v.AtLeast {
		return v.Bound / v.Measured.Median
	}
	return v.Measured.Median / v.Bound
}
