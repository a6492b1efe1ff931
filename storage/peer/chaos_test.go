package peer_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/peer"
)

// TestCutAnywhere breaks the connection again and again after random numbers of
// bytes, while messages and calls go over it. Messages may be lost, but not come
// twice or out of order; a call is handled once at most, once if it was answered, and
// never if it is said not to have been sent.
func TestCutAnywhere(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { cutAnywhere(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func cutAnywhere(t *testing.T, rng *rand.Rand) {
	t.Helper()
	var (
		messages = newSequence()
		mu       sync.Mutex
		handled  = map[uint64]int{}
	)
	eager := func(c *peer.Config) { c.RedialMin, c.RedialMax = time.Millisecond, 2*time.Millisecond }
	a, b := start(t, 1, &handler{}, eager), start(t, 2, &handler{
		raft: messages.raft,
		call: func(_ context.Context, _ uint64, _ byte, p []byte) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			handled[binary.BigEndian.Uint64(p)]++
			return p[:8], nil
		},
	})
	p := newProxy(t, b)
	a.SetPeer(2, []string{p.url})
	a.expect(t, "connected 2")

	stop := make(chan struct{})
	results := make([]map[uint64]error, 8)
	var load sync.WaitGroup
	for i := range results {
		results[i] = map[uint64]error{}
		rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
		load.Go(func() {
			for n := uint64(1); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				a.Send(2, uint16(i), numbered(n, rng.IntN(2000)), n%3 == 0)
				id := uint64(i)<<32 | n
				reply, err := a.Call(context.Background(), 2, 1, numbered(id, rng.IntN(20000)))
				if err == nil && binary.BigEndian.Uint64(reply) != id {
					err = errors.New("another call's reply")
				}
				results[i][id] = err
				for connected := err == nil; !connected; connected = a.Connected(2) {
					yield()
				}
			}
		})
	}
	for range 30 {
		p.cutLater(1 + rng.Int64N(1<<rng.IntN(22)))
		a.await(t, "connected 2")
	}
	close(stop)
	load.Wait()
	// What may still be handled is over when this connection has been replaced.
	p.cut()
	a.await(t, "connected 2")
	_, err := a.Call(t.Context(), 2, 1, numbered(1<<60, 0))
	require.NoError(t, err)

	require.Empty(t, messages.bad)
	require.Positive(t, messages.got)
	mu.Lock()
	defer mu.Unlock()
	classes := map[string]int{}
	for _, r := range results {
		for id, err := range r {
			switch n := handled[id]; {
			case err == nil:
				classes["answered"]++
				require.Equal(t, 1, n)
			case errors.Is(err, peer.ErrNotSent):
				classes["not sent"]++
				require.Zero(t, n)
			default:
				classes["unknown"]++
				require.ErrorIs(t, err, peer.ErrUnknown)
				require.LessOrEqual(t, n, 1)
			}
		}
	}
	t.Log(classes)
	require.Positive(t, classes["answered"])
	require.Positive(t, classes["unknown"])
}

// goroutines returns those of this package and of gRPC, but for the test's own.
func goroutines() []string {
	buf := make([]byte, 4<<20)
	var found []string
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		ours := strings.Contains(g, "storage/peer.") || strings.Contains(g, "google.golang.org/grpc")
		if ours && !strings.Contains(g, "testing.tRunner(") {
			found = append(found, g)
		}
	}
	return found
}

// TestCloseLeavesNothing closes members in the middle of everything.
func TestCloseLeavesNothing(t *testing.T) {
	eventually(t, func() bool { return len(goroutines()) == 0 })
	w := newWaiting()
	snapshots := make(chan struct{}, 10)
	h := func() *handler {
		return &handler{call: w.call, snapshot: func(ctx context.Context, _ uint64, _ []byte, _ func() ([]byte, error)) error {
			snapshots <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}}
	}
	a, b := start(t, 1, h()), start(t, 2, h())
	p := newProxy(t, b)
	a.SetPeer(2, []string{p.url})
	b.SetPeer(1, []string{a.url})
	a.SetPeer(3, []string{"http://127.0.0.1:1"})
	a.expect(t, "connected 2")
	b.expect(t, "connected 1")
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			_, err := a.Call(context.Background(), 2, 1, nil)
			if !errors.Is(err, peer.ErrUnknown) {
				t.Errorf("call: %v", err)
			}
		})
	}
	for range 2 {
		callers.Go(func() {
			err := a.SendSnapshot(context.Background(), 2, nil, endless)
			if !errors.Is(err, peer.ErrUnknown) {
				t.Errorf("snapshot: %v", err)
			}
		})
		receive(t, snapshots)
	}
	callers.Go(func() {
		_, err := peer.Ask(context.Background(), []string{b.url}, nil, 1, nil)
		if !errors.Is(err, peer.ErrUnknown) {
			t.Errorf("ask: %v", err)
		}
	})
	for range 21 {
		receive(t, w.begun)
	}
	p.hold(true)
	fill(a, 2)
	a.Close()
	b.Close()
	callers.Wait()
	p.hold(false)
	a.Close()
	a.SetPeer(2, []string{b.url})
	a.RemovePeer(2)
	a.Send(2, 1, nil, false)
	a.Notify(2, nil)
	_, err := a.Call(t.Context(), 2, 1, nil)
	require.ErrorIs(t, err, peer.ErrNotSent)
	require.ErrorIs(t, a.SendSnapshot(t.Context(), 2, nil, endless), peer.ErrNotSent)
	peer.New(peer.Config{ClusterID: 1, MemberID: 1, Handler: h()}).Close()
	eventually(t, func() bool { return len(goroutines()) == 0 })
}
