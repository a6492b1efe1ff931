package group

import "sync"

// flight are the entries of this reign that are not applied here yet, in the
// order of their numbers, with those who wait for them.
type flight struct {
	mu      sync.Mutex // guards the fields below; nothing is taken after it
	entries []flying
	bytes   int
}

type flying struct {
	epoch, number uint64
	data          []byte
	// waiting are the requests that are answered once it is applied.
	waiting []*proposal
	// evaluated says that the evaluator made it; applied, if not nil, is called
	// by the loop once it is applied, with its index.
	evaluated bool
	applied   func(index uint64)
}

func (f *flight) add(e flying) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = append(f.entries, e)
	f.bytes += len(e.data)
}

// size returns how many entries are in flight, and their bytes.
func (f *flight) size() (entries, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.entries), f.bytes
}

// each calls fn with the entries' data, in order, until it returns false.
func (f *flight) each(fn func(data []byte) bool) {
	f.mu.Lock()
	entries := f.entries
	f.mu.Unlock()
	for i := range entries {
		if !fn(entries[i].data) {
			return
		}
	}
}

// wait lets proposals wait for the newest entry; false if none is in flight.
func (f *flight) wait(ps []*proposal) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.entries) == 0 {
		return false
	}
	last := &f.entries[len(f.entries)-1]
	last.waiting = append(last.waiting, ps...)
	return true
}

// take removes the oldest entry, if it is the one of that epoch and number.
func (f *flight) take(epoch, number uint64) (flying, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.entries) == 0 || f.entries[0].epoch != epoch || f.entries[0].number != number {
		return flying{}, false
	}
	e := f.entries[0]
	f.entries = f.entries[1:]
	f.bytes -= len(e.data)
	return e, true
}

// takeUpTo removes the oldest entry, if it is of that epoch and its number is
// not greater.
func (f *flight) takeUpTo(epoch, number uint64) (flying, bool) {
	f.mu.Lock()
	oldest := number + 1
	if len(f.entries) > 0 {
		oldest = f.entries[0].number
	}
	f.mu.Unlock()
	if oldest > number {
		return flying{}, false
	}
	return f.take(epoch, oldest)
}

// fail answers everybody who waits, forgets the entries, and returns how many
// waited.
func (f *flight) fail(err error) (waited int) {
	f.mu.Lock()
	entries := f.entries
	f.entries, f.bytes = nil, 0
	f.mu.Unlock()
	for _, e := range entries {
		for _, p := range e.waiting {
			p.fail(err)
		}
		waited += len(e.waiting)
	}
	return waited
}
