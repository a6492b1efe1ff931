package sim_test

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pebbledash/pebbledash/pkg/invariants"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "replay the history of this seed; 0 is new ones in every run")
	factorFlag = flag.Float64("factor", 1, "run this many times the usual number of histories")
)

// base is where the seeds of this run begin.
var base = 1 + rand.Uint64N(1_000_000_000)

// histories returns how many to run where n are usual.
func histories(n int) int {
	switch {
	case *seedFlag != 0:
		return 1
	case testing.Short():
		n /= 10
	case invariants.Enabled:
		n /= 8 // Each takes that much longer, most of it in Pebble.
	}
	return max(1, int(float64(n)**factorFlag))
}

// seedOf returns the seed of the i-th history.
func seedOf(i int) uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return base + uint64(i)
}

// replay makes a failing test print the command that runs the same again.
func replay(tb testing.TB, seed uint64) {
	tb.Helper()
	tb.Cleanup(func() {
		if tb.Failed() {
			name, _, _ := strings.Cut(tb.Name(), "/")
			tb.Logf("replay: go test ./storage/sim -run '%s' -seed %d", name, seed)
		}
	})
}
