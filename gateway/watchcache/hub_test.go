package watchcache

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

func TestLive(t *testing.T) {
	r := newRig(t, Config{})
	s := r.hub.NewStream()
	r.add(s, "a", "c", 0)
	r.add(s, "b", "", 0)
	r.add(s, "b", "\x00", 0)
	require.Empty(t, r.drain(s))

	r.put("a=1")
	require.Empty(t, r.drain(s), "the hub has not passed")
	r.pass()
	<-s.Wake()
	require.Equal(t, []string{"a@2: 2:a=1"}, r.drain(s))

	r.put("a=2 b=2 c=2", "-a", "x=3")
	r.pass()
	require.ElementsMatch(t, []string{
		"a@4: 3:a=2 3:b=2 4:-a",
		"b@3: 3:b=2",
		"b@5: 3:b=2 3:c=2 5:x=3",
	}, r.drain(s))
	require.Empty(t, r.drain(s))
}

func TestFilters(t *testing.T) {
	r := newRig(t, Config{})
	s := r.hub.NewStream()
	for _, w := range []Watch{
		{Owner: "puts", NoDelete: true},
		{Owner: "deletions", NoPut: true},
		{Owner: "none", NoPut: true, NoDelete: true},
		{Owner: "old puts", NoDelete: true, Start: 1},
	} {
		w.Key, w.End = []byte("a"), []byte("z")
		_, revision, err := s.Add(w)
		require.NoError(t, err)
		require.EqualValues(t, 1, revision)
	}
	r.put("a=1", "-a", "a=2")
	r.pass()
	require.ElementsMatch(t, []string{
		"puts@4: 2:a=1 4:a=2", "deletions@3: 3:-a", "old puts@4: 2:a=1 4:a=2",
	}, r.drain(s))
}

// A watcher that has left gets nothing, and its span goes with the last one.
func TestRemove(t *testing.T) {
	r := newRig(t, Config{})
	s := r.hub.NewStream()
	gone, queued, stays := r.add(s, "gone", "\x00", 0), r.add(s, "queued", "\x00", 0), r.add(s, "k", "\x00", 0)
	past := r.add(s, "past", "\x00", 1)
	s.Remove(gone)
	s.Remove(gone)
	s.Remove(past)
	r.put("queued=1")
	r.pass()
	s.Remove(queued)
	require.Equal(t, []string{"k@2: 2:queued=1"}, r.drain(s))
	require.EqualValues(t, 0, r.hub.behind.Load())
	require.Len(t, r.hub.index.ranges, 1)
	s.Remove(stays)
	require.True(t, r.hub.index.empty())
	require.Nil(t, r.hub.index.tree)
	require.EqualValues(t, 0, r.hub.watchers.Load())
}

func TestStart(t *testing.T) {
	r := newRig(t, Config{})
	r.put("a=2", "a=3", "b=4")
	s := r.hub.NewStream()
	for _, start := range []int64{1, 3, 4, 5, 6} {
		r.add(s, "a", "\x00", start)
	}
	r.pass()
	require.ElementsMatch(t, []string{
		"a@4: 2:a=2 3:a=3 4:b=4", "a@4: 3:a=3 4:b=4", "a@4: 4:b=4",
	}, r.drain(s))
	r.put("a=5")
	r.pass()
	require.Len(t, r.drain(s), 4, "all but the one that begins at 6")
	r.put("a=6")
	r.pass()
	require.Len(t, r.drain(s), 5)
}

// What the store has acknowledged is not new to a watch that begins with the
// present, even if Publish is still to come.
func TestStartBeforePublish(t *testing.T) {
	r := newRig(t, Config{})
	events := r.store.apply(change{"a", "1"})
	s := r.hub.NewStream()
	_, revision, err := s.Add(Watch{Key: []byte("a"), Owner: "a"})
	require.NoError(t, err)
	require.EqualValues(t, 2, revision)
	s.RequestProgress()
	require.Empty(t, r.drain(s))
	r.hub.Publish(events, 2)
	r.pass()
	require.Equal(t, []string{"progress 2"}, r.drain(s))
	r.put("a=2")
	r.pass()
	require.Equal(t, []string{"a@3: 3:a=2"}, r.drain(s))
}

// What can not be read yet is not read from the store: a change may still come
// below what is shown already.
func TestOpenRevisions(t *testing.T) {
	r := &rig{t, newFakeStore(), NewHub(Config{})}
	for i := range 4 {
		r.store.apply(change{"a", fmt.Sprint(i + 2)})
	}
	r.store.open.Store(2)
	r.hub.bind(r.store, 3)
	s := r.hub.NewStream()
	r.add(s, "a", "", 2)
	require.Equal(t, []string{"a@3: 2:a=2 3:a=3"}, r.drain(s))
	_, revision, err := s.Add(Watch{Key: []byte("b"), Owner: "b"})
	require.NoError(t, err)
	require.EqualValues(t, 5, revision, "it begins after what is shown")
	s.RequestProgress()
	require.Empty(t, r.drain(s))

	r.store.open.Store(1)
	r.hub.Publish(r.store.view()[2:3], 4)
	r.pass()
	require.Equal(t, []string{"a@4: 4:a=4"}, r.drain(s))
	r.store.open.Store(0)
	r.hub.Publish(r.store.view()[3:], 5)
	r.pass()
	require.Equal(t, []string{"a@5: 5:a=5", "progress 5"}, r.drain(s))
}

// A watcher that missed a snapshot's events reads them from the store, and only
// what is closed.
func TestOpenRevisionsAfterRestore(t *testing.T) {
	r := newRig(t, Config{})
	s := r.hub.NewStream()
	r.add(s, "a", "", 0)
	for i := range 5 {
		r.store.apply(change{"a", fmt.Sprint(i + 2)})
	}
	r.store.open.Store(1)
	r.hub.Restored(5)
	r.pass()
	require.Equal(t, []string{"a@5: 2:a=2 3:a=3 4:a=4 5:a=5"}, r.drain(s))
	r.store.open.Store(0)
	r.hub.Publish(r.store.view()[4:], 6)
	r.pass()
	require.Equal(t, []string{"a@6: 6:a=6"}, r.drain(s))
}

// Start may come when the store is ahead of what was published, or when some of
// it was published from the log.
func TestPublishBeforeStart(t *testing.T) {
	store := newFakeStore()
	var published []*mvccpb.Event
	for i := range 6 {
		events := store.apply(change{"a", fmt.Sprint(i + 2)})
		if i >= 2 {
			published = append(published, events...)
		}
	}
	for _, ahead := range []bool{false, true} {
		r := &rig{t, store, NewHub(Config{})}
		if ahead {
			r.hub.Publish(published[:2], 5)
		} else {
			r.hub.Publish(published[:2], 5)
			r.hub.Publish(published[2:], 7)
		}
		r.hub.bind(store, 7)
		s := r.hub.NewStream()
		r.add(s, "a", "", 4)
		store.changes.Store(0)
		require.Equal(t, []string{"a@7: 4:a=4 5:a=5 6:a=6 7:a=7"}, r.drain(s))
		require.Equal(t, ahead, store.changes.Load() > 0)
		r.hub.Publish(published[2:], 7) // late, or again
		r.pass()
		require.Empty(t, r.drain(s))
		r.add(s, "a", "", 2)
		require.Equal(t, []string{"a@7: 2:a=2 3:a=3 4:a=4 5:a=5 6:a=6 7:a=7"}, r.drain(s))
	}
}

// Watchers that come back after a restart find the last of the past in memory.
func TestPreload(t *testing.T) {
	store := newFakeStore()
	for i := range 1000 {
		store.apply(change{"a", fmt.Sprint(i + 2)}, change{"b", "x"})
	}
	for _, c := range []struct {
		cfg       Config
		published int
		first     int64
	}{
		{Config{}, 0, 2},
		{Config{}, 10, 2},
		{Config{PreloadRevisions: 300}, 10, 692},
		{Config{PreloadRevisions: -1}, 10, 992},
		{Config{WindowBytes: 8 * 2 * 100 * (eventOverhead + 4)}, 0, 902},
	} {
		r := &rig{t, store, NewHub(c.cfg)}
		if c.published > 0 {
			history := store.view()
			r.hub.Publish(history[len(history)-2*c.published:], 1001)
		}
		r.hub.bind(store, 1001)
		store.events.Store(0)
		r.hub.preload()
		store.changes.Store(0)
		// What does not fit is not read.
		require.Less(t, store.events.Load(), 2*(2*r.hub.window.events.Load()+16))
		s := r.hub.NewStream()
		_, ok := r.hub.window.find(c.first - 1)
		require.Equal(t, c.first == 2, ok, c.first)
		r.add(s, "a", "", c.first)
		require.Contains(t, strings.Join(r.drain(s), " "), fmt.Sprintf(": %d:a=%d ", c.first, c.first))
		require.Zero(t, store.changes.Load())
		require.Equal(t, 2*(1001-c.first+1), r.hub.window.events.Load())

		r.add(s, "b", "", 0)
		r.put("b=y")
		r.pass()
		require.Equal(t, []string{fmt.Sprintf("b@%d: %d:b=y", store.Revision(), store.Revision())}, r.drain(s))
		store.mu.Lock()
		store.history = store.history[:2000]
		store.revision.Store(1001)
		store.mu.Unlock()
	}
	// What is compacted can not be preloaded.
	store.compacted.Store(500)
	hub := NewHub(Config{})
	hub.Start(store, 1001)
	defer hub.Close()
	require.EqualValues(t, 499, hub.window.start.Load())
}

// Many that are behind read the window by key, and are given the same.
func TestHerd(t *testing.T) {
	r := newRig(t, Config{WindowBytes: 100 * eventOverhead, ChunkEvents: 7})
	for i := range 90 {
		r.put(fmt.Sprintf("a%02d=%d b%02d=%d c=x", i%10, i, i%7, i))
	}
	start := r.hub.window.start.Load() + 1
	spans := [][2]string{{"c", ""}, {"a03", ""}, {"a03", "a05"}, {"a", "c"}, {"b03", "\x00"}, {"x", "\x00"}, {"0", "1"}}
	for _, span := range spans {
		alone, many := r.hub.NewStream(), r.hub.NewStream()
		r.add(alone, span[0], span[1], start+5)
		want := r.drain(alone)
		for range herd {
			r.add(many, span[0], span[1], start+5)
		}
		got := map[string]int{}
		for range want {
			var d Delivery
			status, err := many.Next(t.Context(), &d)
			require.NoError(t, err)
			require.Equal(t, Ready, status)
			got[r.render(&d)]++
		}
		for _, line := range append(want, r.drain(many)...) {
			got[line]++
		}
		for _, line := range want {
			require.Equal(t, herd+1, got[line], line)
		}
		require.Len(t, got, len(want))
		alone.Close()
		many.Close()
	}
	require.NotNil(t, r.hub.window.segments[1].sorted.Load())
}

func TestChunks(t *testing.T) {
	r := newRig(t, Config{ChunkEvents: 3})
	s := r.hub.NewStream()
	r.add(s, "a", "\x00", 0)
	r.put("a=2", "a=3 b=3", "a=4 b=4 c=4 d=4 e=4", "a=5")
	r.pass()
	want := []string{"a@3: 2:a=2 3:a=3 3:b=3", "a@4: 4:a=4 4:b=4 4:c=4 4:d=4 4:e=4", "a@5: 5:a=5"}
	require.Equal(t, want, r.drain(s))

	r.add(s, "a", "\x00", 2)
	require.Equal(t, want, r.drain(s), "from the window")
	require.Zero(t, r.store.changes.Load())
	r.hub.Restored(5)
	r.pass()
	r.add(s, "a", "\x00", 2)
	require.Equal(t, want, r.drain(s), "from the store")
	require.NotZero(t, r.store.changes.Load())

	r = newRig(t, Config{ChunkBytes: 2 * eventOverhead})
	s = r.hub.NewStream()
	r.add(s, "a", "\x00", 0)
	r.put("a=2", "a=3", "a=4")
	r.pass()
	require.Equal(t, []string{"a@3: 2:a=2 3:a=3", "a@4: 4:a=4"}, r.drain(s))
}

// Reading far takes many turns but misses nothing.
func TestChunkRevisions(t *testing.T) {
	r := newRig(t, Config{ChunkRevisions: 10})
	for range 300 {
		r.put("x=1")
	}
	r.put("a=1")
	r.hub.Restored(r.store.Revision())
	s := r.hub.NewStream()
	r.add(s, "a", "", 1)
	var d Delivery
	status, err := s.Next(t.Context(), &d)
	require.NoError(t, err)
	require.Equal(t, More, status)
	require.Equal(t, []string{"a@302: 302:a=1"}, r.drain(s))
	require.EqualValues(t, 31, r.store.changes.Load())
}

// A watcher that does not read loses its place in the log, and reads from the
// window, or from the store if the window has moved on.
func TestSlow(t *testing.T) {
	for _, c := range []struct {
		name      string
		cfg       Config
		fromStore bool
	}{
		{"window", Config{MaxPendingEvents: 4}, false},
		{"store", Config{MaxPendingEvents: 4, WindowBytes: 5 * eventOverhead}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.cfg)
			slow, fast := r.hub.NewStream(), r.hub.NewStream()
			r.add(slow, "a", "", 0)
			r.add(fast, "a", "", 0)
			var want []string
			for i := range 30 {
				r.put(fmt.Sprintf("a=%d", i))
				r.pass()
				want = append(want, fmt.Sprintf("%d:a=%d", i+2, i))
				require.Equal(t, []string{fmt.Sprintf("a@%d: %s", i+2, want[i])}, r.drain(fast))
			}
			sp := r.hub.index.exact["a"]
			require.LessOrEqual(t, len(sp.log)-sp.head, 4)
			got := r.drain(slow)
			require.Equal(t, []string{"a@31: " + strings.Join(want, " ")}, got)
			require.Equal(t, c.fromStore, r.hub.caughtUpStore.Load() > 0)
			require.Zero(t, r.hub.behind.Load())
			require.Zero(t, r.hub.overruns.Load())

			r.put("a=x")
			r.pass()
			require.Equal(t, []string{"a@32: 32:a=x"}, r.drain(slow))
			require.Equal(t, []string{"a@32: 32:a=x"}, r.drain(fast))
		})
	}
}

// The logs keep nothing alive that the window has dropped.
func TestLogsFollowWindow(t *testing.T) {
	r := newRig(t, Config{WindowBytes: 10 * eventOverhead})
	slow := r.hub.NewStream()
	for i := range 50 {
		r.add(slow, fmt.Sprintf("k%d", i), "", 0)
		r.put(fmt.Sprintf("k%d=x", i))
		r.pass()
	}
	for i := range 60 {
		r.put(fmt.Sprintf("other=%d", i))
		r.pass()
	}
	for _, sp := range r.hub.index.exact {
		require.Empty(t, sp.log)
	}
	require.Len(t, r.drain(slow), 50)
	require.Zero(t, r.hub.behind.Load())
}

// What the window has dropped is gone, also where nobody watches.
func TestNobodyWatches(t *testing.T) {
	hub, store := NewHub(Config{WindowBytes: 10 * eventOverhead}), newFakeStore()
	hub.Start(store, 1)
	defer hub.Close()
	r := &rig{t, store, hub}
	require.Eventually(t, hub.asleep.Load, 10*time.Second, time.Millisecond)
	first := weak.Make(hub.window.segments[0])
	for i := range 4 * segmentBatches {
		r.put(fmt.Sprintf("a=%d", i))
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		return first.Value() == nil
	}, 10*time.Second, time.Millisecond)
	require.Zero(t, hub.overruns.Load())
}

// The hub was overrun: everybody catches up, whatever they had read.
func TestOverrun(t *testing.T) {
	r := newRig(t, Config{WindowBytes: 8 * eventOverhead})
	idle, queued := r.hub.NewStream(), r.hub.NewStream()
	r.add(idle, "a", "", 0)
	r.add(idle, "other", "\x00", 0)
	r.add(queued, "a", "\x00", 0)
	r.put("a=2")
	r.pass()
	require.Equal(t, []string{"a@2: 2:a=2"}, r.drain(idle))
	idle.RequestProgress()
	require.Equal(t, []string{"progress 2"}, r.drain(idle))

	want := []string{"3:a=3"}
	r.put("a=3")
	for i := range 40 {
		r.put(fmt.Sprintf("a=%d", i+4))
		want = append(want, fmt.Sprintf("%d:a=%d", i+4, i+4))
	}
	idle.RequestProgress()
	require.Empty(t, r.drain(idle))
	r.pass()
	require.EqualValues(t, 1, r.hub.overruns.Load())
	<-idle.Wake()
	require.Equal(t, []string{"a@43: " + strings.Join(want, " "), "progress 43"}, r.drain(idle))
	require.Equal(t, []string{"a@43: 2:a=2 " + strings.Join(want, " ")}, r.drain(queued))
	require.Zero(t, r.hub.behind.Load())

	r.put("a=x", "p=x")
	r.pass()
	require.ElementsMatch(t, []string{"a@44: 44:a=x", "other@45: 45:p=x"}, r.drain(idle))
}

func TestCompacted(t *testing.T) {
	r := newRig(t, Config{})
	r.put("a=2", "a=3", "-a", "a=5")
	r.store.compacted.Store(4)
	s := r.hub.NewStream()
	r.add(s, "a", "", 3)
	require.Equal(t, []string{"a: compacted 4"}, r.drain(s), "although the window has it")
	r.add(s, "a", "", 4)
	require.Equal(t, []string{"a@5: 4:-a 5:a=5"}, r.drain(s))
	require.EqualValues(t, 1, r.hub.watchers.Load())

	// One that has begun goes on while the window reaches back to it, and is
	// told when it does not.
	slow := r.hub.NewStream()
	r.add(slow, "a", "", 0)
	r.hub.cfg.MaxPendingEvents = 1
	r.hub.index.exact["a"].maxEvents = 1
	r.put("a=6", "a=7", "a=8")
	r.pass()
	r.store.compacted.Store(8)
	require.Equal(t, []string{"a@8: 6:a=6 7:a=7 8:a=8"}, r.drain(slow))
	r.put("a=9", "a=10", "a=11")
	r.pass()
	r.hub.Restored(11)
	r.store.compacted.Store(11)
	require.Equal(t, []string{"a: compacted 11"}, r.drain(slow))
	slow.RequestProgress()
	require.Empty(t, r.drain(slow), "nobody is left to be told")
}

// A store that fails ends the stream with its error.
func TestStoreFails(t *testing.T) {
	r := newRig(t, Config{})
	r.put("a=2")
	r.hub.Restored(2)
	r.store.failing = errors.New("disk on fire")
	s := r.hub.NewStream()
	r.add(s, "a", "", 1)
	require.Equal(t, []string{"watchcache: changes from revision 1: disk on fire"}, r.drain(s))

	e := newEvent(&mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("a"), ModRevision: 3, CreateRevision: 2}})
	_, err := r.hub.WithPrevious(e)
	require.ErrorIs(t, err, r.store.failing)
}

// The store jumped: what was not published is read from it.
func TestRestored(t *testing.T) {
	r := newRig(t, Config{})
	s := r.hub.NewStream()
	r.add(s, "a", "", 0)
	r.put("a=2")
	r.store.apply(change{"a", "3"})
	r.store.apply(change{"a", "4"})
	r.hub.Restored(4)
	r.pass()
	require.Equal(t, []string{"a@4: 2:a=2 3:a=3 4:a=4"}, r.drain(s))
	r.put("a=5")
	r.pass()
	require.Equal(t, []string{"a@5: 5:a=5"}, r.drain(s))
}

func TestPrevious(t *testing.T) {
	r := newRig(t, Config{})
	r.put("a=2 b=2")
	s, other := r.hub.NewStream(), r.hub.NewStream()
	watch := Watch{Key: []byte("a"), End: []byte("z"), Previous: true, Owner: "p"}
	w, _, err := s.Add(watch)
	require.NoError(t, err)
	_, _, err = other.Add(watch)
	require.NoError(t, err)

	r.put("a=3", "a=4", "-a", "a=6 b=6")
	r.pass()
	want := []string{"p@6: 3:a=3(2) 4:a=4(3) 5:-a(4) 6:a=6 6:b=6(2)"}
	require.Equal(t, want, r.drain(s))
	require.Equal(t, want, r.drain(other))
	require.EqualValues(t, 2, r.store.previous.Load(), "once each for a=3 and b=6, whatever the number of watchers")

	// What the hub remembers must not survive a gap.
	s.Remove(w)
	other.Close()
	r.put("a=7")
	r.pass()
	_, _, err = s.Add(watch)
	require.NoError(t, err)
	r.put("-a")
	r.pass()
	require.Equal(t, []string{"p@8: 8:-a(7)"}, r.drain(s))

	// A previous value that has been compacted is none.
	r.put("a=9", "a=10", "a=11")
	r.pass()
	r.store.compacted.Store(10)
	require.Equal(t, []string{"p@11: 9:a=9 10:a=10 11:a=11(10)"}, r.drain(s), "although the hub knows it")
	r.hub.Restored(11)
	late := r.hub.NewStream()
	watch.Start = 10
	_, _, err = late.Add(watch)
	require.NoError(t, err)
	require.Equal(t, []string{"p@11: 10:a=10 11:a=11(10)"}, r.drain(late))
}

func TestPreviousValues(t *testing.T) {
	p := previousValues{maxBytes: 10 * (eventOverhead + 2)}
	rev := int64(1)
	note := func(key string) *mvccpb.KeyValue {
		rev++
		e := newEvent(&mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: []byte("v"), ModRevision: rev, CreateRevision: 1}})
		p.note(e)
		return e.prev.Load()
	}
	require.Nil(t, note("a"))
	require.EqualValues(t, 2, note("a").ModRevision)
	for range 5 {
		note("b")
	}
	require.EqualValues(t, 3, note("a").ModRevision, "from the old generation")
	for range 11 {
		note("b")
	}
	require.Nil(t, note("a"), "forgotten")
	require.LessOrEqual(t, len(p.young)+len(p.old), 4)
}

func TestProgress(t *testing.T) {
	r := newRig(t, Config{})
	s := r.hub.NewStream()
	s.RequestProgress()
	require.Empty(t, r.drain(s), "nobody to be told")
	a := r.add(s, "a", "", 0)
	s.RequestProgress()
	s.RequestProgress()
	require.Equal(t, []string{"progress 1"}, r.drain(s))

	// Not before the hub has come to the revision of the request.
	r.put("other=1")
	s.RequestProgress()
	require.Empty(t, r.drain(s))
	rev, ok := s.Synced(a)
	require.True(t, ok)
	require.EqualValues(t, 1, rev)
	r.pass()
	<-s.Wake()
	require.Equal(t, []string{"progress 2"}, r.drain(s))

	// Not before events.
	r.put("a=3")
	s.RequestProgress()
	r.pass()
	_, ok = s.Synced(a)
	require.False(t, ok)
	require.Equal(t, []string{"a@3: 3:a=3", "progress 3"}, r.drain(s))

	// Not before those of the past.
	r.add(s, "past", "\x00", 1)
	s.RequestProgress()
	require.Equal(t, []string{"progress 3"}, r.drain(s))
	r.add(s, "a", "\x00", 1)
	s.RequestProgress()
	require.Equal(t, []string{"a@3: 2:other=1 3:a=3", "progress 3"}, r.drain(s))

	// A watch whose start is still to come has no progress.
	future := r.add(s, "f", "", 6)
	s.RequestProgress()
	require.Empty(t, r.drain(s))
	_, ok = s.Synced(future)
	require.False(t, ok)
	r.put("x=4", "x=5", "x=6")
	r.pass()
	require.Len(t, r.drain(s), 2)
	rev, ok = s.Synced(future)
	require.True(t, ok)
	require.EqualValues(t, 6, rev)
	s.RequestProgress()
	require.Equal(t, []string{"progress 6"}, r.drain(s))
}

// Under a load that always leaves some watcher with events, progress is shown
// all the same, and does not go back.
func TestProgressBarrier(t *testing.T) {
	r := newRig(t, Config{})
	s := r.hub.NewStream()
	r.add(s, "a", "", 0)
	r.add(s, "b", "", 0)
	shown, events := map[string]int64{}, 0
	var progress []int64
	s.RequestProgress()
	for i := range 200 {
		r.put(fmt.Sprintf("a=%d", i), fmt.Sprintf("b=%d", i))
		r.pass()
		var d Delivery
		status, err := s.Next(t.Context(), &d)
		require.NoError(t, err)
		require.Equal(t, Ready, status)
		if d.Watcher == nil {
			for key, rev := range shown {
				require.GreaterOrEqual(t, d.Revision, rev, key)
			}
			require.LessOrEqual(t, d.Revision, min(shown["a"], shown["b"])+1)
			progress = append(progress, d.Revision)
			s.RequestProgress()
		} else {
			events++
			shown[d.Watcher.Owner().(string)] = d.Revision
		}
	}
	require.Greater(t, len(progress), 10)
	require.Greater(t, events, 100)
}

// Halfway through a pass, when the events are in the logs and the streams have
// not been told, nobody may take himself for up to date.
func TestProgressInsidePass(t *testing.T) {
	r := newRig(t, Config{WindowBytes: 8 * eventOverhead})
	s, other := r.hub.NewStream(), r.hub.NewStream()
	a := r.add(s, "a", "", 0)
	notYet := func(shown int64) {
		t.Helper()
		s.RequestProgress()
		require.Empty(t, r.drain(s))
		rev, ok := s.Synced(a)
		require.True(t, ok)
		require.Equal(t, shown, rev)
	}
	r.put("a=2")
	r.hub.advance()
	notYet(1)
	r.hub.tell()
	require.Equal(t, []string{"a@2: 2:a=2", "progress 2"}, r.drain(s))

	// The same when the hub was overrun, although somebody joins meanwhile.
	for i := range 40 {
		r.put(fmt.Sprintf("a=%d", i+3))
	}
	r.hub.advance()
	require.EqualValues(t, 1, r.hub.overruns.Load())
	r.add(other, "b", "", 0)
	notYet(2)
	r.put("a=43")
	r.hub.tell()
	r.pass()
	got := r.drain(s)
	require.Equal(t, "progress 43", got[len(got)-1])
	require.Equal(t, 41, strings.Count(strings.Join(got, " "), "=")) // each once
}

// A request waits for the hub while nothing else happens on the stream.
func TestProgressWaitsForHub(t *testing.T) {
	hub, store := NewHub(Config{}), newFakeStore()
	hub.Start(store, 1)
	t.Cleanup(hub.Close)
	r := &rig{t, store, hub}
	s := hub.NewStream()
	defer s.Close()
	r.add(s, "a", "", 0)
	for i := range 100 {
		r.put("other=1")
		s.RequestProgress()
		var d Delivery
		for {
			status, err := s.Next(t.Context(), &d)
			require.NoError(t, err)
			if status == Ready {
				break
			}
			<-s.Wake()
		}
		require.EqualValues(t, i+2, d.Revision)
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t, Config{MaxWatchers: 2})
	s := r.hub.NewStream()
	a := r.add(s, "a", "", 0)
	r.add(s, "a", "", 0)
	_, _, err := s.Add(Watch{Key: []byte("a")})
	require.ErrorIs(t, err, ErrTooManyWatchers)
	s.Remove(a)
	r.add(s, "a", "", 0)
	require.Panics(t, func() { r.hub.Start(r.store, 1) })
}

func TestClose(t *testing.T) {
	hub, store := NewHub(Config{}), newFakeStore()
	hub.Start(store, 1)
	r := &rig{t, store, hub}
	s := hub.NewStream()
	r.add(s, "a", "", 0)
	hub.Close()
	hub.Close()
	<-hub.Done()
	require.Equal(t, []string{ErrClosed.Error()}, r.drain(s))
	r.put("a=1")
	s.Close()
	s.Close()
	require.Zero(t, hub.watchers.Load())
	NewHub(Config{}).Close()
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r := newRig(t, Config{Registerer: reg})
	s := r.hub.NewStream()
	r.add(s, "a", "", 0)
	r.add(s, "b", "", 1)
	r.put("a=1 b=1", "a=2")
	r.pass()
	var d Delivery
	_, err := s.Next(t.Context(), &d)
	require.NoError(t, err)
	require.EqualValues(t, len(d.Events), r.hub.pending.Load())
	r.drain(s)

	families, err := reg.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "/" + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	require.Equal(t, map[string]float64{
		"etcd_debugging_mvcc_watcher_total":                  2,
		"etcd_debugging_mvcc_watch_stream_total":             1,
		"etcd_debugging_mvcc_slow_watcher_total":             0,
		"etcd_debugging_mvcc_pending_events_total":           0,
		"etcd_debugging_mvcc_events_total":                   3,
		"pebbledash_watchcache_catchup_chunks_total/history": 0,
		"pebbledash_watchcache_evicted_objects_total":        0,
		"pebbledash_watchcache_bytes":                        0,
		"pebbledash_watchcache_limit_bytes":                  256 << 20,
		"pebbledash_watchcache_window_bytes":                 3*eventOverhead + 6,
		"pebbledash_watchcache_window_events":                3,
		"pebbledash_watchcache_window_limit_bytes":           64 << 20,
		"pebbledash_watchcache_lag_revisions":                0,
		"pebbledash_watchcache_overruns_total":               0,
		"pebbledash_watchcache_previous_reads_total":         0,
		"pebbledash_watchcache_catchup_chunks_total/window":  1,
		"pebbledash_watchcache_catchup_chunks_total/store":   1,
	}, got)
}
