//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/kubemark/exposition"
	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// turn is one run of the whole load on one store.
type turn struct {
	plan    *plan
	cluster *cluster
	ledger  *ledger
	load    *load
	say     func(string)
	before  reading // of when the load began, or kube-apiserver the last time
	result  *result
}

// result is what a turn has found.
type result struct {
	start, fill, removal time.Duration // of the cluster, the pods, the namespaces
	took                 time.Duration // fill, load and removal, between two readings
	storeUsed, apiUsed   process.Usage // meanwhile
	peakBytes, diskBytes int64         // of the store
	answered, failed     int           // calls of the load
	// requests is what kube-apiserver took, by request, and promised the same as promises
	// have it; storage is what its store took, by operation and resource.
	requests, promised, storage map[string]exposition.Histogram
	own                         map[string][]time.Duration // the load's calls, sorted, by kind
	startup, lag                []time.Duration            // sorted
	groups                      map[string]float64         // evaluated requests a second
	series                      []moment
	failures                    map[string]int
	steps                       []step // of an operation
}

// runTurn starts a cluster in dir, loads it, and ends it.
func runTurn(ctx context.Context, p *plan, storeName, dir string, say func(string)) (r *result, err error) {
	began := time.Now()
	c, err := startCluster(ctx, dir, p.binaries, storeName, p.members, p.nodes, say)
	if c != nil {
		defer func() { err = errors.Join(err, c.stop()) }()
	}
	if err != nil {
		return nil, err
	}
	t := &turn{plan: p, cluster: c, ledger: newLedger(), say: say, result: &result{}}
	t.result.start = time.Since(began)
	t.load = &load{pods: p.pods, rate: p.rate, watch: newPodWatcher(), lag: &lagWatchers{}}
	for range clients {
		t.load.clients = append(t.load.clients, newClient(c, t.ledger))
	}
	if err := t.measure(ctx); err != nil {
		return nil, errors.Join(err, c.alive())
	}
	return t.result, c.alive()
}

// measure takes readings, runs the load, and takes them again.
func (t *turn) measure(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watchers sync.WaitGroup
	defer func() {
		cancel(nil)
		watchers.Wait()
	}()
	if err := t.load.prepare(ctx); err != nil {
		return err
	}
	watchers.Go(func() {
		if err := t.load.watch.run(ctx, newClient(t.cluster, t.ledger)); err != nil && ctx.Err() == nil {
			cancel(err) // Without it nothing is known of pods.
		}
	})
	for n := range t.plan.watchers {
		// A few on a connection, as many clients with few connections are rare.
		c := t.load.client(n)
		watchers.Go(func() { t.load.lag.run(ctx, c, "/api/v1/namespaces/"+lagNamespace+"/configmaps") })
	}
	var err error
	if t.before, err = t.read(ctx); err != nil {
		return err
	}
	sampling, stop := context.WithCancel(ctx)
	sampled := make(chan []moment, 1)
	go func() { sampled <- t.sampleUntil(sampling) }()
	err = t.phases(ctx)
	stop()
	t.result.series = <-sampled
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(err, cause)
		}
		return err
	}
	after, err := t.read(ctx)
	if err != nil {
		return err
	}
	return t.note(t.before, after)
}

// phases are the load, from the first pod to the last namespace's end.
func (t *turn) phases(ctx context.Context) error {
	began := time.Now()
	progress := func(what string) func(done, all int) {
		return func(done, all int) { t.say(fmt.Sprintf("%s %s", bar(done, all), what)) }
	}
	if err := t.load.fill(ctx, progress("pods run")); err != nil {
		return err
	}
	t.result.fill = time.Since(began)

	steady := time.Now()
	due, over := context.WithCancel(ctx)
	defer over()
	operated := make(chan error, 1)
	go func() {
		err := t.operate(ctx)
		operated <- err
		// An operation may take longer than was thought.
		if err != nil || pause(ctx, max(t.plan.steady/4, t.plan.steady-time.Since(steady))) {
			over()
		}
	}()
	ticking, stop := context.WithCancel(ctx)
	go func() {
		for pause(ticking, 250*time.Millisecond) {
			answered, failed := t.ledger.counts()
			t.say(fmt.Sprintf("%s load: %d calls, %d failed, %d pods run", bar(int(time.Since(steady)), int(t.plan.steady)),
				answered, failed, t.load.watch.running.Load()))
		}
	}()
	t.load.run(ctx, due)
	stop()
	if err := errors.Join(ctx.Err(), <-operated); err != nil {
		return err
	}
	t.settleFailures()

	removal := time.Now()
	if err := t.load.remove(ctx, progress("pods removed")); err != nil {
		return err
	}
	t.result.removal = time.Since(removal)
	return nil
}

// reading is what counters said at a time.
type reading struct {
	at         time.Time
	store, api process.Usage
	samples    []exposition.Sample
	groups     map[string]float64
	answered   int
}

func (t *turn) read(ctx context.Context) (r reading, err error) {
	if r.samples, err = t.load.client(0).metrics(ctx); err != nil {
		return r, err
	}
	if r.groups, err = t.cluster.store.requests(ctx); err != nil {
		return r, err
	}
	if r.store, err = t.cluster.store.usage(); err != nil {
		return r, err
	}
	if r.api, err = t.cluster.apiserver.use.Usage(); err != nil {
		return r, err
	}
	r.answered, _ = t.ledger.counts()
	r.at = time.Now()
	return r, nil
}

// note keeps what lies between two readings.
func (t *turn) note(before, after reading) error {
	r := t.result
	r.took = after.at.Sub(before.at)
	r.storeUsed, r.apiUsed = after.store.Since(before.store), after.api.Since(before.api)
	r.answered = after.answered - before.answered
	_, r.failed = t.ledger.counts()
	r.requests = delta(before.samples, after.samples, requestHistogram, requestOf)
	r.promised = delta(before.samples, after.samples, promiseHistogram, requestOf)
	r.storage = delta(before.samples, after.samples, storeHistogram, storageOf)
	r.own, r.failures = t.ledger.latencies(), t.ledger.failures
	r.startup, r.lag = t.load.watch.startups(), t.load.lag.lags
	slices.Sort(r.lag)
	r.groups = map[string]float64{}
	if t.plan.during == "" { // a member that starts again counts from zero
		for group, n := range after.groups {
			r.groups[group] = (n - before.groups[group]) / r.took.Seconds()
		}
	}
	var err error
	if r.peakBytes, err = t.cluster.store.peakBytes(); err != nil {
		return err
	}
	r.diskBytes, err = t.cluster.store.diskBytes()
	return err
}

// delta is what a histogram has counted between two readings, by what of makes of labels.
func delta(before, after []exposition.Sample, name string, of func(map[string]string) string) map[string]exposition.Histogram {
	earlier := exposition.Histograms(before, name, of)
	d := map[string]exposition.Histogram{}
	for key, h := range exposition.Histograms(after, name, of) {
		if since := h.Since(earlier[key]); since.Count() > 0 {
			d[key] = since
		}
	}
	return d
}

// storageOf is what kube-apiserver asked its store for.
func storageOf(labels map[string]string) string {
	return labels["operation"] + " " + labels["resource"]
}

func together(all map[string]exposition.Histogram) exposition.Histogram {
	var sum exposition.Histogram
	for _, h := range all {
		sum = sum.Plus(h)
	}
	return sum
}
