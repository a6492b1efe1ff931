package workload

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// Prepare puts the values that are there to be read.
func Prepare(ctx context.Context, conn *grpc.ClientConn) error {
	const clients = 64
	values := randomBytes()
	var next atomic.Int64
	return together(clients, func(n int) error {
		c, _, err := newClient(ctx, Loads[0], conn, n, values)
		if err != nil {
			return err
		}
		c.setFolders(Loads[0], readFolder)
		for i := int(next.Add(1)) - 1; i < readKeys; i = int(next.Add(1)) - 1 {
			if err := c.create(ctx, readValueBytes, i); err != nil {
				return err
			}
		}
		return nil
	})
}

func randomBytes() []byte {
	b := make([]byte, valuesBytes)
	_, _ = crand.Read(b) // It never fails.
	return b
}

// together runs n goroutines and returns the first error of one of them.
func together(n int, run func(n int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- run(i) }()
	}
	var failed error
	for range n {
		if err := <-errs; err != nil && failed == nil {
			failed = err // The first; others may follow from it.
		}
	}
	return failed
}

// Result is what the clients saw while it was measured.
type Result struct {
	Ops     int
	Elapsed time.Duration
	// Latencies are those of all operations, sorted.
	Latencies []time.Duration
}

// Config says how to run a load.
type Config struct {
	Load  Load
	Shape Shape
	// Addresses are those of the members that connections go to, in turn.
	Addresses []string
	// Warmup begins when every client has had its first answer, and comes
	// before Measure.
	Warmup, Measure time.Duration
	// Begin and End are called around the measurement, while the load goes on.
	Begin, End func() error
}

// The phases of a run.
const (
	warming int32 = iota
	measuring
	over
)

// answerTimeout bounds how long a run may take longer than it should.
const answerTimeout = 30 * time.Second

// Run runs a load. An error of any request is an error of the run.
func Run(ctx context.Context, cfg Config) (Result, error) {
	ctx, stop := context.WithTimeout(ctx, cfg.Warmup+cfg.Measure+answerTimeout)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var conns []*grpc.ClientConn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // Nothing is under way on it.
		}
	}()
	for i := range cfg.Shape.Conns {
		conn, err := process.Dial(cfg.Addresses[i%len(cfg.Addresses)])
		if err != nil {
			return Result{}, err
		}
		conns = append(conns, conn)
	}

	var phase atomic.Int32
	begun := make(chan struct{}, cfg.Shape.Clients)
	var mu sync.Mutex // guards latencies
	var latencies []time.Duration
	values := randomBytes()
	done := make(chan error, 1)
	go func() {
		done <- together(cfg.Shape.Clients, func(n int) error {
			mine, err := runClient(ctx, cfg.Load, conns[n%len(conns)], n, values, &phase, begun)
			if err != nil {
				err = fmt.Errorf("client %d: %w", n, err)
				cancel(err) // There is no use in waiting for the others.
				return context.Cause(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, mine...)
			return nil
		})
	}()

	elapsed, err := conduct(ctx, cfg, &phase, begun)
	phase.Store(over)
	if clientErr := <-done; clientErr != nil {
		err = clientErr
	}
	slices.Sort(latencies)
	return Result{Ops: len(latencies), Elapsed: elapsed, Latencies: latencies}, err
}

// conduct moves the phases on: by the clock, once all clients have begun.
func conduct(ctx context.Context, cfg Config, phase *atomic.Int32, begun <-chan struct{}) (time.Duration, error) {
	for range cfg.Shape.Clients {
		select {
		case <-begun:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err := openloop.Sleep(ctx, cfg.Warmup); err != nil {
		return 0, err
	}
	if err := cfg.Begin(); err != nil {
		return 0, err
	}
	begin := time.Now()
	phase.Store(measuring)
	err := openloop.Sleep(ctx, cfg.Measure)
	phase.Store(over)
	elapsed := time.Since(begin)
	return elapsed, errors.Join(err, cfg.End())
}

// runClient returns the latencies of the operations that ended while it was
// measured.
func runClient(
	ctx context.Context, l Load, conn *grpc.ClientConn, n int, values []byte, phase *atomic.Int32, begun chan<- struct{},
) ([]time.Duration, error) {
	_, act, err := newClient(ctx, l, conn, n, values)
	if err != nil {
		return nil, err
	}
	if err := act(ctx); err != nil {
		return nil, err
	}
	begun <- struct{}{}
	var latencies []time.Duration
	for {
		begin := time.Now()
		if err := act(ctx); err != nil {
			return nil, err
		}
		switch phase.Load() {
		case measuring:
			latencies = append(latencies, time.Since(begin))
		case over:
			return latencies, nil
		}
	}
}
