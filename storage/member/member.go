package member

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/keyspace"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/peer"
	"github.com/pebbledash/pebbledash/storage/reign"
	"github.com/pebbledash/pebbledash/storage/revline"
	"github.com/pebbledash/pebbledash/storage/route"
)

// Config of a Member. Fields have usable zero values unless said.
type Config struct {
	// Dir is the data directory. Required.
	Dir string
	// FS is the file system; nil is the operating system's.
	FS engine.FS
	// Name, PeerURLs, ClientURLs, InitialCluster and ClusterToken are etcd's
	// flags of those names.
	Name           string
	PeerURLs       []string
	ClientURLs     []string
	InitialCluster string
	ClusterToken   string
	// Join says that the member joins a cluster that is there.
	Join bool
	// ForceNewCluster makes the member of a data directory that has one the only member of
	// its cluster, which has lost its quorum for good. What only the others have is lost.
	ForceNewCluster bool
	// Routes are the cluster's, nil for core alone. All members must have the
	// same.
	Routes *route.Table
	// PeerListeners are where other members come in; a member without serves none.
	// PeerTLS makes the configuration of a connection to them.
	PeerListeners []net.Listener
	PeerTLS       func() *tls.Config
	// SpreadLeaders gives each group's lead another home.
	SpreadLeaders bool
	// LaxReconfig leaves out the checks that a change of the members would not
	// lose the quorum; MaxLearners bounds the learners.
	LaxReconfig bool
	MaxLearners int
	// CatchUpEntries are kept in each log for members that are behind, so that
	// these need no snapshot: etcd's --snapshot-catchup-entries, 5000 if it is 0.
	CatchUpEntries uint64
	// Version is this program's, noted in a data directory that it makes.
	Version string
	// TickInterval is raft's tick, etcd's heartbeat interval; ElectionTicks is
	// the election timeout in ticks.
	TickInterval  time.Duration
	ElectionTicks int
	Clock         clock.Clock
	Logger        *slog.Logger
	Registerer    prometheus.Registerer
	// Traced says that the contexts of requests may have a tracing.Request.
	Traced bool
	// Events is told of changes. May be nil.
	Events revline.Sink
	// Through returns what clients' reads go through before they come to the state;
	// it must give the same answers. May be nil.
	Through func(evaluate.Reader) evaluate.Reader
	// RecordsChanged is told of every table of records that was changed, after the
	// change is applied; it may not wait for the member. May be nil.
	RecordsChanged func(table string)
	// Fatal is told, once, of a failure after which the member can't go on; nil
	// is to log it. The member answers every request with group.ErrStopped
	// from then on, and should be closed.
	Fatal func(error)
	// CacheBytes bounds the block cache, MemTableBytes the memtable, of the
	// state's database.
	CacheBytes    int64
	MemTableBytes uint64
}

// The defaults of Config's bounds of memory.
const (
	DefaultCacheBytes    = 256 << 20
	DefaultMemTableBytes = 32 << 20
)

const (
	defaultTick          = 100 * time.Millisecond
	defaultElectionTicks = 10
	defaultCatchUp       = 5000
	// logCacheBytes is small: a log is read only at start and by lagging peers.
	logCacheBytes = 8 << 20
	// logMemTables is how many of the state's memtables one of the log is as large as:
	// the state is flushed, and the log truncated, before the log is flushed, which
	// then has little to write.
	logMemTables = 2
)

func (c *Config) complete() {
	if c.FS == nil {
		c.FS = engine.OSFS()
	}
	if c.Routes == nil {
		c.Routes = route.CoreOnly()
	}
	if c.TickInterval == 0 {
		c.TickInterval = defaultTick
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = defaultElectionTicks
	}
	if c.CatchUpEntries == 0 {
		c.CatchUpEntries = defaultCatchUp
	}
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if c.MemTableBytes == 0 {
		c.MemTableBytes = DefaultMemTableBytes
	}
}

func (c *Config) electionTimeout() time.Duration {
	return time.Duration(c.ElectionTicks) * c.TickInterval
}

// Member is one running member. All methods may be called concurrently.
type Member struct {
	cfg    Config
	id     Identity
	routes *route.Table
	dir    *DataDir
	logs   *engine.DB
	state  *engine.DB
	// cache is state's.
	cache  *engine.Cache
	writer *group.LogWriter
	parts  []*part
	core   *part
	space  *keyspace.Space
	// reader is what clients read: space, maybe through something.
	reader  evaluate.Reader
	line    *revline.Line
	reign   *reign.Reign
	leases  leases
	records records
	cluster cluster
	peers   *peer.Transport
	points  points

	checkpoints checkpoints
	scrub       *scrubber
	flushed     chan struct{}
	metrics     *metrics
	// mirroring says, as core has it applied here, that another cluster is mirrored.
	mirroring atomic.Bool
	// decided is the revision of the last compaction that core has applied.
	decided atomic.Int64
	// compacted is that of the last that is in effect here.
	compacted  atomic.Int64
	compacting sync.Mutex
	// reigning says that this member is the sequencer and has begun.
	reigning atomic.Bool
	// firstPromise is the closed revision of the first promise that has come.
	firstPromise atomic.Int64
	// hasReigned says that this member was the sequencer; published that the cluster
	// knows its name and client URLs.
	hasReigned, published atomic.Bool
	ready                 chan struct{}
	// readyOnce closes ready.
	readyOnce sync.Once
	// ticks counts the ticks of guideLeads; heard has, for each other member, the
	// tick at which something of it came last.
	ticks atomic.Uint64
	heard sync.Map
	// stills are of the groups' applying, in the order of parts, and of the closed
	// revision.
	stills      []still
	closedStill still
	// news is closed, and made anew, when who leads or reigns may have changed.
	news news

	stop    context.CancelFunc
	stopCtx context.Context
	workers sync.WaitGroup
	// starting is held by who starts a worker, and locked once when stopCtx is done:
	// none is started after that.
	starting sync.RWMutex
	closing  sync.Once
	failure  atomic.Pointer[error]
	// failed is closed when failure is set.
	failed chan struct{}
}

// part is this member's replica of one group, with what it stands on.
type part struct {
	*group.Group
	id    mvcc.GroupID
	name  string
	log   *group.Log
	store *mvcc.Store
}

// Open opens the member's data, or makes it, and starts its groups. It serves
// from when Ready is closed. A member that joins asks the others first, and so
// may take a while; ctx ends that.
func Open(ctx context.Context, cfg Config) (*Member, error) {
	cfg.complete()
	m := &Member{
		cfg: cfg, flushed: make(chan struct{}, 1), metrics: newMetrics(cfg.Registerer),
		failed: make(chan struct{}), ready: make(chan struct{}),
	}
	m.stopCtx, m.stop = context.WithCancel(context.Background())
	if err := m.open(ctx); err != nil {
		m.stop()
		return nil, errors.Join(err, m.closeFiles())
	}
	return m, nil
}

func (m *Member) open(ctx context.Context) error {
	var err error
	if m.dir, m.id, err = bind(ctx, m.cfg); err != nil {
		return err
	}
	if m.routes, err = route.Decode(m.id.Routes); err != nil {
		return err
	}
	if err := m.openDatabases(); err != nil {
		return err
	}
	// Snapshots that were under way when the member stopped come anew.
	if err := mvcc.RemoveIngests(m.cfg.FS, m.dir.StateDir()); err != nil {
		return err
	}
	if err := m.removeCheckpoints(); err != nil {
		return err
	}
	if err := m.openParts(); err != nil {
		return err
	}
	if err := m.forceNewCluster(); err != nil {
		return err
	}
	m.leases.Lessor = lease.New(lease.Config{Clock: m.cfg.Clock, Registerer: m.cfg.Registerer})
	if err := m.leases.load(m.core.store); err != nil {
		return err
	}
	if err := m.lookAtMirror(); err != nil {
		return err
	}
	if err := m.openLine(); err != nil {
		return err
	}
	if err := m.openPeers(); err != nil {
		return err
	}
	m.writer = group.NewLogWriter(m.logs, m.cfg.Clock, m.metrics.fsync)
	if err := m.startGroups(); err != nil {
		return err
	}
	m.register(m.cfg.Registerer)
	m.startWorkers()
	return nil
}

// openParts opens every group's state and log, and makes them if they are new.
func (m *Member) openParts() error {
	stores := map[mvcc.GroupID]*mvcc.Store{}
	voters, rows, err := m.founders()
	if err != nil {
		return err
	}
	for _, g := range m.routes.Groups() {
		p := &part{id: g.ID, name: g.Name}
		if p.store, err = mvcc.Open(m.state, g.ID); err != nil {
			return err
		}
		if p.log, err = group.OpenLog(m.logs, g.ID); err != nil {
			return err
		}
		if g.ID != mvcc.CoreGroup {
			rows = nil
		}
		switch {
		case p.log.Bootstrapped():
		case m.id.Joined:
			err = p.log.BeginEmpty()
		default:
			err = group.Bootstrap(p.log, p.store, voters, rows, m.flushState)
		}
		if err != nil {
			return err
		}
		m.decided.Store(max(m.decided.Load(), p.store.DeferCompactions()))
		stores[g.ID] = p.store
		m.parts = append(m.parts, p)
	}
	m.core = m.parts[0]
	m.stills = make([]still, len(m.parts))
	m.space = keyspace.New(m.routes, stores)
	m.reader = m.space
	if m.cfg.Through != nil {
		m.reader = m.cfg.Through(m.space)
	}
	return nil
}

// openLine makes the line and the reign over the groups' states.
func (m *Member) openLine() error {
	cfg := revline.Config{
		Sink:     m.cfg.Events,
		Advanced: m.advanced,
		Tell:     m.promise,
	}
	for _, p := range m.parts {
		closed, err := p.store.Closed()
		if err != nil {
			return err
		}
		cfg.Groups = append(cfg.Groups, p.id)
		cfg.Applied = append(cfg.Applied, p.store.Applied())
		cfg.Closed = max(cfg.Closed, closed)
	}
	m.scrub = m.newScrubber()
	m.line = revline.New(cfg)
	m.compact()
	var crossing *evaluate.Crossing
	crossing = evaluate.NewCrossing(evaluate.CrossingConfig{
		Space: m.space, Route: m.routes.Of, Leases: &m.leases, MinTTL: m.minTTL(),
		// Above what it stands on, also if the reign has ended and nobody was told
		// yet: then the next sequencer's changes may be in the state.
		Next:     func() int64 { return max(m.line.NextCrossing(), crossing.Head()+1) },
		GiveBack: m.line.GiveBackCrossing,
		Present:  m.line.Present, Compacted: m.decided.Load, Panicked: m.panicked,
		Mirroring: m.mirroring.Load, NextAt: m.line.TakeCrossing,
	})
	m.reign = reign.New(reign.Config{
		Line: m.line, Core: m.core.store, Crossing: crossing, Needs: m.needs, Logger: m.cfg.Logger,
		Begun: m.begun, Ended: m.ended, Fatal: m.fail, Traced: m.cfg.Traced, Clock: m.cfg.Clock,
	})
	return nil
}

func (m *Member) startGroups() error {
	var groups []*group.Group
	for i, p := range m.parts {
		cfg := group.Config{
			ID: p.id, Replica: m.id.MemberID, Log: p.log, Writer: m.writer, Store: p.store,
			Line: m.line, Compacted: m.decided.Load, Leases: &m.leases, MinTTL: m.minTTL(),
			Observer: observer{m, i}, Confirm: m.confirm, Sole: m.sole, Transport: m,
			Clock: m.cfg.Clock, Tick: m.cfg.TickInterval, ElectionTicks: m.cfg.ElectionTicks,
			Logger: m.cfg.Logger.With("group", p.name), Fatal: m.fail, ApplySeconds: m.metrics,
			Traced: m.cfg.Traced, Mirroring: m.mirroring.Load,
		}
		var err error
		if p.Group, err = group.Open(cfg); err != nil {
			return err
		}
		groups = append(groups, p.Group)
	}
	if err := m.loadMembers(); err != nil {
		return err
	}
	m.reign.Start(groups)
	for _, p := range m.parts {
		p.Start()
	}
	return nil
}

func (m *Member) startWorkers() {
	// The groups run, so they must be stopped, also if the member has failed meanwhile:
	// not by run.
	m.workers.Go(func() {
		<-m.stopCtx.Done()
		m.reign.End()
		for _, p := range m.parts {
			p.Stop()
		}
		m.reign.End() // one that has begun meanwhile
	})
	if m.peers != nil {
		m.run(m.servePeers)
		if m.id.Joined {
			m.run(m.meet)
		}
	}
	m.run(m.publish)
	m.run(m.scrub.run)
	m.run(m.truncateLogs)
	m.run(m.expireLeases)
	m.run(m.guideLeads)
	m.run(m.followCore)
}

func (m *Member) confirm(answer func(error)) { m.core.Confirm(answer) }

func (m *Member) sole() bool { return m.core.Sole() }

// advanced is told that the closed revision has grown.
func (m *Member) advanced(int64) {
	m.compact()
	m.maybeReady()
}

// maybeReady says that the member can serve, once it has reigned, or has what was
// closed when it first heard of the sequencer, and the cluster knows where it is.
func (m *Member) maybeReady() {
	first := m.firstPromise.Load()
	current := m.hasReigned.Load() || first > 0 && m.line.Closed() >= first
	if current && m.published.Load() {
		m.readyOnce.Do(func() { close(m.ready) })
	}
}

func (m *Member) minTTL() int64 { return lease.MinTTL(m.cfg.TickInterval, m.cfg.ElectionTicks) }

func (m *Member) panicked(op evaluate.Op, cause any, stack []byte) {
	m.cfg.Logger.Error("evaluation of a request panicked, the request had no effect",
		"request", fmt.Sprintf("%T", op), "cause", cause, "stack", string(stack))
}

func (m *Member) openDatabases() error {
	var err error
	m.logs, err = engine.Open(engine.Config{
		Dir: m.dir.LogDir(), FS: m.cfg.FS, Log: true,
		CacheBytes: logCacheBytes, MemTableBytes: logMemTables * m.cfg.MemTableBytes,
		Logger: m.cfg.Logger, Fatal: m.fail, Stalls: &m.metrics.logStalls, Clock: m.cfg.Clock,
	})
	if err != nil {
		return err
	}
	m.cache = engine.NewCache(m.cfg.CacheBytes)
	defer m.cache.Unref()
	m.state, err = engine.Open(engine.Config{
		Dir: m.dir.StateDir(), FS: m.cfg.FS,
		Cache: m.cache, MemTableBytes: m.cfg.MemTableBytes,
		Logger: m.cfg.Logger, Fatal: m.fail, Stalls: &m.metrics.stateStalls, Clock: m.cfg.Clock,
		Flushed: func() {
			select {
			case m.flushed <- struct{}{}:
			default:
			}
		},
	})
	return err
}

// run starts a worker that ends with the member.
func (m *Member) run(work func(context.Context)) {
	m.starting.RLock()
	defer m.starting.RUnlock()
	if m.stopCtx.Err() != nil {
		return
	}
	m.workers.Add(1)
	go func() {
		defer m.workers.Done()
		work(m.stopCtx)
	}()
}

// fail stops the member's work after a failure that it can't go on from.
func (m *Member) fail(err error) {
	if !m.failure.CompareAndSwap(nil, &err) {
		return
	}
	close(m.failed)
	if errors.Is(err, ErrRemoved) {
		m.cfg.Logger.Warn("this member was removed from the cluster and stops; its data directory is of no more use", "data_dir", m.cfg.Dir)
	} else {
		m.cfg.Logger.Error("the member can not go on and stops; what was acknowledged is safe", "error", err)
	}
	m.stop()
	if m.cfg.Fatal != nil {
		m.cfg.Fatal(err)
	}
}

// Err returns what the member has failed of, nil if it has not.
func (m *Member) Err() error {
	if err := m.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Ready is closed when the member has first known of a sequencer that serves, and
// the cluster knows its name and client URLs.
func (m *Member) Ready() <-chan struct{} { return m.ready }

// Close stops the member. Requests under way get group.ErrStopped. The state is
// flushed, so that the next start has little to replay. A member that reigns
// hands over first, if there is somebody to take over.
func (m *Member) Close() error {
	var err error
	m.closing.Do(func() {
		m.handOver()
		m.stop()
		if m.peers != nil {
			m.peers.Close()
		}
		m.starting.Lock()
		m.starting.Unlock() //nolint:staticcheck // whoever was starting a worker has
		m.workers.Wait()
		err = m.closeFiles()
	})
	return err
}

func (m *Member) closeFiles() error {
	if m.writer != nil {
		m.writer.Close()
	}
	if err := m.flushState(); err != nil {
		// A database that has failed may never come back from Close. Its files
		// are as a crash leaves them, which is all that a restart needs.
		return err
	}
	var errs []error
	if m.state != nil {
		errs = append(errs, m.state.Close())
	}
	if m.logs != nil {
		errs = append(errs, m.logs.Close())
	}
	if m.dir != nil {
		errs = append(errs, m.dir.Close())
	}
	return errors.Join(errs...)
}

// flushState makes the state durable, so that the next start has little to
// replay. It returns what the member has failed of, if it has or does.
func (m *Member) flushState() error {
	switch err := m.Err(); {
	case errors.Is(err, ErrRemoved):
		return nil // nobody will start from it
	case m.state == nil || err != nil:
		return err
	}
	flushed, err := m.state.AsyncFlush()
	if err != nil {
		return fmt.Errorf("member: flush: %w", err)
	}
	select {
	case <-flushed:
		return nil
	case <-m.failed:
	}
	return m.Err()
}

// truncateLogs drops log entries that the state no longer needs.
func (m *Member) truncateLogs(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.flushed:
		}
		for _, p := range m.parts {
			durable, err := p.store.DurableApplied()
			if err == nil {
				if index := m.keepFor(p, durable.Index); index > 0 {
					err = p.log.Truncate(index)
				}
			}
			if err != nil {
				m.fail(fmt.Errorf("member: truncate log of %s: %w", p.name, err))
				return
			}
		}
	}
}

// keepFor returns up to where a log may be truncated, if the state needs
// nothing up to index.
func (m *Member) keepFor(p *part, index uint64) uint64 {
	if r := p.Replicas(); len(r.Voters)+len(r.Learners) <= 1 {
		return index
	}
	return index - min(index, m.cfg.CatchUpEntries)
}
