package admission

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

func newLimiter(t *testing.T, cfg Config) *Limiter {
	t.Helper()
	l, err := New(cfg)
	require.NoError(t, err)
	// Whatever a test does, nobody is inside when it is over.
	t.Cleanup(func() {
		for _, g := range l.allGates() {
			require.Zero(t, g.state.Load(), g.name)
			require.Zero(t, g.waitingBytes.Load(), g.name)
			require.Nil(t, g.fair.first(), g.name)
			for i := range g.fair.all {
				require.Zero(t, g.fair.all[i].executing, g.name)
				require.Zero(t, g.fair.all[i].seats, g.name)
			}
		}
		for _, r := range l.all() {
			for c := range r.counts {
				require.Zero(t, r.counts[c].executing.Load(), r.name)
				require.Zero(t, r.counts[c].seats.Load(), r.name)
				require.Zero(t, r.counts[c].waiting.Load(), r.name)
			}
		}
	})
	return l
}

// pass lets time pass; in a bubble it takes none.
func pass(d time.Duration) { <-clock.Real{}.After(d) }

// serve is what the gateway does with a request.
func serve(ctx context.Context, l *Limiter, req any, run func()) error {
	v := l.Arrive("", req)
	if !v.Inside() {
		if err := v.Wait(ctx, req); err != nil {
			return err
		}
	}
	defer v.Leave()
	run()
	return nil
}

func from(ctx context.Context, address string) context.Context {
	return peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}})
}

func put(key string) *pb.PutRequest   { return &pb.PutRequest{Key: []byte(key)} }
func get(key string) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte(key)} }
func all(prefix string) *pb.RangeRequest {
	end := []byte(prefix)
	end[len(end)-1]++
	return &pb.RangeRequest{Key: []byte(prefix), RangeEnd: end}
}

func txn(key string, ops ...*pb.RequestOp) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte(key)}}, Success: ops}
}

func putOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put(key)}}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func deleteOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}}}
}

const leaseKey = "/registry/leases/kube-node-lease/a"

func TestClasses(t *testing.T) {
	quota := false
	l := newLimiter(t, Config{QuotaReached: func() bool { return quota }})
	for _, c := range []struct {
		req         any
		class, full Class
	}{
		{get("/registry/health"), Exempt, Exempt},
		{get("health"), Exempt, Exempt},
		{get("/registry/healthy"), ReadOnly, ReadOnly},
		{all("/registry/health"), Lists, Lists},
		{&healthpb.HealthCheckRequest{}, Exempt, Exempt},
		{&pb.StatusRequest{}, Exempt, Exempt},
		{&pb.MemberListRequest{}, Exempt, Exempt},
		{&pb.LeaseRevokeRequest{}, Exempt, Exempt},
		{&pb.LeaseGrantRequest{}, Mutating, Mutating},
		{&pb.LeaseLeasesRequest{}, ReadOnly, ReadOnly},
		{&pb.HashKVRequest{}, ReadOnly, ReadOnly},

		{get("/registry/pods/a"), ReadOnly, ReadOnly},
		{all("/registry/pods/"), Lists, Lists},
		{put("/registry/pods/a"), Mutating, Mutating},
		{&pb.CompactionRequest{}, Mutating, Exempt},
		{&pb.DeleteRangeRequest{Key: []byte("/registry/pods/a")}, Mutating, Exempt},

		{get(leaseKey), Leases, Leases},
		{put(leaseKey), Leases, Leases},
		{put("/registry/masterleases/a"), Leases, Leases},
		{all("/registry/leases/"), Lists, Lists},
		{txn(leaseKey, putOp(leaseKey)), Leases, Leases},
		{txn(leaseKey, rangeOp(get(leaseKey))), Leases, Leases},
		{put("/registry/leasesx/a"), Mutating, Mutating},

		{txn("/registry/pods/a", putOp("/registry/pods/a")), Mutating, Mutating},
		{txn("/registry/pods/a", rangeOp(get("/registry/pods/a"))), ReadOnly, ReadOnly},
		{txn("/registry/pods/a", rangeOp(all("/registry/pods/"))), Lists, Lists},
		{txn("/registry/pods/a", deleteOp("/registry/pods/a"), rangeOp(get("/registry/pods/a"))), Mutating, Exempt},
		{txn("/registry/pods/a", deleteOp("/registry/pods/a"), putOp("/registry/pods/b")), Mutating, Mutating},
		{&pb.TxnRequest{}, ReadOnly, ReadOnly},
	} {
		quota = false
		call := l.classify("", c.req)
		require.Equal(t, c.class, call.class, "%T %v", c.req, c.req)
		quota = true
		call = l.classify("", c.req)
		require.Equal(t, c.full, call.class, "%T %v, when the quota is reached", c.req, c.req)
	}
}

func TestResources(t *testing.T) {
	l := newLimiter(t, Config{})
	for key, want := range map[string]string{
		"/registry/pods/default/a":                           "pods",
		"/registry/pods/":                                    "pods",
		"/registry/pods":                                     "pods",
		"/registry/podtemplates/a":                           "podtemplates",
		"/registry/services/specs/default/a":                 "services/specs",
		"/registry/services/endpoints/":                      "services/endpoints",
		"/registry/example.com/widgets/default/a":            "example.com/widgets",
		"/registry/apiextensions.k8s.io/x":                   "apiextensions.k8s.io/x",
		"/registry/":                                         other,
		"/registry":                                          other,
		"/elsewhere/pods/a":                                  other,
		"/registry/\xff/a":                                   other,
		"/registry/A/a":                                      other,
		"/registry/" + strings.Repeat("a", 200) + "/default": other,
	} {
		require.Equal(t, want, l.resourceOf([]byte(key)).name, key)
	}
	for i := range 2 * maxResources {
		l.resourceOf(fmt.Appendf(nil, "/registry/r%d/a", i))
	}
	require.Len(t, *l.resources.Load(), maxResources)
	require.Equal(t, other, l.resourceOf([]byte("/registry/one-more/a")).name)
	require.Equal(t, "pods", l.resourceOf([]byte("/registry/pods/a")).name)

	root, err := New(Config{Prefix: "/"})
	require.NoError(t, err)
	require.Equal(t, "pods", root.resourceOf([]byte("/pods/a")).name)
	require.True(t, root.isHealth([]byte("/health")))
}

func TestParseResourceLimits(t *testing.T) {
	for _, text := range []string{"events#0", "events#-1", "events#1048577"} {
		_, err := ParseResourceLimits(text)
		require.ErrorContains(t, err, "must be a number between 1 and 1048576", text)
	}
}

// However many come, no more are inside than there are seats.
func TestLimitsHold(t *testing.T) {
	limits, err := ParseResourceLimits("events#3,nodes#2")
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{MaxInflight: 12, MaxMutatingInflight: 16, Resources: limits})
		var inside, most [8]atomic.Int64
		want := [8]int64{3, 2, 12, 4, 6, 6}
		reqs := [8]any{
			put("/registry/events/a"), get("/registry/minions/a"), put("/registry/pods/a"),
			put(leaseKey), get("/registry/pods/a"), all("/registry/small/"),
		}
		l.resourceOf([]byte("/registry/small/")).whole.learn(1, 1, 1)
		var all sync.WaitGroup
		for i := range 6 {
			for range 100 {
				all.Go(func() {
					require.NoError(t, serve(t.Context(), l, reqs[i], func() {
						n := inside[i].Add(1)
						for old := most[i].Load(); n > old && !most[i].CompareAndSwap(old, n); old = most[i].Load() {
						}
						pass(time.Duration(1+rand.IntN(5)) * time.Millisecond)
						inside[i].Add(-1)
					}))
				})
			}
		}
		all.Wait()
		for i := range 6 {
			// Events and pods share the seats of their class.
			require.LessOrEqual(t, most[i].Load(), want[i], "%T", reqs[i])
			require.GreaterOrEqual(t, most[i].Load(), min(want[i], 3)-1, "seats were left empty: %v", reqs[i])
		}
	})
}

// A client that sends one request at a time waits for a few of a flood's, not for
// all.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{MaxInflight: 1, MaxMutatingInflight: 8, MaxWait: time.Hour})
		const took = 10 * time.Millisecond
		var flood, polite atomic.Int64
		var stop atomic.Bool
		var all sync.WaitGroup
		for range 600 {
			all.Go(func() {
				for !stop.Load() {
					require.NoError(t, serve(from(t.Context(), "192.0.2.1"), l, put("/registry/pods/a"), func() {
						pass(took)
						flood.Add(1)
					}))
				}
			})
		}
		synctest.Wait()
		var longest time.Duration
		for range 50 {
			began := clock.Real{}.Now()
			require.NoError(t, serve(from(t.Context(), "192.0.2.2"), l, put("/registry/pods/a"), func() { pass(took) }))
			longest = max(longest, time.Since(began))
			polite.Add(1)
		}
		stop.Store(true)
		all.Wait()
		// In one line the wait would be 600/6 times the time of a request.
		require.LessOrEqual(t, longest, 8*took)
		require.Greater(t, flood.Load(), 4*polite.Load())
	})
}

// apart returns two clients whose requests about a resource have no queue in common.
func apart(ctx context.Context, l *Limiter, resource string) [2]context.Context {
	hand := func(ctx context.Context) (mask uint64) {
		dealer.Deal(l.flowOf(resource, clientOf(ctx)), func(i int) { mask |= 1 << i })
		return mask
	}
	first := from(ctx, "192.0.2.0")
	for i := 1; ; i++ {
		if other := from(ctx, fmt.Sprintf("192.0.2.%d", i)); hand(first)&hand(other) == 0 {
			return [2]context.Context{first, other}
		}
	}
}

// Two clients that want all they can get share seats times time, not requests.
func TestFairTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{MaxMutatingInflight: 8, MaxWait: time.Hour})
		clients := apart(t.Context(), l, "pods")
		var had [2]atomic.Int64
		var all sync.WaitGroup
		began := clock.Real{}.Now()
		for i, took := range []time.Duration{time.Millisecond, 20 * time.Millisecond} {
			for range 300 {
				all.Go(func() {
					for time.Since(began) < 10*time.Second {
						require.NoError(t, serve(clients[i], l, put("/registry/pods/a"), func() {
							pass(took)
							if time.Since(began) < 10*time.Second { // Those who still wait then are served, too.
								had[i].Add(int64(took))
							}
						}))
					}
				})
			}
		}
		all.Wait()
		require.InEpsilon(t, had[0].Load(), had[1].Load(), 0.1)
	})
}

// fill takes all seats, of reads and writes alike, until the returned function is
// called.
func fill(t *testing.T, l *Limiter) (release func()) {
	t.Helper()
	var visits []Visit
	for _, req := range []any{put("/registry/pods/a"), get("/registry/pods/a"), all("/registry/pods/"), put(leaseKey)} {
		for {
			v := l.Arrive("", req)
			if !v.Inside() {
				break
			}
			visits = append(visits, v)
		}
	}
	return func() {
		for i := range visits {
			visits[i].Leave()
		}
	}
}

func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{MaxInflight: 8, MaxMutatingInflight: 8, MaxWait: time.Second})
		release := fill(t, l)
		began := clock.Real{}.Now()
		err := serve(t.Context(), l, put("/registry/pods/a"), func() { t.Error("it came in") })
		require.ErrorIs(t, err, rpctypes.ErrGRPCRequestTooManyRequests)
		require.Equal(t, time.Second, time.Since(began))

		// The client's own patience ends first.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		err = serve(ctx, l, put("/registry/pods/a"), func() { t.Error("it came in") })
		require.ErrorIs(t, err, context.DeadlineExceeded)

		// There is room for so many, and not for more.
		const many = handSize * queueLength
		var refused atomic.Int64
		var all sync.WaitGroup
		for range many + 100 {
			all.Go(func() {
				began := clock.Real{}.Now()
				err := serve(t.Context(), l, put("/registry/pods/a"), func() {})
				if time.Since(began) == 0 && errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests) {
					refused.Add(1)
				}
			})
		}
		all.Wait()
		require.Equal(t, int64(100), refused.Load())

		// Large ones do not wait by the thousand.
		big := put("/registry/pods/a")
		big.Value = make([]byte, maxWaitingBytes/2)
		for range 3 {
			all.Go(func() {
				began := clock.Real{}.Now()
				if err := serve(t.Context(), l, big, func() {}); time.Since(began) == 0 && err != nil {
					refused.Add(1)
				}
			})
		}
		all.Wait()
		require.Equal(t, int64(102), refused.Load())
		release()
	})
}

// What must always come in does, when everything is full and the queues, too.
func TestExempt(t *testing.T) {
	l := newLimiter(t, Config{MaxInflight: 4, MaxMutatingInflight: 4})
	defer fill(t, l)()
	for _, req := range []any{
		get("/registry/health"), get("health"), &healthpb.HealthCheckRequest{}, &pb.StatusRequest{},
		&pb.MemberListRequest{}, &pb.LeaseRevokeRequest{},
	} {
		v := l.Arrive("", req)
		require.True(t, v.Inside(), "%T", req)
		v.Leave()
	}
}

// Storms of other classes leave the leases' seats alone.
func TestLeasesHaveSeatsOfTheirOwn(t *testing.T) {
	l := newLimiter(t, Config{MaxInflight: 20, MaxMutatingInflight: 10})
	var visits []Visit
	for _, req := range []any{put("/registry/events/a"), get("/registry/pods/a"), all("/registry/pods/")} {
		for v := l.Arrive("", req); v.Inside(); v = l.Arrive("", req) {
			visits = append(visits, v)
		}
	}
	for range 2 {
		v := l.Arrive("", txn(leaseKey, putOp(leaseKey)))
		require.True(t, v.Inside())
		visits = append(visits, v)
	}
	v := l.Arrive("", txn(leaseKey, putOp(leaseKey)))
	require.False(t, v.Inside())
	for i := range visits {
		visits[i].Leave()
	}
}

// Once somebody waits, nobody comes in directly, though there are seats.
func TestNoOvertaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{MaxInflight: 80})
		require.Equal(t, 10, l.maxWidth)
		l.resourceOf([]byte("/registry/pods/")).whole.learn(1000, 1000, 1<<30) // as wide as can be
		l.resourceOf([]byte("/registry/nodes/")).whole.learn(1, 1, 1)
		wide, narrow := all("/registry/pods/"), all("/registry/nodes/")
		var inside []Visit
		for range 3 {
			inside = append(inside, l.Arrive("", wide))
		}
		for range 5 {
			inside = append(inside, l.Arrive("", narrow))
		}
		for i := range inside {
			require.True(t, inside[i].Inside())
		}
		var mu sync.Mutex // guards order
		var order []string
		var waiting sync.WaitGroup
		arrive := func(name string, req any) {
			waiting.Go(func() {
				require.NoError(t, serve(t.Context(), l, req, func() {
					mu.Lock()
					defer mu.Unlock()
					order = append(order, name)
				}))
			})
			synctest.Wait()
		}
		arrive("wide", wide) // It needs ten seats, and there are five.
		arrive("narrow", narrow)
		require.Empty(t, order)
		inside[3].Leave()
		synctest.Wait()
		require.Empty(t, order)
		for i := range inside {
			inside[i].Leave()
		}
		waiting.Wait()
		require.ElementsMatch(t, []string{"wide", "narrow"}, order)
	})
}

// One that gives up makes room for those behind it.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{MaxInflight: 80})
		l.resourceOf([]byte("/registry/pods/")).whole.learn(1000, 1000, 1<<30)
		l.resourceOf([]byte("/registry/nodes/")).whole.learn(1, 1, 1)
		var inside []Visit
		for range 35 { // of forty
			inside = append(inside, l.Arrive("", all("/registry/nodes/")))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		waiting.Go(func() {
			require.ErrorIs(t, serve(ctx, l, all("/registry/pods/"), func() {}), context.Canceled)
		})
		synctest.Wait()
		came := false
		waiting.Go(func() {
			require.NoError(t, serve(t.Context(), l, all("/registry/nodes/"), func() { came = true }))
		})
		synctest.Wait()
		require.False(t, came)
		cancel()
		synctest.Wait()
		require.True(t, came)
		waiting.Wait()
		for i := range inside {
			inside[i].Leave()
		}
	})
}

// Seats come back, however a request ends.
func TestSeatsComeBack(t *testing.T) {
	limits, err := ParseResourceLimits("pods#2")
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{MaxInflight: 4, MaxMutatingInflight: 4, Resources: limits, MaxWait: 50 * time.Millisecond})
		var all sync.WaitGroup
		for i := range 400 {
			all.Go(func() {
				defer func() { _ = recover() }()
				random := rand.New(rand.NewPCG(1, uint64(i)))
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(100))*time.Millisecond)
				defer cancel()
				key := []string{"/registry/pods/a", "/registry/events/a"}[random.IntN(2)]
				_ = serve(ctx, l, put(key), func() {
					pass(time.Duration(random.IntN(10)) * time.Millisecond)
					if random.IntN(3) == 0 {
						panic("as if the handler had")
					}
				})
			})
		}
		all.Wait() // newLimiter looks.
	})
}

// The same with real goroutines, for the race detector.
func TestRandom(t *testing.T) {
	limits, err := ParseResourceLimits("pods#3")
	require.NoError(t, err)
	l := newLimiter(t, Config{MaxInflight: 6, MaxMutatingInflight: 6, Resources: limits})
	var inside, served atomic.Int64
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(2, uint64(i)))
			for range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(2000))*time.Microsecond)
				_ = serve(from(ctx, fmt.Sprintf("192.0.2.%d", i%4)), l, put("/registry/pods/a"), func() {
					if n := inside.Add(1); n > 3 {
						t.Errorf("%d are inside", n)
					}
					served.Add(1)
					inside.Add(-1)
				})
				cancel()
			}
		})
	}
	all.Wait()
	require.Positive(t, served.Load())
}

func TestWidth(t *testing.T) {
	l := newLimiter(t, Config{MaxInflight: 400})
	require.Equal(t, 50, l.maxWidth)
	width := func(r *pb.RangeRequest) int {
		v := l.Arrive("", r)
		require.True(t, v.Inside())
		defer v.Leave()
		return v.width()
	}
	pods := all("/registry/pods/")
	page := &pb.RangeRequest{Key: pods.Key, RangeEnd: pods.RangeEnd, Limit: 500}
	count := &pb.RangeRequest{Key: pods.Key, RangeEnd: pods.RangeEnd, CountOnly: true}
	keys := &pb.RangeRequest{Key: pods.Key, RangeEnd: pods.RangeEnd, KeysOnly: true}
	part := all("/registry/pods/default/")
	require.Equal(t, unknownSeats, width(pods))
	require.Equal(t, 2, width(page))

	v := l.Arrive("", pods)
	v.Learn(10_000, 10_000, 10_000<<10)
	v.Leave()
	require.Equal(t, 1+10_000<<10/seatBytes, width(pods)) // ten megabytes
	require.Equal(t, 2, width(page))
	require.Equal(t, 2, width(count))
	require.Equal(t, 5, width(keys))
	require.Equal(t, unknownSeats, width(part)) // another matter

	v = l.Arrive("", pods)
	v.Learn(1_000_000, 10_000, 10_000<<10)
	v.Leave()
	require.Equal(t, 50, width(pods)) // the most
	for range 60 {
		v = l.Arrive("", pods)
		v.Learn(1, 1, 100)
		v.Leave()
	}
	require.Equal(t, 1, width(pods))
	require.Equal(t, 1, width(get("/registry/pods/a")))
}

func TestNameOf(t *testing.T) {
	require.Equal(t, "192.0.2.7", nameOf(clientOf(from(t.Context(), "192.0.2.7"))))
	require.Empty(t, nameOf(clientOf(t.Context())))
	require.Empty(t, nameOf(&peer.Peer{}))
	require.Equal(t, "@", nameOf(&peer.Peer{Addr: &net.UnixAddr{Name: "@"}}))

	// Flows that people can tell apart are apart, whatever port they call from.
	l := newLimiter(t, Config{})
	seen := map[uint64]string{}
	for _, address := range []net.Addr{
		&net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 1}, &net.TCPAddr{IP: net.ParseIP("192.0.2.8"), Port: 1},
		&net.UnixAddr{Name: "@"}, nil,
	} {
		for _, resource := range []string{"pods", "events"} {
			p := &peer.Peer{Addr: address}
			flow := l.flowOf(resource, p)
			require.NotContains(t, seen, flow)
			seen[flow] = resource + nameOf(p)
		}
	}
	require.Contains(t, seen, l.flowOf("pods", &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 2}}))
	require.Contains(t, seen, l.flowOf("pods", nil))
}

func TestMetricsAndDump(t *testing.T) {
	reg := prometheus.NewRegistry()
	limits, err := ParseResourceLimits("events#1")
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{MaxInflight: 8, MaxMutatingInflight: 8, Resources: limits, Registerer: reg, MaxWait: time.Minute})
		v := l.Arrive("", put("/registry/events/a"))
		require.True(t, v.Inside())
		var waiting sync.WaitGroup
		waiting.Go(func() {
			require.NoError(t, serve(from(t.Context(), "192.0.2.9"), l, put("/registry/events/b"), func() {}))
		})
		synctest.Wait()
		require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP pebbledash_current_inflight_requests Requests that are executed now, by kind.
# TYPE pebbledash_current_inflight_requests gauge
pebbledash_current_inflight_requests{request_kind="mutating"} 1
pebbledash_current_inflight_requests{request_kind="readOnly"} 0
# HELP pebbledash_flowcontrol_current_inqueue_requests Requests that wait for seats now.
# TYPE pebbledash_flowcontrol_current_inqueue_requests gauge
pebbledash_flowcontrol_current_inqueue_requests{priority_level="mutating",resource="events"} 1
`), "pebbledash_current_inflight_requests", "pebbledash_flowcontrol_current_inqueue_requests"))
		answer := httptest.NewRecorder()
		l.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/debug/flowcontrol/", nil))
		require.Contains(t, answer.Body.String(), "resource events")
		require.Contains(t, answer.Body.String(), "192.0.2.9")
		v.Leave()
		waiting.Wait()
	})
}

func BenchmarkUncontended(b *testing.B) {
	l, err := New(Config{MaxInflight: 400, MaxMutatingInflight: 200})
	require.NoError(b, err)
	key := "/registry/pods/default/a"
	for name, req := range map[string]any{"get": get(key), "txn": txn(key, putOp(key)), "list": all("/registry/pods/")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				v := l.Arrive(pb.KV_Txn_FullMethodName, req)
				v.Leave()
			}
		})
	}
}

// Twice as many as there are seats, all of one client.
func BenchmarkContended(b *testing.B) {
	l, err := New(Config{MaxMutatingInflight: 4})
	require.NoError(b, err)
	ctx := from(b.Context(), "192.0.2.1")
	req := put("/registry/pods/default/a")
	b.ReportAllocs()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = serve(ctx, l, req, func() {})
		}
	})
}

// TestResourceCalledOther: a resource can have the name of what is not told apart.
func TestResourceCalledOther(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := newLimiter(t, Config{Registerer: reg, Prefix: "/registry"})
	for _, key := range []string{"/registry/other/a", "elsewhere"} {
		require.NoError(t, serve(t.Context(), l, &pb.PutRequest{Key: []byte(key)}, func() {}))
	}
	_, err := reg.Gather()
	require.NoError(t, err)
	limits, err := ParseResourceLimits("other#3")
	require.NoError(t, err)
	_, err = New(Config{Resources: limits})
	require.ErrorContains(t, err, "\"other\" can have no limit of its own")
}

// TestAnyLimit: a list's limit can be any number, and takes no fewer seats for that.
func TestAnyLimit(t *testing.T) {
	var e estimate
	for _, limit := range []int64{math.MaxInt64, math.MaxInt64 / 2, 1 << 53} {
		require.Greater(t, e.width(&pb.RangeRequest{Limit: limit}), unknownSeats, limit)
	}
	require.Equal(t, unknownSeats, e.width(&pb.RangeRequest{Limit: -1}))
}
