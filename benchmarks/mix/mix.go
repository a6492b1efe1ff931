// Package mix sends what kube-apiserver sends for a cluster of so many nodes, at the
// rates at which they want it, whether or not the store keeps up: a kubemark of the
// storage only.
//
//	rates.go   how many of each kind of request
//	store.go   the objects that there are
//	watch.go   the watches of kube-apiserver's caches
//	mix.go     the requests
package mix

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/benchmarks/documents"
	"github.com/pebbledash/pebbledash/benchmarks/listing"
	"github.com/pebbledash/pebbledash/benchmarks/openloop"
	"github.com/pebbledash/pebbledash/benchmarks/requests"
)

// Config of a Run.
type Config struct {
	Nodes, PodsPerNode int
	// Address is that of the server of a resource.
	Address func(resource string) string
	// Measure comes after Warmup, which comes after the objects are there.
	Warmup, Measure time.Duration
	// Begin and End are called around what is measured.
	Begin, End func() error
}

// Report is what was seen of requests that were due while it was measured.
type Report struct {
	Kinds []KindReport
	// Refused were told "too many requests", or to begin the list anew; Unanswered had no
	// answer long after the end, and Missing events did not come.
	Refused, Unanswered, Missing int
	Conflicts                    int
}

// KindReport is what was seen of a kind.
type KindReport struct {
	Kind Kind
	// Latencies are from when each was due, sorted.
	Latencies []time.Duration
}

// Singles are the latencies of all requests but lists, sorted.
func (r *Report) Singles() []time.Duration {
	var all []time.Duration
	for _, k := range r.Kinds {
		if k.Kind != List && k.Kind != Watched {
			all = append(all, k.Latencies...)
		}
	}
	slices.Sort(all)
	return all
}

// Of is the latencies of a kind.
func (r *Report) Of(k Kind) []time.Duration {
	for _, one := range r.Kinds {
		if one.Kind == k {
			return one.Latencies
		}
	}
	return nil
}

const (
	// patience is how long answers are waited for that were due before the end.
	patience = 20 * time.Second
	// eventTTL is what kube-apiserver gives leases of events: they are used again for
	// a minute.
	eventTTL = 3660
)

type run struct {
	cfg       Config
	resources map[string]*resource
	watchers  map[string]*watcher
	recorders map[Kind]*openloop.Recorder

	eventLease                     atomic.Int64
	refused, unanswered, conflicts atomic.Int64
	mu                             sync.Mutex // guards made
	made                           []*object  // pods that we have made, and not deleted

	cancel context.CancelCauseFunc
}

// ErrNotServed says that a request or a watch failed as none of kube-apiserver's should.
var ErrNotServed = errors.New("mix: not served")

func (r *run) fail(err error) { r.cancel(fmt.Errorf("%w: %w", ErrNotServed, err)) }

// Run fills the store and sends the mix.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{
		cfg: cfg, resources: map[string]*resource{}, watchers: map[string]*watcher{},
		recorders: map[Kind]*openloop.Recorder{}, cancel: cancel,
	}
	defer r.close()
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	begin := time.Now()
	from := begin.Add(cfg.Warmup)
	end := from.Add(cfg.Measure)
	for _, k := range rates(cfg.Nodes) {
		r.recorders[k.kind] = openloop.NewRecorder(from, end)
	}
	r.recorders[Watched] = openloop.NewRecorder(from, end)
	following, err := r.watchAll(ctx)
	if err != nil {
		return nil, err
	}
	err = r.send(ctx, begin, from, end)
	// What was sent last comes last.
	missing, open := r.outstanding()
	for deadline := time.Now().Add(patience); missing+open > 0 && err == nil && time.Now().Before(deadline); {
		err = openloop.Sleep(ctx, 10*time.Millisecond)
		missing, open = r.outstanding()
	}
	for _, w := range r.watchers {
		w.match(r.recorders[Watched])
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause // What came first.
	}
	cancel(nil)
	following.Wait()
	if err != nil {
		return nil, err
	}
	report := &Report{
		Refused: int(r.refused.Load()), Unanswered: int(r.unanswered.Load()) + open,
		Conflicts: int(r.conflicts.Load()), Missing: missing,
	}
	for _, k := range rates(cfg.Nodes) {
		report.Kinds = append(report.Kinds, KindReport{k.kind, r.recorders[k.kind].Latencies()})
	}
	report.Kinds = append(report.Kinds, KindReport{Watched, r.recorders[Watched].Latencies()})
	return report, nil
}

// open connects and puts the objects.
func (r *run) open(ctx context.Context) error {
	for _, p := range r.population() {
		one := &resource{name: p.name}
		if err := one.dial(r.cfg.Address(p.name)); err != nil {
			return err
		}
		r.resources[p.name] = one
		if err := one.populate(ctx, r.cfg.Address(p.name), p.n, p.value); err != nil {
			return err
		}
	}
	for i := range quietResources {
		one := &resource{name: fmt.Sprintf("quiet%02d", i)}
		if err := one.dial(r.cfg.Address(one.name)); err != nil {
			return err
		}
		r.resources[one.name] = one
	}
	return r.grant(ctx)
}

func (r *run) close() {
	for _, one := range r.resources {
		_ = one.conn.Close() // Nothing is under way on it.
	}
}

// watchAll watches every resource from its server's present revision on.
func (r *run) watchAll(ctx context.Context) (*sync.WaitGroup, error) {
	var following sync.WaitGroup
	for name, one := range r.resources {
		now, err := one.kv.Range(ctx, &pb.RangeRequest{Key: []byte("/registry/" + name), Limit: 1})
		if err != nil {
			return nil, err
		}
		w, err := watch(ctx, one, now.Header.Revision+1, r.recorders[Progress])
		if err != nil {
			return nil, err
		}
		r.watchers[name] = w
		following.Go(func() {
			if err := w.follow(); ctx.Err() == nil {
				r.fail(fmt.Errorf("the watcher of %s: %w", name, err))
			}
		})
	}
	return &following, nil
}

// send sends everything and waits for the answers.
func (r *run) send(ctx context.Context, begin, from, end time.Time) error {
	answers, cancel := context.WithDeadline(ctx, end.Add(patience))
	defer cancel()
	var all sync.WaitGroup
	for n, k := range rates(r.cfg.Nodes) {
		do := r.kinds()[k.kind]
		all.Go(func() {
			openloop.Run(ctx, k.perSecond, uint64(n), begin, end, func(i int, due time.Time) {
				r.note(ctx, k.kind, due, do(answers, i, due))
			})
		})
	}
	if err := openloop.Until(ctx, from); err != nil {
		return err
	}
	if err := r.cfg.Begin(); err != nil {
		return err
	}
	if err := openloop.Until(ctx, from.Add(r.cfg.Measure/2)); err != nil {
		return err
	}
	if err := r.compact(ctx); err != nil {
		return err
	}
	if err := openloop.Until(ctx, end); err != nil {
		return err
	}
	err := r.cfg.End()
	all.Wait()
	return err
}

// outstanding is how many events have not come, and how many requests for progress have
// no answer.
func (r *run) outstanding() (missing, open int) {
	for _, w := range r.watchers {
		m, o := w.outstanding()
		missing, open = missing+m, open+o
	}
	return missing, open
}

// note notes an answer. Progress is noted when it comes.
func (r *run) note(ctx context.Context, kind Kind, due time.Time, err error) {
	switch {
	case err == nil && kind == Progress:
	case err == nil:
		r.recorders[kind].Done(due)
	case status.Code(err) == codes.ResourceExhausted,
		// A compaction has overtaken a list that was too slow: etcd 3.7's streams are at
		// no view of their own.
		status.Code(err) == codes.OutOfRange && kind == List:
		r.refused.Add(1)
	case status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil:
		r.unanswered.Add(1)
		r.recorders[kind].Done(due) // It took so long at least.
	default:
		r.fail(fmt.Errorf("%s: %w", kind, err))
	}
}

// kinds are how each kind of request is made; i counts those of the kind.
func (r *run) kinds() map[Kind]func(ctx context.Context, i int, due time.Time) error {
	return map[Kind]func(context.Context, int, time.Time) error{
		Renew:  r.renew,
		Update: r.update,
		Create: r.create,
		Delete: r.delete,
		Event:  r.event,
		Get: func(ctx context.Context, i int, _ time.Time) error {
			one := r.resources[[]string{pods, nodes, leases}[i%3]]
			return get(ctx, one, one.objects[i%len(one.objects)].key)
		},
		Bare: func(ctx context.Context, i int, _ time.Time) error {
			one := r.resources[[]string{pods, nodes, leases, events}[i%4]]
			return get(ctx, one, []byte("/registry/"+one.name))
		},
		Progress: func(_ context.Context, i int, due time.Time) error {
			return r.watchers[[]string{pods, nodes, leases, events}[i%4]].askProgress(due)
		},
		List: func(ctx context.Context, i int, _ time.Time) error {
			return list(ctx, r.resources[[]string{pods, nodes}[i%2]])
		},
		Grant: func(ctx context.Context, _ int, _ time.Time) error { return r.grant(ctx) },
		Count: func(ctx context.Context, _ int, _ time.Time) error {
			one := r.resources[events]
			_, err := one.kv.Range(ctx, &pb.RangeRequest{Key: []byte("/registry/events/"), RangeEnd: []byte("/registry/events0"), CountOnly: true})
			return err
		},
		Health: func(ctx context.Context, _ int, _ time.Time) error {
			return get(ctx, r.resources[nodes], []byte("/registry/health"))
		},
	}
}

func get(ctx context.Context, one *resource, key []byte) error {
	_, err := one.kv.Range(ctx, &pb.RangeRequest{Key: key, Limit: 1})
	return err
}

// list reads the first page of a resource as a stream.
func list(ctx context.Context, one *resource) error {
	_, err := listing.ListPage(ctx, one.conn, one.prefix())
	return err
}

func (r *run) renew(ctx context.Context, i int, due time.Time) error {
	one := r.resources[leases]
	node := i % len(one.objects)
	_, err := r.write(ctx, one, one.objects[node], due, false, func(v int) []byte { return documents.Lease(node, v) })
	return err
}

// update writes a pod's status, or now and then a node's, of which some have been
// written by somebody else meanwhile.
func (r *run) update(ctx context.Context, i int, due time.Time) error {
	stale := i*observedConflicts%observedUpdates < observedConflicts
	one, value := r.resources[pods], documents.Pod
	size := documents.PodBytes
	if i%10 == 0 {
		one, size = r.resources[nodes], documents.NodeBytes
	}
	at := i * 7919 % len(one.objects) // a prime: all over them
	_, err := r.write(ctx, one, one.objects[at], due, stale, func(v int) []byte { return value(at, v, size) })
	return err
}

// write updates an object; a stale one at the second try, with what the first has said.
func (r *run) write(ctx context.Context, one *resource, o *object, due time.Time, stale bool, value func(v int) []byte) (int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.version++
	mod := o.mod
	if stale {
		mod--
	}
	for {
		t, err := one.kv.Txn(ctx, requests.Update(o.key, mod, value(o.version), 0))
		if err != nil {
			// It may have been done or not; the next one finds out.
			return 0, err
		}
		if t.Succeeded {
			o.mod = t.Header.Revision
			r.watchers[one.name].wroteAt(o.mod, due)
			return o.mod, nil
		}
		r.conflicts.Add(1)
		kvs := t.Responses[0].GetResponseRange().GetKvs()
		if len(kvs) != 1 {
			return 0, fmt.Errorf("%s is gone", o.key)
		}
		mod = kvs[0].ModRevision
	}
}

func (r *run) create(ctx context.Context, i int, due time.Time) error {
	one := r.resources[pods]
	key := one.newKey()
	mod, err := r.put(ctx, one, key, documents.Pod(i, 0, documents.PodBytes), 0, due)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, &object{key: key, mod: mod})
	return nil
}

func (r *run) put(ctx context.Context, one *resource, key, value []byte, lease int64, due time.Time) (int64, error) {
	t, err := one.kv.Txn(ctx, requests.Create(key, value, lease))
	if err != nil {
		return 0, err
	}
	if !t.Succeeded {
		return 0, fmt.Errorf("%s is there already", key)
	}
	r.watchers[one.name].wroteAt(t.Header.Revision, due)
	return t.Header.Revision, nil
}

// delete removes the pod that we made first; before there is one, it has none to do.
func (r *run) delete(ctx context.Context, _ int, due time.Time) error {
	r.mu.Lock()
	if len(r.made) == 0 {
		r.mu.Unlock()
		return nil
	}
	o := r.made[0]
	r.made = r.made[1:]
	r.mu.Unlock()
	one := r.resources[pods]
	t, err := one.kv.Txn(ctx, requests.Delete(o.key, o.mod))
	if err != nil {
		return err
	}
	if !t.Succeeded {
		return fmt.Errorf("%s was written by somebody else", o.key)
	}
	r.watchers[one.name].wroteAt(t.Header.Revision, due)
	return nil
}

func (r *run) event(ctx context.Context, i int, due time.Time) error {
	one := r.resources[events]
	_, err := r.put(ctx, one, one.newKey(), documents.Event(i), r.eventLease.Load(), due)
	return err
}

// grant makes the lease that events have from now on.
func (r *run) grant(ctx context.Context) error {
	g, err := pb.NewLeaseClient(r.resources[events].conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: eventTTL})
	if err != nil {
		return err
	}
	r.eventLease.Store(g.ID)
	return nil
}

// compact compacts each server once, as kube-apiserver does it every five minutes, but
// for the last second's versions.
func (r *run) compact(ctx context.Context) error {
	done := map[string]bool{}
	for name, one := range r.resources {
		address := r.cfg.Address(name)
		if done[address] {
			continue
		}
		done[address] = true
		t, err := one.kv.Txn(ctx, requests.Compactor(0, []byte("1")), grpc.WaitForReady(true))
		if err != nil {
			return fmt.Errorf("compaction: %w", err)
		}
		// Servers of one revision line have one key; who comes second does not compact.
		if !t.Succeeded {
			continue
		}
		back := int64(r.cfg.Nodes / nodePeriod)
		_, err = one.kv.Compact(ctx, &pb.CompactionRequest{Revision: max(1, t.Header.Revision-back)})
		if err != nil && status.Code(err) != codes.OutOfRange {
			return errors.Join(errors.New("compaction"), err)
		}
	}
	return nil
}
