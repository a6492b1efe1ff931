// Package fill puts many keys into a store, in transactions of many puts: a load of
// millions that is to be there, and not what is measured by the request.
package fill

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/benchmarks/process"
)

const (
	conns   = 4
	clients = 16
	// maxPuts and maxBytes bound a transaction; etcd takes 128 puts, and 1.5 MiB.
	maxPuts  = 100
	maxBytes = 1 << 20
	// progressInterval is how often it is told how far it is.
	progressInterval = 10 * time.Second
)

// Config says what to put.
type Config struct {
	Address string
	// From and To are the numbers of the keys: From <= i < To.
	From, To int
	// Key is key i. A transaction holds keys Stride apart, so that it stays within
	// one resource where resources take turns; 0 is 1.
	Key    func(i int) []byte
	Stride int
	// Value is the value of key i, of ValueBytes; nil makes it random.
	Value      func(i int) []byte
	ValueBytes int
	// Seed makes random values others.
	Seed byte
	// Progress is told how far it is, if it takes long.
	Progress io.Writer
}

// Run puts all keys.
func Run(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches := Batches(cfg.From, cfg.To, max(cfg.Stride, 1), max(1, min(maxPuts, maxBytes/max(cfg.ValueBytes, 1))))
	var kvs [conns]pb.KVClient
	for i := range kvs {
		conn, err := process.Dial(cfg.Address)
		if err != nil {
			return err
		}
		defer conn.Close()
		kvs[i] = pb.NewKVClient(conn)
	}
	var next, done atomic.Int64
	if cfg.Progress != nil {
		go tell(ctx, cfg, &done)
	}
	var all sync.WaitGroup
	errs := make(chan error, clients)
	for i := range clients {
		all.Go(func() {
			random := rand.NewChaCha8([32]byte{byte(i), cfg.Seed})
			for at := int(next.Add(1)) - 1; at < len(batches); at = int(next.Add(1)) - 1 {
				b := batches[at]
				if err := send(ctx, kvs[i%conns], cfg, b, random); err != nil {
					errs <- fmt.Errorf("key %d: %w", b.first, err)
					cancel() // There is no use in the others.
					return
				}
				done.Add(int64(b.n))
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs: // The first; others follow from it.
		return err
	default:
		return ctx.Err()
	}
}

// Batch is keys first, first+stride, ... of a transaction.
type Batch struct{ first, stride, n int }

// Batches divides the keys from from to to into transactions of size at most.
func Batches(from, to, stride, size int) []Batch {
	var batches []Batch
	for block := from; block < to; block += stride * size {
		for first := block; first < min(block+stride, to); first++ {
			end := min(block+stride*size, to)
			batches = append(batches, Batch{first, stride, (end - first + stride - 1) / stride})
		}
	}
	return batches
}

func send(ctx context.Context, kv pb.KVClient, cfg Config, b Batch, random io.Reader) error {
	txn := &pb.TxnRequest{}
	values := make([]byte, b.n*cfg.ValueBytes)
	if cfg.Value == nil {
		_, _ = random.Read(values) // It never fails.
	}
	for j := range b.n {
		i := b.first + j*b.stride
		value := values[j*cfg.ValueBytes : (j+1)*cfg.ValueBytes]
		if cfg.Value != nil {
			value = cfg.Value(i)
		}
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: cfg.Key(i), Value: value},
		}})
	}
	_, err := kv.Txn(ctx, txn, grpc.WaitForReady(true))
	return err
}

func tell(ctx context.Context, cfg Config, done *atomic.Int64) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			fmt.Fprintf(cfg.Progress, "  %d of %d keys\n", done.Load(), cfg.To-cfg.From)
		case <-ctx.Done():
			return
		}
	}
}
