package report

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/benchmarks/record"
)

// file is a result of two servers in a sheet, as many turns as there are values.
func file(name, mode, sheet, row, metric string, mine, theirs []float64) *record.File {
	one := func(peer string, xs []float64) record.Row {
		return record.Row{Sheet: sheet, Title: "a title", First: "clients", Row: row, Peer: peer, Values: record.Values{metric: xs}}
	}
	return &record.File{Name: name, Mode: mode, Last: "etcd", Rows: []record.Row{one("pebbledash", mine), one("etcd", theirs)}}
}

var (
	less     = Goal{"CPU", single, "put256", "8/64", ours, "CPU µs/op", 0.5, false, false}
	more     = Goal{"rate", single, "put256", "8/64", ours, "ops/s", 1.7, true, false}
	absolute = Goal{"memory", []string{"large"}, "large", "10M", ours, "idle RSS MiB", 1024, false, true}
)

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name string
		goal Goal
		file *record.File
		want string
	}{
		{"the median of ratios counts", less, file("a", "full", "put256", "8/64", "CPU µs/op", []float64{40, 60, 500}, []float64{100, 150, 100}), "met"},
		{"turn by turn", less, file("a", "full", "put256", "8/64", "CPU µs/op", []float64{60, 120}, []float64{100, 200}), "NOT MET"},
		{"at the bound", less, file("a", "quick", "put256", "8/64", "CPU µs/op", []float64{50}, []float64{100}), "met"},
		{"more is better", more, file("a", "full", "put256", "8/64", "ops/s", []float64{180}, []float64{100}), "met"},
		{"and less is worse", more, file("a", "full", "put256", "8/64", "ops/s", []float64{160}, []float64{100}), "NOT MET"},
		{"absolute", absolute, file("a", "large", "large", "10M", "idle RSS MiB", []float64{1000}, nil), "met"},
		{"too much", absolute, file("a", "large", "large", "10M", "idle RSS MiB", []float64{1025}, nil), "NOT MET"},
		{"another row", less, file("a", "full", "put256", "1/1", "CPU µs/op", []float64{1}, []float64{100}), "not measured"},
		{"another mode", less, file("a", "cluster", "put256", "8/64", "CPU µs/op", []float64{1}, []float64{100}), "not measured"},
		{"what is missing", less, file("a", "full", "put256", "8/64", "CPU µs/op", []float64{math.NaN()}, []float64{100}), "not measured"},
		{"alone", less, file("a", "full", "put256", "8/64", "CPU µs/op", []float64{1}, nil), "not measured"},
	} {
		require.Equal(t, c.want, Judge([]Goal{c.goal}, []*record.File{c.file})[0].Word(), c.name)
	}
	// The latest that has it counts, and one without it takes nothing away.
	files := []*record.File{
		file("1", "full", "put256", "8/64", "CPU µs/op", []float64{10}, []float64{100}),
		file("2", "quick", "put256", "8/64", "CPU µs/op", []float64{90}, []float64{100}),
		file("3", "full", "put1k", "8/64", "CPU µs/op", []float64{10}, []float64{100}),
	}
	v := Judge([]Goal{less}, files)[0]
	require.Equal(t, "2", v.File)
	require.Equal(t, "NOT MET", v.Word())
	require.InDelta(t, 1.8, v.share(), 1e-9)

	var text strings.Builder
	require.NoError(t, WriteGoals(&text, Judge([]Goal{less, absolute}, files)))
	require.Regexp(t, `CPU +≤ 0.5 × etcd's +0.90 +NOT MET +2`, text.String())
	require.Regexp(t, `memory +≤ 1024 +- +not measured`, text.String())
	require.Contains(t, text.String(), "0 of 2 met, 1 not measured")
}

// Each goal names a sheet that has a section with its metric; a slip of the pen would
// leave it "not measured" for ever.
func TestGoalsAreDrawn(t *testing.T) {
	for _, g := range Goals {
		found := false
		for _, s := range sections {
			for _, sheet := range s.sheets {
				for _, m := range s.metrics {
					found = found || sheet == g.Sheet && m == g.Metric
				}
			}
		}
		require.True(t, found, g.What)
		require.Positive(t, g.Bound, g.What)
	}
}

func TestCharts(t *testing.T) {
	files := []*record.File{
		file("old", "growth", "growth-keys", "1000", "put p50 ms", []float64{7}, []float64{7}),
		file("new", "growth", "growth-keys", "100000", "put p50 ms", []float64{2, 4}, []float64{8}),
		file("newest", "growth", "growth-keys", "1000", "put p50 ms", []float64{1}, []float64{3}),
	}
	s := section{"Growth", "", []string{"growth-keys"}, []string{"put p50 ms", "nothing of it"}}
	charts, below, from := s.charts(files)
	require.Len(t, charts, 1, "what was not measured has no chart")
	require.Equal(t, "clients", below)
	require.Equal(t, []string{"new", "newest"}, from, "nothing is left of the old one")
	c := charts[0]
	require.True(t, c.numeric())
	c.sortNumeric()
	require.Equal(t, []string{"pebbledash", "etcd"}, c.peers())
	require.InDelta(t, 1.0, c.lines[0].points[0].Median, 0, "the latest of a row counts")
	require.InDelta(t, 3.0, c.lines[1].points[0].Median, 0)

	drawing := c.curves(below)
	require.Equal(t, 4, strings.Count(drawing, "<circle"))
	require.Equal(t, 2, strings.Count(drawing, "<polyline"))
	require.Contains(t, drawing, "100000, etcd: 8.00")
	require.Equal(t, 4, strings.Count(c.dots(), "<circle"))
	inside(t, drawing)
	inside(t, c.dots())
}

// inside sees to it that a drawing is well-formed and that nothing lies outside.
func inside(t *testing.T, drawing string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(drawing))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			require.NoError(t, err)
		}
	}
	require.NotRegexp(t, `(NaN|Inf|="-\d)`, drawing)
}

func TestPage(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "2026-a.txt"), []byte("a <b> & c"), 0o600))
	files := []*record.File{
		file("a", "full", "put256", "8/64", "CPU µs/op", []float64{10, 20}, []float64{100, 100}),
		file("b", "unheard", "of", "1/1", "a < b", []float64{1}, []float64{2}),
	}
	var page strings.Builder
	require.NoError(t, Page(&page, dir, files))
	text := page.String()
	require.Contains(t, text, "Puts, transactions, gets")
	require.Contains(t, text, "a title", "a sheet without a section")
	require.Contains(t, text, "a &lt; b")
	require.Contains(t, text, "a &lt;b&gt; &amp; c")
	require.NotContains(t, text, "<script")
	require.NotContains(t, text, "http://")
	require.NotContains(t, text, "https://")
	for _, drawing := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1) {
		inside(t, drawing)
	}
}
