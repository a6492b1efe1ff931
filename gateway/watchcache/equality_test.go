package watchcache_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/gateway/watchcache"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

var (
	equalitySeed = flag.Uint64("equality.seed", 0, "seed of TestEquality; 0 picks one")
	equalityOps  = flag.Int("equality.ops", 1000, "how many writes TestEquality makes")
)

// both has a member that tells its changes to two hubs: one with everything in
// memory that there is room for, and one that has next to nothing.
type both struct {
	t             *testing.T
	rng           *rand.Rand
	m             *member.Member
	cached, plain *watchcache.Hub
	reg           *prometheus.Registry
	// through and store read with the cache and without it.
	through, store evaluate.Reader
	paths          []string
	revision       int64
	reads, watches atomic.Int64
	events         int64
}

// Publish implements revline.Sink.
func (b *both) Publish(events []*mvccpb.Event, revision int64) {
	b.plain.Publish(slices.Clone(events), revision)
	b.cached.Publish(events, revision)
}

// Restored implements revline.Sink.
func (b *both) Restored(revision int64) {
	b.plain.Restored(revision)
	b.cached.Restored(revision)
}

func newBoth(t *testing.T, rng *rand.Rand, limits watchcache.Config) *both {
	t.Helper()
	routes, err := route.Parse(route.DefaultResourceGroups, route.DefaultEtcdPrefix)
	require.NoError(t, err)
	b := &both{t: t, rng: rng, reg: prometheus.NewRegistry(), revision: 1}
	limits.Resources, limits.Registerer = route.Prefix(route.DefaultEtcdPrefix), b.reg
	b.cached = watchcache.NewHub(limits)
	b.plain = watchcache.NewHub(watchcache.Config{WindowBytes: 1, WindowEvents: 1, PreloadRevisions: -1})
	b.m, err = member.Open(t.Context(), member.Config{
		Dir: "data", FS: engine.NewMem(), Name: "a", InitialCluster: "a=http://127.0.0.1:2380",
		Routes: routes, CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler), Events: b,
		Through: func(r evaluate.Reader) evaluate.Reader {
			b.store, b.through = r, b.cached.Through(r)
			return b.through
		},
	})
	require.NoError(t, err)
	<-b.m.Ready()
	for _, hub := range []*watchcache.Hub{b.cached, b.plain} {
		hub.Start(b.m, b.m.Closed())
	}
	b.paths = []string{
		"/registry/pods/", "/registry/events/", "/registry/leases/", "/registry/minions/",
		"/registry/services/specs/", "/registry/example.com/widgets/", "/other/", "/registry/pods0/",
	}
	return b
}

func (b *both) close() {
	b.cached.Close()
	b.plain.Close()
	require.NoError(b.t, b.m.Close())
}

func key(rng *rand.Rand, path string) []byte {
	if rng.IntN(20) == 0 {
		return []byte(path[:len(path)-1]) // the bare path
	}
	return fmt.Appendf(nil, "%sns%d/%c", path, rng.IntN(3), 'a'+rng.IntN(20))
}

func (b *both) path(rng *rand.Rand) string { return b.paths[rng.IntN(len(b.paths))] }

// write makes a change, of one key or of several.
func (b *both) write() {
	put := func() evaluate.Op {
		return &evaluate.Put{Key: key(b.rng, b.path(b.rng)), Value: fmt.Append(nil, b.rng.Int32())}
	}
	var op evaluate.Op
	switch n := b.rng.IntN(100); {
	case n < 70:
		op = put()
	case n < 82:
		op = &evaluate.DeleteRange{Key: key(b.rng, b.path(b.rng))}
	case n < 84:
		path := b.path(b.rng)
		op = &evaluate.DeleteRange{Key: fmt.Appendf(nil, "%sns1/", path), End: fmt.Appendf(nil, "%sns10", path)}
	default:
		txn := &evaluate.Txn{}
		used := map[string]bool{}
		for range 2 + b.rng.IntN(6) {
			p := put().(*evaluate.Put)
			if !used[string(p.Key)] {
				used[string(p.Key)] = true
				// Deleted and put again, at one revision.
				if b.rng.IntN(4) == 0 {
					txn.Success = append(txn.Success, &evaluate.DeleteRange{Key: p.Key})
				}
				txn.Success = append(txn.Success, p)
			}
		}
		op = txn
	}
	res, err := b.m.Do(b.t.Context(), op)
	require.NoError(b.t, err)
	b.revision = res.Revision
}

// span returns one key, a resource, a part of it, or more than one.
func (b *both) span(rng *rand.Rand) (start, end []byte) {
	path := b.path(rng)
	switch n := rng.IntN(13); {
	case n < 3:
		return key(rng, path), nil
	case n < 7:
		end := []byte(path)
		end[len(end)-1]++
		return []byte(path), end
	case n < 9:
		ns := fmt.Sprintf("%sns%d", path, rng.IntN(3))
		return []byte(ns + "/"), []byte(ns + "0")
	case n < 10: // a page
		end := []byte(path)
		end[len(end)-1]++
		return append(key(rng, path), 0), end
	case n < 11:
		// From one resource to the end of another, which may come before it.
		end := []byte(b.path(rng))
		end[len(end)-1]++
		return []byte(path), end
	case n < 12:
		return []byte("/registry/"), []byte("/registry0")
	default:
		return key(rng, path), []byte{0}
	}
}

func (b *both) request(rng *rand.Rand, head int64) *evaluate.Range {
	r := &evaluate.Range{}
	r.Key, r.End = b.span(rng)
	if rng.IntN(3) == 0 {
		r.Revision = max(1, head+1-rng.Int64N(min(head+1, []int64{8, 60, 3000}[rng.IntN(3)])))
	}
	if rng.IntN(3) == 0 {
		r.Limit = rng.Int64N(30)
	}
	r.CountOnly, r.KeysOnly = rng.IntN(8) == 0, rng.IntN(6) == 0
	if rng.IntN(5) == 0 {
		r.SortTarget, r.SortOrder = evaluate.SortTarget(rng.IntN(5)), evaluate.SortOrder(rng.IntN(3))
	}
	if rng.IntN(8) == 0 {
		r.MinMod, r.MaxCreate = rng.Int64N(head+1), rng.Int64N(head+1)
	}
	return r
}

// compareRead reads in both ways at the head, which nothing changes any more.
func (b *both) compareRead(rng *rand.Rand, head int64) error {
	r := b.request(rng, head)
	answer := func(reader evaluate.Reader) (evaluate.Result, error) {
		if r.SortTarget == evaluate.SortByKey && r.SortOrder != evaluate.SortDescend && r.MinMod+r.MaxCreate == 0 && rng.IntN(2) == 0 {
			var kvs []*mvccpb.KeyValue
			res, err := evaluate.Stream(context.Background(), reader, head, r, 100, func(chunk []*mvccpb.KeyValue) error {
				kvs = append(kvs, chunk...)
				return nil
			})
			res.KVs = kvs
			return res, err
		}
		return evaluate.Read(context.Background(), reader, head, r)
	}
	compacted := b.store.Compacted()
	got, err := answer(b.through)
	want, wantErr := answer(b.store)
	b.reads.Add(1)
	if errors.Is(err, mvcc.ErrCompacted) != errors.Is(wantErr, mvcc.ErrCompacted) && b.store.Compacted() != compacted {
		return nil // it was compacted between the two
	}
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		return fmt.Errorf("%+v at %d: %w, without the cache %w", r, head, err, wantErr)
	}
	if err != nil {
		return nil
	}
	equal := got.Revision == want.Revision && got.Count == want.Count && got.More == want.More &&
		slices.EqualFunc(got.KVs, want.KVs, func(a, b *mvccpb.KeyValue) bool { return proto.Equal(a, b) })
	if !equal {
		return fmt.Errorf("%+v at %d:\n%v %d %v\nwithout the cache\n%v %d %v", r, head,
			got.KVs, got.Count, got.More, want.KVs, want.Count, want.More)
	}
	return nil
}

// compareWatch has a watch from the same revision at both hubs.
func (b *both) compareWatch() {
	watch := watchcache.Watch{Start: max(1, b.revision-b.rng.Int64N(min(b.revision, []int64{20, 300, 3000}[b.rng.IntN(3)])))}
	watch.Key, watch.End = b.span(b.rng)
	if len(watch.End) > 1 && string(watch.Key) >= string(watch.End) {
		return
	}
	watch.Previous = b.rng.IntN(2) == 0
	watch.NoPut, watch.NoDelete = b.rng.IntN(8) == 0, b.rng.IntN(8) == 0
	got, want := b.follow(b.cached, watch), b.follow(b.plain, watch)
	require.Equal(b.t, want, got, "%+v", watch)
	b.watches.Add(1)
	b.events += int64(len(want))
}

// follow returns everything that a watch is given up to the present.
func (b *both) follow(hub *watchcache.Hub, watch watchcache.Watch) (out []string) {
	s := hub.NewStream()
	defer s.Close()
	_, _, err := s.Add(watch)
	require.NoError(b.t, err)
	s.RequestProgress()
	for {
		var d watchcache.Delivery
		status, err := s.Next(b.t.Context(), &d)
		require.NoError(b.t, err)
		switch {
		case status == watchcache.Idle:
			<-s.Wake()
		case status == watchcache.More:
		case d.Watcher == nil:
			return out
		case d.Compacted != 0:
			return append(out, fmt.Sprintf("compacted %d", d.Compacted))
		default:
			for _, e := range d.Events {
				encoded := e.Wire()
				if watch.Previous {
					encoded, err = hub.WithPrevious(e)
					require.NoError(b.t, err)
				}
				out = append(out, string(encoded))
			}
		}
	}
}

// hits returns how many reads were answered from memory.
func (b *both) counted(name string) (n float64) {
	families, err := b.reg.Gather()
	require.NoError(b.t, err)
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// TestEquality: whether something is in memory or not, clients are told the same.
func TestEquality(t *testing.T) {
	seed := *equalitySeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for name, limits := range map[string]watchcache.Config{
		"roomy": {},
		"short": {HistoryEvents: 60, WindowEvents: 300, WindowBytes: 20_000, PreviousBytes: 1, ChunkEvents: 5},
		"tight": {MaxBytes: 40_000, WindowBytes: 20_000},
		"some":  {HistorySizes: map[string]int{"/registry/pods/": 0, "/registry/events/": 5, "/registry/leases/": 2000}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoth(t, rand.New(rand.NewPCG(seed, 1)), limits)
			defer b.close()
			var stop atomic.Bool
			var readers sync.WaitGroup
			defer readers.Wait()
			defer stop.Store(true)
			for n := range 2 {
				rng := rand.New(rand.NewPCG(seed, uint64(n+2)))
				readers.Go(func() {
					for !stop.Load() {
						if err := b.compareRead(rng, b.m.Closed()); err != nil {
							t.Errorf("seed %d: %v", seed, err)
							return
						}
					}
				})
			}
			for i := range *equalityOps {
				b.write()
				switch n := b.rng.IntN(200); {
				case n < 60:
					require.NoError(t, b.compareRead(b.rng, b.m.Closed()), "seed %d", seed)
				case n < 75:
					b.compareWatch()
				case n == 75 && i > 300:
					rev := b.revision - b.rng.Int64N(300)
					if rev > b.m.Compacted() {
						_, err := b.m.Do(t.Context(), &evaluate.Compact{Revision: rev})
						require.NoError(t, err)
					}
				case n == 76 && b.rng.IntN(3) == 0:
					b.cached.Restored(b.m.Closed())
				}
			}
			stop.Store(true)
			readers.Wait()
			hits, misses := b.counted("pebbledash_watchcache_resource_hits_total"), b.counted("pebbledash_watchcache_resource_misses_total")
			t.Logf("seed %d: %d reads, of which %.0f scans and gets from memory and %.0f from the store; %d watches with %d events",
				seed, b.reads.Load(), hits, misses, b.watches.Load(), b.events)
			require.Greater(t, hits, 0.0)
		})
	}
}
