//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/benchmarks/fill"
	"github.com/pebbledash/pebbledash/benchmarks/process"
	"github.com/pebbledash/pebbledash/benchmarks/raw"
	"github.com/pebbledash/pebbledash/benchmarks/workload"
)

// growthShape is how all that grows is measured.
var growthShape = workload.Shape{Conns: 8, Clients: 64}

const (
	growthKeys  = 10_000
	growthValue = 1 << 10
	// growthBytes bounds what is kept of large values.
	growthBytes = 256 << 20
	// watchersPerConn is about what kube-apiserver has on a connection.
	watchersPerConn = 100
)

// The columns of growth.
var (
	putCPU = &metric{"put CPU µs/op"}
	put50  = &metric{"put p50 ms"}
	getCPU = &metric{"get CPU µs/op"}
	get50  = &metric{"get p50 ms"}

	growthColumns = []*metric{putCPU, put50, getCPU, get50, memory}
)

func growthSheet(of, title string) sheet {
	return sheet{"growth-" + of, "puts and gets at " + growthShape.String() + ", by " + title, of, growthColumns}
}

// runGrowth measures puts and gets while one thing grows, and all else stays.
func runGrowth(ctx context.Context, t *turn) error {
	for _, grow := range []func(context.Context, *turn) error{growKeys, growWatchers, growGroups, growValues} {
		if err := grow(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// grown measures a population on a server that has it.
func (t *turn) grown(ctx context.Context, server process.Cluster, s sheet, row string, p workload.Population) error {
	put, get := p.Loads()
	one := sample{}
	for _, l := range []struct {
		workload.Load
		cpu, p50 *metric
	}{{put, putCPU, put50}, {get, getCPU, get50}} {
		c := cell{p: t.plan, server: server, leader: server[0], load: l.Load, shape: growthShape}
		measured, err := c.run(ctx)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", l.Name, row, err)
		}
		one[l.cpu], one[l.p50], one[memory] = measured[serverCPU], measured[p50], measured[memory]
	}
	t.add(s, row, one)
	return nil
}

// grownAfresh measures a population on a server of its own.
func (t *turn) grownAfresh(ctx context.Context, s sheet, row string, p workload.Population, args ...string) (err error) {
	server, stop, err := t.start(ctx, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := t.populate(ctx, server, p, 0); err != nil {
		return err
	}
	return t.grown(ctx, server, s, row, p)
}

// populate puts a population's keys from number from on.
func (t *turn) populate(ctx context.Context, server process.Cluster, p workload.Population, from int) error {
	return fill.Run(ctx, fill.Config{
		Address: server[0].Address, From: from, To: p.Keys, Key: p.Key, Stride: max(1, p.Resources),
		ValueBytes: p.ValueBytes, Progress: t.progress,
	})
}

// growKeys has ten times the keys each time.
func growKeys(ctx context.Context, t *turn) (err error) {
	server, stop, err := t.start(ctx, t.roomy())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	most := t.keys
	if process.IsEtcd(t.peer().binary) {
		most = min(most, etcdMostKeys)
	}
	for from, n := 0, growthKeys; n <= most; from, n = n, 10*n {
		p := workload.Population{Keys: n, ValueBytes: growthValue}
		if err := t.populate(ctx, server, p, from); err != nil {
			return err
		}
		if _, err := settle(server, settleTimeout); err != nil {
			return err
		}
		if err := t.grown(ctx, server, growthSheet("keys", "the number of keys of 1 KiB"), fmt.Sprint(n), p); err != nil {
			return err
		}
	}
	return nil
}

// growWatchers has ten times the watchers each time, of keys that nobody writes.
func growWatchers(ctx context.Context, t *turn) (err error) {
	server, stop, err := t.start(ctx, t.roomy())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := workload.Population{Keys: growthKeys, ValueBytes: growthValue}
	if err := t.populate(ctx, server, p, 0); err != nil {
		return err
	}
	var conn *grpc.ClientConn
	watchers := 0
	for _, n := range []int{1, 10, 100, 1000, 10_000} {
		for ; watchers < n; watchers++ {
			if watchers%watchersPerConn == 0 {
				if conn, err = process.Dial(server[0].Address); err != nil {
					return err
				}
				defer conn.Close()
			}
			quiet := &pb.WatchCreateRequest{Key: fmt.Appendf(nil, "/registry/benchmark/quiet/%08d", watchers)}
			if _, err := raw.Watch(ctx, conn, quiet); err != nil {
				return fmt.Errorf("watcher %d: %w", watchers, err)
			}
		}
		if err := t.grown(ctx, server, growthSheet("watchers", "the number of watchers of other keys"), fmt.Sprint(n), p); err != nil {
			return err
		}
	}
	return nil
}

// growGroups has more raft groups each time, up to the most there can be, each with its
// part of the same keys. etcd has one.
func growGroups(ctx context.Context, t *turn) error {
	const resources = 15
	numbers := []int{1, 2, 4, 8, resources}
	if process.IsEtcd(t.peer().binary) {
		numbers = numbers[:1]
	}
	p := workload.Population{Keys: growthKeys, ValueBytes: growthValue, Resources: resources}
	for _, groups := range numbers {
		args := []string{t.roomy()}
		if !process.IsEtcd(t.peer().binary) {
			args = append(args, "--resource-groups="+resourceGroups(groups, resources))
		}
		s := growthSheet("groups", "the number of raft groups that 15 resources are in")
		if err := t.grownAfresh(ctx, s, fmt.Sprint(groups), p, args...); err != nil {
			return fmt.Errorf("%d groups: %w", groups, err)
		}
	}
	return nil
}

// resourceGroups shares resources between groups; one of the groups is that of all
// which are in no other.
func resourceGroups(groups, resources int) string {
	var pairs []string
	for i := range resources {
		if group := i % groups; group > 0 {
			pairs = append(pairs, fmt.Sprintf("%s#group%02d", workload.Resource(i), group))
		}
	}
	return strings.Join(pairs, ";")
}

// growValues has larger values each time, and fewer keys of the largest.
func growValues(ctx context.Context, t *turn) error {
	for _, size := range []int{100, 1 << 10, 10 << 10, 100 << 10, 1 << 20} {
		p := workload.Population{Keys: min(growthKeys, growthBytes/size), ValueBytes: size}
		if err := t.grownAfresh(ctx, growthSheet("bytes", "the size of values"), fmt.Sprint(size), p, t.roomy()); err != nil {
			return fmt.Errorf("values of %d bytes: %w", size, err)
		}
	}
	return nil
}
