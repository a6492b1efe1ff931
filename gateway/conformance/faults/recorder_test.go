package faults

import (
	"sync"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// recorder keeps what all clients asked for and were told, and their time.
type recorder struct {
	clk   clock.Clock
	start time.Time

	mu  sync.Mutex
	ops []*op // guarded by mu; the fields of an op are its client's until it returns
	// failures counts, by their text, what came instead of answers.
	failures map[string]int // guarded by mu
	answers  int            // guarded by mu
	reached  chan struct{}  // closed when there are so many answers as atLeast; guarded by mu
	atLeast  int            // guarded by mu
}

func newRecorder(clk clock.Clock) *recorder {
	return &recorder{clk: clk, start: clk.Now(), failures: map[string]int{}}
}

// now is the time since the session began.
func (r *recorder) now() time.Duration { return r.clk.Since(r.start) }

// begin notes that a request is sent. What it puts is given its id.
func (r *recorder) begin(client string, q request) *op {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := &op{request: q, client: client, id: int64(len(r.ops) + 1)}
	for i := range o.then {
		if s := &o.then[i]; s.verb == put {
			s.value = valueOf(o.id, s.value)
		}
	}
	r.ops = append(r.ops, o)
	o.call = r.now()
	return o
}

// end notes that a client knows what it will ever know.
func (r *recorder) end(o *op) {
	ret := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	o.ret = ret
	if o.outcome != answered {
		r.failures[o.failure]++
		return
	}
	if r.answers++; r.reached != nil && r.answers >= r.atLeast {
		close(r.reached)
		r.reached = nil
	}
}

// after is closed when n more requests have been answered.
//
// REQUIRES: an earlier one is closed.
func (r *recorder) after(n int) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := make(chan struct{})
	r.reached, r.atLeast = done, r.answers+n
	return done
}
