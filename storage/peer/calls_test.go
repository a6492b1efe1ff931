package peer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/peer"
)

// waiting is a handler's Call that says that it has begun, and waits for its ctx or
// for release.
type waiting struct {
	begun   chan string
	ended   chan error
	release chan struct{}
}

func newWaiting() *waiting {
	return &waiting{make(chan string, 100), make(chan error, 100), make(chan struct{})}
}

func (w *waiting) call(ctx context.Context, _ uint64, _ byte, p []byte) ([]byte, error) {
	w.begun <- string(p)
	select {
	case <-ctx.Done():
		w.ended <- ctx.Err()
		return nil, ctx.Err()
	case <-w.release:
		w.ended <- nil
		return nil, nil
	}
}

func TestCallsShareAConnection(t *testing.T) {
	from, to := pair(t, &handler{}, &handler{call: func(_ context.Context, from uint64, method byte, p []byte) ([]byte, error) {
		return fmt.Appendf(nil, "%d %d %s", from, method, p), nil
	}})
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() {
			for j := range 100 {
				p := fmt.Sprintf("%d of %d", j, i)
				reply, err := from.Call(t.Context(), to.id, byte(i), []byte(p))
				if err != nil || string(reply) != fmt.Sprintf("1 %d %s", byte(i), p) {
					t.Errorf("%q, %v", reply, err)
				}
			}
		})
	}
	callers.Wait()
	require.InDelta(t, 1, from.gathered(t, "etcd_network_active_peers"), 0)
}

func TestErrorsOfCalls(t *testing.T) {
	var fail error
	from, to := pair(t, &handler{}, &handler{call: func(context.Context, uint64, byte, []byte) ([]byte, error) { return nil, fail }})
	call := func() error {
		_, err := from.Call(t.Context(), to.id, 1, []byte("x"))
		_, asked := peer.Ask(t.Context(), []string{to.url}, nil, 1, []byte("x"))
		if err == nil {
			require.NoError(t, asked)
			return nil
		}
		require.ErrorContains(t, asked, err.Error())
		return err
	}
	var remote *peer.RemoteError

	require.NoError(t, call())
	fail = &peer.RemoteError{Code: 200, Message: "not the leader"}
	require.ErrorAs(t, call(), &remote)
	require.Equal(t, fail, remote)
	fail = fmt.Errorf("wrapped: %w", fail)
	require.ErrorAs(t, call(), &remote)
	require.Equal(t, byte(200), remote.Code)
	fail = errors.New("anything else")
	require.ErrorAs(t, call(), &remote)
	require.Equal(t, &peer.RemoteError{Message: "anything else"}, remote)
	fail = fmt.Errorf("wrapped: %w", peer.ErrBusy)
	require.ErrorIs(t, call(), peer.ErrBusy)
	fail = errors.New(string(bytes.Repeat([]byte("x"), 1<<20)))
	require.ErrorAs(t, call(), &remote)
	require.Less(t, len(remote.Message), 5000)

	_, err := from.Call(t.Context(), 77, 1, nil)
	require.ErrorIs(t, err, peer.ErrNotSent, "a member that nobody knows")
}

func TestSizes(t *testing.T) {
	var reply []byte
	from, to := pair(t, &handler{}, &handler{call: func(_ context.Context, _ uint64, _ byte, p []byte) ([]byte, error) {
		if reply != nil {
			return reply, nil
		}
		return p, nil
	}})
	for _, n := range []int{0, 1, 1000, 8 << 10, 1 << 20, 1<<20 + 1, peer.MaxPayloadBytes} {
		p := bytes.Repeat([]byte{byte(n), 1}, n/2+1)[:n]
		got, err := from.Call(t.Context(), to.id, 1, p)
		require.NoError(t, err)
		require.True(t, bytes.Equal(p, got), n)
	}
	tooLarge := make([]byte, peer.MaxPayloadBytes+1)
	_, err := from.Call(t.Context(), to.id, 1, tooLarge)
	require.ErrorIs(t, err, peer.ErrNotSent)
	from.Send(to.id, 1, tooLarge, false)
	require.InDelta(t, 1, from.dropped(), 0)
	require.Panics(t, func() { from.Notify(to.id, tooLarge) })
	reply = tooLarge
	_, err = from.Call(t.Context(), to.id, 1, nil)
	require.ErrorIs(t, err, peer.ErrUnknown)
	_, err = peer.Ask(t.Context(), []string{to.url}, nil, 1, nil)
	require.ErrorIs(t, err, peer.ErrUnknown)
	_, err = peer.Ask(t.Context(), []string{to.url}, nil, 1, tooLarge)
	require.ErrorIs(t, err, peer.ErrNotSent)
	reply = []byte{}
	_, err = from.Call(t.Context(), to.id, 1, nil)
	require.NoError(t, err, "nothing of this broke the connection")
	require.Zero(t, from.gathered(t, "etcd_network_disconnected_peers_total"))
}

// TestTooManyCalls has the bound stand at the caller, and then only at the other
// side.
func TestTooManyCalls(t *testing.T) {
	for name, bound := range map[string]func(*peer.Config){
		"both":   func(c *peer.Config) { c.MaxCalls = 3 },
		"callee": func(c *peer.Config) { c.MaxCalls = 3 + 100*int(c.MemberID&1) },
		"bytes":  func(c *peer.Config) { c.MaxCallBytes = 350 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWaiting()
			from, to := pair(t, &handler{}, &handler{call: w.call}, bound)
			results := make(chan error, 3)
			for range 3 {
				go func() {
					_, err := from.Call(context.Background(), to.id, 1, make([]byte, 100))
					results <- err
				}()
			}
			for range 3 {
				receive(t, w.begun)
			}
			for range 10 {
				_, err := from.Call(t.Context(), to.id, 1, make([]byte, 100))
				require.ErrorIs(t, err, peer.ErrBusy)
			}
			if name != "both" {
				require.InDelta(t, 10, to.gathered(t, "pebbledash_peer_refused_calls_total"), 0)
			}
			require.Empty(t, w.begun, "what is refused is not handled")
			close(w.release)
			for range 3 {
				require.NoError(t, receive(t, results))
			}
			_, err := from.Call(t.Context(), to.id, 1, nil)
			require.NoError(t, err)
		})
	}
}

// TestManyBusyAnswersAtOnce makes more calls at once than the other side takes.
func TestManyBusyAnswersAtOnce(t *testing.T) {
	w := newWaiting()
	from, to := pair(t, &handler{}, &handler{call: w.call}, func(c *peer.Config) { c.MaxCalls = 3 + 1000*int(c.MemberID&1) })
	results := make(chan error, 1000)
	for range cap(results) {
		go func() {
			_, err := from.Call(context.Background(), to.id, 1, nil)
			results <- err
		}()
	}
	for range cap(results) - 3 {
		require.ErrorIs(t, receive(t, results), peer.ErrBusy)
	}
	close(w.release)
	for range 3 {
		require.NoError(t, receive(t, results))
	}
}

// TestTooManyBytesOfReplies holds the way back.
func TestTooManyBytesOfReplies(t *testing.T) {
	reply := make([]byte, 5<<20)
	handled := make(chan struct{}, 100)
	a := start(t, 1, &handler{}, patient)
	b := start(t, 2, &handler{call: func(context.Context, uint64, byte, []byte) ([]byte, error) {
		handled <- struct{}{}
		return reply, nil
	}}, func(c *peer.Config) { c.PingInterval, c.MaxCallBytes = time.Hour, 20<<20 })
	p := newProxy(t, b)
	a.SetPeer(2, []string{p.url})
	a.expect(t, "connected 2")
	results := make(chan error, 20)
	p.holdBack(true)
	for range cap(results) {
		go func() {
			_, err := a.Call(context.Background(), 2, 1, nil)
			results <- err
		}()
	}
	for range cap(results) {
		receive(t, handled)
	}
	p.holdBack(false)
	unknown := 0
	for range cap(results) {
		if err := receive(t, results); err != nil {
			require.ErrorIs(t, err, peer.ErrUnknown)
			unknown++
		}
	}
	require.Positive(t, unknown)
	require.Less(t, unknown, cap(results))
	require.Zero(t, a.gathered(t, "etcd_network_disconnected_peers_total"))
}

func TestCallerGivesUp(t *testing.T) {
	w := newWaiting()
	from, to := pair(t, &handler{}, &handler{call: w.call})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-w.begun
		cancel()
	}()
	_, err := from.Call(ctx, to.id, 1, nil)
	require.ErrorIs(t, err, peer.ErrUnknown)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, receive(t, w.ended), context.Canceled, "the other side is told")

	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = from.Call(ctx, to.id, 1, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	eventually(t, func() bool { return from.gathered(t, "pebbledash_peer_calls") == 0 })
}

func TestConnectionBreaksUnderCalls(t *testing.T) {
	w := newWaiting()
	a, b := start(t, 1, &handler{}), start(t, 2, &handler{call: w.call})
	p := newProxy(t, b)
	a.SetPeer(2, []string{p.url})
	a.expect(t, "connected 2")
	results := make(chan error, 10)
	for range cap(results) {
		go func() {
			_, err := a.Call(context.Background(), 2, 1, nil)
			results <- err
		}()
	}
	for range cap(results) {
		receive(t, w.begun)
	}
	p.cut()
	for range cap(results) {
		require.ErrorIs(t, receive(t, results), peer.ErrUnknown)
		require.ErrorIs(t, receive(t, w.ended), context.Canceled)
	}
}

// TestAskLeavesOutWhoIsStopped takes as long as dialing may.
func TestAskLeavesOutWhoIsStopped(t *testing.T) {
	t.Parallel()
	b := start(t, 2, &handler{})
	reply, err := peer.Ask(t.Context(), []string{silent(t), b.url}, nil, 1, []byte("x"))
	require.NoError(t, err)
	require.Equal(t, "x", string(reply))
}

func TestAsk(t *testing.T) {
	from := make(chan uint64, 1)
	b := start(t, 2, &handler{call: func(_ context.Context, id uint64, method byte, p []byte) ([]byte, error) {
		from <- id
		return append(p, method), nil
	}})
	nowhere := start(t, 3, &handler{})
	nowhere.Close()
	reply, err := peer.Ask(t.Context(), []string{nowhere.url, "nonsense", b.url}, nil, '!', []byte("hello"))
	require.NoError(t, err)
	require.Equal(t, "hello!", string(reply))
	require.Zero(t, receive(t, from))

	_, err = peer.Ask(t.Context(), []string{nowhere.url}, nil, 1, nil)
	require.ErrorIs(t, err, peer.ErrNotSent)
	no := start(t, 4, &handler{call: func(context.Context, uint64, byte, []byte) ([]byte, error) {
		return nil, &peer.RemoteError{Code: 9}
	}})
	_, err = peer.Ask(t.Context(), []string{no.url, b.url}, nil, 1, nil)
	require.ErrorAs(t, err, new(*peer.RemoteError), "an error is an answer, after which nobody else is asked")
	_, err = peer.Ask(t.Context(), nil, nil, 1, nil)
	require.ErrorIs(t, err, peer.ErrNotSent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = peer.Ask(ctx, []string{b.url}, nil, 1, nil)
	require.ErrorIs(t, err, peer.ErrNotSent)
	require.ErrorIs(t, err, context.Canceled)
}

// TestAskOfABusyMember has the next one asked.
func TestAskOfABusyMember(t *testing.T) {
	w := newWaiting()
	b := start(t, 2, &handler{call: w.call}, func(c *peer.Config) { c.MaxAsks = 1 })
	c := start(t, 3, &handler{})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := peer.Ask(ctx, []string{b.url}, nil, 1, nil)
		result <- err
	}()
	receive(t, w.begun)
	_, err := peer.Ask(t.Context(), []string{b.url}, nil, 1, nil)
	require.ErrorIs(t, err, peer.ErrBusy)
	reply, err := peer.Ask(t.Context(), []string{b.url, c.url}, nil, 1, []byte("x"))
	require.NoError(t, err)
	require.Equal(t, "x", string(reply))

	cancel()
	err = receive(t, result)
	require.ErrorIs(t, err, peer.ErrUnknown)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, receive(t, w.ended), context.Canceled)
}
