//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/benchmarks/fill"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

const (
	largeValue = 1 << 10
	// etcdMostKeys of largeValue fit into the 8 GiB that etcd is not advised to
	// exceed.
	etcdMostKeys = 4_000_000
)

// The columns of a large store.
var (
	loadSeconds  = &metric{"load s"}
	loadPeak     = &metric{"load RSS MiB"}
	keptMiB      = &metric{"idle RSS MiB"}
	restart      = &metric{"restart s"}
	restartMiB   = &metric{"restarted RSS MiB"}
	restartPeak  = &metric{"restart peak MiB"}
	largeColumns = []*metric{loadSeconds, perKey, perByte, loadPeak, keptMiB, disk, restart, restartMiB, restartPeak}

	largeSheet = sheet{
		"large", "a large store, loaded in transactions of 100 puts, and killed", "keys", largeColumns,
	}
)

// runLarge loads a server with many keys, kills it, and waits for its first answer.
func runLarge(ctx context.Context, t *turn) (err error) {
	if process.IsEtcd(t.peer().binary) && t.keys > etcdMostKeys {
		fmt.Fprintf(t.progress, "%s takes no part: %d keys are more than its quota may be\n", t.peer().name, t.keys)
		return nil
	}
	server, stop, err := t.start(ctx, t.roomy())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	key := func(i int) []byte { return fmt.Appendf(nil, "/registry/pods/namespace-%02d/pod-%08d", i%50, i) }
	before, err := server.Usage()
	if err != nil {
		return err
	}
	began := time.Now()
	err = fill.Run(ctx, fill.Config{
		Address: server[0].Address, To: t.keys, Key: key, ValueBytes: largeValue, Progress: t.progress,
	})
	if err != nil {
		return err
	}
	took := time.Since(began)
	peak, idle, err := peakAndRest(ctx, server)
	if err != nil {
		return err
	}
	after, space, err := settledOnDisk(server)
	if err != nil {
		return err
	}
	one := sample{
		loadSeconds: took.Seconds(), perKey: per(after.CPU-before.CPU, t.keys),
		perByte:  float64(after.WrittenBytes-before.WrittenBytes) / float64(t.keys*largeValue),
		loadPeak: mib(peak), keptMiB: mib(idle), disk: mib(space),
	}
	if err := restartLarge(ctx, server, key(t.keys/2), one); err != nil {
		return err
	}
	t.add(largeSheet, count(t.keys), one)
	return nil
}

// restartLarge kills the server and starts it again: until it has given its first
// answer, a key of many has to be there.
func restartLarge(ctx context.Context, server process.Cluster, key []byte, one sample) error {
	if err := server[0].Kill(); err != nil {
		return err
	}
	began := time.Now()
	if err := server[0].Restart(ctx); err != nil {
		return err
	}
	conn, err := process.Dial(server[0].Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	r, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: key})
	if err != nil {
		return err
	}
	one[restart] = time.Since(began).Seconds()
	if len(r.Kvs) != 1 {
		return fmt.Errorf("%s is lost", key)
	}
	peak, idle, err := peakAndRest(ctx, server)
	if err != nil {
		return err
	}
	one[restartPeak], one[restartMiB] = mib(peak), mib(idle)
	return nil
}
