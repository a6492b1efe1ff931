package openloop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Puts is a writer at a fixed rate, in the background of something else.
type Puts struct {
	KV   pb.KVClient
	Rate float64
	// Keys is how many there are, Key is key i.
	Keys int
	Key  func(i int) []byte
	// ValueBytes is the size of the values, which are random.
	ValueBytes int
}

const (
	// valueOffsets is how many values there are to choose from.
	valueOffsets = 1 << 16
	// keyStep is a prime, which takes the writer all over the keys.
	keyStep = 7919
	// farOff is later than any writer ends.
	farOff = 24 * time.Hour
)

// RunUntil puts until ctx ends, waits for the answers that are missing then, and notes
// how long each took. It returns the first error.
func (p *Puts) RunUntil(ctx context.Context, begin time.Time, r *Recorder) error {
	pool := make([]byte, p.ValueBytes+valueOffsets)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(pool) // It never fails.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var once sync.Once
	var failed error
	Run(ctx, p.Rate, 1, begin, begin.Add(farOff), func(i int, due time.Time) {
		// What was sent is waited for: to drop the slowest would flatter.
		_, err := p.KV.Put(context.WithoutCancel(ctx), &pb.PutRequest{
			Key: p.Key(i * keyStep % p.Keys), Value: pool[i%valueOffsets:][:p.ValueBytes],
		}, grpc.WaitForReady(true))
		if err != nil {
			once.Do(func() { failed = fmt.Errorf("a put: %w", err) })
			stop()
			return
		}
		r.Done(due)
	})
	return failed
}
