//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/mix"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

const (
	// mixLimit is what the p99 of requests but lists, and of node leases, may be for a
	// size to be served in time.
	mixLimit = 100 * time.Millisecond
	// findMost bounds the search, and findSteps how often the interval is halved.
	findMost  = 200_000
	findSteps = 4
)

// The tables of a mix.
var (
	requestRate = &metric{"requests/s"}
	late        = &metric{"refused, unanswered, missing"}
	mostNodes   = &metric{"nodes"}
	clientCores = &metric{"client cores"}

	mixSheet = sheet{
		"mix", "what kube-apiserver sends, from when each request was due: all but lists", "nodes",
		[]*metric{p50, p99, worst, requestRate, cores, memory, late, clientCores},
	}
	mixKindSheet = sheet{
		"mix-kinds", "the same by kind of request", "nodes, kind", []*metric{p50, p99, worst, requestRate},
	}
	mixMostSheet = sheet{
		"mix-most", fmt.Sprintf("the most nodes with a p99 of %v at most", mixLimit), "", []*metric{mostNodes},
	}
)

// runMix measures some sizes, or looks for the largest that is served in time.
func runMix(ctx context.Context, t *turn) error {
	if t.find {
		most, err := largest(t.nodes[0], findMost, findSteps, func(n int) (bool, error) {
			report, err := mixOf(ctx, t, n)
			if errors.Is(err, mix.ErrNotServed) {
				fmt.Fprintf(t.progress, "%d nodes: %v\n", n, err)
				return false, nil
			}
			if err != nil {
				return false, err
			}
			ok := inTime(report)
			fmt.Fprintf(t.progress, "%d nodes: %v\n", n, map[bool]string{true: "in time", false: "too late"}[ok])
			return ok, nil
		})
		if err != nil {
			return err
		}
		t.add(mixMostSheet, "", sample{mostNodes: float64(most)})
		return nil
	}
	for _, n := range t.nodes {
		if _, err := mixOf(ctx, t, n); err != nil {
			return fmt.Errorf("%d nodes: %w", n, err)
		}
	}
	return nil
}

// inTime says whether a mix was served well enough.
func inTime(r *mix.Report) bool {
	return r.Unanswered == 0 && r.Missing == 0 && r.Refused == 0 &&
		milliseconds(r.Singles(), 0.99) <= mixLimit.Seconds()*1000 &&
		milliseconds(r.Of(mix.Renew), 0.99) <= mixLimit.Seconds()*1000
}

// largest looks for the largest n that is ok: it doubles, and then halves the interval.
// It returns 0 if the first is not ok.
func largest(first, most, steps int, ok func(n int) (bool, error)) (int, error) {
	good, bad := 0, 0
	try := func(n int) error {
		fine, err := ok(n)
		if fine {
			good = n
		} else {
			bad = n
		}
		return err
	}
	for n := first; bad == 0 && n <= most; n *= 2 {
		if err := try(n); err != nil {
			return 0, err
		}
	}
	if good == 0 || bad == 0 {
		return good, nil
	}
	for range steps {
		if err := try((good + bad) / 2); err != nil {
			return 0, err
		}
	}
	return good, nil
}

// ownGroups are the resources that have addresses of their own with overrides.
var ownGroups = []string{"events", "leases", "pods"}

// startMix starts a server, or all that it takes with overrides, and says where a
// resource is.
func startMix(ctx context.Context, t *turn) (process.Cluster, func(resource string) string, func() error, error) {
	addresses := map[string]string{}
	var args []string
	peer := t.peer()
	if peer.overrides && !process.IsEtcd(peer.binary) {
		free, err := process.FreeAddrs(len(ownGroups))
		if err != nil {
			return nil, nil, nil, err
		}
		for i, group := range ownGroups {
			addresses[group] = free[i]
			args = append(args, "--group-listen-client-urls="+group+"=http://"+free[i])
		}
	}
	servers, stop, err := t.start(ctx, append(args, t.roomy())...)
	if err != nil {
		return nil, nil, nil, err
	}
	if peer.overrides && process.IsEtcd(peer.binary) {
		for _, group := range ownGroups {
			more, stopOne, err := t.start(ctx, t.roomy())
			if err != nil {
				return nil, nil, nil, errors.Join(err, stop())
			}
			addresses[group] = more[0].Address
			servers = append(servers, more...)
			before := stop
			stop = func() error { return errors.Join(stopOne(), before()) }
		}
	}
	main := servers[0].Address
	return servers, func(resource string) string {
		if own := addresses[resource]; own != "" {
			return own
		}
		return main
	}, stop, nil
}

// mixOf measures a cluster of so many nodes.
func mixOf(ctx context.Context, t *turn, nodes int) (report *mix.Report, err error) {
	servers, address, stop, err := startMix(ctx, t)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var before, after process.Usage
	var ownBefore, ownAfter time.Duration
	if err := servers.ResetPeak(); err != nil {
		return nil, err
	}
	report, err = mix.Run(ctx, mix.Config{
		Nodes: nodes, PodsPerNode: t.podsPerNode, Address: address, Warmup: t.warmup, Measure: t.measure,
		Begin: func() error { return readUsage(servers, &before, &ownBefore) },
		End:   func() error { return readUsage(servers, &after, &ownAfter) },
	})
	if err != nil {
		return nil, err
	}
	peak, err := servers.PeakBytes()
	if err != nil {
		return nil, err
	}
	singles, seconds := report.Singles(), t.measure.Seconds()
	t.add(mixSheet, fmt.Sprint(nodes), sample{
		p50: milliseconds(singles, 0.5), p99: milliseconds(singles, 0.99), worst: milliseconds(singles, 1),
		requestRate: float64(len(singles)) / seconds, cores: (after.CPU - before.CPU).Seconds() / seconds,
		memory: mib(peak), late: float64(report.Refused + report.Unanswered + report.Missing),
		clientCores: (ownAfter - ownBefore).Seconds() / seconds,
	})
	for _, k := range report.Kinds {
		if len(k.Latencies) > 0 {
			t.add(mixKindSheet, fmt.Sprintf("%d, %s", nodes, k.Kind), sample{
				p50: milliseconds(k.Latencies, 0.5), p99: milliseconds(k.Latencies, 0.99), worst: milliseconds(k.Latencies, 1),
				requestRate: float64(len(k.Latencies)) / seconds,
			})
		}
	}
	return report, nil
}

func readUsage(servers process.Cluster, usage *process.Usage, own *time.Duration) (err error) {
	if *own, err = process.OwnCPU(); err != nil {
		return err
	}
	*usage, err = servers.Usage()
	return err
}
