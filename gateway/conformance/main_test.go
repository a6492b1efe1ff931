package conformance

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// target is the program under test. It is set once, before any test runs.
var target *server.Binary

// cases collects how the cases of this run ended.
var cases tally

func TestMain(m *testing.M) {
	flag.Parse()
	// A server that is killed is no news here.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	klog.SetLogger(logr.Discard())
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	var err error
	if target, err = server.Resolve(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	cases.report(os.Stdout)
	if stale := staleSkips(); len(stale) > 0 && everythingRan() {
		fmt.Fprintf(os.Stdout, "skips_test.go has rows that name no case: %s\n", strings.Join(stale, ", "))
		code = 1
	}
	if err := target.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// everythingRan says that no flag left cases out of this run.
func everythingRan() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return !testing.Short()
}

// tally counts cases. A case is a test or subtest that calls once.
type tally struct {
	mu      sync.Mutex
	passed  int
	failed  map[string]bool
	skipped map[string]string // name to reason
}

func (c *tally) add(t *testing.T, reason string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.Failed():
		c.fail(t.Name())
	case t.Skipped():
		if c.skipped == nil {
			c.skipped = map[string]string{}
		}
		c.skipped[t.Name()] = reason
	default:
		c.passed++
	}
}

// watch sees to it that a test that fails outside its cases is in the summary.
func (c *tally) watch(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for name := range c.failed {
			if strings.HasPrefix(name, t.Name()+"/") {
				return
			}
		}
		if t.Failed() {
			c.fail(t.Name())
		}
	})
}

// fail notes a failure.
//
// REQUIRES: mu.
func (c *tally) fail(name string) {
	if c.failed == nil {
		c.failed = map[string]bool{}
	}
	c.failed[name] = true
}

// report prints the summary. `go test` shows it when it is run in this folder,
// or with -v.
func (c *tally) report(w io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(w, "conformance of %s (%s): %d cases passed, %d skipped, %d failed\n",
		target.Target, target.Path, c.passed, len(c.skipped), len(c.failed))
	for _, name := range slices.Sorted(maps.Keys(c.failed)) {
		fmt.Fprintf(w, "  FAILED  %s\n", name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.skipped)) {
		fmt.Fprintf(w, "  skipped %s: %s\n", name, c.skipped[name])
	}
}

// once counts the test or subtest that calls it, as one case, and skips it if
// skips_test.go says so. All cases call it, some through start or newEtcd3Store,
// so that the summary is whole.
func once(t *testing.T) {
	t.Helper()
	reason := "by the suite itself"
	t.Cleanup(func() { cases.add(t, reason) })
	if why, ok := skipReason(t.Name()); ok {
		reason = why
		t.Skip(why)
	}
}

// long leaves a test out of a -short run.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("not in -short")
	}
}

// shortSuites are the suites of Kubernetes that a -short run keeps: one of each
// kind of thing that kube-apiserver does.
var shortSuites = []string{
	"Create", "ConditionalDelete", "GuaranteedUpdate", "ListContinuation", "CompactRevision",
	"List", "ConsistentList", "NamespaceScopedWatch", "WatchFromZero", "WatchSemantics",
}

// longUnlessChosen is long for all suites but those.
func longUnlessChosen(t *testing.T) {
	t.Helper()
	if !slices.Contains(shortSuites, t.Name()[strings.LastIndexByte(t.Name(), '/')+1:]) {
		long(t)
	}
}
