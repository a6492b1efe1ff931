//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/benchmarks/documents"
	"github.com/pebbledash/pebbledash/benchmarks/fill"
	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

const (
	compactedKeys  = 10_000
	compactedValue = 1 << 10
	// compactionWrites is how many puts a second are measured beside a compaction.
	compactionWrites = 500
	// steadyClients write in the long run, with a compaction each steadyInterval of
	// the puts, as part of all.
	steadyClients, steadyConns = 64, 8
	steadyInterval             = 10
)

// The tables of compactions.
var (
	compactSeconds = &metric{"compaction s"}

	compactionSheet = sheet{
		"compaction", fmt.Sprintf("a writer of %d puts a second of 1 KiB, from when each was due", compactionWrites),
		"beside",
		[]*metric{p50, p99, worst, compactSeconds, cores, memory},
	}
	steadySheet = sheet{
		"steady", fmt.Sprintf("puts of 1 KiB of %d clients, all but the latest compacted %d times meanwhile", steadyClients, steadyInterval),
		"values",
		[]*metric{perByte, serverCPU, rate, disk},
	}
)

// runCompaction measures a writer beside a compaction, and what is written in the long
// run for each byte that is put.
func runCompaction(ctx context.Context, t *turn) error {
	if err := runCompacted(ctx, t); err != nil {
		return err
	}
	random := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // It never fails.
	for _, v := range []struct {
		name  string
		value func(i int) []byte
	}{
		{"random", func(i int) []byte { return random[i*31%(len(random)-compactedValue):][:compactedValue] }},
		{"like Kubernetes'", func(i int) []byte { return documents.Pod(i%compactedKeys, i/compactedKeys, compactedValue) }},
	} {
		if err := runSteady(ctx, t, v.name, v.value); err != nil {
			return fmt.Errorf("values %s: %w", v.name, err)
		}
	}
	return nil
}

func compactedKey(i int) []byte {
	return fmt.Appendf(nil, "/registry/pods/default/pod-%08d", i%compactedKeys)
}

func runCompacted(ctx context.Context, t *turn) (err error) {
	server, stop, err := t.start(ctx, t.roomy())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	err = fill.Run(ctx, fill.Config{
		Address: server[0].Address, To: t.revisions, Key: compactedKey, ValueBytes: compactedValue, Progress: t.progress,
	})
	if err != nil {
		return err
	}
	if _, err := settle(server, settleTimeout); err != nil {
		return err
	}
	conn, err := process.Dial(server[0].Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	one, err := besideWriter(ctx, t, server, func() error { return openloop.Sleep(ctx, t.measure) })
	if err != nil {
		return err
	}
	t.add(compactionSheet, "nothing", one)
	var took time.Duration
	one, err = besideWriter(ctx, t, server, func() error {
		began := time.Now()
		if err := compactAll(ctx, kv); err != nil {
			return err
		}
		took = time.Since(began)
		// What is put off until after the answer counts, too.
		return openloop.Sleep(ctx, max(0, t.measure-took))
	})
	if err != nil {
		return err
	}
	one[compactSeconds] = took.Seconds()
	t.add(compactionSheet, count(t.revisions)+" versions", one)
	return nil
}

// compactAll compacts all but the latest versions and returns when they are gone.
func compactAll(ctx context.Context, kv pb.KVClient) error {
	r, err := kv.Range(ctx, &pb.RangeRequest{Key: compactedKey(0), CountOnly: true})
	if err != nil {
		return err
	}
	_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: r.Header.Revision, Physical: true})
	return err
}

// besideWriter measures a writer while something is done.
func besideWriter(ctx context.Context, t *turn, server process.Cluster, do func() error) (sample, error) {
	conn, err := process.Dial(server[0].Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := server.ResetPeak(); err != nil {
		return nil, err
	}
	writing, cancel := context.WithCancel(ctx)
	defer cancel()
	recorder := openloop.NewRecorder(time.Now(), time.Now().Add(time.Hour))
	wrote := make(chan error, 1)
	go func() {
		w := openloop.Puts{
			KV: pb.NewKVClient(conn), Rate: compactionWrites, Keys: compactedKeys, Key: compactedKey, ValueBytes: compactedValue,
		}
		wrote <- w.RunUntil(writing, time.Now(), recorder)
	}()
	usage, took, err := used(server, do)
	if err != nil {
		return nil, err
	}
	cancel()
	if err := <-wrote; err != nil {
		return nil, err
	}
	peak, err := server.PeakBytes()
	if err != nil {
		return nil, err
	}
	latencies := recorder.Latencies()
	return sample{
		p50: milliseconds(latencies, 0.5), p99: milliseconds(latencies, 0.99), worst: milliseconds(latencies, 1),
		cores: usage.CPU.Seconds() / took.Seconds(), memory: mib(peak),
	}, nil
}

// runSteady puts and compacts, and counts the bytes until the server is idle again.
func runSteady(ctx context.Context, t *turn, name string, value func(i int) []byte) (err error) {
	server, stop, err := t.start(ctx, t.roomy())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var kvs [steadyConns]pb.KVClient
	for i := range kvs {
		conn, err := process.Dial(server[0].Address)
		if err != nil {
			return err
		}
		defer conn.Close()
		kvs[i] = pb.NewKVClient(conn)
	}
	before, err := server.Usage()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := putAndCompact(ctx, t.puts, kvs[:], value); err != nil {
		return err
	}
	took := time.Since(began)
	after, space, err := settledOnDisk(server)
	if err != nil {
		return err
	}
	t.add(steadySheet, name, sample{
		perByte:   float64(after.WrittenBytes-before.WrittenBytes) / float64(t.puts*compactedValue),
		serverCPU: per(after.CPU-before.CPU, t.puts), rate: float64(t.puts) / took.Seconds(), disk: mib(space),
	})
	return nil
}

func putAndCompact(ctx context.Context, puts int, kvs []pb.KVClient, value func(i int) []byte) error {
	var next atomic.Int64
	errs := make([]error, steadyClients)
	var all sync.WaitGroup
	interval := max(1, puts/steadyInterval)
	for c := range steadyClients {
		all.Go(func() {
			kv := kvs[c%len(kvs)]
			for i := int(next.Add(1)) - 1; i < puts && errs[c] == nil; i = int(next.Add(1)) - 1 {
				_, err := kv.Put(ctx, &pb.PutRequest{Key: compactedKey(i * 7919), Value: value(i)})
				if err == nil && i%interval == interval-1 {
					err = compactAll(ctx, kv)
				}
				errs[c] = err
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
