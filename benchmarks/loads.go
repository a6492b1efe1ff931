//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/process"
	"github.com/pebbledash/pebbledash/benchmarks/workload"
)

// The columns of a load, and of whole turns.
var (
	leaderCPU = &metric{"of it leader"}
	written   = &metric{"written B/op"}
	clientCPU = &metric{"client µs/op"}

	wholeStart = &metric{"start ms"}
	wholeBytes = &metric{"written B/write"}
)

var (
	loadColumns    = []*metric{serverCPU, rate, p50, p99, memory, written, clientCPU}
	clusterColumns = []*metric{serverCPU, leaderCPU, rate, p50, p99, memory, written, clientCPU}

	wholeColumns = []*metric{wholeStart, cpuSeconds, wholeBytes, disk}
)

// wholeSheet is the table of whole turns.
func wholeSheet(p *plan) sheet {
	name := "whole"
	if p.members > 1 {
		name = "whole-members"
	}
	return sheet{name, "whole turns, idle again at the end", "", wholeColumns}
}

// loadSheet is a load's table.
func loadSheet(p *plan, l workload.Load) sheet {
	columns := loadColumns
	if p.members > 1 {
		columns = clusterColumns
	}
	return sheet{l.Name, l.Title, "conns/clients", columns}
}

// runLoads starts a server on an empty directory, runs all loads, and stops it.
func runLoads(ctx context.Context, t *turn) (err error) {
	loads, args := t.loads, []string{t.roomy()} // 16 KiB many times are more than etcd's default.
	for _, l := range loads {
		t.book.page(loadSheet(t.plan, l)) // In this order, whoever takes part.
	}
	if process.IsKine(t.peer().binary) {
		loads, args = slices.DeleteFunc(slices.Clone(loads), workload.Load.Full), nil
	}
	server, stop, err := t.start(ctx, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	leader, err := server.Leader(ctx)
	if err != nil {
		return err
	}
	if workload.Reads(loads) {
		if err := prepare(ctx, leader); err != nil {
			return err
		}
	}
	before, err := server.Usage()
	if err != nil {
		return err
	}
	writes, leftOut := 0, false
	for _, load := range loads {
		for _, shape := range t.shapes {
			c := cell{p: t.plan, server: server, leader: leader, load: load, shape: shape}
			c.profile = t.profileName(cellName(load, shape))
			s, err := c.run(ctx)
			if process.IsKine(t.peer().binary) && err != nil && ctx.Err() == nil {
				// Some of many writers wait for SQLite longer than we do.
				fmt.Fprintf(t.progress, "kine is left out of %s at %s: %v\n", load.Name, shape, err)
				t.add(loadSheet(t.plan, load), shape.String(), sample{})
				leftOut = true
				continue
			}
			if err != nil {
				return fmt.Errorf("%s at %s: %w", load.Name, shape, err)
			}
			if now, err := server.Leader(ctx); err != nil || now != leader {
				return errors.Join(fmt.Errorf("%s at %s: another member leads now", load.Name, shape), err)
			}
			t.add(loadSheet(t.plan, load), shape.String(), s)
			if load.Writes {
				writes += c.ops
			}
		}
	}
	one, err := whole(server, before, writes)
	if err != nil {
		return err
	}
	if leftOut {
		delete(one, wholeBytes) // The writes that were left out are in the bytes.
	}
	t.add(wholeSheet(t.plan), "", one)
	return nil
}

// prepare puts what loads are to read.
func prepare(ctx context.Context, leader *process.Server) error {
	conn, err := process.Dial(leader.Address)
	if err != nil {
		return err
	}
	return errors.Join(workload.Prepare(ctx, conn), conn.Close())
}

// whole notes what the server has used over all loads, with what it puts off
// until after a measurement: flushes and compactions.
func whole(server process.Cluster, before process.Usage, writes int) (sample, error) {
	after, space, err := settledOnDisk(server)
	if err != nil {
		return nil, err
	}
	return sample{
		wholeStart: server.Started().Seconds() * 1000,
		cpuSeconds: (after.CPU - before.CPU).Seconds(),
		wholeBytes: float64(after.WrittenBytes-before.WrittenBytes) / float64(max(writes, 1)),
		disk:       mib(space),
	}, nil
}

// cell is one load in one shape on one server.
type cell struct {
	p       *plan
	server  process.Cluster
	leader  *process.Server
	load    workload.Load
	shape   workload.Shape
	profile string // a file without its ending, "" for none

	before, after       process.Usage
	ledBefore, ledAfter process.Usage // the leader's part
	ownBefore, ownAfter time.Duration
	ops                 int
}

func (c *cell) run(ctx context.Context) (sample, error) {
	if err := c.server.ResetPeak(); err != nil {
		return nil, err
	}
	profiled := make(chan error, 1)
	r, err := workload.Run(ctx, workload.Config{
		Load: c.load, Shape: c.shape, Addresses: c.addresses(), Warmup: c.p.warmup, Measure: c.p.measure,
		Begin: func() (err error) {
			go func() { profiled <- c.takeProfiles(ctx) }()
			return c.read(&c.before, &c.ledBefore, &c.ownBefore)
		},
		End: func() error { return c.read(&c.after, &c.ledAfter, &c.ownAfter) },
	})
	if err != nil {
		return nil, err
	}
	if err := <-profiled; err != nil {
		return nil, err
	}
	peak, err := c.server.PeakBytes()
	if err != nil {
		return nil, err
	}
	if r.Ops == 0 {
		return nil, errors.New("no operation ended while it was measured")
	}
	c.ops = r.Ops
	ops := float64(r.Ops)
	return sample{
		serverCPU: per(c.after.CPU-c.before.CPU, r.Ops),
		leaderCPU: per(c.ledAfter.CPU-c.ledBefore.CPU, r.Ops),
		rate:      ops / r.Elapsed.Seconds(),
		p50:       milliseconds(r.Latencies, 0.5),
		p99:       milliseconds(r.Latencies, 0.99),
		memory:    mib(peak),
		written:   float64(c.after.WrittenBytes-c.before.WrittenBytes) / ops,
		clientCPU: per(c.ownAfter-c.ownBefore, r.Ops),
	}, nil
}

func (c *cell) read(usage, led *process.Usage, own *time.Duration) (err error) {
	if *own, err = process.OwnCPU(); err != nil {
		return err
	}
	if *led, err = c.leader.Usage(); err != nil {
		return err
	}
	*usage, err = c.server.Usage()
	return err
}

// addresses are where connections go: to the leader, or to all, with the leader
// last, so that a single one is to another.
func (c *cell) addresses() []string {
	var all []string
	for _, s := range c.server {
		if s != c.leader && !c.shape.Leader {
			all = append(all, s.Address)
		}
	}
	return append(all, c.leader.Address)
}
