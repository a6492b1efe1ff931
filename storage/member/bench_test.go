package member_test

import (
	"crypto/rand"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
)

// open opens a member of one on the machine's disk.
func open(b *testing.B) *member.Member {
	b.Helper()
	m, err := member.Open(b.Context(), member.Config{
		Dir: b.TempDir(), Name: "a", InitialCluster: "a=http://127.0.0.1:2380",
	})
	require.NoError(b, err)
	<-m.Ready()
	b.Cleanup(func() { require.NoError(b, m.Close()) })
	return m
}

// BenchmarkPut measures the storage's part of a put: everything but gRPC.
func BenchmarkPut(b *testing.B) {
	for _, clients := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			m := open(b)
			value := make([]byte, 256)
			_, _ = rand.Read(value)
			each(b, clients, func(client, i int) error {
				_, err := m.Do(b.Context(), &evaluate.Put{
					Key: fmt.Appendf(nil, "/registry/pods/%03d/%06d", client, i%1000), Value: value,
				})
				return err
			})
		})
	}
}

// BenchmarkGet measures the storage's part of a linearizable get.
func BenchmarkGet(b *testing.B) {
	m := open(b)
	const keys = 10_000
	for i := range keys {
		op := &evaluate.Put{Key: fmt.Appendf(nil, "/registry/pods/%06d", i), Value: make([]byte, 1024)}
		go func() { _, _ = m.Do(b.Context(), op) }()
	}
	each(b, 16, func(client, i int) error {
		_, err := m.Read(b.Context(), &evaluate.Range{
			Key: fmt.Appendf(nil, "/registry/pods/%06d", (client*7919+i)%keys),
		}, false)
		return err
	})
}

// each runs b.N calls, spread over clients.
func each(b *testing.B, clients int, call func(client, i int) error) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for c := range clients {
		n := b.N / clients
		if c < b.N%clients {
			n++
		}
		wg.Go(func() {
			for i := range n {
				if err := call(c, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}
