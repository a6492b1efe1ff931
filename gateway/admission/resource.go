package admission

import (
	"bytes"
	"maps"
	"strings"
	"sync/atomic"
)

// maxResources bounds the resources that are told apart; the rest is "other".
// Kubernetes has some eighty, and every custom resource is one more.
const maxResources = 1 << 9

// other is the name of what is no resource's, or of one too many.
const other = "other"

// resource is what the limiter knows of the keys of one resource. A resource is
// named by where kube-apiserver keeps it: pods, minions, services/specs,
// example.com/widgets.
type resource struct {
	name string
	// gate is the resource's own limit; nil if it has none.
	gate *gate
	// whole is about lists of all its keys, part about others.
	whole, part estimate

	counts [classes]counts
}

// counts are the requests of a resource and class.
type counts struct {
	executing, seats, waiting atomic.Int64
	dispatched                atomic.Int64
	rejected                  [reasons]atomic.Int64
}

// resourceOf returns the resource that a key is of. It allocates only where it
// meets a resource for the first time.
func (l *Limiter) resourceOf(key []byte) *resource {
	name, _ := l.prefix.ResourceOf(key)
	known := *l.resources.Load()
	if r := known[string(name)]; r != nil {
		return r
	}
	// What is called as the rest is would be told twice by that name.
	if len(known) >= maxResources || !plain(name) || string(name) == other {
		return l.other
	}
	return l.addResource(string(name), 0)
}

// addResource adds a resource, with a limit if there is one.
func (l *Limiter) addResource(name string, limit int) *resource {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := *l.resources.Load()
	if r := known[name]; r != nil {
		return r
	}
	r := &resource{name: name}
	if limit > 0 {
		r.gate = newGate("resource "+name, limit, l.clock)
	}
	grown := maps.Clone(known)
	grown[name] = r
	l.resources.Store(&grown)
	return r
}

// isWhole says whether a list that begins at key is of all keys of its resource.
func (l *Limiter) isWhole(key []byte, r *resource) bool {
	return r != l.other && len(key) > 0 && len(l.prefix.ResourcePath(key)) == len(key)
}

// plain says whether a name may be shown as a label. Keys can be anything.
func plain(name []byte) bool {
	const maxNameBytes = 128
	return len(name) > 0 && len(name) <= maxNameBytes && bytes.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune(".-/", r)
	}) < 0
}
