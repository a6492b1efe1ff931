package mvcc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// TestPowerLostAroundIngests has a member apply several groups at once, be given
// some of them anew by a member that is ahead, and lose its power at random
// moments in between. Whatever is left of a group is what its log says up to its
// applied index; what was ingested is not lost; and no closed revision claims
// more than there is, in any group.
func TestPowerLostAroundIngests(t *testing.T) {
	var seen crashesSeen
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { newIngestCrash(t, seed).run(&seen) })
	}
	// What did not happen was not tested.
	require.Positive(t, seen.lost, "no crash lost anything")
	require.Positive(t, seen.ingested, "no crash came after an ingest")
	require.Positive(t, seen.between, "no crash came in an ingest")
	require.Positive(t, seen.closed, "no crash left a closed revision")
}

type crashesSeen struct{ lost, ingested, between, closed int }

const (
	crashGroups  = 3
	crashEntries = 1500
)

// crashEntry is an entry of a group's log: one put.
type crashEntry struct {
	rev     int64
	effects []byte
	value   string
}

type ingestCrash struct {
	t    *testing.T
	seed uint64
	// logs are the groups' entries; entry i has index i+1.
	logs [crashGroups][]crashEntry

	mem *engine.MemFS
	db  *engine.DB
	fs  engine.FS
	// applied is how far each group has been applied, durable how far it was
	// ingested, as far as was told.
	applied, durable [crashGroups]atomic.Uint64
	committing       atomic.Int32
	linking          sync.RWMutex // see linkFS; nothing is taken after it

	mu      sync.Mutex // guards the fields below; linking may be taken after it
	rng     *rand.Rand
	crashes []crash
}

// linkFS keeps links and CrashClone apart: within one Link a MemFS takes twice
// what CrashClone waits for.
type linkFS struct {
	engine.FS
	linking *sync.RWMutex
}

func (fs linkFS) Link(from, to string) error {
	fs.linking.RLock()
	defer fs.linking.RUnlock()
	return fs.FS.Link(from, to)
}

// crash is what a loss of power leaves.
type crash struct {
	fs *engine.MemFS
	// durable and applied are as they were told before.
	durable, applied [crashGroups]uint64
	between          bool
}

func newIngestCrash(t *testing.T, seed uint64) *ingestCrash {
	t.Helper()
	c := &ingestCrash{t: t, seed: seed, mem: engine.NewCrashableMem(), rng: rand.New(rand.NewPCG(seed, 0))}
	for rev := int64(2); rev < crashEntries; rev++ {
		g := c.rng.IntN(crashGroups)
		e := mvcc.NewEffects(nil)
		value := fmt.Sprint(rev, " ", string(bytes.Repeat([]byte{'x'}, c.rng.IntN(400))))
		e.Revision(rev)
		e.Put(0, fmt.Appendf(nil, "key%d", rev%97), mvcc.Head{Mod: rev, Create: rev, Version: 1}, 0, []byte(value))
		c.logs[g] = append(c.logs[g], crashEntry{rev, e.Bytes(), value})
	}
	// A crash may come before any operation on a file.
	c.fs = engine.WrapFaulty(linkFS{c.mem, &c.linking}, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			c.maybeCrash()
		}
		return nil
	}))
	return c
}

func (c *ingestCrash) maybeCrash() {
	c.mu.Lock()
	defer c.mu.Unlock()
	between := c.committing.Load() > 0
	rare := 400
	if between {
		rare = 60
	}
	if len(c.crashes) >= 30 || c.rng.IntN(rare) > 0 {
		return
	}
	var now crash
	now.between = between
	for g := range crashGroups {
		now.durable[g], now.applied[g] = c.durable[g].Load(), c.applied[g].Load()
	}
	c.linking.Lock()
	defer c.linking.Unlock()
	now.fs = c.mem.CrashClone(engine.CrashCloneCfg{UnsyncedDataPercent: 25 * c.rng.IntN(5), RNG: c.rng})
	c.crashes = append(c.crashes, now)
}

// closedAt is the greatest revision up to which the groups have it all, if they
// have been applied that far.
func (c *ingestCrash) closedAt(applied func(g int) uint64) int64 {
	closed := int64(crashEntries)
	for g := range crashGroups {
		if n := applied(g); n < uint64(len(c.logs[g])) {
			closed = min(closed, c.logs[g][n].rev-1)
		}
	}
	return closed
}

func (c *ingestCrash) run(seen *crashesSeen) {
	var err error
	c.db, err = openDB(c.fs)
	require.NoError(c.t, err)
	ahead, err := openDB(engine.NewMem())
	require.NoError(c.t, err)
	failures := make(chan error, crashGroups)
	var wg sync.WaitGroup
	for g := range crashGroups {
		wg.Go(func() {
			if err := c.runGroup(g, ahead); err != nil {
				failures <- err
			}
		})
	}
	wg.Wait()
	require.NoError(c.t, c.db.Close())
	require.NoError(c.t, ahead.Close())
	close(failures)
	require.NoError(c.t, <-failures)
	require.NotEmpty(c.t, c.crashes)
	for _, crash := range c.crashes {
		c.check(crash, seen)
	}
}

// runGroup applies a group's log to its end. Now and then the member that is
// ahead sends its rows.
func (c *ingestCrash) runGroup(g int, ahead *engine.DB) error {
	rng := rand.New(rand.NewPCG(c.seed, 1+uint64(g)))
	id := mvcc.GroupID(g + 1)
	s, err := mvcc.Open(c.db, id)
	if err != nil {
		return err
	}
	source, err := mvcc.Open(ahead, id)
	if err != nil {
		return err
	}
	for s.Applied().Index < uint64(len(c.logs[g])) {
		if rng.IntN(15) == 0 {
			for source.Applied().Index < s.Applied().Index+uint64(rng.IntN(30)) && source.Applied().Index < uint64(len(c.logs[g])) {
				if err := c.apply(source, g, rng, false); err != nil {
					return err
				}
			}
			if source.Applied().Index > s.Applied().Index {
				if err := c.ingest(s, source, id); err != nil {
					return err
				}
				index := s.Applied().Index
				c.durable[g].Store(index)
				c.applied[g].Store(index)
			}
			continue
		}
		if err := c.apply(s, g, rng, true); err != nil {
			return err
		}
		c.applied[g].Store(s.Applied().Index)
	}
	return nil
}

// apply applies the next entries in one batch.
func (c *ingestCrash) apply(s *mvcc.Store, g int, rng *rand.Rand, member bool) error {
	b := s.NewBatch()
	from := s.Applied().Index
	for i := from; i < min(from+1+uint64(rng.IntN(4)), uint64(len(c.logs[g]))); i++ {
		if err := b.Add(i+1, 5, c.logs[g][i].effects); err != nil {
			return err
		}
	}
	closed := c.closedAt(func(g int) uint64 { return c.applied[g].Load() })
	if !member {
		// The other member is ahead of this one, and knows it.
		closed = crashEntries
	}
	if rng.IntN(3) == 0 {
		if err := b.SetClosed(closed); err != nil {
			return err
		}
	}
	_, err := b.Commit()
	return err
}

func (c *ingestCrash) ingest(s, source *mvcc.Store, id mvcc.GroupID) error {
	e, err := source.Export(700)
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }()
	in, err := mvcc.NewIngest(c.db, c.fs, "ingest", id)
	if err != nil {
		return err
	}
	defer in.Drop()
	in.SetTableBytes(10 << 10)
	for {
		chunk, err := e.Next()
		if err != nil {
			break // the end, or Finish will miss it
		}
		if err := in.Add(chunk); err != nil {
			return err
		}
	}
	c.committing.Add(1)
	defer c.committing.Add(-1)
	return in.Commit(context.Background(), s)
}

func (c *ingestCrash) check(crash crash, seen *crashesSeen) {
	t := c.t
	db, err := openDB(crash.fs)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	require.NoError(t, mvcc.RemoveIngests(crash.fs, "ingest"))
	var applied [crashGroups]uint64
	closed := int64(0)
	for g := range crashGroups {
		s := openStore(t, db, mvcc.GroupID(g+1))
		applied[g] = s.Applied().Index
		require.GreaterOrEqual(t, applied[g], crash.durable[g], "group %d was ingested up to there", g+1)
		n := 0
		err := s.Changes(context.Background(), mvcc.Span{}, 0, crashEntries, func(e *mvccpb.Event) error {
			if want := c.logs[g][n]; e.Kv.ModRevision != want.rev || string(e.Kv.Value) != want.value {
				return errors.New("the rows are not those of the log")
			}
			n++
			return nil
		})
		require.NoError(t, err)
		require.EqualValues(t, applied[g], n, "changes of group %d", g+1)
		at, err := s.Closed()
		require.NoError(t, err)
		closed = max(closed, at)
		if applied[g] < crash.applied[g] {
			seen.lost++
		}
		if crash.durable[g] > 0 {
			seen.ingested++
		}
	}
	require.LessOrEqual(t, closed, c.closedAt(func(g int) uint64 { return applied[g] }), "applied %v", applied)
	if closed > 0 {
		seen.closed++
	}
	if crash.between {
		seen.between++
	}
}
