package revline

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Promise says that whoever has applied the index of each group has every change
// with a revision up to Closed (storage/PROTOCOL.md, 4).
type Promise struct {
	// Epoch is that of the sequencer that gives it.
	Epoch  uint64
	Closed int64
	// Indexes are in the order of Config.Groups.
	Indexes []uint64
}

// maxPromises bounds the promises that are not reached yet. Past it the newest
// takes the place of the one before it: the older ones are reached first, so
// that a member that never catches up wholly still gets on.
const maxPromises = 64

// Promise returns what may be promised now; false if this member does not reign.
func (l *Line) Promise() (Promise, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch == 0 {
		return Promise{}, false
	}
	p := Promise{Epoch: l.epoch, Closed: l.closed.Load(), Indexes: make([]uint64, len(l.groups))}
	for i := range l.groups {
		p.Indexes[i] = l.groups[i].index
	}
	return p, true
}

// Promised takes a promise of the sequencer.
func (l *Line) Promised(p Promise) {
	if len(p.Indexes) != len(l.groups) {
		return
	}
	l.update(func() {
		if l.epoch != 0 || p.Closed <= l.closed.Load() {
			return
		}
		if n := len(l.promises); n == maxPromises {
			l.promises = l.promises[:n-1]
		}
		l.promises = append(l.promises, p)
	})
}

// reachedLocked returns the greatest promise that the groups have reached, and
// forgets what lies below it.
func (l *Line) reachedLocked() int64 {
	var closed int64
	for _, p := range l.promises {
		if p.Closed > closed && l.hasLocked(p.Indexes) {
			closed = p.Closed
		}
	}
	if closed > 0 {
		l.promises = slices.DeleteFunc(l.promises, func(p Promise) bool { return p.Closed <= closed })
	}
	return closed
}

func (l *Line) hasLocked(indexes []uint64) bool {
	for i, index := range indexes {
		if l.groups[i].index < index {
			return false
		}
	}
	return true
}

// Append encodes the promise onto dst.
func (p Promise) Append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, p.Epoch)
	dst = binary.AppendUvarint(dst, uint64(p.Closed))
	for _, i := range p.Indexes {
		dst = binary.AppendUvarint(dst, i)
	}
	return dst
}

var errBadPromise = errors.New("revline: bad promise")

// DecodePromise reads what Append has written, for so many groups.
func DecodePromise(data []byte, groups int) (Promise, error) {
	p := Promise{Indexes: make([]uint64, groups)}
	var closed uint64
	fields := append(make([]*uint64, 0, groups+2), &p.Epoch, &closed)
	for i := range p.Indexes {
		fields = append(fields, &p.Indexes[i])
	}
	for _, f := range fields {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			return Promise{}, errBadPromise
		}
		*f, data = v, data[n:]
	}
	p.Closed = int64(closed)
	if len(data) > 0 || p.Closed <= 0 {
		return Promise{}, errBadPromise
	}
	return p, nil
}
