// Package clock is where the rest of the module gets its time. Code that
// waits, measures or expires takes a [Clock], so that a test can move time by
// hand instead of sleeping.
//
// It is a leaf: it imports nothing of ours. Every type here is safe for
// concurrent use.
package clock

import "time"

// Clock tells time and wakes those who wait for it. The methods mean what
// package time's functions of the same names mean.
type Clock interface {
	Now() time.Time
	Since(t time.Time) time.Duration
	// After cannot be stopped; where the wait may end early, use NewTimer.
	After(d time.Duration) <-chan time.Time
	NewTimer(d time.Duration) Timer
	// NewTicker panics if d is not positive.
	NewTicker(d time.Duration) Ticker
}

// Timer fires once, on C.
type Timer interface {
	C() <-chan time.Time
	// Stop reports whether it kept the timer from firing. Once it has returned,
	// no value that is older than the call will be received from C.
	Stop() bool
	// Reset starts the timer anew and reports whether it was still running. It
	// needs no Stop and no draining before it.
	Reset(d time.Duration) bool
}

// Ticker fires every period, on C. It drops ticks for a slow receiver.
type Ticker interface {
	C() <-chan time.Time
	Stop()
	// Reset starts a new period; it panics if d is not positive.
	Reset(d time.Duration)
}
