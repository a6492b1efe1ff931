package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// EventSink is told of every applied change, in revision order. Publish must
// not block. The events of one call may be of several revisions; those of one
// revision are never split. revision is the store's with them. What it is given
// must not be changed.
type EventSink interface {
	Publish(events []*mvccpb.Event, revision int64)
}

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
	// Version is this program's, noted in a data directory that it makes.
	Version string
	// TickInterval is raft's tick, etcd's heartbeat interval; ElectionTicks is
	// the election timeout in ticks.
	TickInterval  time.Duration
	ElectionTicks int
	Clock         clock.Clock
	Logger        *slog.Logger
	Registerer    prometheus.Registerer
	// Events is told of changes. May be nil.
	Events EventSink
	// Fatal is told, once, of a failure after which the member can't go on; nil
	// is to log it. The member answers every request with group.ErrStopped
	// from then on, and should be closed.
	Fatal func(error)
	// CacheBytes bounds the block cache, MemTableBytes the memtable, of the
	// state's database.
	CacheBytes    int64
	MemTableBytes uint64
}

const (
	defaultTick          = 100 * time.Millisecond
	defaultElectionTicks = 10
	defaultCacheBytes    = 256 << 20
	defaultMemTableBytes = 32 << 20
	// logCacheBytes is small: a log is read only at start and by lagging peers.
	logCacheBytes = 8 << 20
	// logMemTableBytes is twice the state's: the state is flushed, and the log
	// truncated, before the log is flushed, which then has little to write.
	logMemTableBytes = 64 << 20
)

func (c *Config) complete() {
	if c.FS == nil {
		c.FS = engine.OSFS()
	}
	if c.TickInterval == 0 {
		c.TickInterval = defaultTick
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = defaultElectionTicks
	}
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.MemTableBytes == 0 {
		c.MemTableBytes = defaultMemTableBytes
	}
}

// Member is one running member. All methods may be called concurrently.
type Member struct {
	cfg     Config
	id      identity
	dir     *DataDir
	logs    *engine.DB
	state   *engine.DB
	writer  *group.LogWriter
	log     *group.Log
	store   *mvcc.Store
	core    *group.Group
	lessor  *lease.Lessor
	seq     revline.Sequencer
	scrub   *scrubber
	flushed chan struct{}
	metrics *metrics

	stop    context.CancelFunc
	stopCtx context.Context
	workers sync.WaitGroup
	closing sync.Once
	failure atomic.Pointer[error]
	// failed is closed when failure is set.
	failed chan struct{}
}

// Open opens the member's data, or makes it, and starts its groups. It serves
// from when Ready is closed.
func Open(cfg Config) (*Member, error) {
	cfg.complete()
	m := &Member{cfg: cfg, flushed: make(chan struct{}, 1), metrics: newMetrics(), failed: make(chan struct{})}
	m.stopCtx, m.stop = context.WithCancel(context.Background())
	if err := m.open(); err != nil {
		m.stop()
		return nil, errors.Join(err, m.closeFiles())
	}
	return m, nil
}

func (m *Member) open() error {
	var err error
	if m.dir, m.id, err = bind(m.cfg); err != nil {
		return err
	}
	if err := m.openDatabases(); err != nil {
		return err
	}
	if m.store, err = mvcc.Open(m.state, mvcc.CoreGroup); err != nil {
		return err
	}
	if m.log, err = group.OpenLog(m.logs, mvcc.CoreGroup); err != nil {
		return err
	}
	if err := group.Bootstrap(m.log, m.store, m.id.voters, m.state.Flush); err != nil {
		return err
	}
	m.lessor = lease.New(lease.Config{
		Clock: m.cfg.Clock, Registerer: m.cfg.Registerer,
	})
	if err := m.store.Leases(m.lessor.Load); err != nil {
		return err
	}
	m.scrub = newScrubber(m.store, m.cfg.Logger, m.fail)
	m.writer = group.NewLogWriter(m.logs, m.cfg.Clock, m.metrics.fsync)
	m.core, err = group.Start(group.Config{
		ID: mvcc.CoreGroup, Replica: m.id.member, Log: m.log, Writer: m.writer, Store: m.store,
		Leases: m.lessor, MinTTL: m.minTTL(), Sequencer: &m.seq, Observer: observer{m},
		Clock: m.cfg.Clock, Tick: m.cfg.TickInterval, ElectionTicks: m.cfg.ElectionTicks,
		Logger: m.cfg.Logger, Fatal: m.fail, ApplySeconds: m.metrics.commit,
	})
	if err != nil {
		return err
	}
	m.register(m.cfg.Registerer)
	m.run(func(ctx context.Context) {
		<-ctx.Done()
		m.core.Stop()
	})
	m.run(m.scrub.run)
	m.run(m.truncateLogs)
	m.run(m.expireLeases)
	return nil
}

func (m *Member) minTTL() int64 { return lease.MinTTL(m.cfg.TickInterval, m.cfg.ElectionTicks) }

func (m *Member) openDatabases() error {
	var err error
	m.logs, err = engine.Open(engine.Config{
		Dir: m.dir.LogDir(), FS: m.cfg.FS, Log: true,
		CacheBytes: logCacheBytes, MemTableBytes: logMemTableBytes,
		Logger: m.cfg.Logger, Fatal: m.fail,
	})
	if err != nil {
		return err
	}
	m.state, err = engine.Open(engine.Config{
		Dir: m.dir.StateDir(), FS: m.cfg.FS,
		CacheBytes: m.cfg.CacheBytes, MemTableBytes: m.cfg.MemTableBytes,
		Logger: m.cfg.Logger, Fatal: m.fail,
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
	m.cfg.Logger.Error("the member can not go on and stops; what was acknowledged is safe", "error", err)
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

// Ready is closed when the member can serve.
func (m *Member) Ready() <-chan struct{} { return m.core.Ready() }

// Close stops the member. Requests under way get group.ErrStopped. The state is
// flushed, so that the next start has little to replay.
func (m *Member) Close() error {
	var err error
	m.closing.Do(func() {
		m.stop()
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
	if m.state == nil || m.Err() != nil {
		return m.Err()
	}
	flushed, err := m.state.AsyncFlush()
	if err != nil {
		return fmt.Errorf("member: flush: %w", err)
	}
	select {
	case <-flushed:
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
		durable, err := m.store.DurableApplied()
		if err == nil && durable.Index > 0 {
			err = m.log.Truncate(durable.Index)
		}
		if err != nil {
			m.fail(fmt.Errorf("member: truncate log: %w", err))
			return
		}
	}
}

// observer is the member as its groups see it.
type observer struct{ m *Member }

// Applied implements group.Observer.
func (o observer) Applied(out mvcc.Outcome) {
	m := o.m
	for _, l := range out.Leases {
		switch l.Kind {
		case mvcc.LeaseGranted:
			m.lessor.Granted(l.ID, l.TTL)
		case mvcc.LeaseRevoked:
			m.lessor.Revoked(l.ID)
		case mvcc.LeaseCheckpointed:
			m.lessor.Checkpointed(l.ID, l.Remaining)
		}
	}
	if out.Compacted > 0 {
		m.scrub.signal()
	}
	if m.cfg.Events != nil && len(out.Events) > 0 {
		m.cfg.Events.Publish(out.Events, out.Revision)
	}
}

// Leading implements group.Observer.
func (o observer) Leading(leading bool) {
	if leading {
		o.m.metrics.leads.Add(1)
		o.m.lessor.Promote(0)
	} else {
		o.m.lessor.Demote()
	}
}
