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

	"github.com/pebbledash/pebbledash/benchmarks/fill"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// snapshotValue is the size of a value.
const snapshotValue = 8 << 10

// families are resources of all groups, in equal parts.
var families = []string{"/registry/pods/", "/registry/events/", "/registry/leases/", "/registry/configmaps/"}

// The columns of the snapshot.
var (
	fillSeconds  = &metric{"fill s"}
	firstSeconds = &metric{"first byte s"}
	saveSeconds  = &metric{"snapshot s"}
	saveCPU      = &metric{"CPU s"}
	fileMiB      = &metric{"file MiB"}
	beforeMiB    = &metric{"RSS before MiB"}

	snapshotColumns = []*metric{fillSeconds, firstSeconds, saveSeconds, saveCPU, fileMiB, beforeMiB, aboveMiB}
)

// snapshotSheet is the table of a snapshot.
func snapshotSheet(p *plan) sheet {
	return sheet{
		"snapshot", fmt.Sprintf("a snapshot of %d MiB of values of %d KiB, to a client that keeps nothing", p.fill>>20, snapshotValue>>10),
		"", snapshotColumns,
	}
}

// runSnapshot fills a server and takes a snapshot of it, which goes nowhere.
func runSnapshot(ctx context.Context, t *turn) (err error) {
	p := t.plan
	servers, stop, err := t.start(ctx, "--quota-backend-bytes=-1") // none
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	server := servers[0]
	began := time.Now()
	if err := fill.Run(ctx, fill.Config{
		Address: server.Address, To: int(p.fill / snapshotValue), ValueBytes: snapshotValue, Progress: t.progress,
		Stride: len(families),
		Key: func(i int) []byte {
			return fmt.Appendf(nil, "%snamespace-%d/%09d", families[i%len(families)], i%50, i)
		},
	}); err != nil {
		return err
	}
	filled := time.Since(began)
	if err := server.ResetPeak(); err != nil {
		return err
	}
	before, err := server.PeakBytes()
	if err != nil {
		return err
	}
	used, err := server.Usage()
	if err != nil {
		return err
	}
	size, first, took, err := take(ctx, server.Address)
	if err != nil {
		return err
	}
	after, err := server.Usage()
	if err != nil {
		return err
	}
	peak, err := server.PeakBytes()
	if err != nil {
		return err
	}
	t.add(snapshotSheet(p), "", sample{
		fillSeconds: filled.Seconds(), firstSeconds: first.Seconds(), saveSeconds: took.Seconds(),
		saveCPU: (after.CPU - used.CPU).Seconds(), fileMiB: float64(size) / (1 << 20),
		beforeMiB: float64(before) / (1 << 20), aboveMiB: float64(peak-before) / (1 << 20),
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
