package reign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/keyspace"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
	"github.com/pebbledash/pebbledash/storage/route"
)

// keys are one of each group, in the groups' order.
var keys = []string{"core", "/registry/events/e", "/registry/leases/l", "/registry/pods/p"}

// gate holds up the syncs of the log's database while it is closed.
type gate struct {
	closed  atomic.Bool
	tokens  chan struct{}
	waiting atomic.Int32
	// syncs counts those that went through; synced, if not nil, is called before each.
	syncs  atomic.Int64
	synced func()
}

// MaybeError implements errorfs.Injector.
func (g *gate) MaybeError(op errorfs.Op) error {
	sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
	if !sync || filepath.Ext(op.Path) != ".log" || filepath.Dir(op.Path) != "log" {
		return nil
	}
	if g.synced != nil {
		g.synced()
	}
	if g.closed.Load() {
		g.waiting.Add(1)
		<-g.tokens
		g.waiting.Add(-1)
	}
	g.syncs.Add(1)
	return nil
}

// String implements errorfs.Injector.
func (g *gate) String() string { return "a gate before the log" }

// open lets everything through from now on.
func (g *gate) open() {
	g.closed.Store(false)
	for g.waiting.Load() > 0 {
		select {
		case g.tokens <- struct{}{}:
		default:
			runtime.Gosched()
		}
	}
}

// leases are those that core has applied, and the groups that take part in them.
type leases struct {
	mu     sync.Mutex // guards the fields below
	there  map[int64]bool
	joined map[int64][]mvcc.GroupID
}

func (l *leases) load(t *testing.T, core *mvcc.Store) {
	t.Helper()
	l.there, l.joined = map[int64]bool{}, map[int64][]mvcc.GroupID{}
	require.NoError(t, core.Leases(func(id, _, _ int64) { l.there[id] = true }))
	require.NoError(t, core.Joins(func(id int64, g mvcc.GroupID) { l.joined[id] = append(l.joined[id], g) }))
}

func (l *leases) applied(changes []mvcc.LeaseChange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range changes {
		switch c.Kind {
		case mvcc.LeaseGranted:
			l.there[c.ID] = true
		case mvcc.LeaseRevoked:
			delete(l.there, c.ID)
		case mvcc.LeaseJoined:
			l.joined[c.ID] = append(slices.Clone(l.joined[c.ID]), c.Group)
		case mvcc.LeaseLeft:
			l.joined[c.ID] = slices.DeleteFunc(slices.Clone(l.joined[c.ID]), func(g mvcc.GroupID) bool { return g == c.Group })
		case mvcc.LeaseCheckpointed:
		}
	}
}

// Exists implements evaluate.Leases.
func (l *leases) Exists(id int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.there[id]
}

// Joined implements evaluate.Leases.
func (l *leases) Joined(id int64, g mvcc.GroupID) bool { return slices.Contains(l.Groups(id), g) }

// Groups implements evaluate.Leases.
func (l *leases) Groups(id int64) []mvcc.GroupID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.joined[id]
}

// rig are four groups of one voter each, and a Reign over them. The test says when
// this member reigns.
type rig struct {
	*Reign
	t       *testing.T
	fs      *engine.MemFS
	gate    *gate
	routes  *route.Table
	logs    *engine.DB
	state   *engine.DB
	writer  *group.LogWriter
	space   *keyspace.Space
	line    *revline.Line
	leases  *leases
	stores  []*mvcc.Store
	members []*group.Group
	// leads is closed when this member leads all groups.
	leads    chan struct{}
	leading  atomic.Int32
	begun    atomic.Uint64
	begins   atomic.Int64
	ends     atomic.Int64
	deferred atomic.Pointer[[]func()]
	clock    *clock.Manual
	progress [4]atomic.Pointer[mvcc.Applied] // of the stores, for every goroutine
}

// applied returns how far the log of the group at a place has been applied.
func (r *rig) applied(place int) mvcc.Applied { return *r.progress[place].Load() }

// saw notes it. For the goroutine that applies.
func (r *rig) saw(place int) {
	applied := r.stores[place].Applied()
	r.progress[place].Store(&applied)
}

// observer is a rig as its group at a place sees it.
type observer struct {
	r     *rig
	place int
}

// Applied implements group.Observer.
func (o observer) Applied(_ uint64, out *mvcc.Outcome) {
	o.r.saw(o.place)
	if o.place == 0 {
		o.r.leases.applied(out.Leases)
	}
}

// Restoring implements group.Observer.
func (o observer) Restoring(int64) {}

// Restored implements group.Observer.
func (o observer) Restored(mvcc.Applied) {}

// Leads implements group.Observer.
func (o observer) Leads(uint64) {
	if o.r.leading.Add(1) == int32(len(o.r.stores)) {
		close(o.r.leads)
	}
}

// Fenced implements group.Observer.
func (o observer) Fenced(epoch, part uint64) {
	o.r.saw(o.place)
	o.r.Fenced(o.place, epoch, part)
}

// Changed implements group.Observer.
func (o observer) Changed() {}

// Configured implements group.Observer.
func (o observer) Configured() {}

// newRig opens the groups on fs, which may have them already. The test closes it.
func newRig(t *testing.T, fs *engine.MemFS) *rig {
	t.Helper()
	routes, err := route.Parse(route.DefaultResourceGroups, "/registry")
	require.NoError(t, err)
	r := &rig{
		t: t, fs: fs, routes: routes, gate: &gate{tokens: make(chan struct{})}, leases: &leases{},
		leads: make(chan struct{}), clock: clock.NewManual(time.Unix(0, 0)),
	}
	fatal := func(err error) { t.Errorf("fatal: %v", err) }
	open := func(dir string) *engine.DB {
		db, err := engine.Open(engine.Config{
			Dir: dir, FS: engine.WrapFaulty(fs, r.gate), Log: dir == "log", CacheBytes: 1 << 20, MemTableBytes: 4 << 20,
			Logger: slog.New(slog.DiscardHandler), Fatal: fatal,
		})
		require.NoError(t, err)
		return db
	}
	r.logs, r.state = open("log"), open("state")
	r.openGroups(fatal)
	for _, g := range r.members {
		g.Start()
	}
	<-r.leads
	return r
}

func (r *rig) openGroups(fatal func(error)) {
	t := r.t
	var logs []*group.Log
	cfg := revline.Config{}
	byID := map[mvcc.GroupID]*mvcc.Store{}
	for _, g := range r.routes.Groups() {
		store, err := mvcc.Open(r.state, g.ID)
		require.NoError(t, err)
		log, err := group.OpenLog(r.logs, g.ID)
		require.NoError(t, err)
		require.NoError(t, group.Bootstrap(log, store, []uint64{1}, nil, r.state.Flush))
		closed, err := store.Closed()
		require.NoError(t, err)
		cfg.Groups, cfg.Applied = append(cfg.Groups, g.ID), append(cfg.Applied, store.Applied())
		cfg.Closed = max(cfg.Closed, closed)
		byID[g.ID] = store
		r.stores, logs = append(r.stores, store), append(logs, log)
	}
	r.space = keyspace.New(r.routes, byID)
	r.line = revline.New(cfg)
	r.leases.load(t, r.stores[0])
	r.writer = group.NewLogWriter(r.logs, nil, nil)
	var crossing *evaluate.Crossing
	crossing = evaluate.NewCrossing(evaluate.CrossingConfig{
		Space: r.space, Route: r.routes.Of, Leases: r.leases, MinTTL: 1,
		Next:     func() int64 { return max(r.line.NextCrossing(), crossing.Head()+1) },
		GiveBack: r.line.GiveBackCrossing, Present: r.line.Present,
	})
	r.Reign = New(Config{
		Line: r.line, Core: r.stores[0], Crossing: crossing, Needs: r.needs, Logger: slog.New(slog.DiscardHandler),
		Begun: func(epoch uint64) { r.begun.Store(epoch); r.begins.Add(1) },
		Ended: func() { r.begun.Store(0); r.ends.Add(1) },
		Fatal: fatal,
		Go: func(f func()) {
			if held := r.deferred.Load(); held != nil {
				more := append(slices.Clone(*held), f)
				r.deferred.Store(&more)
				return
			}
			go f()
		},
	})
	for i, g := range r.routes.Groups() {
		r.saw(i)
		member, err := group.Open(group.Config{
			ID: g.ID, Replica: 1, Log: logs[i], Writer: r.writer, Store: r.stores[i], Line: r.line,
			Leases: r.leases, MinTTL: 1, Observer: observer{r, i},
			Confirm: func(answer func(error)) { r.members[0].Confirm(answer) },
			Sole:    func() bool { return r.members[0].Sole() },
			Clock:   r.clock, Tick: 100 * time.Millisecond, ElectionTicks: 10,
			Logger: slog.New(slog.DiscardHandler), Fatal: fatal,
		})
		require.NoError(t, err)
		r.members = append(r.members, member)
	}
	r.Start(r.members)
}

// needs returns the groups that a request touches.
func (r *rig) needs(op evaluate.Op) revline.Mask {
	mask := revline.Mask(evaluate.Needs(op, r.routes) >> mvcc.CoreGroup)
	if op, ok := op.(*evaluate.LeaseRevoke); ok {
		for _, g := range r.leases.Groups(op.ID) {
			mask |= 1 << (g - mvcc.CoreGroup)
		}
	}
	return mask
}

// lead begins a reign, of a greater epoch than every one before.
func (r *rig) lead() uint64 {
	var epoch uint64
	for place := range r.stores {
		epoch = max(epoch, r.applied(place).Epoch)
	}
	r.mu.Lock()
	epoch = max(epoch, r.epoch)
	r.mu.Unlock()
	r.Lead(epoch + 1)
	return epoch + 1
}

// begin begins a reign and waits until it has.
func (r *rig) begin() uint64 {
	epoch := r.lead()
	r.until(func() bool { return r.begun.Load() == epoch })
	return epoch
}

// until waits until done says so. While the gate is closed it lets one sync after
// another through.
func (r *rig) until(done func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for !done() {
		require.NoError(r.t, ctx.Err(), "it does not happen")
		r.settle(done)
		if r.gate.closed.Load() && !done() {
			select {
			case r.gate.tokens <- struct{}{}:
			default:
			}
		}
	}
}

// settle gives everything that can happen without the disk time to happen.
func (r *rig) settle(done func() bool) {
	for range 3000 {
		if done() {
			return
		}
		runtime.Gosched()
	}
}

// stop ends everything, in good order or, to the state, as a crash would.
func (r *rig) stop() {
	r.gate.open()
	r.End()
	for _, g := range r.members {
		g.Stop()
	}
	r.writer.Close()
	require.NoError(r.t, r.logs.Close())
	require.NoError(r.t, r.state.Close())
}

// answer is what came of a call. It comes once, or the channel would block.
type answer struct {
	res evaluate.Result
	err error
}

// do runs a request as a member does.
func (r *rig) do(ctx context.Context, op evaluate.Op) (evaluate.Result, error) {
	mask := r.needs(op)
	for i, g := range r.members {
		if mask == 1<<i {
			res, err := g.Do(ctx, op, evaluate.Size(op))
			if !errors.Is(err, evaluate.ErrCrossing) {
				return res, err
			}
		}
	}
	return r.Do(ctx, op, evaluate.Size(op))
}

// must is do for a request that can't fail.
func (r *rig) must(op evaluate.Op) evaluate.Result {
	r.t.Helper()
	res, err := r.do(r.t.Context(), op)
	require.NoError(r.t, err)
	return res
}

// async is do in the background.
func (r *rig) async(op evaluate.Op) chan answer {
	done := make(chan answer, 1)
	go func() {
		res, err := r.do(context.Background(), op)
		done <- answer{res, err}
	}()
	return done
}

func put(key, value string) *evaluate.Put {
	return &evaluate.Put{Key: []byte(key), Value: []byte(value)}
}

// everywhere puts a value into every group, in one transaction.
func everywhere(value string) *evaluate.Txn {
	txn := &evaluate.Txn{}
	for _, k := range keys {
		txn.Success = append(txn.Success, put(k, value))
	}
	return txn
}

// get renders the value of a key and its revision, as applied.
func (r *rig) get(key string) string {
	r.t.Helper()
	kv, err := r.space.Latest([]byte(key))
	require.NoError(r.t, err)
	if kv == nil {
		return "none"
	}
	return fmt.Sprintf("%s@%d", kv.Value, kv.ModRevision)
}

// all renders the keys of all groups.
func (r *rig) all() (out []string) {
	for _, k := range keys {
		out = append(out, r.get(k))
	}
	return out
}

// same are the four keys with one value at one revision.
func same(value string) []string { return []string{value, value, value, value} }
