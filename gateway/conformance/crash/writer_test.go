package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// The keys. Few enough to meet again and again.
const (
	root       = "/crash/"
	sharedRoot = root + "shared/"
	leaseRoot  = root + "lease/"

	writers    = 8
	ownKeys    = 10 // of a writer, which nobody else writes
	sharedKeys = 15
	leaseKeys  = 12
	shortKeys  = 50      // of leases that end by themselves
	mark       = "~mark" // sorts last in each folder
)

func ownRoot(writer int) string { return fmt.Sprintf("%sown/%d/", root, writer) }

func numbered(folder string, n int) string { return fmt.Sprintf("%s%02d", folder, n) }

const (
	// shortTTL is the least that etcd grants with its default timeouts.
	shortTTL = 2
	longTTL  = 3600 // seconds

	maxLongLeases  = 8
	maxShortLeases = 3 // of a writer in one life
)

// writer is one client in one life of the server. It sends one request at a
// time, and ends at the first that fails.
type writer struct {
	*client
	clk     clock.Clock
	number  int
	name    string // in front of the ids of its ops
	random  *rand.Rand
	library *clientv3.Client // the watchers'
	watches []*watcher

	sent   int
	mods   map[string]int64 // of shared keys, as it was last told
	leases []*lease
	shorts int
}

// run works until the server goes down or stop is closed. That an op fails
// before somebody kills the server is a violation.
func (w *writer) run(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		err := w.act(ctx)
		switch {
		case err == nil:
			continue
		case errors.Is(err, errAnswer) || !w.ledger.isDown():
			w.ledger.violation("writer %s: %v", w.name, err)
		}
		return
	}
}

// act does one thing: mostly writes, and among them what makes history shorter
// or reads it.
func (w *writer) act(ctx context.Context) error {
	type choice struct {
		weight int
		do     func(context.Context) error
	}
	choices := []choice{
		{30, w.put}, {10, w.remove}, {30, w.update}, {12, w.several}, {8, w.get}, {2, w.list}, {3, w.getOld},
	}
	switch w.number {
	case 0:
		choices = append(choices, choice{2, w.compact})
	case 1:
		choices = append(choices, choice{2, w.takeHash}, choice{2, w.askProgress})
	case 2, 3:
		choices = append(choices, choice{60, w.useLease})
	}
	sum := 0
	for _, c := range choices {
		sum += c.weight
	}
	for n := w.random.IntN(sum); ; choices = choices[1:] {
		if n < choices[0].weight {
			return choices[0].do(ctx)
		}
		n -= choices[0].weight
	}
}

// op begins a write.
func (w *writer) op() *op {
	w.sent++
	return &op{id: fmt.Sprintf("%s.%d", w.name, w.sent)}
}

// stone is what values are filled with.
var stone = strings.Repeat("stone ", 3000)

// value is an op's value for a key: mostly small, now and then large.
func (w *writer) value(o *op) string {
	n := w.random.IntN(200)
	if w.random.IntN(50) == 0 {
		n = w.random.IntN(len(stone))
	}
	return o.id + idEnds + stone[:n]
}

func (w *writer) ownKey() string    { return numbered(ownRoot(w.number), w.random.IntN(ownKeys)) }
func (w *writer) sharedKey() string { return numbered(sharedRoot, w.random.IntN(sharedKeys)) }

func (w *writer) put(ctx context.Context) error {
	o := w.op()
	o.steps = []step{{key: w.ownKey(), value: w.value(o)}}
	return w.write(ctx, o)
}

// remove removes one key, or some, whether they exist or not.
func (w *writer) remove(ctx context.Context) error {
	o := w.op()
	s := step{remove: true, key: w.ownKey()}
	if w.random.IntN(4) == 0 {
		s.end = s.key + "\xff"
		if w.random.IntN(2) == 0 {
			s.end = numbered(ownRoot(w.number), ownKeys)
		}
	}
	o.steps = []step{s}
	return w.write(ctx, o)
}

// update is what kube-apiserver does: create, change or delete, if the key is
// as it was last seen. Others write the same keys.
func (w *writer) update(ctx context.Context) error {
	o := w.op()
	key := w.sharedKey()
	o.guard = &guard{key: key, mod: w.mods[key]}
	s := step{key: key, value: w.value(o)}
	if o.guard.mod != 0 && w.random.IntN(6) == 0 {
		s = step{remove: true, key: key}
	}
	o.steps = []step{s}
	if err := w.write(ctx, o); err != nil {
		return err
	}
	switch {
	case o.outcome == refused && len(o.found) == 1:
		w.mods[key] = o.found[0].mod
	case o.outcome == refused || s.remove:
		w.mods[key] = 0
	default:
		w.mods[key] = o.rev
	}
	return nil
}

// several is a transaction of several puts and removals. All or nothing of it
// must be there.
func (w *writer) several(ctx context.Context) error {
	o := w.op()
	keys := w.random.Perm(ownKeys)[:2+w.random.IntN(5)]
	for _, k := range keys {
		o.steps = append(o.steps, step{key: numbered(ownRoot(w.number), k), value: w.value(o)})
	}
	if w.random.IntN(2) == 0 {
		o.steps[1] = step{remove: true, key: o.steps[1].key}
	}
	if w.random.IntN(2) == 0 {
		o.steps = append(o.steps, step{key: w.sharedKey(), value: w.value(o)})
	}
	return w.write(ctx, o)
}

// get reads a key, with or without asking whether the member is up to date.
func (w *writer) get(ctx context.Context) error {
	req := &pb.RangeRequest{Key: []byte(w.sharedKey()), Serializable: w.random.IntN(3) == 0}
	what := "a get"
	if req.Serializable {
		what = "a serializable get"
	}
	_, err := w.read(ctx, what, req)
	return err
}

func (w *writer) list(ctx context.Context) error {
	_, err := w.read(ctx, "a list", &pb.RangeRequest{Key: []byte(root), RangeEnd: []byte(after(root))})
	return err
}

// getOld reads at a revision that may just be compacted.
func (w *writer) getOld(ctx context.Context) error {
	rev := w.between(w.ledger.compactedAtMost(), w.ledger.highest())
	_, err := w.read(ctx, "a get at a revision", &pb.RangeRequest{
		Key: []byte(sharedRoot), RangeEnd: []byte(after(sharedRoot)), Revision: rev,
	})
	if w.isCompacted(err, rev) {
		return nil
	}
	return err
}

func (w *writer) between(low, high int64) int64 {
	low = max(low, 1)
	return low + w.random.Int64N(high-low+1)
}

// isCompacted says that err is the right answer to a request for a revision.
func (w *writer) isCompacted(err error, rev int64) bool {
	return status.Code(err) == codes.OutOfRange && strings.Contains(err.Error(), "compacted") && rev < w.ledger.compactedAtMost()
}

// compact compacts at a revision that no watcher still needs; often at the very
// last.
func (w *writer) compact(ctx context.Context) error {
	low, high := w.ledger.compactedAtMost()+1, w.ledger.highest()
	for _, watch := range w.watches {
		high = min(high, watch.at())
	}
	if low > high {
		return nil
	}
	rev := high
	if w.random.IntN(2) == 0 {
		rev = w.between(low, high)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	w.ledger.compacting(rev)
	r, err := w.kv.Compact(ctx, &pb.CompactionRequest{Revision: rev, Physical: w.random.IntN(2) == 0})
	if err != nil {
		return err
	}
	w.ledger.heard(r.Header)
	w.ledger.compacted(rev)
	return nil
}

func (w *writer) takeHash(ctx context.Context) error {
	rev := w.between(w.ledger.compactedAtMost(), w.ledger.highest())
	h, err := w.hash(ctx, rev)
	if w.isCompacted(err, rev) {
		return nil
	}
	if err == nil {
		w.ledger.hashed(h)
	}
	return err
}

// askProgress has all watches of client/v3 told how far they are.
func (w *writer) askProgress(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return w.library.RequestProgress(ctx)
}

// useLease grants a lease, gives it keys, keeps it alive, or revokes it. Some
// leases end by themselves, some outlive the test.
func (w *writer) useLease(ctx context.Context) error {
	if len(w.leases) == 0 || len(w.leases) < maxLongLeases && w.random.IntN(10) == 0 {
		l := &lease{id: w.random.Int64N(1<<40) + 1, ttl: longTTL, asked: w.clk.Now()}
		if w.shorts < maxShortLeases && w.random.IntN(3) == 0 {
			l.ttl = shortTTL
		}
		if err := w.grant(ctx, l); err != nil {
			return err
		}
		o := w.op()
		o.steps = []step{w.leased(o, l)}
		if l.short() {
			// It may be over at any time now: no further request needs it. It
			// gets a key at once, so that the history tells of its end.
			w.shorts++
			return w.writeShort(ctx, o)
		}
		w.leases = append(w.leases, l)
		return w.write(ctx, o)
	}
	i := w.random.IntN(len(w.leases))
	l := w.leases[i]
	o := w.op()
	switch w.random.IntN(12) {
	case 0:
		w.leases = append(w.leases[:i:i], w.leases[i+1:]...)
		o.revoke = l.id
		w.ledger.revoking(l)
		if err := w.write(ctx, o); err != nil {
			return err
		}
		w.ledger.revoked(l)
		return nil
	case 1:
		return w.keepAlive(ctx, l)
	default:
		o.steps = []step{w.leased(o, l)}
		if w.random.IntN(4) == 0 {
			other := w.leased(o, w.leases[w.random.IntN(len(w.leases))])
			if other.key != o.steps[0].key {
				o.steps = append(o.steps, other)
			}
		}
		return w.write(ctx, o)
	}
}

// leased puts a key with a lease, which takes it from the lease that it had.
func (w *writer) leased(o *op, l *lease) step {
	key := numbered(leaseRoot, w.random.IntN(leaseKeys))
	if l.short() {
		key = numbered(leaseRoot+"short/", w.random.IntN(shortKeys))
	}
	return step{key: key, value: w.value(o), lease: l.id}
}

// writeShort is write, but for a machine so slow that the lease is over before
// it is used.
func (w *writer) writeShort(ctx context.Context, o *op) error {
	err := w.write(ctx, o)
	if status.Code(err) == codes.NotFound && strings.Contains(err.Error(), "lease not found") {
		return nil
	}
	return err
}
