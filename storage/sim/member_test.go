package sim_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// callTimeout bounds every call of a member: one that takes so long hangs.
const callTimeout = 20 * time.Second

// graceTimeout bounds the wait for a failed member to come to an end by itself.
// It need not: its process would end instead.
const graceTimeout = 200 * time.Millisecond

// memberTarget is a member on a disk in memory.
type memberTarget struct {
	*member.Member
	disk disk
	// routes are those that it begins with; nil is core alone.
	routes *route.Table
	sink   *sink
	// failure is sent what the member says it failed of.
	failure chan error
	// broken is that, once it has been received.
	broken error
}

// newMember opens a member on a disk, seen through inj unless that is nil,
// of several groups unless routes is nil. The test closes it.
func newMember(d disk, inj engine.Injector, routes *route.Table) (*memberTarget, error) {
	t := &memberTarget{disk: d, routes: routes}
	return t, t.open(inj)
}

func (t *memberTarget) open(inj engine.Injector) error {
	failure := make(chan error, 1)
	t.sink, t.failure, t.broken = newSink(), failure, nil
	fs := t.disk.fs()
	if inj != nil {
		fs = engine.WrapFaulty(fs, inj)
	}
	type opened struct {
		member *member.Member
		err    error
	}
	done := make(chan opened, 1)
	ctx, cancel := limited()
	defer cancel()
	go func() {
		m, err := member.Open(ctx, member.Config{
			Name: "sim", PeerURLs: []string{"http://127.0.0.1:2380"}, InitialCluster: "sim=http://127.0.0.1:2380",
			Dir: "data", FS: fs, Logger: slog.New(slog.DiscardHandler), Events: t.sink, Routes: t.routes,
			CacheBytes: 1 << 20, MemTableBytes: 64 << 10,
			Fatal: func(err error) { failure <- err },
		})
		done <- opened{m, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return o.err
		}
		t.Member = o.member
	case t.broken = <-failure:
		return t.broken
	case <-ctx.Done():
		return errors.New("the member does not open")
	}
	select {
	case <-t.Ready():
		return nil
	case t.broken = <-failure:
		return errors.Join(t.broken, t.Close())
	case <-ctx.Done():
		return errors.Join(errors.New("the member does not get ready"), t.Close())
	}
}

// failed is what the member said it failed of, nil if it did not.
func (t *memberTarget) failed() error {
	select {
	case t.broken = <-t.failure:
	default:
	}
	return t.broken
}

// awaitFailure waits until the member says that it failed: those who waited for it
// learn of it first.
func (t *memberTarget) awaitFailure() {
	ctx, cancel := limited()
	defer cancel()
	if t.failed() == nil {
		select {
		case t.broken = <-t.failure:
		case <-ctx.Done():
		}
	}
}

// Close closes the member. A failed one may not come to an end.
func (t *memberTarget) Close() error {
	done := make(chan error, 1)
	go func() { done <- t.Member.Close() }()
	ctx, cancel := limited()
	defer cancel()
	if t.failed() == nil {
		select {
		case err := <-done:
			return err
		case t.broken = <-t.failure:
		case <-ctx.Done():
			return errors.New("the member does not close")
		}
	}
	ctx, cancel = context.WithTimeout(ctx, graceTimeout)
	defer cancel()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return t.broken
	}
}

// limited is a context that no call should need up.
func limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTimeout)
}

func (t *memberTarget) Do(op evaluate.Op) (evaluate.Result, error) {
	ctx, cancel := limited()
	defer cancel()
	if !evaluate.Writes(op) {
		return t.Read(ctx, op, false)
	}
	return t.Member.Do(ctx, op)
}

func (t *memberTarget) RangeStream(r *evaluate.Range, maxBytes int) (evaluate.Result, error) {
	ctx, cancel := limited()
	defer cancel()
	var kvs []*mvccpb.KeyValue
	res, err := t.Member.RangeStream(ctx, r, false, maxBytes, func(chunk []*mvccpb.KeyValue) error {
		kvs = append(kvs, chunk...)
		return nil
	})
	res.KVs = kvs
	return res, err
}

func (t *memberTarget) Changes(key, end []byte, from, to int64) ([]*mvccpb.Event, error) {
	ctx, cancel := limited()
	defer cancel()
	var events []*mvccpb.Event
	err := t.Member.Changes(ctx, key, end, from, to, func(e *mvccpb.Event) error {
		events = append(events, e)
		return nil
	})
	return events, err
}

func (t *memberTarget) Previous(key []byte, revision int64) (*mvccpb.KeyValue, error) {
	kv, err := t.Member.Previous(key, revision)
	if errors.Is(err, mvcc.ErrCompacted) {
		return nil, nil
	}
	return kv, err
}

func (t *memberTarget) HashKV(revision int64) (uint32, error) {
	ctx, cancel := limited()
	defer cancel()
	res, err := t.Member.HashKV(ctx, revision)
	return res.Hash, err
}

func (t *memberTarget) Leases() ([]int64, error) {
	ctx, cancel := limited()
	defer cancel()
	return t.Member.Leases(ctx)
}

func (t *memberTarget) Lease(id int64) (ttl int64, keys [][]byte, err error) {
	ctx, cancel := limited()
	defer cancel()
	info, err := t.LeaseTimeToLive(ctx, id, true)
	return info.GrantedTTL, info.Keys, err
}

func (t *memberTarget) Restart() error {
	if err := t.Close(); err != nil {
		return err
	}
	return t.open(nil)
}

func (t *memberTarget) Crash(rng *rand.Rand) error {
	left := t.disk.afterCrash(rng)
	if err := t.Close(); err != nil {
		return err
	}
	t.disk = left
	return t.open(nil)
}

// sink keeps what a member publishes.
type sink struct {
	// more is signalled when there are new events.
	more chan struct{}

	mu sync.Mutex // guards the fields below
	// events are all so far, revision is the store's with them.
	events   []*mvccpb.Event
	revision int64
	// err is what was wrong with them.
	err error
}

func newSink() *sink { return &sink{more: make(chan struct{}, 1)} }

// Publish implements member.EventSink.
func (s *sink) Publish(events []*mvccpb.Event, revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.revision
	for _, e := range events {
		// Those of one revision come in one call.
		if rev := e.Kv.ModRevision; rev <= s.revision || rev < last || rev > revision {
			s.err = errors.Join(s.err, fmt.Errorf("revision %d was published after %d, in a call up to %d", rev, last, revision))
		}
		last = e.Kv.ModRevision
	}
	s.events = append(s.events, events...)
	s.revision = revision
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// Restored implements revline.Sink: the member begins in the middle of the history.
func (s *sink) Restored(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) > 0 {
		s.err = errors.Join(s.err, fmt.Errorf("events up to %d were not published, after those up to %d", revision, s.revision))
	}
	s.revision = revision
}

// check compares what was published with the history: the member may have
// begun in the middle of it.
func (s *sink) check(history []*mvccpb.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || len(s.events) == 0 {
		return s.err
	}
	first := s.events[0].Kv.ModRevision
	want := slices.DeleteFunc(slices.Clone(history), func(e *mvccpb.Event) bool { return e.Kv.ModRevision < first })
	if got, want := sim.FormatEvents(s.events, false), sim.FormatEvents(want, false); got != want {
		return fmt.Errorf("the member published\n%s\nnot\n%s", got, want)
	}
	return nil
}
