// Package revline keeps the store's one revision line (room [5] of the drawing
// in gateway/doc.go): it hands out revisions.
//
// The sequencer lives with the leader of the core group. A reign of one
// sequencer is an epoch, named by core's term; it begins above every revision
// that any group has committed. It logs nothing itself: a revision that was
// handed out and whose entry is lost was never visible.
package revline

import (
	"fmt"
	"sync"
)

// Sequencer hands out revisions, each once and in increasing order within an
// epoch. It may be used concurrently.
type Sequencer struct {
	mu    sync.Mutex // guards the fields below; nothing is taken after it
	epoch uint64
	last  int64
}

// Begin starts an epoch: the next revision is last+1.
// REQUIRES: epoch is greater than every one before, and last is at least the
// greatest revision committed in any group.
func (s *Sequencer) Begin(epoch uint64, last int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch <= s.epoch {
		panic(fmt.Sprintf("revline: epoch %d follows %d", epoch, s.epoch))
	}
	s.epoch, s.last = epoch, last
}

// Next hands out the next revision.
func (s *Sequencer) Next() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return s.last
}

// Epoch returns the current epoch, 0 before the first.
func (s *Sequencer) Epoch() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}
