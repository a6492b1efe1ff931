package clock

import (
	"sync"
	"time"
)

// Manual is a clock that stands still until a test moves it.
//
// A test that wants to wake a goroutine first waits until that goroutine has
// gone to sleep, and then moves time:
//
//	c.WaitForTimers(1)
//	c.Advance(5 * time.Second)
type Manual struct {
	// mu guards the fields below and those of every alarm. Nothing is taken
	// after it; sends under it never block.
	mu  sync.Mutex
	now time.Time
	// waiting holds the running alarms, in no order: tests have few.
	waiting map[*alarm]struct{}
	// seq numbers the alarms as they are started, so that those due at the same
	// moment fire in the order in which they were started.
	seq uint64
	// changed is closed and replaced whenever waiting grows.
	changed chan struct{}
}

var _ Clock = (*Manual)(nil)

// NewManual returns a clock that stands at start.
func NewManual(start time.Time) *Manual {
	return &Manual{
		now:     start,
		waiting: map[*alarm]struct{}{},
		changed: make(chan struct{}),
	}
}

// Now returns the time that the clock stands at.
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Since returns the time between t and the clock's now.
func (m *Manual) Since(t time.Time) time.Duration { return m.Now().Sub(t) }

// After returns a channel that receives the time once d has passed.
func (m *Manual) After(d time.Duration) <-chan time.Time { return m.NewTimer(d).C() }

// NewTimer returns a running timer. One that is not positive fires at once, as
// in package time.
func (m *Manual) NewTimer(d time.Duration) Timer {
	t := manualTimer{&alarm{m: m, c: make(chan time.Time, 1)}}
	t.Reset(d)
	return t
}

// NewTicker returns a running ticker.
func (m *Manual) NewTicker(d time.Duration) Ticker {
	t := manualTicker{&alarm{m: m, c: make(chan time.Time, 1)}}
	t.Reset(d)
	return t
}

// Advance moves the clock by d and fires, in order, everything that falls due
// on the way. A receiver is told the moment at which its alarm was due, and Now
// stands at that moment while it fires. Advance does not wait for receivers.
func (m *Manual) Advance(d time.Duration) {
	if d < 0 {
		panic("clock: time does not go back")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	end := m.now.Add(d)
	for next := m.nextLocked(end); next != nil; next = m.nextLocked(end) {
		m.now = next.due
		m.fireLocked(next)
	}
	m.now = end
}

// Timers returns how many timers and tickers are running.
func (m *Manual) Timers() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting)
}

// WaitForTimers returns once at least n timers and tickers are running at the
// same time. After counts as a timer.
func (m *Manual) WaitForTimers(n int) {
	for {
		m.mu.Lock()
		enough, changed := len(m.waiting) >= n, m.changed
		m.mu.Unlock()
		if enough {
			return
		}
		<-changed
	}
}

// nextLocked returns the alarm that falls due first, at end or before it.
func (m *Manual) nextLocked(end time.Time) *alarm {
	var first *alarm
	for a := range m.waiting {
		if a.due.After(end) {
			continue
		}
		if first == nil || a.due.Before(first.due) || a.due.Equal(first.due) && a.seq < first.seq {
			first = a
		}
	}
	return first
}

func (m *Manual) fireLocked(a *alarm) {
	select {
	case a.c <- m.now:
	default: // a ticker whose receiver is slow
	}
	if a.period > 0 {
		m.startLocked(a, a.period)
	} else {
		delete(m.waiting, a)
	}
}

func (m *Manual) startLocked(a *alarm, d time.Duration) {
	m.seq++
	a.seq, a.due = m.seq, m.now.Add(d)
	m.waiting[a] = struct{}{}
	close(m.changed)
	m.changed = make(chan struct{})
}

// alarm is what timers and tickers of a Manual have in common.
type alarm struct {
	m *Manual
	// c has room for one value, and only whoever holds m.mu sends to it.
	c      chan time.Time
	due    time.Time
	seq    uint64
	period time.Duration // 0 for a timer
}

// C returns the channel on which the alarm fires.
func (a *alarm) C() <-chan time.Time { return a.c }

// stopLocked takes the alarm out and throws away what it has sent but nobody has
// received, as package time does since Go 1.23.
func (a *alarm) stopLocked() bool {
	_, running := a.m.waiting[a]
	delete(a.m.waiting, a)
	select {
	case <-a.c:
		return true
	default:
		return running
	}
}

type manualTimer struct{ *alarm }

func (t manualTimer) Stop() bool {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	return t.stopLocked()
}

func (t manualTimer) Reset(d time.Duration) bool {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	running := t.stopLocked()
	t.m.startLocked(t.alarm, max(d, 0))
	if d <= 0 {
		t.m.fireLocked(t.alarm)
	}
	return running
}

type manualTicker struct{ *alarm }

func (t manualTicker) Stop() {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.stopLocked()
}

func (t manualTicker) Reset(d time.Duration) {
	if d <= 0 {
		panic("clock: a ticker's period is not positive")
	}
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.stopLocked()
	t.period = d
	t.m.startLocked(t.alarm, d)
}
