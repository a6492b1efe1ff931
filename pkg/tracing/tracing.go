// Package tracing carries the times at which one request has passed the rooms of
// its way. Whoever traces puts a Request into the request's context; the rooms mark
// their steps on it, and know nothing of what becomes of that. gateway/tracing.go
// makes spans of the marks.
//
// A room looks for a Request only if it was told that somebody traces, and marks
// nothing on one that is nil: tracing costs nothing where it is off, and next to
// nothing of a request that is not traced.
package tracing

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// Step is a place on a request's way.
type Step int

// The steps, in the order in which a request passes those that it does pass.
const (
	// Queued is when it begins to wait for admission, Admitted when it is let in.
	Queued Step = iota
	Admitted
	// Forwarded is when it is sent to the sequencer, Returned when that has answered.
	Forwarded
	Returned

	// A write: Submitted is when it begins to wait for its evaluation.
	Submitted
	Evaluating
	Evaluated
	// Proposed is when raft is given the entry, Logged when that is synced here,
	// Committed when it is about to be applied, Applied when it can be read.
	Proposed
	Logged
	Committed
	Applied
	// Confirming is when a write that has changed nothing begins to wait until the
	// reign is confirmed and what it saw is applied.
	Confirming
	Confirmed

	// A read: Asked is when the sequencer is asked where to read, Pointed when that
	// is known, and Ready when everything up to there is here. Ready is also when a
	// forwarded request's outcome is here.
	Asked
	Pointed
	Ready
	Reading
	Read

	steps
)

// Request has the times of one request. Its methods may be called concurrently,
// and on nil, which is a request that is not traced.
type Request struct {
	clock clock.Clock
	// at has nanoseconds since 1970, 0 for a step that was not passed.
	at [steps]atomic.Int64
}

// New returns a Request without marks.
func New(c clock.Clock) *Request { return &Request{clock: c} }

// Mark notes that the request passes a step now. Of a step that is passed several
// times, as when a request is tried again, the last time counts.
func (r *Request) Mark(s Step) {
	if r != nil {
		r.at[s].Store(r.clock.Now().UnixNano())
	}
}

// MarkAt is Mark for a step that was passed before.
func (r *Request) MarkAt(s Step, at time.Time) {
	if r != nil {
		r.at[s].Store(at.UnixNano())
	}
}

// At returns when the request has passed a step; false if it has not.
func (r *Request) At(s Step) (time.Time, bool) {
	if r == nil {
		return time.Time{}, false
	}
	ns := r.at[s].Load()
	return time.Unix(0, ns), ns != 0
}

type contextKey struct{}

// NewContext returns a context with r in it.
func NewContext(ctx context.Context, r *Request) context.Context {
	return context.WithValue(ctx, contextKey{}, r)
}

// From returns the context's Request, nil if it has none.
func From(ctx context.Context) *Request {
	r, _ := ctx.Value(contextKey{}).(*Request)
	return r
}
