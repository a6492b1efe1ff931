//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/benchmarks/process"
)

const snapshotMode = "snapshot"

const (
	// snapshotClients is how many fill the store, by transactions of some
	// snapshotTxnBytes, fewer than snapshotTxnKeys.
	snapshotClients  = 64
	snapshotConns    = 8
	snapshotTxnBytes = 256 << 10
	snapshotTxnKeys  = 100
	// snapshotSettle bounds the wait until flushes and compactions are done.
	snapshotSettle = 2 * time.Minute
	// progressEvery is how many bytes are filled between two lines about it.
	progressEvery = 512 << 20
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
	if err := fill(ctx, server.Address, p, 1); err != nil {
		return err
	}
	filled := time.Since(began)
	// What was put off until later is not the snapshot's.
	if _, err := settle(servers, snapshotSettle); err != nil {
		return err
	}
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
	profile := ""
	if p.profiles != "" {
		profile = filepath.Join(p.profiles, peer.name+"-snapshot")
	}
	profiled := make(chan error, 1)
	go func() { profiled <- takeProfile(ctx, server.Address, profile, p.measure) }()
	size, first, took, err := take(ctx, server.Address)
	if err = errors.Join(err, <-profiled); err != nil {
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

// filler makes the keys and values of a store, in transactions.
type filler struct {
	p *plan
	// keys is how many there are, inTxn how many of them a transaction has.
	keys, inTxn int64
	// every is of how many keys one is put.
	every int64
	// next is the next transaction.
	next atomic.Int64
}

// fill puts so many bytes of values, in keys of all groups, or of every so many keys one.
func fill(ctx context.Context, address string, p *plan, every int64) error {
	f := &filler{p: p, keys: p.fill / p.value, every: every}
	f.inTxn = min(max(snapshotTxnBytes/p.value, 1), snapshotTxnKeys)
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
				errs[i*snapshotClients/snapshotConns+j] = f.run(ctx, kv, [32]byte{byte(i), byte(j), byte(every)})
			})
		}
	}
	all.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

var snapshotFamilies = []string{"/registry/pods/", "/registry/events/", "/registry/leases/", "/registry/configmaps/"}

// run puts until there is nothing left.
func (f *filler) run(ctx context.Context, kv pb.KVClient, seed [32]byte) error {
	random := rand.NewChaCha8(seed)
	for ctx.Err() == nil {
		n := f.next.Add(1) - 1
		first := n * f.inTxn
		if first >= f.keys {
			return nil
		}
		if each := max(progressEvery/(f.p.value*f.inTxn), 1); n%each == 0 && n > 0 {
			fmt.Fprintf(f.p.progress, "  %d of %d MiB\n", first*f.p.value>>20, f.p.fill>>20)
		}
		txn := &pb.TxnRequest{}
		for k := first; k < min(first+f.inTxn, f.keys); k++ {
			if k%f.every != 0 {
				continue
			}
			value := make([]byte, f.p.value)
			_, _ = random.Read(value) // never fails
			name := uint64(k)
			if f.p.scatter {
				name = bits.Reverse64(name * 0x9E3779B97F4A7C15) // the golden ratio's: no two are alike
			}
			key := fmt.Appendf(nil, "%snamespace-%d/%020d", snapshotFamilies[n%4], k%50, name)
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
				RequestPut: &pb.PutRequest{Key: key, Value: value},
			}})
		}
		if _, err := kv.Txn(ctx, txn); err != nil {
			return err
		}
	}
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

// write prints a table.
func (s *snapshots) write(w io.Writer) error {
	r := &results{p: s.p}
	order := "about as they sort"
	if s.p.scatter {
		order = "in no order"
	}
	fmt.Fprintf(w, "\na snapshot of %d MiB of values of %d B, put %s, to a client that keeps nothing\n", s.p.fill>>20, s.p.value, order)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head(table, "", snapshotColumns)
	r.rows(table, "", snapshotColumns, s.samples)
	return table.Flush()
}
