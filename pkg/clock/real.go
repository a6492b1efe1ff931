package clock

import "time"

// Real is the system's clock.
type Real struct{}

var _ Clock = Real{}

// Now returns the current time, with its monotonic reading.
func (Real) Now() time.Time { return time.Now() }

// Since returns the time that has passed since t.
func (Real) Since(t time.Time) time.Duration { return time.Since(t) }

// After waits for d and then sends the time on the channel.
func (Real) After(d time.Duration) <-chan time.Time { return time.After(d) }

// NewTimer returns a running timer.
func (Real) NewTimer(d time.Duration) Timer { return realTimer{time.NewTimer(d)} }

// NewTicker returns a running ticker.
func (Real) NewTicker(d time.Duration) Ticker { return realTicker{time.NewTicker(d)} }

type realTimer struct{ t *time.Timer }

func (t realTimer) C() <-chan time.Time        { return t.t.C }
func (t realTimer) Stop() bool                 { return t.t.Stop() }
func (t realTimer) Reset(d time.Duration) bool { return t.t.Reset(d) }

type realTicker struct{ t *time.Ticker }

func (t realTicker) C() <-chan time.Time   { return t.t.C }
func (t realTicker) Stop()                 { t.t.Stop() }
func (t realTicker) Reset(d time.Duration) { t.t.Reset(d) }
