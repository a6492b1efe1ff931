//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/process"
	"github.com/pebbledash/pebbledash/benchmarks/stats"
	"github.com/pebbledash/pebbledash/benchmarks/workload"
)

// settleTimeout bounds the wait for a server to finish what it has put off.
const settleTimeout = 10 * time.Second

// runTurn starts a server on an empty directory, runs all loads, and stops it.
func (r *results) runTurn(ctx context.Context, turn, who int, dir string) (err error) {
	p := r.p
	peer := p.peers[who]
	server, stop, err := p.start(ctx, peer, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	leader, err := server.Leader(ctx)
	if err != nil {
		return err
	}
	if workload.Reads(p.loads) {
		if err := prepare(ctx, leader); err != nil {
			return err
		}
	}
	before, err := server.Usage()
	if err != nil {
		return err
	}
	writes := 0
	for i, load := range p.loads {
		for j, shape := range p.shapes {
			c := cell{p: p, server: server, leader: leader, load: load, shape: shape}
			if p.profiles != "" {
				c.profile = profileName(p, peer.name, turn, load, shape)
			}
			s, err := c.run(ctx)
			if err != nil {
				return fmt.Errorf("%s at %s: %w", load.Name, shape, err)
			}
			if now, err := server.Leader(ctx); err != nil || now != leader {
				return errors.Join(fmt.Errorf("%s at %s: another member leads now", load.Name, shape), err)
			}
			r.add(i, j, who, s)
			if load.Writes {
				writes += c.ops
			}
		}
	}
	return whole(server, before, writes, who, r)
}

// start starts a server on an empty directory; stop stops it and removes that.
func (p *plan) start(ctx context.Context, peer peer, dir string) (server process.Cluster, stop func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	args := peer.args
	if p.profiles != "" {
		args = append([]string{"--enable-pprof"}, args...)
	}
	server, err = process.Start(ctx, peer.binary, dir, p.members, args...)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return server, func() error { return errors.Join(server.Stop(), os.RemoveAll(dir)) }, nil
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
func whole(server process.Cluster, before process.Usage, writes, who int, results *results) error {
	after, err := settle(server, settleTimeout)
	if err != nil {
		return err
	}
	disk, err := server.DiskBytes()
	if err != nil {
		return err
	}
	results.addWhole(who, sample{
		wholeStart: server.Started().Seconds() * 1000,
		wholeCPU:   (after.CPU - before.CPU).Seconds(),
		wholeBytes: float64(after.WrittenBytes-before.WrittenBytes) / float64(max(writes, 1)),
		wholeDisk:  float64(disk) / (1 << 20),
	})
	return nil
}

// settle waits until the server is idle, if that is soon.
func settle(server process.Cluster, within time.Duration) (process.Usage, error) {
	const interval, idle = 250 * time.Millisecond, 0.04
	for end := time.Now().Add(within); ; {
		before, err := server.Usage()
		if err != nil {
			return process.Usage{}, err
		}
		time.Sleep(interval)
		after, err := server.Usage()
		if err != nil {
			return process.Usage{}, err
		}
		if (after.CPU-before.CPU).Seconds() < idle*interval.Seconds() || time.Now().After(end) {
			return after, nil
		}
	}
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
	milliseconds := func(q float64) float64 { return stats.Quantile(r.Latencies, q).Seconds() * 1000 }
	return sample{
		serverCPU: (c.after.CPU - c.before.CPU).Seconds() * 1e6 / ops,
		leaderCPU: (c.ledAfter.CPU - c.ledBefore.CPU).Seconds() * 1e6 / ops,
		rate:      ops / r.Elapsed.Seconds(),
		p50:       milliseconds(0.5),
		p99:       milliseconds(0.99),
		memory:    float64(peak) / (1 << 20),
		written:   float64(c.after.WrittenBytes-c.before.WrittenBytes) / ops,
		clientCPU: (c.ownAfter - c.ownBefore).Seconds() * 1e6 / ops,
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
