package conformance

import (
	"slices"
	"sync"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// skip is a case that is not run against one of the targets.
type skip struct {
	on     server.Target
	name   string // as `go test -v` prints it
	reason string
}

// skips is the whole list. README.md repeats it.
var skips = []skip{
	{server.Etcd, "TestTxnDuplicateKeyFromKeyOn", "etcd 3.7.3 dies of it, and again at each start"},
	{server.Etcd, "TestRangeStreamTargetWithoutOrder", "etcd 3.7.3 sorts each chunk for itself and sends keys twice"},
}

var (
	skipsMu   sync.Mutex
	skipsUsed = map[string]bool{}
)

// skipReason says whether and why the case is skipped on this run's target.
func skipReason(name string) (string, bool) {
	i := slices.IndexFunc(skips, func(s skip) bool { return s.on == target.Target && s.name == name })
	if i < 0 {
		return "", false
	}
	skipsMu.Lock()
	defer skipsMu.Unlock()
	skipsUsed[name] = true
	return skips[i].reason, true
}

// staleSkips lists the rows for this target that no case has asked for.
func staleSkips() []string {
	skipsMu.Lock()
	defer skipsMu.Unlock()
	var stale []string
	for _, s := range skips {
		if s.on == target.Target && !skipsUsed[s.name] {
			stale = append(stale, s.name)
		}
	}
	return stale
}
