package peer_test

import (
	"context"
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

// BenchmarkCall has 64 callers. Both members are in the process, so its CPU is that
// of both.
func BenchmarkCall(b *testing.B) {
	reply := make([]byte, 100)
	from, to := pair(b, &handler{}, &handler{call: func(context.Context, uint64, byte, []byte) ([]byte, error) {
		return reply, nil
	}})
	payload := make([]byte, 1200)
	b.SetParallelism(32) // Times two cores.
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := from.Call(b.Context(), to.id, 1, payload); err != nil {
				b.Error(err)
				return
			}
		}
	})
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
	for got.Load() < int64(b.N) {
		from.Send(to.id, 99, nil, false)
		b.StopTimer()
		eventually(b, func() bool { return got.Load() >= int64(b.N) })
		b.StartTimer()
	}
	b.StopTimer()
	require.Zero(b, from.gathered(b, "etcd_network_peer_sent_failures_total"))
	b.ReportMetric((cpu(b)-before)/float64(b.N), "cpu-ns/op")
}
