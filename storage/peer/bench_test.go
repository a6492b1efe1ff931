package peer_test

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// cpu returns the time that the process has computed, in nanoseconds.
func cpu(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return float64(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCall has 64 callers, or 8. Both members are in the process, so its CPU is
// that of both.
func BenchmarkCall(b *testing.B) {
	b.Run("callers=64", func(b *testing.B) { benchmarkCall(b, 64, false) })
	b.Run("callers=64/tls", func(b *testing.B) { benchmarkCall(b, 64, true) })
	b.Run("callers=8", func(b *testing.B) { benchmarkCall(b, 8, false) })
}

func benchmarkCall(b *testing.B, callers int, tls bool) {
	b.Helper()
	reply := make([]byte, 100)
	h := &handler{call: func(context.Context, uint64, byte, []byte) ([]byte, error) { return reply, nil }}
	var from, to *node
	if tls {
		s := secure(b)
		from, to = start(b, 1, &handler{}, s), start(b, 2, h, s)
		to.url = to.secureURL()
		connect(b, from, to)
	} else {
		from, to = pair(b, &handler{}, h)
	}
	payload := make([]byte, 1200)
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := from.Call(b.Context(), to.id, 1, payload); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	running.Wait()
	b.StopTimer()
	b.ReportMetric((cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkCallAlone has one caller: what it takes is latency.
func BenchmarkCallAlone(b *testing.B) {
	from, to := pair(b, &handler{}, &handler{})
	payload := make([]byte, 1200)
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		if _, err := from.Call(b.Context(), to.id, 1, payload); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkSend has one sender of small raft messages, which waits when half of what
// the queue holds is on its way.
func BenchmarkSend(b *testing.B) {
	var got atomic.Int64
	progress := make(chan struct{}, 1)
	from, to := pair(b, &handler{}, &handler{raft: func(uint64, uint16, []byte) {
		if got.Add(1)%1024 == 0 {
			select {
			case progress <- struct{}{}:
			default:
			}
		}
	}})
	payload := make([]byte, 300)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	for i := range b.N {
		for int64(i)-got.Load() > 8192 {
			<-progress
		}
		from.Send(to.id, uint16(i&15), payload, false)
	}
	eventually(b, func() bool { return got.Load() >= int64(b.N) })
	b.StopTimer()
	require.Zero(b, from.gathered(b, "etcd_network_peer_sent_failures_total"))
	b.ReportMetric((cpu(b)-before)/float64(b.N), "cpu-ns/op")
}
