package clock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// received returns how long after start the value on c was sent, or -1 if
// there is none.
func received(c <-chan time.Time) time.Duration {
	select {
	case at := <-c:
		return at.Sub(start)
	default:
		return -1
	}
}

func TestManualTimer(t *testing.T) {
	c := NewManual(start)
	timer := c.NewTimer(2 * time.Second)
	require.Equal(t, 1, c.Timers())

	c.Advance(time.Second)
	require.Equal(t, time.Duration(-1), received(timer.C()))
	require.Equal(t, time.Second, c.Since(start))

	// It is told when it was due, not how far the clock went.
	c.Advance(9 * time.Second)
	require.Equal(t, 2*time.Second, received(timer.C()))
	require.Equal(t, 0, c.Timers())
	require.False(t, timer.Stop())

	require.False(t, timer.Reset(time.Second))
	require.True(t, timer.Stop())
	c.Advance(time.Minute)
	require.Equal(t, time.Duration(-1), received(timer.C()))
}

func TestManualTimerFiresAtOnce(t *testing.T) {
	c := NewManual(start)
	require.Zero(t, received(c.After(0)))
	require.Zero(t, received(c.After(-time.Second)))
	require.Equal(t, 0, c.Timers())
}

// A value that was sent before Stop or Reset is not received after it.
func TestManualTimerForgetsStaleValue(t *testing.T) {
	c := NewManual(start)
	timer := c.NewTimer(time.Second)
	c.Advance(time.Second)
	require.True(t, timer.Stop())
	require.Equal(t, time.Duration(-1), received(timer.C()))

	timer.Reset(time.Second)
	c.Advance(time.Second)
	require.True(t, timer.Reset(time.Second))
	require.Equal(t, time.Duration(-1), received(timer.C()))
	c.Advance(time.Second)
	require.Equal(t, 3*time.Second, received(timer.C()))
}

func TestManualTicker(t *testing.T) {
	c := NewManual(start)
	ticker := c.NewTicker(time.Second)
	c.Advance(time.Second)
	require.Equal(t, 1*time.Second, received(ticker.C()))

	// Ticks that nobody takes are dropped, and the rhythm stays.
	c.Advance(3500 * time.Millisecond)
	require.Equal(t, 2*time.Second, received(ticker.C()))
	require.Equal(t, time.Duration(-1), received(ticker.C()))
	c.Advance(500 * time.Millisecond)
	require.Equal(t, 5*time.Second, received(ticker.C()))

	ticker.Reset(10 * time.Second)
	c.Advance(10 * time.Second)
	require.Equal(t, 15*time.Second, received(ticker.C()))

	ticker.Stop()
	require.Equal(t, 0, c.Timers())
	require.Panics(t, func() { c.NewTicker(0) })
}

// Alarms fire by their time, and those of the same time in the order in which
// they were started.
func TestManualOrder(t *testing.T) {
	c := NewManual(start)
	late, early := c.NewTimer(3*time.Second), c.NewTimer(time.Second)
	ticker := c.NewTicker(time.Second)
	require.Equal(t, 3, c.Timers())
	c.Advance(2 * time.Second)
	require.Equal(t, time.Second, received(early.C()))
	require.Equal(t, time.Second, received(ticker.C()))
	require.Equal(t, time.Duration(-1), received(late.C()))
	require.Equal(t, 2*time.Second, c.Now().Sub(start))
	require.Panics(t, func() { c.Advance(-1) })
}

func TestManualWaitForTimers(t *testing.T) {
	c := NewManual(start)
	woken := make(chan time.Duration)
	for _, d := range []time.Duration{time.Second, 2 * time.Second} {
		go func() {
			at := <-c.After(d)
			woken <- at.Sub(start)
		}()
	}
	c.WaitForTimers(2)
	c.Advance(time.Second)
	require.Equal(t, time.Second, <-woken)
	c.Advance(time.Second)
	require.Equal(t, 2*time.Second, <-woken)
	c.WaitForTimers(0)
}

func TestReal(t *testing.T) {
	var c Clock = Real{}
	before := c.Now()
	timer, ticker := c.NewTimer(time.Hour), c.NewTicker(time.Hour)
	require.True(t, timer.Reset(time.Millisecond))
	<-timer.C()
	require.False(t, timer.Stop())
	ticker.Reset(time.Millisecond)
	<-ticker.C()
	ticker.Stop()
	<-c.After(time.Millisecond)
	require.GreaterOrEqual(t, c.Since(before), 2*time.Millisecond)
}
