package app

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// Memory is returned when the collector has rested for a while and there is enough of it.
func TestReturnMemory(t *testing.T) {
	clk := clock.NewManual(time.Unix(0, 0))
	ctx, cancel := context.WithCancel(t.Context())
	uses := make(chan heapUse)
	freed := make(chan struct{}, 1)
	var worker sync.WaitGroup
	worker.Go(func() {
		returnMemory(ctx, clk, func() heapUse { return <-uses }, func() { freed <- struct{}{} })
	})
	uses <- heapUse{collections: 1, returnable: worthReturning}
	clk.WaitForTimers(1)
	for _, c := range []struct {
		use  heapUse
		want bool
	}{
		{heapUse{2, worthReturning}, false}, // busy
		{heapUse{2, worthReturning - 1}, false},
		{heapUse{2, worthReturning}, true},
		{heapUse{3, 0}, false},
		{heapUse{4, worthReturning}, false},
		{heapUse{4, worthReturning}, true},
	} {
		clk.Advance(restInterval)
		uses <- c.use
		if c.want {
			<-freed
			uses <- heapUse{c.use.collections + 1, 0}
		}
		require.Empty(t, freed, c)
	}
	cancel()
	worker.Wait()
}

func TestReadHeap(t *testing.T) {
	use := readHeap()
	require.Less(t, use.returnable, uint64(1<<40))
}
