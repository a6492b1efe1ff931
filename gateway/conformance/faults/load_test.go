package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// The keys. Those under /registry/ are where Kubernetes has them, and live in
// groups of their own; the last live with all that has no such place. They are
// few, to meet again and again.
var prefixes = []string{"/registry/configmaps/", "/registry/events/", "/registry/leases/", "/registry/pods/", "plain/"}

const (
	registry = "/registry/"

	sharedKeys = 8 // of a prefix
	leasedKeys = 4 // of a prefix
	maxLeases  = 2 // of a worker

	// pause is how long a worker waits between two requests, at most; it makes
	// the load what two cores bear with three members on them.
	pause = 12 * time.Millisecond
	// failurePause is how long it waits when a request has failed.
	failurePause = 40 * time.Millisecond

	maxAge = 60 // of revisions that are read again
)

func numbered(prefix string, n int) string { return fmt.Sprintf("%sk%02d", prefix, n) }
func leased(prefix string, n int) string   { return fmt.Sprintf("%sleased%02d", prefix, n) }

// worker is a client that sends one random request after another.
type worker struct {
	*client
	random *rand.Rand

	mods   map[string]int64 // of shared keys, as it was last told
	seen   int64            // the newest revision that it was told
	leases []int64
}

func newWorker(c *client, seed, number uint64) *worker {
	return &worker{client: c, random: rand.New(rand.NewPCG(seed, number)), mods: map[string]int64{}}
}

// run works until stop is closed.
func (w *worker) run(ctx context.Context, stop <-chan struct{}) {
	for {
		o := w.do(ctx, w.request())
		wait := time.Duration(w.random.Int64N(int64(pause)))
		if o.outcome == answered {
			w.learn(o)
		} else {
			wait += failurePause
		}
		select {
		case <-w.recorder.clk.After(wait):
		case <-stop:
			return
		}
	}
}

// learn takes from an answer what later requests need.
func (w *worker) learn(o *op) {
	w.seen = max(w.seen, o.rev)
	if o.grant {
		w.leases = append(w.leases, o.lease)
	}
	for i, s := range o.branch(o.held) {
		switch s.verb {
		case put:
			w.mods[s.key] = o.rev
		case remove:
			delete(w.mods, s.key)
		case get:
			if s.end == "" && s.rev == 0 {
				w.mods[s.key] = 0
			}
			for _, item := range o.parts[i].items {
				if s.rev == 0 {
					w.mods[item.Value().key] = item.Value().mod
				}
			}
		}
	}
}

// request is what comes next.
func (w *worker) request() request {
	choices := []struct {
		weight int
		make   func() request
	}{
		{16, w.put},
		{3, w.remove},
		{34, w.update},
		{8, w.several},
		{6, w.look},
		{12, w.get},
		{4, w.list},
		{4, w.listAll},
		{6, w.old},
		{3, w.removeRange},
		{8, w.useLease},
	}
	sum := 0
	for _, c := range choices {
		sum += c.weight
	}
	n := w.random.IntN(sum)
	for _, c := range choices {
		if n < c.weight {
			return c.make()
		}
		n -= c.weight
	}
	panic("unreachable")
}

func (w *worker) prefix() string { return prefixes[w.random.IntN(len(prefixes))] }
func (w *worker) key() string    { return numbered(w.prefix(), w.random.IntN(sharedKeys)) }

// oneIn is true once in n times.
func (w *worker) oneIn(n int) bool { return w.random.IntN(n) == 0 }

// filler makes values of different lengths.
func (w *worker) filler() string { return strings.Repeat("pebble ", w.random.IntN(24)) }

func (w *worker) putStep(key string) step { return step{verb: put, key: key, value: w.filler()} }

func (w *worker) put() request {
	s := w.putStep(w.key())
	s.prev = w.oneIn(2)
	return request{then: []step{s}}
}

func (w *worker) remove() request {
	return request{then: []step{{verb: remove, key: w.key(), prev: true}}}
}

// update is what kube-apiserver does: create, change or delete, if the key is
// as it was last seen; and whoever loses is shown what there is.
func (w *worker) update() request {
	key := w.key()
	q := request{txn: true, guards: []guard{{key, w.mods[key]}}, otherwise: []step{{verb: get, key: key}}}
	if w.mods[key] != 0 && w.oneIn(5) {
		q.then = []step{{verb: remove, key: key}}
	} else {
		q.then = []step{w.putStep(key)}
	}
	return q
}

// some are a few prefixes, all different.
func (w *worker) some() []string {
	var some []string
	for _, i := range w.random.Perm(len(prefixes))[:2+w.random.IntN(3)] {
		some = append(some, prefixes[i])
	}
	return some
}

// several changes keys of several groups, and looks at others.
func (w *worker) several() request {
	q := request{txn: true}
	for i, prefix := range w.some() {
		key := numbered(prefix, w.random.IntN(sharedKeys))
		if i < 2 && w.oneIn(2) {
			q.guards = append(q.guards, guard{key, w.mods[key]})
			q.otherwise = append(q.otherwise, step{verb: get, key: key})
		}
		if i > 0 && w.oneIn(5) {
			q.then = append(q.then, step{verb: remove, key: key, prev: w.oneIn(2)})
		} else {
			s := w.putStep(key)
			s.prev = w.oneIn(2)
			q.then = append(q.then, s)
		}
	}
	if w.oneIn(2) {
		q.then = append(q.then, step{verb: get, key: registry, end: after(registry)})
	}
	return q
}

// look reads keys of several groups at one time.
func (w *worker) look() request {
	q := request{txn: true}
	for _, prefix := range w.some() {
		if w.oneIn(2) {
			q.then = append(q.then, step{verb: get, key: numbered(prefix, w.random.IntN(sharedKeys))})
		} else {
			q.then = append(q.then, step{verb: get, key: prefix, end: after(prefix)})
		}
	}
	return q
}

func (w *worker) get() request {
	return request{then: []step{{verb: get, key: w.key()}}, serializable: w.oneIn(4)}
}

func (w *worker) list() request {
	prefix := w.prefix()
	return request{then: []step{{verb: get, key: prefix, end: after(prefix), limit: w.random.Int64N(6)}}, serializable: w.oneIn(4)}
}

// listAll reads a range that spans groups.
func (w *worker) listAll() request {
	s := step{verb: get, key: registry, end: after(registry)}
	if w.oneIn(3) {
		s = step{verb: get, key: numbered(prefixes[1], 4), end: numbered(prefixes[3], 4)}
	}
	return request{then: []step{s}}
}

// old reads at a revision of some time ago.
func (w *worker) old() request {
	q := w.listAll()
	if w.oneIn(2) {
		q = w.get()
		q.serializable = false
	}
	if w.seen > 1 {
		q.then[0].rev = max(1, w.seen-w.random.Int64N(maxAge))
	}
	return q
}

// removeRange removes some keys of a prefix, or of several.
func (w *worker) removeRange() request {
	prefix := w.prefix()
	n := w.random.IntN(sharedKeys)
	s := step{verb: remove, key: numbered(prefix, n), end: numbered(prefix, n+3), prev: w.oneIn(2)}
	if w.oneIn(6) {
		s.key, s.end = numbered(prefixes[0], 6), numbered(prefixes[2], 2)
	}
	return request{then: []step{s}}
}

// useLease grants a lease, gives it keys of several groups, or revokes it.
func (w *worker) useLease() request {
	if len(w.leases) == 0 || len(w.leases) < maxLeases && w.oneIn(4) {
		return request{grant: true}
	}
	i := w.random.IntN(len(w.leases))
	id := w.leases[i]
	if w.oneIn(6) {
		w.leases = append(w.leases[:i:i], w.leases[i+1:]...)
		return request{revoke: id}
	}
	q := request{txn: true}
	for _, prefix := range w.some() {
		s := w.putStep(leased(prefix, w.random.IntN(leasedKeys)))
		s.lease = id
		q.then = append(q.then, s)
	}
	if w.oneIn(2) {
		q.txn, q.then = false, q.then[:1]
	}
	return q
}
