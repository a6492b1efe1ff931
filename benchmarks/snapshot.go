//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/benchmarks/process"
)

const snapshotMode = "snapshot"

const (
	// snapshotValue is the size of a value, snapshotClients how many fill the store.
	snapshotValue   = 8 << 10
	snapshotClients = 64
	snapshotConns   = 8
)

// The columns of the snapshot.
var (
	fillSeconds  = &metric{"fill s"}
	firstSeconds = &metric{"first byte s"}
	saveSeconds  = &metric{"snapshot s"}
	saveCPU      = &metric{"CPU s"}
	fileMiB      = &metric{"file MiB"}
	beforeMiB    = &metric{"RSS before MiB"}
	aboveMiB     = &metric{"above it MiB"}

	snapshotColumns = []*metric{fillSeconds, firstSeconds, saveSeconds, saveCPU, fileMiB, beforeMiB, aboveMiB}
)

// snapshots are the samples of taking a snapshot of a large store, by peer.
type snapshots struct {
	p       *plan
	samples [][]sample
}

func newSnapshots(p *plan) *snapshots {
	return &snapshots{p: p, samples: make([][]sample, len(p.peers))}
}

// runTurn fills a server and takes a snapshot of it, which goes nowhere.
func (s *snapshots) runTurn(ctx context.Context, _, who int, dir string) (err error) {
	p := s.p
	peer := p.peers[who]
	peer.args = append([]string{"--quota-backend-bytes=-1"}, peer.args...) // none
	servers, stop, err := p.start(ctx, peer, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	server := servers[0]
	began := time.Now()
	if err := fill(ctx, server.Address, p.fill, snapshotValue, 1); err != nil {
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
	s.samples[who] = append(s.samples[who], sample{
		fillSeconds: filled.Seconds(), firstSeconds: first.Seconds(), saveSeconds: took.Seconds(),
		saveCPU: (after.CPU - used.CPU).Seconds(), fileMiB: float64(size) / (1 << 20),
		beforeMiB: float64(before) / (1 << 20), aboveMiB: float64(peak-before) / (1 << 20),
	})
	return nil
}

// fill puts so many bytes of values of a size, in keys of all groups, of which it takes each
// of so many.
func fill(ctx context.Context, address string, bytes, size, each int64) error {
	families := []string{"/registry/pods/", "/registry/events/", "/registry/leases/", "/registry/configmaps/"}
	n := bytes / size
	var next atomic.Int64
	errs := make([]error, snapshotClients)
	var all sync.WaitGroup
	for i := range snapshotConns {
		conn, err := process.Dial(address)
		if err != nil {
			return err
		}
		defer conn.Close()
		kv := pb.NewKVClient(conn)
		for j := range snapshotClients / snapshotConns {
			all.Go(func() {
				value, random := make([]byte, size), rand.NewChaCha8([32]byte{byte(i), byte(j), byte(each)})
				for k := next.Add(each); k <= n && ctx.Err() == nil; k = next.Add(each) {
					_, _ = random.Read(value) // never fails
					key := fmt.Appendf(nil, "%snamespace-%d/%09d", families[k%4], k%50, k)
					if _, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: value}); err != nil {
						errs[i*snapshotClients/snapshotConns+j] = err
						return
					}
				}
			})
		}
	}
	all.Wait()
	return errors.Join(append(errs, ctx.Err())...)
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

// write prints a table.
func (s *snapshots) write(w io.Writer) error {
	r := &results{p: s.p}
	fmt.Fprintf(w, "\na snapshot of %d MiB of values of %d KiB, to a client that keeps nothing\n", s.p.fill>>20, snapshotValue>>10)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head(table, "", snapshotColumns)
	r.rows(table, "", snapshotColumns, s.samples)
	return table.Flush()
}
