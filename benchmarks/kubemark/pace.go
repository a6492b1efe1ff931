//go:build linux

package main

import (
	"context"
	"sync"
	"time"
)

// maxInflight bounds how many calls of one kind wait for an answer at a time. Whoever
// is due then comes later: a store that is too slow is not buried.
const maxInflight = 64

// every has f run each interval until due ends, each time by itself, and returns when all
// have returned: what is slow at the end counts as well. n counts from 0.
func every(ctx, due context.Context, interval time.Duration, f func(ctx context.Context, n int)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	seats := make(chan struct{}, maxInflight)
	var all sync.WaitGroup
	defer all.Wait()
	for n := 0; ; n++ {
		select {
		case <-due.Done():
			return
		case <-ticker.C:
		}
		select {
		case <-due.Done():
			return
		case seats <- struct{}{}:
		}
		all.Go(func() {
			f(ctx, n)
			<-seats
		})
	}
}
