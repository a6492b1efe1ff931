//go:build linux

package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

// metric is a column.
type metric struct{ title string }

// The columns of a load, and of whole turns.
var (
	serverCPU = &metric{"CPU µs/op"}
	leaderCPU = &metric{"of it leader"}
	rate      = &metric{"ops/s"}
	p50       = &metric{"p50 ms"}
	p99       = &metric{"p99 ms"}
	memory    = &metric{"RSS MiB"}
	written   = &metric{"written B/op"}
	clientCPU = &metric{"client µs/op"}

	wholeStart = &metric{"start ms"}
	wholeCPU   = &metric{"CPU s"}
	wholeBytes = &metric{"written B/write"}
	wholeDisk  = &metric{"disk MiB"}
)

var (
	loadColumns    = []*metric{serverCPU, rate, p50, p99, memory, written, clientCPU}
	clusterColumns = []*metric{serverCPU, leaderCPU, rate, p50, p99, memory, written, clientCPU}
	wholeColumns   = []*metric{wholeStart, wholeCPU, wholeBytes, wholeDisk}
)

// sample is what was measured of one cell, or of one turn.
type sample map[*metric]float64

// results are the samples, by load, shape and peer; in each, one a turn.
type results struct {
	p     *plan
	cells [][][][]sample
	whole [][]sample // by peer
}

func newResults(p *plan) *results {
	r := &results{p: p, whole: make([][]sample, len(p.peers))}
	for range p.loads {
		var shapes [][][]sample
		for range p.shapes {
			shapes = append(shapes, make([][]sample, len(p.peers)))
		}
		r.cells = append(r.cells, shapes)
	}
	return r
}

func (r *results) add(load, shape, peer int, s sample) {
	r.cells[load][shape][peer] = append(r.cells[load][shape][peer], s)
}

func (r *results) addWhole(peer int, s sample) { r.whole[peer] = append(r.whole[peer], s) }

// write prints a table a load, and one of whole turns.
func (r *results) write(w io.Writer) error {
	columns := loadColumns
	if r.p.members > 1 {
		columns = clusterColumns
	}
	for i, load := range r.p.loads {
		fmt.Fprintf(w, "\n%s\n", load.Title)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		head(table, "conns/clients", columns)
		for j, shape := range r.p.shapes {
			r.rows(table, shape.String(), columns, r.cells[i][j])
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nwhole turns, idle again at the end\n")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head(table, "", wholeColumns)
	r.rows(table, "", wholeColumns, r.whole)
	return table.Flush()
}

func head(w io.Writer, first string, columns []*metric) {
	fmt.Fprintf(w, "  %s\tserver", first)
	for _, m := range columns {
		fmt.Fprintf(w, "\t%s", m.title)
	}
	fmt.Fprintln(w)
}

// rows prints a row a peer, and under each but the last how it compares with
// that.
func (r *results) rows(w io.Writer, first string, columns []*metric, byPeer [][]sample) {
	last := len(byPeer) - 1
	for i, samples := range byPeer {
		fmt.Fprintf(w, "  %s\t%s", first, r.p.peers[i].name)
		for _, m := range columns {
			fmt.Fprintf(w, "\t%s", stats.Summarize(values(samples, m)))
		}
		fmt.Fprintln(w)
		first = ""
	}
	for i, samples := range byPeer[:last] {
		fmt.Fprintf(w, "  \t%s : %s", r.p.peers[i].name, r.p.peers[last].name)
		for _, m := range columns {
			fmt.Fprintf(w, "\t%s", stats.Summarize(stats.Ratios(values(samples, m), values(byPeer[last], m))))
		}
		fmt.Fprintln(w)
	}
}

func values(samples []sample, m *metric) []float64 {
	xs := make([]float64, 0, len(samples))
	for _, s := range samples {
		xs = append(xs, s[m])
	}
	return xs
}
