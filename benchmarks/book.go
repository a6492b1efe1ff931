//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"

	"github.com/pebbledash/pebbledash/benchmarks/record"
	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

// metric is a column.
type metric struct{ title string }

// The columns that several sheets have.
var (
	serverCPU  = &metric{"CPU µs/op"}
	perKey     = &metric{"CPU µs/key"}
	cpuSeconds = &metric{"CPU s"}
	cores      = &metric{"server cores"}
	rate       = &metric{"ops/s"}
	p50        = &metric{"p50 ms"}
	p99        = &metric{"p99 ms"}
	worst      = &metric{"worst ms"}
	memory     = &metric{"RSS MiB"}
	beforeMiB  = &metric{"RSS before MiB"}
	aboveMiB   = &metric{"above idle MiB"}
	disk       = &metric{"disk MiB"}
	perByte    = &metric{"written B/B"}
)

// sample is what was measured of one cell, or of one turn; what is not in it was not
// measured.
type sample map[*metric]float64

// sheet is a table: what it is of, and its columns.
type sheet struct {
	// name is short: plots and goals find the table by it.
	name, title string
	// first is what its rows differ in.
	first   string
	columns []*metric
}

// book is what was measured: by sheet, row and peer, one sample a turn.
type book struct {
	peers []peer
	pages []*page
}

type page struct {
	sheet
	rows []*row
}

type row struct {
	name    string
	samples [][]sample // by peer
}

func newBook(p *plan) *book { return &book{peers: p.peers} }

// add keeps a sample. Sheets and rows come in the order in which they are first seen.
func (b *book) add(s sheet, name string, who int, one sample) {
	p := b.page(s)
	j := slices.IndexFunc(p.rows, func(r *row) bool { return r.name == name })
	if j < 0 {
		j = len(p.rows)
		p.rows = append(p.rows, &row{name: name, samples: make([][]sample, len(b.peers))})
	}
	p.rows[j].samples[who] = append(p.rows[j].samples[who], one)
}

// page is that of a sheet, a new one behind all others if there is none.
func (b *book) page(s sheet) *page {
	i := slices.IndexFunc(b.pages, func(p *page) bool { return p.name == s.name })
	if i < 0 {
		i = len(b.pages)
		b.pages = append(b.pages, &page{sheet: s})
	}
	return b.pages[i]
}

// write prints the sheets that have rows.
func (b *book) write(w io.Writer) error {
	for _, p := range b.pages {
		if len(p.rows) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", p.title)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(table, "  %s\tserver", p.first)
		for _, m := range p.columns {
			fmt.Fprintf(table, "\t%s", m.title)
		}
		fmt.Fprintln(table)
		for _, r := range p.rows {
			b.writeRow(table, p.columns, r)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// writeRow prints a line a peer, and under them how each but the last compares with
// that. A peer that takes no part has no line.
func (b *book) writeRow(w io.Writer, columns []*metric, r *row) {
	first, last := r.name, len(b.peers)-1
	for i, samples := range r.samples {
		if len(samples) == 0 {
			continue
		}
		fmt.Fprintf(w, "  %s\t%s", first, b.peers[i].name)
		for _, m := range columns {
			fmt.Fprintf(w, "\t%s", stats.Summarize(values(samples, m)))
		}
		fmt.Fprintln(w)
		first = ""
	}
	for i, samples := range r.samples[:last] {
		if len(samples) == 0 || len(r.samples[last]) == 0 {
			continue
		}
		fmt.Fprintf(w, "  \t%s : %s", b.peers[i].name, b.peers[last].name)
		for _, m := range columns {
			fmt.Fprintf(w, "\t%s", stats.Summarize(stats.Ratios(values(samples, m), values(r.samples[last], m))))
		}
		fmt.Fprintln(w)
	}
}

// records are the same for programs.
func (b *book) records() []record.Row {
	var rows []record.Row
	for _, p := range b.pages {
		for _, r := range p.rows {
			for who, samples := range r.samples {
				if len(samples) == 0 {
					continue
				}
				one := record.Row{
					Sheet: p.name, Title: p.title, First: p.first, Row: r.name,
					Peer: b.peers[who].name, Values: map[string][]float64{},
				}
				for _, m := range p.columns {
					one.Values[m.title] = values(samples, m)
				}
				rows = append(rows, one)
			}
		}
	}
	return rows
}

func values(samples []sample, m *metric) []float64 {
	xs := make([]float64, 0, len(samples))
	for _, s := range samples {
		x, ok := s[m]
		if !ok {
			x = math.NaN()
		}
		xs = append(xs, x)
	}
	return xs
}
