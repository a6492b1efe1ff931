package peer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/peer"
)

// chunks returns a next of count chunks, all in one buffer.
func chunks(count, size int) func() ([]byte, error) {
	buf := make([]byte, size)
	n := 0
	return func() ([]byte, error) {
		if n == count {
			return nil, io.EOF
		}
		for i := range buf {
			buf[i] = byte(n)
		}
		n++
		return buf, nil
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSnapshot sends 50 MB. Half-way the receiver stops to take chunks: then neither
// side may hold much, and raft messages have to get through.
func TestSnapshot(t *testing.T) {
	const (
		size  = 64 << 10
		count = 50 << 20 / size
	)
	raft := make(chan string, 1)
	stopped, release := make(chan struct{}), make(chan struct{})
	var header string
	from, to := pair(t, &handler{}, &handler{
		raft: func(_ uint64, _ uint16, p []byte) { raft <- string(p) },
		snapshot: func(_ context.Context, from uint64, h []byte, next func() ([]byte, error)) error {
			header = fmt.Sprintf("%d %s", from, h)
			for n := 0; ; n++ {
				chunk, err := next()
				if errors.Is(err, io.EOF) {
					if n != count {
						return fmt.Errorf("%d chunks", n)
					}
					_, err = next()
					return ignoreEOF(err)
				}
				if err != nil {
					return err
				}
				if !bytes.Equal(chunk, bytes.Repeat([]byte{byte(n)}, size)) {
					return fmt.Errorf("chunk %d is damaged", n)
				}
				if n == count/2 {
					close(stopped)
					<-release
				}
			}
		},
	})
	var taken atomic.Int64
	next := chunks(count, size)
	before := heap()
	result := make(chan error, 1)
	go func() {
		result <- from.SendSnapshot(t.Context(), to.id, []byte("header"), func() ([]byte, error) {
			taken.Add(1)
			return next()
		})
	}()
	receive(t, stopped)
	require.InDelta(t, 1, from.gathered(t, "etcd_network_snapshot_send_inflights_total"), 0)
	// What is on the way is bounded by the windows and the kernel's buffers.
	for last := int64(-1); last != taken.Load(); {
		last = taken.Load()
		for n := range 20 {
			from.Send(to.id, 1, fmt.Append(nil, n), false)
			require.Equal(t, fmt.Sprint(n), receive(t, raft))
		}
	}
	require.Less(t, int(taken.Load()-count/2)*size, 16<<20)
	require.Less(t, heap(), before+16<<20)
	close(release)
	require.NoError(t, receive(t, result))
	require.Equal(t, "1 header", header)
	require.InDelta(t, 1, from.gathered(t, "etcd_network_snapshot_send_success"), 0)
	require.InDelta(t, 1, to.gathered(t, "etcd_network_snapshot_receive_success"), 0)
	require.Zero(t, from.gathered(t, "etcd_network_snapshot_send_inflights_total"))
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// endless never ends.
func endless() ([]byte, error) { return make([]byte, 10<<10), nil }

// TestSnapshotIsCutShort ends it in every way but the proper one: the receiver must
// not think that it has everything.
func TestSnapshotIsCutShort(t *testing.T) {
	// What ends before the receiver has begun, it may never hear of.
	begun, received := make(chan struct{}, 10), make(chan error, 1)
	a, b := start(t, 1, &handler{}), start(t, 2, &handler{
		snapshot: func(ctx context.Context, _ uint64, _ []byte, next func() ([]byte, error)) error {
			begun <- struct{}{}
			for {
				if _, err := next(); err != nil {
					<-ctx.Done()
					received <- err
					return err
				}
			}
		},
	})
	p := newProxy(t, b)
	a.SetPeer(2, []string{p.url})
	a.expect(t, "connected 2")

	broken := errors.New("cannot read on")
	n := 0
	err := a.SendSnapshot(t.Context(), 2, nil, func() ([]byte, error) {
		if n++; n == 10 {
			receive(t, begun)
			return nil, broken
		}
		return endless()
	})
	require.ErrorIs(t, err, broken)
	require.NotErrorIs(t, receive(t, received), io.EOF)

	ctx, cancel := context.WithCancel(t.Context())
	err = a.SendSnapshot(ctx, 2, nil, func() ([]byte, error) {
		if n++; n == 100 {
			receive(t, begun)
			cancel()
		}
		return endless()
	})
	require.ErrorIs(t, err, peer.ErrUnknown)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, receive(t, received), io.EOF)

	p.cutLater(3 << 20)
	err = a.SendSnapshot(t.Context(), 2, nil, endless)
	require.ErrorIs(t, err, peer.ErrUnknown)
	receive(t, begun)
	require.NotErrorIs(t, receive(t, received), io.EOF)
	a.await(t, "connected 2")

	n = 0
	err = a.SendSnapshot(t.Context(), 2, nil, func() ([]byte, error) {
		if n++; n == 100 {
			receive(t, begun)
			a.RemovePeer(2)
		}
		return endless()
	})
	require.ErrorIs(t, err, peer.ErrUnknown)
	require.NotErrorIs(t, receive(t, received), io.EOF)
	require.ErrorIs(t, a.SendSnapshot(t.Context(), 2, nil, endless), peer.ErrNotSent)
	require.InDelta(t, 4, a.gathered(t, "etcd_network_snapshot_send_failures"), 0)
}

// TestReceiverRefusesTheRest has an answer come while the sender still sends.
func TestReceiverRefusesTheRest(t *testing.T) {
	from, to := pair(t, &handler{}, &handler{
		snapshot: func(_ context.Context, _ uint64, _ []byte, next func() ([]byte, error)) error {
			for range 5 {
				if _, err := next(); err != nil {
					return err
				}
			}
			return &peer.RemoteError{Code: 5, Message: "enough"}
		},
	})
	err := from.SendSnapshot(t.Context(), to.id, nil, endless)
	var remote *peer.RemoteError
	require.ErrorAs(t, err, &remote)
	require.Equal(t, &peer.RemoteError{Code: 5, Message: "enough"}, remote)
	require.InDelta(t, 1, to.gathered(t, "etcd_network_snapshot_receive_failures"), 0)

	err = from.SendSnapshot(t.Context(), to.id, nil, func() ([]byte, error) { return make([]byte, peer.MaxPayloadBytes+1), nil })
	require.Error(t, err)
}

func TestTooManySnapshots(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	from, to := pair(t, &handler{}, &handler{
		snapshot: func(context.Context, uint64, []byte, func() ([]byte, error)) error {
			close(begun)
			<-release
			return nil
		},
	}, func(c *peer.Config) { c.MaxSnapshots = 1 })
	result := make(chan error, 1)
	go func() { result <- from.SendSnapshot(context.Background(), to.id, nil, chunks(1, 1)) }()
	receive(t, begun)
	err := from.SendSnapshot(t.Context(), to.id, nil, chunks(1, 1))
	require.ErrorIs(t, err, peer.ErrBusy)
	require.ErrorIs(t, err, peer.ErrNotSent)
	close(release)
	require.NoError(t, receive(t, result))
}
