//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// The columns of the snapshot.
var (
	fillSeconds  = &metric{"fill s"}
	firstSeconds = &metric{"first byte s"}
	saveSeconds  = &metric{"snapshot s"}
	fileMiB      = &metric{"file MiB"}

	snapshotColumns = []*metric{fillSeconds, firstSeconds, saveSeconds, cpuSeconds, fileMiB, beforeMiB, aboveMiB}
)

// snapshotSheet is the table of a snapshot.
func snapshotSheet(p *plan) sheet {
	return sheet{
		"snapshot", fmt.Sprintf("a snapshot of %s, to a client that keeps nothing", p.filling()),
		"", snapshotColumns,
	}
}

// runSnapshot fills a server and takes a snapshot of it, which goes nowhere.
func runSnapshot(ctx context.Context, t *turn) (err error) {
	server, stop, err := t.start(ctx, "--quota-backend-bytes=-1") // none
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	began := time.Now()
	if err := t.fillStore(ctx, server, 1); err != nil {
		return err
	}
	filled := time.Since(began)
	var size int64
	var first, took time.Duration
	profiled := make(chan error, 1)
	c, err := atRest(server, func() error {
		go func() { profiled <- takeProfile(ctx, server[0].Address, t.profileName("snapshot"), t.measure) }()
		var err error
		size, first, took, err = take(ctx, server[0].Address)
		return err
	})
	if err != nil {
		return err
	}
	if err := <-profiled; err != nil {
		return err
	}
	t.add(snapshotSheet(t.plan), "", sample{
		fillSeconds: filled.Seconds(), firstSeconds: first.Seconds(), saveSeconds: took.Seconds(),
		cpuSeconds: c.cpu.Seconds(), fileMiB: mib(size), beforeMiB: mib(c.before), aboveMiB: mib(c.above),
	})
	return nil
}

// take takes a snapshot and checks its sum.
func take(ctx context.Context, address string) (size int64, first, took time.Duration, err error) {
	conn, err := process.Dial(address)
	if err != nil {
		return 0, 0, 0, err
	}
	defer conn.Close()
	began := time.Now()
	stream, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return 0, 0, 0, err
	}
	sum := sha256.New()
	var last []byte
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, 0, 0, err
		}
		if size == 0 {
			first = time.Since(began)
		}
		size += int64(len(r.Blob))
		// The last 32 bytes are the sum of all before.
		last = append(last, r.Blob...)
		if n := len(last) - sha256.Size; n > 0 {
			sum.Write(last[:n])
			last = append(last[:0], last[n:]...)
		}
	}
	took = time.Since(began)
	if string(sum.Sum(nil)) != string(last) {
		return 0, 0, 0, errors.New("the snapshot does not have the sum that it says")
	}
	return size, first, took, nil
}
