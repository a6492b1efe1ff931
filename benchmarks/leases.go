//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

const (
	leaseTTL     = 60 // seconds
	leaseClients = 64
	leaseConns   = 8
	// leasePeriod is how often each lease is kept alive, over one of leaseStreams.
	leasePeriod  = 5 * time.Second
	leaseStreams = 32
)

// The tables of leases.
var (
	idleCores = &metric{"idle CPU ms/s"}

	grantSheet = sheet{
		"lease-grant", fmt.Sprintf("grants of leases of %d s, %d/%d connections/clients", leaseTTL, leaseConns, leaseClients),
		"leases",
		[]*metric{serverCPU, rate, p50, p99, idleCores, memory},
	}
	aliveSheet = sheet{
		"lease-alive", fmt.Sprintf("keep-alives, one each %v a lease, over %d streams", leasePeriod, leaseStreams),
		"leases",
		[]*metric{serverCPU, rate, p50, p99, memory},
	}
)

// runLeases grants leases and keeps them alive.
func runLeases(ctx context.Context, t *turn) (err error) {
	server, stop, err := t.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var clients [leaseConns]pb.LeaseClient
	for i := range clients {
		conn, err := process.Dial(server[0].Address)
		if err != nil {
			return err
		}
		defer conn.Close()
		clients[i] = pb.NewLeaseClient(conn)
	}
	ids, err := grantAll(ctx, t, server, clients[:])
	if err != nil {
		return err
	}
	return keepAlive(ctx, t, server, clients[:], ids)
}

// grantAll measures the grants, and what the leases cost that nothing is done with.
func grantAll(ctx context.Context, t *turn, server process.Cluster, clients []pb.LeaseClient) ([]int64, error) {
	if err := server.ResetPeak(); err != nil {
		return nil, err
	}
	ids, latencies := make([]int64, t.leases), make([]time.Duration, t.leases)
	var next atomic.Int64
	usage, took, err := used(server, func() error {
		errs := make([]error, leaseClients)
		var all sync.WaitGroup
		for c := range leaseClients {
			all.Go(func() {
				for i := int(next.Add(1)) - 1; i < t.leases; i = int(next.Add(1)) - 1 {
					began := time.Now()
					r, err := clients[c%len(clients)].LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: leaseTTL})
					if err != nil {
						errs[c] = err
						return
					}
					ids[i], latencies[i] = r.ID, time.Since(began)
				}
			})
		}
		all.Wait()
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, err
	}
	peak, err := server.PeakBytes()
	if err != nil {
		return nil, err
	}
	if _, err := settle(server, settleTimeout); err != nil {
		return nil, err
	}
	idle, idleFor, err := used(server, func() error { return openloop.Sleep(ctx, t.warmup) })
	if err != nil {
		return nil, err
	}
	slices.Sort(latencies)
	t.add(grantSheet, count(t.leases), sample{
		serverCPU: per(usage.CPU, t.leases), rate: float64(t.leases) / took.Seconds(),
		p50: milliseconds(latencies, 0.5), p99: milliseconds(latencies, 0.99),
		idleCores: idle.CPU.Seconds() * 1000 / idleFor.Seconds(), memory: mib(peak),
	})
	return ids, nil
}

// aliveStream is a stream of keep-alives, whose answers come in the order of the
// requests.
type aliveStream struct {
	stream pb.Lease_LeaseKeepAliveClient
	mu     sync.Mutex // guards sending, so that due has the same order
	due    chan time.Time
}

// keepAlive measures the keep-alives.
func keepAlive(ctx context.Context, t *turn, server process.Cluster, clients []pb.LeaseClient, ids []int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	from := begin.Add(t.warmup)
	end := from.Add(t.measure)
	recorder := openloop.NewRecorder(from, end)
	streams := make([]*aliveStream, leaseStreams)
	errs := make(chan error, leaseStreams)
	for i := range streams {
		s, err := clients[i%len(clients)].LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		// A lease has one keep-alive on the way, mostly.
		streams[i] = &aliveStream{stream: s, due: make(chan time.Time, 2*len(ids)/leaseStreams+1024)}
		go func() { errs <- streams[i].receive(recorder) }()
	}
	if err := server.ResetPeak(); err != nil {
		return err
	}
	perSecond := float64(len(ids)) / leasePeriod.Seconds()
	var sendErr atomic.Pointer[error]
	done := make(chan struct{})
	go func() {
		openloop.Run(ctx, perSecond, 1, begin, end, func(i int, due time.Time) {
			if err := streams[i%leaseStreams].send(ids[i%len(ids)], due); err != nil {
				sendErr.Store(&err)
			}
		})
		close(done)
	}()
	if err := openloop.Until(ctx, from); err != nil {
		return err
	}
	usage, _, err := used(server, func() error { return openloop.Until(ctx, end) })
	if err != nil {
		return err
	}
	<-done
	for _, s := range streams {
		err = errors.Join(err, s.stream.CloseSend())
	}
	for range streams {
		err = errors.Join(err, <-errs)
	}
	if failed := sendErr.Load(); failed != nil {
		err = errors.Join(err, *failed)
	}
	if err != nil {
		return err
	}
	peak, err := server.PeakBytes()
	if err != nil {
		return err
	}
	latencies := recorder.Latencies()
	t.add(aliveSheet, count(len(ids)), sample{
		serverCPU: per(usage.CPU, len(latencies)), rate: float64(len(latencies)) / t.measure.Seconds(),
		p50: milliseconds(latencies, 0.5), p99: milliseconds(latencies, 0.99), memory: mib(peak),
	})
	return nil
}

func (s *aliveStream) send(id int64, due time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due <- due
	return s.stream.Send(&pb.LeaseKeepAliveRequest{ID: id})
}

// receive notes each answer until there are no more.
func (s *aliveStream) receive(recorder *openloop.Recorder) error {
	for {
		r, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.TTL <= 0 {
			return fmt.Errorf("lease %x has expired", r.ID)
		}
		recorder.Done(<-s.due)
	}
}
