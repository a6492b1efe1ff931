package watchcache

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

var (
	seedFlag  = flag.Uint64("watchcache.seed", 0, "seed of TestRandom; 0 picks some")
	roundFlag = flag.Int("watchcache.rounds", 6, "how many seeds TestRandom runs")
)

// TestRandom lets streams with watchers that come, go and pause follow a writer
// that bursts, compacts and jumps, and holds what each watcher is given against
// the history: every event that it wants, once, in order, whole revisions, the
// right previous values; progress never ahead of events nor back; and in the end
// everything.
func TestRandom(t *testing.T) {
	first := *seedFlag
	if first == 0 {
		first = uint64(time.Now().UnixNano()) //nolint:forbidigo // A seed, not a time.
	}
	for i := range *roundFlag {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Logf("replay: go test ./gateway/watchcache -run TestRandom -watchcache.seed=%d -watchcache.rounds=1", seed)
			randomRound(t, seed)
		})
	}
}

func randomRound(t *testing.T, seed uint64) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	pick := func(values ...int) int { return values[rnd.IntN(len(values))] }
	cfg := Config{
		WindowBytes:      int64(pick(0, 1, 3_000, 30_000)),
		PreviousBytes:    pick(0, 1, 5_000),
		MaxPendingEvents: pick(0, 1, 7, 50),
		MaxStoreReads:    pick(1, 4),
		ChunkEvents:      pick(0, 1, 10),
		ChunkRevisions:   int64(pick(0, 5, 100)),
	}
	t.Logf("%+v", cfg)
	hub, store := NewHub(cfg), newFakeStore()
	hub.Start(store, 1)
	defer hub.Close()

	const clients, revisions = 8, 1500
	m := &model{store: store, moved: make(chan struct{})}
	var g errgroup.Group
	for i := range clients {
		c := &client{
			m: m, hub: hub, stream: hub.NewStream(),
			rnd: rand.New(rand.NewPCG(seed, uint64(i)+1)), watches: map[*Watcher]*watched{},
		}
		g.Go(func() error {
			defer c.stream.Close()
			return c.run(t.Context())
		})
	}
	m.write(hub, rnd, revisions)
	require.NoError(t, g.Wait())
	require.Zero(t, hub.watchers.Load())
	require.Zero(t, hub.behind.Load())
	require.Zero(t, hub.pending.Load())
	hub.mu.Lock()
	defer hub.mu.Unlock()
	require.True(t, hub.index.empty())
	t.Logf("%d events given, %d overruns, %d chunks from the window, %d from the store, %d previous values read",
		hub.sent.Load(), hub.overruns.Load(), hub.caughtUpWindow.Load(), hub.caughtUpStore.Load(), hub.previousRead.Load())
}

// model is the writer's side of the test.
type model struct {
	store *fakeStore
	mu    sync.Mutex
	moved chan struct{} // closed and replaced when the revision has grown
	done  bool
}

// reached waits until the store has come to a revision, or to its last.
func (m *model) reached(revision int64) {
	for {
		m.mu.Lock()
		moved, done := m.moved, m.done
		m.mu.Unlock()
		if done || m.store.Revision() >= revision {
			return
		}
		<-moved
	}
}

func (m *model) finished() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.done
}

// move tells those who wait that the revision has grown.
func (m *model) move(done bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.moved)
	m.moved, m.done = make(chan struct{}), done
}

func randomKey(rnd *rand.Rand) string { return fmt.Sprintf("k%02d", rnd.IntN(20)) }

func (m *model) write(hub *Hub, rnd *rand.Rand, revisions int64) {
	for m.store.Revision() < revisions {
		var events []*mvccpb.Event
		for range 1 + rnd.IntN(1+rnd.IntN(4)) {
			var changes []change
			keys := map[string]bool{}
			for range 1 + rnd.IntN(1+rnd.IntN(12)) {
				key, value := randomKey(rnd), fmt.Sprint(rnd.Int())
				if rnd.IntN(4) == 0 {
					value = ""
				}
				if !keys[key] {
					changes = append(changes, change{key, value})
				}
				keys[key] = true
			}
			events = append(events, m.store.apply(changes...)...)
		}
		rev := m.store.Revision()
		switch {
		case rnd.IntN(200) == 0:
			hub.Restored(rev)
		case len(events) > 0:
			hub.Publish(events, rev)
		}
		if rnd.IntN(50) == 0 {
			m.store.compacted.Store(max(m.store.Compacted(), rev-int64(rnd.IntN(100))))
		}
		m.move(false)
		if rnd.IntN(3) == 0 { // else a burst
			runtime.Gosched()
		}
	}
	m.move(true)
}

// watched is what a client knows of one watcher.
type watched struct {
	watch Watch
	// at is the place in the history of the first event that the watcher may
	// still be given, from its first revision.
	at   int
	from int64
	// progress is the last revision that was shown for it.
	progress int64
}

func (w *watched) wants(ev *mvccpb.Event) bool {
	if ev.Type == mvccpb.Event_DELETE && w.watch.NoDelete || ev.Type == mvccpb.Event_PUT && w.watch.NoPut {
		return false
	}
	return ev.Kv.ModRevision >= w.from && contains(w.watch.Key, w.watch.End, ev.Kv.Key)
}

// client is the reader's side: one stream.
type client struct {
	m       *model
	hub     *Hub
	stream  *Stream
	rnd     *rand.Rand
	watches map[*Watcher]*watched
	shown   int64
}

func (c *client) run(ctx context.Context) error {
	asked := false
	for {
		final := c.m.finished()
		switch n := c.rnd.IntN(40); {
		case final && !asked:
			c.stream.RequestProgress()
			asked = true
		case final:
		case n < 3 && len(c.watches) < 12:
			if err := c.add(); err != nil {
				return err
			}
		case n == 3:
			for w := range c.watches {
				c.stream.Remove(w)
				delete(c.watches, w)
				break
			}
		case n < 8:
			c.stream.RequestProgress()
		case n == 8: // a slow reader
			c.m.reached(c.m.store.Revision() + int64(c.rnd.IntN(300)))
		case n == 9:
			if err := c.synced(); err != nil {
				return err
			}
		}
		var d Delivery
		status, err := c.stream.Next(ctx, &d)
		if err != nil {
			return err
		}
		if status == Ready {
			if err := c.check(&d); err != nil {
				return fmt.Errorf("%w (delivery up to %d, compacted %d)", err, d.Revision, d.Compacted)
			}
			if d.Watcher == nil && d.Revision >= c.m.store.Revision() && final && asked {
				return nil
			}
			continue
		}
		if final && asked && c.nobody() {
			return nil
		}
		if status == Idle && (final || c.rnd.IntN(2) == 0) {
			// Before the end there may be nothing to wake it.
			if final {
				<-c.stream.Wake()
			} else {
				c.m.reached(c.m.store.Revision() + 1 - int64(c.rnd.IntN(2)))
			}
		}
	}
}

// nobody says whether a request for progress is not going to be answered:
// nobody watches, or somebody whose start is not reached.
func (c *client) nobody() bool {
	for w := range c.watches {
		if w.start > c.m.store.Revision() {
			return true
		}
	}
	return len(c.watches) == 0
}

func (c *client) add() error {
	rev := c.m.store.Revision()
	w := Watch{Key: []byte(randomKey(c.rnd)), Previous: c.rnd.IntN(2) == 0}
	switch c.rnd.IntN(3) {
	case 0:
	case 1:
		w.End = []byte("\x00")
	default:
		w.End = append([]byte(randomKey(c.rnd)), 'x')
		if string(w.End) <= string(w.Key) {
			w.Key, w.End = w.End, w.Key
		}
	}
	switch c.rnd.IntN(5) {
	case 0, 1:
	case 2:
		w.Start = rev + int64(c.rnd.IntN(20))
	case 3:
		w.Start = max(1, rev-int64(c.rnd.IntN(20)))
	default:
		w.Start = max(1, rev-int64(c.rnd.IntN(500)))
	}
	switch c.rnd.IntN(6) {
	case 0:
		w.NoPut = true
	case 1:
		w.NoDelete = true
	}
	known := &watched{watch: w}
	watcher, present, err := c.stream.Add(w)
	if err != nil {
		return err
	}
	if present < rev {
		return fmt.Errorf("created at %d, the store was at %d", present, rev)
	}
	if known.from = w.Start; known.from == 0 {
		known.from = present + 1
	}
	c.watches[watcher] = known
	return nil
}

// pending returns the next event that a watcher should be given.
func (c *client) pending(w *watched) *mvccpb.Event {
	history := c.m.store.view()
	for ; w.at < len(history); w.at++ {
		if w.wants(history[w.at]) {
			return history[w.at]
		}
	}
	return nil
}

func (c *client) check(d *Delivery) error {
	if d.Watcher == nil {
		if d.Revision < c.shown {
			return fmt.Errorf("progress %d goes back behind %d", d.Revision, c.shown)
		}
		c.shown = d.Revision
		if len(c.watches) == 0 {
			return fmt.Errorf("progress for nobody")
		}
		for _, w := range c.watches {
			if err := c.checkProgress(w, d.Revision); err != nil {
				return err
			}
		}
		return nil
	}
	w := c.watches[d.Watcher]
	if w == nil {
		return fmt.Errorf("something for a watcher that is gone")
	}
	if d.Compacted != 0 {
		delete(c.watches, d.Watcher)
		if d.Compacted > c.m.store.Compacted() || max(w.from, w.progress+1) >= d.Compacted {
			return fmt.Errorf("watch from %d with progress %d was ended by compaction %d", w.from, w.progress, d.Compacted)
		}
		return nil
	}
	for _, e := range d.Events {
		want := c.pending(w)
		if want == nil {
			return fmt.Errorf("%v more than there is", e.Plain())
		}
		w.at++
		if err := c.checkEvent(w, e, want); err != nil {
			return err
		}
	}
	if next := c.pending(w); next != nil && next.Kv.ModRevision <= d.Revision {
		return fmt.Errorf("%v is missing", next)
	}
	if last := d.Events[len(d.Events)-1]; last.Revision() > d.Revision || last.Revision() <= w.progress {
		return fmt.Errorf("%v after progress %d", last.Plain(), w.progress)
	}
	w.progress = d.Revision
	c.shown = max(c.shown, d.Revision)
	return nil
}

func (c *client) checkEvent(w *watched, e *Event, want *mvccpb.Event) error {
	ev, rev := e.Plain(), want.Kv.ModRevision
	if ev.PrevKv != nil || ev.Type != want.Type || ev.Kv.ModRevision != rev ||
		string(ev.Kv.Key) != string(want.Kv.Key) || string(ev.Kv.Value) != string(want.Kv.Value) {
		return fmt.Errorf("given %v, want %v", ev, want)
	}
	if !w.watch.Previous {
		return nil
	}
	encoded, err := c.hub.WithPrevious(e)
	if err != nil {
		return err
	}
	full := new(mvccpb.Event)
	if err := proto.Unmarshal(encoded, full); err != nil {
		return err
	}
	before := c.m.store.before(ev.Kv.Key, rev)
	switch {
	case full.PrevKv == nil && before != nil && rev-1 >= c.m.store.Compacted():
		return fmt.Errorf("%v has no previous value", full)
	case full.PrevKv != nil && (before == nil || before.ModRevision != full.PrevKv.ModRevision ||
		string(before.Value) != string(full.PrevKv.Value)):
		return fmt.Errorf("%v: the previous value is %v", full, before)
	}
	return nil
}

func (c *client) checkProgress(w *watched, revision int64) error {
	if revision < w.watch.Start {
		return fmt.Errorf("progress %d before the start %d", revision, w.watch.Start)
	}
	if next := c.pending(w); next != nil && next.Kv.ModRevision <= revision {
		return fmt.Errorf("progress %d before %v", revision, next)
	}
	if revision < w.progress {
		return fmt.Errorf("progress %d after %d", revision, w.progress)
	}
	w.progress = revision
	return nil
}

// synced looks at every watcher's own progress.
func (c *client) synced() error {
	for watcher, w := range c.watches {
		if rev, ok := c.stream.Synced(watcher); ok {
			if err := c.checkProgress(w, rev); err != nil {
				return err
			}
			c.shown = max(c.shown, rev)
		}
	}
	return nil
}
