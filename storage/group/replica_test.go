package group

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// files are one replica's two databases.
type files struct {
	logs, state *engine.DB
}

func openFiles(tb testing.TB, fs engine.FS, fatal func(error)) files {
	tb.Helper()
	return files{logs: openDB(tb, fs, "log", fatal), state: openDB(tb, fs, "state", fatal)}
}

func openDB(tb testing.TB, fs engine.FS, dir string, fatal func(error)) *engine.DB {
	tb.Helper()
	db, err := engine.Open(engine.Config{
		Dir: dir, FS: fs, Log: dir == "log", CacheBytes: 1 << 20, MemTableBytes: 256 << 10,
		Logger: slog.New(slog.DiscardHandler), Fatal: fatal,
	})
	require.NoError(tb, err)
	return db
}

func (f files) close(tb testing.TB) {
	tb.Helper()
	require.NoError(tb, f.logs.Close())
	require.NoError(tb, f.state.Close())
}

// idleWriter is a LogWriter without a goroutine: a test writes what is queued, and the
// loop nothing.
func idleWriter(db *engine.DB) *LogWriter {
	w := &LogWriter{db: db, wake: make(chan struct{}, 1)}
	w.writing.Lock()
	return w
}

// seen keeps what an Observer is told, and knows the leases.
type seen struct {
	mu     sync.Mutex // guards the fields below
	events []*mvccpb.Event
	// batches counts the calls of Applied.
	batches int
	// leads are the terms of Leads, fences the epochs of Fenced.
	leads, fences []uint64
	leases        map[int64]bool
}

// Applied implements Observer.
func (s *seen) Applied(_ uint64, out *mvcc.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, out.Events...)
	s.batches++
	for _, l := range out.Leases {
		if s.leases == nil {
			s.leases = map[int64]bool{}
		}
		s.leases[l.ID] = l.Kind != mvcc.LeaseRevoked
	}
}

// Restoring implements Observer.
func (s *seen) Restoring(int64) {}

// Restored implements Observer.
func (s *seen) Restored(mvcc.Applied) {}

// Leads implements Observer.
func (s *seen) Leads(term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leads = append(s.leads, term)
}

// Fenced implements Observer.
func (s *seen) Fenced(epoch, _ uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fences = append(s.fences, epoch)
}

// Changed implements Observer.
func (s *seen) Changed() {}

// Configured implements Observer.
func (s *seen) Configured() {}

// Exists implements evaluate.Leases.
func (s *seen) Exists(id int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[id]
}

// Joined implements evaluate.Leases.
func (s *seen) Joined(id int64, _ mvcc.GroupID) bool { return s.Exists(id) }

// Groups implements evaluate.Leases.
func (s *seen) Groups(int64) []mvcc.GroupID { return nil }

// crown is an Observer that does for a group that is alone what storage/reign
// does for several: whoever leads its raft reigns, and the term is the epoch.
type crown struct {
	*seen
	group *Group
	line  *revline.Line
	// applied, if not nil, is called by Applied.
	applied func(index uint64)

	mu    sync.Mutex // guards the field below; the group's inbox and the line after it
	epoch uint64
}

// Applied implements Observer.
func (c *crown) Applied(index uint64, out *mvcc.Outcome) {
	c.seen.Applied(index, out)
	if c.applied != nil {
		c.applied(index)
	}
}

// Leads implements Observer.
func (c *crown) Leads(term uint64) {
	c.seen.Leads(term)
	c.reign(term)
}

// reign begins a reign, or ends the one there is if epoch is 0.
func (c *crown) reign(epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked()
	if c.epoch = epoch; epoch != 0 {
		c.group.Fence(epoch)
	}
}

func (c *crown) endLocked() {
	if c.epoch != 0 {
		c.epoch = 0
		c.group.End()
		c.line.End()
	}
}

// Fenced implements Observer.
func (c *crown) Fenced(epoch, part uint64) {
	c.seen.Fenced(epoch, part)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.epoch == 0 || epoch < c.epoch:
	case epoch > c.epoch:
		c.endLocked()
	case c.line.Epoch() == epoch: // told by a snapshot once more
	case c.line.Begin(epoch):
		c.group.Begin(epoch)
	}
}

// replica is a group of one voter that runs, with all that it stands on.
type replica struct {
	*Group
	fs     *engine.MemFS
	files  files
	store  *mvcc.Store
	log    *Log
	line   *revline.Line
	writer *LogWriter
	clock  *clock.Manual
	seen   *seen
	fatal  chan error
}

// startReplica starts a group of one on fs. Its clock stands still.
func startReplica(tb testing.TB, fs *engine.MemFS) *replica {
	tb.Helper()
	r := newReplica(tb, fs, fs)
	<-r.Ready()
	return r
}

// newReplica is startReplica over a file system that may fail, and does not wait.
func newReplica(tb testing.TB, mem *engine.MemFS, fs engine.FS) *replica {
	tb.Helper()
	r := makeReplica(tb, mem, fs, 1, []uint64{1}, nil)
	r.Start()
	return r
}

// makeReplica opens a replica that is not started.
func makeReplica(
	tb testing.TB, mem *engine.MemFS, fs engine.FS, id uint64, voters []uint64, transport Transport,
) *replica {
	tb.Helper()
	r := &replica{fs: mem, clock: clock.NewManual(time.Unix(0, 0)), seen: &seen{}, fatal: make(chan error, 100)}
	r.files = openFiles(tb, fs, func(err error) { r.fatal <- err })
	cfg := replicaConfig(tb, r.files, id, voters, r.seen)
	c := &crown{seen: r.seen, line: cfg.Line}
	cfg.Writer = NewLogWriter(r.files.logs, nil, nil)
	cfg.Clock, cfg.Transport, cfg.Observer = r.clock, transport, c
	cfg.Fatal = func(err error) { r.fatal <- err }
	cfg.Confirm = func(answer func(error)) { r.Confirm(answer) }
	cfg.Sole = func() bool { return r.Sole() }
	r.store, r.log, r.line, r.writer = cfg.Store, cfg.Log, cfg.Line, cfg.Writer
	var err error
	r.Group, err = Open(cfg)
	require.NoError(tb, err)
	c.group = r.Group
	return r
}

// replicaConfig opens a replica's store and log, bootstraps them, and fills in a
// Config but for what depends on the test.
func replicaConfig(tb testing.TB, f files, id uint64, voters []uint64, s *seen) Config {
	tb.Helper()
	store, err := mvcc.Open(f.state, mvcc.CoreGroup)
	require.NoError(tb, err)
	log, err := OpenLog(f.logs, mvcc.CoreGroup)
	require.NoError(tb, err)
	require.NoError(tb, Bootstrap(log, store, voters, nil, f.state.Flush))
	require.NoError(tb, store.Leases(func(id, _, _ int64) {
		if s.leases == nil {
			s.leases = map[int64]bool{}
		}
		s.leases[id] = true
	}))
	closed, err := store.Closed()
	require.NoError(tb, err)
	return Config{
		ID: mvcc.CoreGroup, Replica: id, Log: log, Store: store, Leases: s, MinTTL: 2,
		Line: revline.New(revline.Config{
			Groups: []mvcc.GroupID{mvcc.CoreGroup}, Applied: []mvcc.Applied{store.Applied()}, Closed: closed,
		}),
		Clock: clock.NewManual(time.Unix(0, 0)), Tick: 100 * time.Millisecond, ElectionTicks: 10,
		Logger: slog.New(slog.DiscardHandler),
		Fatal:  func(err error) { tb.Errorf("fatal: %v", err) },
	}
}

// confirm waits until it is confirmed that the replica leads.
func (r *replica) confirm() error {
	done := make(chan error, 1)
	r.Confirm(func(err error) { done <- err })
	return <-done
}

// stop stops the replica in good order, without flushing its state.
func (r *replica) stop(tb testing.TB) {
	tb.Helper()
	r.Stop()
	r.writer.Close()
	r.files.close(tb)
	select {
	case err := <-r.fatal:
		require.NoError(tb, err)
	default:
	}
}

func (r *replica) do(tb testing.TB, op evaluate.Op) evaluate.Result {
	tb.Helper()
	res, err := r.Do(context.Background(), op, evaluate.Size(op))
	require.NoError(tb, err)
	return res
}

func put(key string, value any) *evaluate.Put {
	return &evaluate.Put{Key: []byte(key), Value: fmt.Append(nil, value)}
}

// unchanged is a request that has to be evaluated and changes nothing.
func unchanged(key string) *evaluate.Txn {
	return &evaluate.Txn{
		Compare: []evaluate.Compare{{Target: evaluate.CompareVersion, Result: evaluate.CompareLess, Key: []byte(key), Number: 0}},
		Success: []evaluate.Op{put(key, "never")},
	}
}

// contents renders everything that a store holds at its head.
func contents(tb testing.TB, store *mvcc.Store) string {
	tb.Helper()
	sc, err := store.ScanLatest(context.Background(), mvcc.Span{})
	require.NoError(tb, err)
	out := ""
	for sc.Next() {
		kv, err := sc.KV(false)
		require.NoError(tb, err)
		out += fmt.Sprintf("%s=%s@%d ", kv.Key, kv.Value, kv.ModRevision)
	}
	require.NoError(tb, sc.Err())
	require.NoError(tb, sc.Close())
	return out
}
