//go:build linux

package faults

import (
	"context"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/grpclog"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// What may be asked for, by flag or by environment. Flags win.
var (
	durationFlag = flag.Duration("duration", envDuration("PEBBLEDASH_FAULTS_DURATION"), "how long each fault goes on, again and again; 0 is once")
	membersFlag  = flag.Int("members", int(envNumber("PEBBLEDASH_FAULTS_MEMBERS", 3)), "members of a cluster: 1, 3 or 5")
	peersFlag    = flag.Bool("peers", envNumber("PEBBLEDASH_FAULTS_PEERS", 0) != 0, "the same with etcd, beside it")
	seedFlag     = flag.Uint64("seed", envNumber("PEBBLEDASH_SEED", 0), "of the load; 0 is any")
)

func envDuration(name string) time.Duration {
	d, err := time.ParseDuration(os.Getenv(name))
	if err != nil {
		return 0
	}
	return d
}

func envNumber(name string, otherwise uint64) uint64 {
	n, err := strconv.ParseUint(os.Getenv(name), 10, 64)
	if err != nil {
		return otherwise
	}
	return n
}

// rows are the table's, in the order in which they were made. Tests do not run
// in parallel.
var rows []row

func TestMain(m *testing.M) {
	flag.Parse()
	// A server that is killed is no news here.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	code := m.Run()
	report(os.Stdout, rows)
	os.Exit(code)
}

// programs are those under test.
func programs(t *testing.T) []*server.Binary {
	t.Helper()
	under, err := server.Resolve(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := under.Close(); err != nil {
			t.Error(err)
		}
	})
	all := []*server.Binary{under}
	if *peersFlag && under.Target != server.Etcd {
		etcd, err := server.ResolvePeer(context.Background(), "etcd")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, etcd)
	}
	return all
}

// TestFaults is the whole of it: see doc.go.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("not in -short")
	}
	needs(t)
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1<<32) + 1
	}
	programs := programs(t)
	for i := range suite {
		f := &suite[i]
		t.Run(strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) {
			if *membersFlag < f.least {
				t.Skipf("needs %d members", f.least)
			}
			if f.long && *durationFlag == 0 {
				t.Skip("only with a -duration")
			}
			for _, p := range programs {
				t.Run(string(p.Target), func(t *testing.T) { trial(t, p, f, seed) })
			}
		})
	}
}

// trial is a session, and what is found in it.
func trial(t *testing.T, p *server.Binary, f *fault, seed uint64) {
	t.Helper()
	s := newSession(t.Context(), t, p, f, *membersFlag, seed)
	r := row{fault: f.name, program: string(p.Target), since: f.since, members: *membersFlag}
	defer func() {
		r.failed = t.Failed() && r.violations == 0
		rows = append(rows, r)
	}()
	err := s.play(t.Context(), *durationFlag, seed)
	r.duration, r.faults, r.next, r.ops, r.pause = s.recorder.now(), s.struck, s.next, len(s.recorder.ops), longestPause(s.recorder.ops)
	if err != nil {
		t.Errorf("%v\n%s", err, s.tails())
	} else {
		s.judge(t, &r)
	}
	n, lines := s.violations()
	for _, line := range lines {
		t.Error(line)
	}
	if r.violations = n; n > 0 || err != nil {
		t.Errorf("%d violations. The load can be had again, though not its timing, by\n"+
			"%s=%s go test ./gateway/conformance/faults -run '%s' -count=1 -v -timeout 1h -seed=%d -duration=%v -members=%d",
			n, server.TargetVariable, p.Target, t.Name(), seed, *durationFlag, *membersFlag)
	}
	for _, text := range sortedKeys(s.recorder.failures) {
		t.Logf("%6d requests: %s", s.recorder.failures[text], text)
	}
}

// judge checks a session that has come to its end.
func (s *session) judge(t *testing.T, r *row) {
	t.Helper()
	h, err := s.history(t.Context())
	if err != nil {
		t.Errorf("%v\n%s", err, s.tails())
		return
	}
	began := s.clk.Now()
	j := pass(s.verdict, h)
	judged := s.clk.Since(began)
	for _, l := range s.logs {
		r.events += passWatch(s.verdict, l, h.truth, j.model, s.until)
	}
	began = s.clk.Now()
	windows := linearize(s.verdict, h, j.model, windowOps)
	t.Logf("%d requests judged in %v, %d watches; by porcupine in %v, in %d windows",
		len(h.ops), judged, len(s.logs), s.clk.Since(began), windows)
	r.revisions, r.gaps, r.watches = len(h.truth.revs), j.counts.gaps, len(s.logs)
	for _, o := range h.ops {
		if o.outcome == unknown {
			r.unknown++
		}
		if strange(o) || s.fault.calm && o.outcome != answered && !strings.Contains(o.failure, leaseNotFound) {
			s.violation("%v", o)
		}
	}
	t.Logf("%+v", j.counts)
}
