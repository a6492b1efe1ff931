// Package fanout has many watchers of one prefix follow a writer. Its watchers read
// no more of a response than they need, so that the server and not the client is
// what is measured.
package fanout

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pebbledash/pebbledash/benchmarks/raw"
)

const (
	prefix     = "/registry/pods/fanout/"
	keys       = 1000
	valueBytes = 256
	// streamsPerConn is about what a kube-apiserver has on a connection.
	streamsPerConn = 100
	// maxInFlight bounds the puts that wait for an answer: a server that can't keep
	// up is not buried.
	maxInFlight = 64
	// maxSamples bounds the latencies that are kept.
	maxSamples = 1 << 20
)

// Config of a Run.
type Config struct {
	Address  string
	Watchers int
	// Rate is how many puts a second there are to be.
	Rate            int
	Warmup, Measure time.Duration
	// Watching is called when all watchers are there, Begin and End around what is
	// measured.
	Watching, Begin, End func() error
}

// Report is what was seen between Begin and End.
type Report struct {
	// Puts were acknowledged, Delivered events have come in Responses.
	Puts, Delivered, Responses int64
	// Latencies are from before a put was sent until one of its events was there:
	// a sample, sorted.
	Latencies []time.Duration
}

type run struct {
	cfg       Config
	measuring atomic.Bool
	puts      atomic.Int64
	delivered atomic.Int64
	responses atomic.Int64
	// every is which share of the events is kept in samples.
	every int64

	mu      sync.Mutex // guards samples
	samples []time.Duration
}

// Run has watchers follow a writer, and returns what they have seen.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &run{cfg: cfg}
	r.every = max(1, int64(cfg.Watchers)*int64(cfg.Rate)*int64(cfg.Measure/time.Second+1)/maxSamples)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	var conn *grpc.ClientConn
	for i := range cfg.Watchers {
		if i%streamsPerConn == 0 {
			var err error
			conn, err = dial(cfg.Address)
			if err != nil {
				return nil, err
			}
			defer conn.Close()
		}
		stream, err := watch(ctx, conn)
		if err != nil {
			return nil, err
		}
		watchers.Go(func() {
			if err := r.follow(stream); ctx.Err() == nil {
				fail(fmt.Errorf("a watcher: %w", err))
			}
		})
	}
	if err := cfg.Watching(); err != nil {
		return nil, err
	}
	writer, err := dial(cfg.Address)
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	watchers.Go(func() {
		if err := r.write(ctx, pb.NewKVClient(writer)); err != nil && ctx.Err() == nil {
			fail(fmt.Errorf("the writer: %w", err))
		}
	})
	wait := func(d time.Duration) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(cfg.Warmup); err != nil {
		return nil, err
	}
	if err := cfg.Begin(); err != nil {
		return nil, err
	}
	r.measuring.Store(true)
	err = wait(cfg.Measure)
	r.measuring.Store(false)
	if err = errors.Join(err, cfg.End()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.samples)
	return &Report{r.puts.Load(), r.delivered.Load(), r.responses.Load(), slices.Clone(r.samples)}, nil
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(4<<20))
}

// watch begins a watch, and returns when it is there.
func watch(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	end := []byte(prefix)
	end[len(end)-1]++
	return raw.Watch(ctx, conn, &pb.WatchCreateRequest{Key: []byte(prefix), RangeEnd: end})
}

// follow counts what a watcher is given, until there is an error.
func (r *run) follow(stream grpc.ClientStream) error {
	var m raw.Message
	var seen int64
	for {
		if err := stream.RecvMsg(&m); err != nil {
			return err
		}
		now := time.Now().UnixNano()
		var n int64
		err := raw.Fields(m.Take(), func(number protowire.Number, event []byte, _ uint64) {
			if number != eventsField {
				return
			}
			n++
			if seen++; seen%r.every == 0 && r.measuring.Load() {
				if sent := sentAt(event); sent > 0 {
					r.sample(time.Duration(now - sent))
				}
			}
		})
		if err != nil {
			return err
		}
		if n > 0 && r.measuring.Load() {
			r.delivered.Add(n)
			r.responses.Add(1)
		}
	}
}

func (r *run) sample(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) < maxSamples {
		r.samples = append(r.samples, d)
	}
}

// The fields on the way to an event's value.
const (
	eventsField  = 11
	kvField      = 2
	valueField   = 5
	stampedBytes = 8
)

// sentAt returns the time in an event's value, 0 if there is none.
func sentAt(event []byte) int64 {
	value := raw.Bytes(raw.Bytes(event, kvField), valueField)
	if len(value) < stampedBytes {
		return 0
	}
	return int64(binary.BigEndian.Uint64(value))
}

// write puts at the rate that was asked for, or as fast as the server answers.
func (r *run) write(ctx context.Context, kv pb.KVClient) error {
	interval := time.Second / time.Duration(r.cfg.Rate)
	room := make(chan struct{}, maxInFlight)
	failed := make(chan error, 1)
	next := time.Now()
	for i := 0; ; i++ {
		if wait := time.Until(next); wait > 0 {
			time.Sleep(wait)
		} else if wait < -time.Second {
			next = time.Now() // what could not be sent in time is not made up for
		}
		next = next.Add(interval)
		select {
		case room <- struct{}{}:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		go func() {
			defer func() { <-room }()
			value := make([]byte, valueBytes)
			binary.BigEndian.PutUint64(value, uint64(time.Now().UnixNano()))
			_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "%s%08d", prefix, i%keys), Value: value})
			switch {
			case err == nil:
				if r.measuring.Load() {
					r.puts.Add(1)
				}
			case status.Code(err) == codes.ResourceExhausted: // as anybody, the writer is refused under overload
			default:
				select {
				case failed <- err:
				default:
				}
			}
		}()
	}
}
