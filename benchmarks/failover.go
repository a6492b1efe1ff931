//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/process"
	"github.com/pebbledash/pebbledash/benchmarks/stats"
)

const (
	// probeInterval is how often each member that is left is sent a put.
	probeInterval = 10 * time.Millisecond
	// probeTimeout bounds a put; nobody waits for it before sending the next one.
	probeTimeout = 5 * time.Second
	// failoverTimeout bounds the wait for a write.
	failoverTimeout = time.Minute
	// calm is how long the cluster is left alone once all members answer.
	calm = time.Second
)

// The columns of failovers.
var (
	nextMedian = &metric{"next write ms"}
	nextLeast  = &metric{"least ms"}
	backMedian = &metric{"member back ms"}

	failoverSheet = sheet{
		"failover", "kill -9 of the leader, default timeouts: until the next write is acknowledged, and until the member answers again",
		"kills",
		[]*metric{nextMedian, nextLeast, worst, backMedian},
	}
)

// runFailover kills the leader again and again.
func runFailover(ctx context.Context, t *turn) (err error) {
	cluster, stop, err := t.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var next, back []time.Duration
	for i := range t.kills {
		leader, err := cluster.Leader(ctx)
		if err != nil {
			return err
		}
		took, err := killLeader(ctx, cluster, leader)
		if err != nil {
			return fmt.Errorf("kill %d: %w", i+1, err)
		}
		next = append(next, took)
		if err := leader.Restart(ctx); err != nil {
			return err
		}
		back = append(back, leader.Started)
		if err := openloop.Sleep(ctx, calm); err != nil {
			return err
		}
	}
	slices.Sort(next)
	slices.Sort(back)
	t.add(failoverSheet, fmt.Sprint(t.kills), sample{
		nextMedian: milliseconds(next, 0.5), worst: milliseconds(next, 1),
		nextLeast: stats.Quantile(next, 0).Seconds() * 1000, backMedian: milliseconds(back, 0.5),
	})
	return nil
}

// killLeader ends a member and returns how long it took until a put that was sent after
// that is acknowledged. Puts are sent to the others all the time, whether or not earlier
// ones are answered: the next write is not put off by a timeout of the one before.
func killLeader(ctx context.Context, cluster process.Cluster, leader *process.Server) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, failoverTimeout)
	defer cancel()
	var kvs []pb.KVClient
	for _, s := range cluster {
		if s == leader {
			continue
		}
		conn, err := process.Dial(s.Address)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		kv := pb.NewKVClient(conn)
		if err := putOnce(ctx, kv); err != nil { // and the connection is there
			return 0, err
		}
		kvs = append(kvs, kv)
	}
	acknowledged := make(chan time.Time, 1)
	if err := leader.Kill(); err != nil {
		return 0, err
	}
	killed := time.Now()
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		for _, kv := range kvs {
			go func() {
				if putOnce(ctx, kv) == nil { // An error is what there is while nobody leads.
					select {
					case acknowledged <- time.Now():
					default:
					}
				}
			}()
		}
		select {
		case at := <-acknowledged:
			return at.Sub(killed), nil
		case <-ticker.C:
		case <-ctx.Done():
			return 0, errors.New("no write is acknowledged")
		}
	}
}

func putOnce(ctx context.Context, kv pb.KVClient) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("/registry/pods/default/failover"), Value: []byte("x")}, grpc.WaitForReady(true))
	return err
}
