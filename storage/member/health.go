package member

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pebbledash/pebbledash/storage/engine"
)

const (
	// maxLag is how many committed entries a group may have that are not applied
	// here; etcd's bound, past which it refuses requests.
	maxLag = 5000
	// minFreeBytes is what the file system of the data must have left: the log and
	// a flush of the state need some of it to go on.
	minFreeBytes = 64 << 20
	// stillTimeouts is for how many election timeouts something may stand still that
	// has somewhere to go.
	stillTimeouts = 3
)

// Check is one thing that must be so for the member to do its work.
type Check struct {
	Name string
	// Run returns what is wrong. It may be called concurrently.
	Run func(context.Context) error
}

// Checks returns a check for each group, for the closed revision, and for the disk.
// They are always the same ones.
func (m *Member) Checks() []Check {
	var checks []Check
	for i, p := range m.parts {
		checks = append(checks, Check{"group_" + p.name, func(context.Context) error {
			s := p.Status()
			return m.groupProblem(s.Leader, s.Commit, p.AppliedIndex(), m.stillFor(&m.stills[i]))
		}})
	}
	return append(checks,
		Check{"closed_revision", func(context.Context) error {
			return m.closedProblem(m.line.Closed(), m.line.Present(), m.stillFor(&m.closedStill))
		}},
		Check{"disk", func(context.Context) error { return m.diskProblem() }},
	)
}

func (m *Member) groupProblem(leader, committed, applied uint64, still time.Duration) error {
	switch lag := committed - min(committed, applied); {
	case leader == 0:
		return errors.New("no leader is known")
	case lag > maxLag:
		return fmt.Errorf("%d entries behind: applied %d of %d committed", lag, applied, committed)
	case lag > 0 && still >= m.stillTimeout():
		return fmt.Errorf("nothing was applied for %v: applied %d of %d committed", still, applied, committed)
	}
	return nil
}

func (m *Member) closedProblem(closed, present int64, still time.Duration) error {
	if closed < present && still >= m.stillTimeout() {
		return fmt.Errorf("the closed revision has been %d for %v, below %d", closed, still, present)
	}
	return nil
}

func (m *Member) diskProblem() error {
	if stalled := m.writer.Stalled(); stalled >= m.cfg.electionTimeout() {
		return fmt.Errorf("the log has not been written for %v", stalled)
	}
	left, total, known, err := engine.SpaceLeft(m.cfg.FS, m.cfg.Dir)
	switch {
	case err != nil:
		return fmt.Errorf("cannot ask for the space that is left: %w", err)
	case known && left < minFreeBytes:
		return fmt.Errorf("the file system is full: %d MiB of %d MiB are left", left>>20, total>>20)
	}
	return nil
}

func (m *Member) stillTimeout() time.Duration { return stillTimeouts * m.cfg.electionTimeout() }

// still notices that something stands still.
type still struct {
	// at is where it was at the last look. It belongs to who looks.
	at uint64
	// ticks counts the looks for which it has been there, and had somewhere to go.
	ticks atomic.Int64
}

func (s *still) look(at, goal uint64) {
	if at != s.at || at >= goal {
		s.ticks.Store(0)
	} else {
		s.ticks.Add(1)
	}
	s.at = at
}

func (m *Member) stillFor(s *still) time.Duration {
	return time.Duration(s.ticks.Load()) * m.cfg.TickInterval
}

// lookForStills is called at each tick.
func (m *Member) lookForStills() {
	for i, p := range m.parts {
		m.stills[i].look(p.AppliedIndex(), p.Status().Commit)
	}
	m.closedStill.look(uint64(m.line.Closed()), uint64(m.line.Present()))
}
