package crash_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"google.golang.org/grpc/grpclog"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// What the environment may ask for.
const (
	killsVariable = "PEBBLEDASH_KILLS"
	seedVariable  = "PEBBLEDASH_SEED"

	defaultKills = 3
)

// target is the program under test. It is set once, before any test runs.
var target *server.Binary

func TestMain(m *testing.M) {
	flag.Parse()
	// A server that is killed is no news here.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	var err error
	if target, err = server.Resolve(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := target.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// TestKill is the whole of it: see doc.go.
func TestKill(t *testing.T) {
	kills := int(number(t, killsVariable, defaultKills))
	seed := number(t, seedVariable, rand.Uint64N(1<<32))
	t.Logf("%s, %d kills, seed %d", target.Path, kills, seed)

	s := newSession(t, seed)
	s.begin(t)
	for range kills {
		if s.over() {
			break
		}
		s.round(t)
	}
	if !s.over() {
		s.finish(t)
	}
	s.report(t.Output(), seed)
	if n, lines := s.violations(); n > 0 {
		for _, line := range lines {
			t.Error(line)
		}
		t.Errorf("%d violations. The load can be had again, though not its timing, by\n"+
			"%s=%s %s=%d %s=%d go test ./gateway/conformance/crash -run TestKill -count=1 -v",
			n, server.TargetVariable, target.Target, seedVariable, seed, killsVariable, kills)
	}
}

func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}
