package watchcache

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// The index finds exactly the spans that a look at each of them finds.
func TestIndex(t *testing.T) {
	const seed = 7
	rnd := rand.New(rand.NewPCG(seed, seed))
	letter := func() string { return string(rune('a' + rnd.IntN(8))) }
	var x index
	live := map[*span]bool{}
	for range 3000 {
		switch rnd.IntN(3) {
		case 0, 1:
			key, end := letter()+letter(), ""
			switch rnd.IntN(4) {
			case 0:
			case 1:
				end = "\x00"
			default:
				if end = letter() + letter(); end <= key {
					key, end = end, key+"x"
				}
			}
			sp := x.get([]byte(key), []byte(end), 1)
			require.Same(t, sp, x.get([]byte(key), []byte(end), 1))
			live[sp] = true
		case 2:
			for sp := range live {
				x.remove(sp)
				delete(live, sp)
				break
			}
		}
		if len(live) > 60 {
			for sp := range live {
				x.remove(sp)
				delete(live, sp)
			}
			require.True(t, x.empty())
		}
		key := []byte(letter() + letter())
		found := x.stab(key, nil)
		for sp := range live {
			require.Equal(t, contains(sp.key, sp.end, key), slices.Contains(found, sp), "%q in [%q, %q)", key, sp.key, sp.end)
		}
		require.LessOrEqual(t, len(found), len(live))
	}
	require.Panics(t, func() { remove(nil, newSpan([]byte("a"), []byte("b"), 1)) })
}

func TestWindow(t *testing.T) {
	w := &window{maxBytes: 10 * eventOverhead, maxEvents: 1000}
	event := func(rev int64) *mvccpb.Event {
		return &mvccpb.Event{Kv: &mvccpb.KeyValue{ModRevision: rev}}
	}
	w.reset(4)
	// Revisions that are skipped and batches of several.
	w.publish([]*mvccpb.Event{event(5)}, 5)
	require.EqualValues(t, 4, w.start.Load())
	w.publish([]*mvccpb.Event{event(7), event(7), event(8)}, 8)
	w.publish(nil, 9)
	w.publish([]*mvccpb.Event{event(5)}, 5)
	w.publish([]*mvccpb.Event{event(8), event(10)}, 10)
	from := func(rev int64) string {
		p, ok := w.find(rev)
		if !ok {
			return "no"
		}
		out := ""
		for b := p.next(); b != nil; b = p.next() {
			for i := range b.events {
				out += fmt.Sprint(b.events[i].Revision(), " ")
			}
			out += fmt.Sprintf("(%d)", b.revision)
		}
		return out
	}
	require.Equal(t, "no", from(4))
	require.Equal(t, "5 (5)7 7 8 (8)(9)10 (10)", from(5))
	require.Equal(t, "7 7 8 (8)(9)10 (10)", from(6))
	require.Equal(t, "7 7 8 (8)(9)10 (10)", from(8))
	require.Equal(t, "(9)10 (10)", from(9))
	require.Empty(t, from(11))
	old, _ := w.find(5)
	p, tail := w.tail()
	require.EqualValues(t, 10, tail)
	require.False(t, p.more())

	for rev := int64(11); rev <= 1000; rev++ {
		w.publish([]*mvccpb.Event{event(rev)}, rev)
		require.LessOrEqual(t, w.bytes.Load(), int64(14*eventOverhead))
		require.GreaterOrEqual(t, w.events.Load(), min(rev-6, 8))
		require.Equal(t, "no", from(w.start.Load()))
		require.NotEqual(t, "no", from(w.start.Load()+1))
	}
	require.True(t, old.seg.evicted.Load())
	require.NotNil(t, p.next(), "whoever has a place can read on")
	w.reset(2000)
	require.Equal(t, "no", from(2000))
	require.Empty(t, from(2001))

	// A bound in events, with segments that are full.
	w = &window{maxBytes: 1 << 40, maxEvents: 1000}
	w.reset(1)
	for rev := int64(2); rev < 5000; rev++ {
		w.publish([]*mvccpb.Event{event(rev)}, rev)
		require.LessOrEqual(t, w.events.Load(), int64(1000+2*segmentBatches))
	}
	require.EqualValues(t, 4999, w.published.Load())
}
