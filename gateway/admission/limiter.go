package admission

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/route"
)

// The defaults of the flags, which are kube-apiserver's.
const (
	DefaultMaxInflight         = 400
	DefaultMaxMutatingInflight = 200
)

// maxLimit is the most seats that anything has.
const maxLimit = 1 << 20

// defaultMaxWait is how long kube-apiserver's own requests wait at most.
const defaultMaxWait = 15 * time.Second

// Config of a Limiter.
type Config struct {
	// MaxInflight is the number of seats for requests that change nothing,
	// MaxMutatingInflight for those that do; 0 is no limit.
	MaxInflight, MaxMutatingInflight int
	// Resources have limits of their own, on top.
	Resources route.Numbers
	// Prefix is where the resources' keys are; "" is kube-apiserver's default.
	Prefix route.Prefix
	// MaxWait bounds the time that a request waits; 0 is the default.
	MaxWait time.Duration
	// QuotaReached says that the store may not grow: what makes it smaller is
	// exempt then. nil is never.
	QuotaReached func() bool

	Registerer prometheus.Registerer // nil for none
	Clock      clock.Clock           // nil for the real one
}

// ParseResourceLimits reads what bounds single resources: resource#n,
// group/resource#n.
func ParseResourceLimits(text string) (route.Numbers, error) {
	return route.ParseNumbers(text, 1, maxLimit)
}

// reason says what became of a request that had to wait.
type reason uint8

const (
	queueFull reason = iota
	bytesFull
	timeout
	cancelled
	reasons
	admitted
)

// reasonNames are kube-apiserver's.
var reasonNames = [reasons]string{"queue-full", "bytes-full", "time-out", "cancelled"}

// Limiter says who may come in, and when. All methods may be called
// concurrently.
type Limiter struct {
	maxWait       time.Duration
	clock         clock.Clock
	quota         func() bool
	seed          maphash.Seed
	prefix        route.Prefix
	healthKey     string
	leasePrefixes []string
	// gates are those of the classes; nil for one without a limit.
	gates    [classes]*gate
	maxWidth int

	// computing has room for the long lists that are being made.
	computing chan struct{}

	resources atomic.Pointer[map[string]*resource]
	other     *resource
	waits     [classes]prometheus.Observer

	// mu guards additions to resources; nothing is taken after it.
	mu sync.Mutex
}

// New returns a limiter, or an error if a limit is negative, or a resource has two or is
// called "other".
func New(cfg Config) (*Limiter, error) {
	l := &Limiter{
		maxWait: cfg.MaxWait, clock: cfg.Clock, quota: cfg.QuotaReached, seed: maphash.MakeSeed(),
		prefix: cmp.Or(cfg.Prefix, route.DefaultEtcdPrefix),
		other:  &resource{name: other},
	}
	if l.maxWait <= 0 {
		l.maxWait = defaultMaxWait
	}
	if l.clock == nil {
		l.clock = clock.Real{}
	}
	l.healthKey = l.prefix.Join("health")
	l.leasePrefixes = []string{l.prefix.Join("leases") + "/", l.prefix.Join("masterleases") + "/"}
	if cfg.MaxInflight < 0 || cfg.MaxMutatingInflight < 0 {
		return nil, errors.New("admission: a limit must not be negative")
	}
	l.maxWidth = DefaultMaxInflight / 2 / listShare
	if n := cfg.MaxInflight; n > 0 {
		// Lists do not stand in the way of reads of one key.
		lists := max(1, n/2)
		l.gates[Lists] = newGate(Lists.String(), lists, l.clock)
		l.gates[ReadOnly] = newGate(ReadOnly.String(), max(1, n-lists), l.clock)
		l.maxWidth = max(1, lists/listShare)
	}
	if n := cfg.MaxMutatingInflight; n > 0 {
		leases := max(1, n/4)
		l.gates[Leases] = newGate(Leases.String(), leases, l.clock)
		l.gates[Mutating] = newGate(Mutating.String(), max(1, n-leases), l.clock)
	}
	l.computing = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	l.resources.Store(&map[string]*resource{})
	for _, limit := range cfg.Resources {
		path := strings.TrimSuffix(limit.Path, "/")
		if path == other {
			return nil, fmt.Errorf("admission: %q can have no limit of its own: it is what is told apart no more", other)
		}
		if r := l.addResource(path, limit.N); r.gate == nil || r.gate.limit != int64(limit.N) {
			return nil, fmt.Errorf("admission: %s has two limits", path)
		}
	}
	l.register(cfg.Registerer)
	return l, nil
}

func (l *Limiter) quotaReached() bool { return l.quota != nil && l.quota() }

// Visit is a request's time inside. It is made by Arrive, by value, and belongs
// to the one who serves the request.
type Visit struct {
	limiter  *Limiter
	resource *resource
	list     *estimate
	// gates are those that it has to pass, in this order; it has seats at the
	// first entered of them.
	gates   [2]*gate
	seats   [2]int64
	turns   [2]turn
	count   uint8
	entered uint8
	class   Class
	// inside says that it counts as executing.
	inside bool
}

// Arrive says what a request has to pass, and lets it in at once if nobody waits
// and there are seats. Then Inside is true, and Leave must be called. Otherwise
// Wait must be called.
func (l *Limiter) Arrive(method string, req any) Visit {
	c := l.classify(method, req)
	v := Visit{limiter: l, class: c.class, resource: l.other}
	if c.key != nil {
		v.resource = l.resourceOf(c.key)
	}
	if c.list != nil {
		v.list = l.estimateOf(c.key, v.resource)
	}
	if c.class != Exempt {
		width := l.widthOf(&c, v.resource)
		v.pass(v.resource.gate, width)
		v.pass(l.gates[c.class], width)
	}
	for v.entered < v.count && v.gates[v.entered].tryEnter(v.seats[v.entered]) {
		v.entered++
	}
	if v.entered == v.count {
		v.begin()
	}
	return v
}

func (v *Visit) pass(g *gate, width int) {
	if g != nil {
		v.gates[v.count], v.seats[v.count] = g, g.seats(width)
		v.count++
	}
}

// Inside says whether the request may be served.
func (v *Visit) Inside() bool { return v.inside }

// IsList says whether the request is a list, whose answer Learn wants to know of.
func (v *Visit) IsList() bool { return v.list != nil }

// width is how many seats it takes.
func (v *Visit) width() int {
	if v.count == 0 {
		return 1
	}
	return int(v.seats[v.count-1])
}

// begin counts the request as executing.
func (v *Visit) begin() {
	v.inside = true
	n := &v.resource.counts[v.class]
	n.executing.Add(1)
	n.seats.Add(int64(v.width()))
	n.dispatched.Add(1)
}

// Leave gives the seats back. It may be called more than once, but not
// concurrently.
func (v *Visit) Leave() {
	if v.inside {
		v.inside = false
		n := &v.resource.counts[v.class]
		n.executing.Add(-1)
		n.seats.Add(-int64(v.width()))
	}
	for v.entered > 0 {
		v.entered--
		v.gates[v.entered].leave(v.seats[v.entered], v.turns[v.entered])
	}
}

// Long says whether it is a list that takes long enough to stand in others' way.
func (v *Visit) Long() bool { return v.list != nil && v.count > 0 && v.seats[v.count-1] > 1 }

// Compute waits until a long list may use a processor: half of them are for lists,
// so that there is always one for what must not wait. Rest ends it; a list rests
// while it is sent. An error is ctx's, and leaves nothing to end.
// REQUIRES: Long.
func (v *Visit) Compute(ctx context.Context) error {
	select {
	case v.limiter.computing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Rest ends what Compute has begun.
func (v *Visit) Rest() { <-v.limiter.computing }

// Learn tells what a list has returned: keys in its range, and the bytes of the
// answer's keys and values.
func (v *Visit) Learn(keys, sent, sentBytes int64) {
	if v.list != nil {
		v.list.learn(keys, sent, sentBytes)
	}
}

// Wait returns nil when it is the request's turn: then Leave must be called. If that
// does not come within the bounds, the error says what to answer. ctx is the
// request's, and says who sent it.
func (v *Visit) Wait(ctx context.Context, req any) error {
	l := v.limiter
	n := &v.resource.counts[v.class]
	n.waiting.Add(1)
	began := l.clock.Now()
	a := arrival{resource: v.resource.name, client: clientOf(ctx)}
	a.flow = l.flowOf(a.resource, a.client)
	if m, ok := req.(proto.Message); ok {
		a.bytes = int64(proto.Size(m))
	}
	why := admitted
	for patience := l.maxWait; v.entered < v.count; patience = l.maxWait - l.clock.Since(began) {
		i := v.entered
		if !v.gates[i].tryEnter(v.seats[i]) {
			if v.turns[i], why = v.gates[i].wait(ctx, &a, v.seats[i], patience); why != admitted {
				break
			}
		}
		v.entered++
	}
	n.waiting.Add(-1)
	if l.waits[v.class] != nil {
		l.waits[v.class].Observe(l.clock.Since(began).Seconds())
	}
	if why == admitted {
		v.begin()
		return nil
	}
	v.Leave()
	n.rejected[why].Add(1)
	if why == cancelled {
		return ctx.Err()
	}
	return rpctypes.ErrGRPCRequestTooManyRequests
}
