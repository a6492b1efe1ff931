package peer

import (
	"sync"
	"sync/atomic"
)

// workers are goroutines that handle calls. One that has handled a call waits for the
// next, with the stack that it has grown. There are as many as there are calls at
// once, which those who hand in calls bound.
type workers struct {
	// work has no room: it hands a call to a worker that waits for one.
	work    chan *inboundCall
	maxIdle int32
	idle    atomic.Int32
	running sync.WaitGroup
}

func newWorkers(maxIdle int) *workers {
	return &workers{work: make(chan *inboundCall), maxIdle: int32(maxIdle)}
}

// do has c handled. It does not block.
func (w *workers) do(c *inboundCall) {
	select {
	case w.work <- c:
	default:
		w.running.Go(func() { w.run(c) })
	}
}

func (w *workers) run(c *inboundCall) {
	for ok := true; ok; {
		c.handle()
		// Invariant: idle is the number of those that wait, or are about to.
		if w.idle.Add(1) > w.maxIdle {
			w.idle.Add(-1)
			return
		}
		c, ok = <-w.work
		w.idle.Add(-1)
	}
}

// close returns when all calls are handled. REQUIRES: nobody hands in calls.
func (w *workers) close() {
	close(w.work)
	w.running.Wait()
}
