package crash_test

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// figures are the session's own for the closing table.
type figures struct {
	kills      int
	startKills int // before the server was ready
	verified   int // lives
	replayed   int // revisions
	hashes     int
	leases     int
	starts     []time.Duration
}

// report prints the closing table.
func (s *session) report(w io.Writer, seed uint64) {
	violations, _ := s.violations()
	counts, starts := s.checker.counts, s.figures.starts
	streams, progress := 0, 0
	for _, watch := range s.watches {
		watch.mu.Lock()
		streams += watch.streams
		progress += watch.progress
		watch.mu.Unlock()
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(what, format string, args ...any) {
		fmt.Fprintf(table, "  %s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(table, "kill -9 of %s, seed %d\n", target.Target, seed)
	row("kills", "%d under load, %d more during a start; verified after %d", s.figures.kills, s.figures.startKills, s.figures.verified)
	row("acknowledged writes", "%d found as they were acknowledged", counts.acknowledged)
	row("unacknowledged writes", "%d there, %d not", counts.late, counts.lost)
	row("revisions", "%d, %d left out at a kill", s.checker.model.revision, counts.gaps)
	row("answers to reads", "%d true at their revisions", counts.looks)
	row("events", "%d compared, by %d watches; %d progress notifications", s.checker.history.compared(), len(s.watches), progress)
	row("revisions read again", "%d", s.figures.replayed)
	row("compactions", "%d, the last at %d", len(s.ledger.compactions), s.ledger.compactedAtLeast())
	row("hashes", "%d the same as before", s.figures.hashes)
	row("leases", "%d asked for, %d looked at, %d ended by themselves", len(s.ledger.leases), s.figures.leases, counts.expired)
	row("start-up", "median %v, worst %v, of %d", milliseconds(median(starts)), milliseconds(slices.Max(starts)), len(starts))
	row("violations", "%d", violations)
	_ = table.Flush() // To the test's own output.
}

func milliseconds(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

const maxDifferences = 3

// difference says where two lists part.
func difference[T fmt.Stringer](want, got []T) string {
	s := fmt.Sprintf("%d, want %d", len(got), len(want))
	shown := 0
	for i := range max(len(want), len(got)) {
		a, b := "nothing", "nothing"
		if i < len(want) {
			a = want[i].String()
		}
		if i < len(got) {
			b = got[i].String()
		}
		if a == b && i < len(want) && i < len(got) && any(want[i]) == any(got[i]) {
			continue
		}
		if shown++; shown > maxDifferences {
			return s + "; ..."
		}
		s += fmt.Sprintf("; [%d] is %s, want %s", i, b, a)
	}
	return s
}
