package watchcache

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// changesAt are events of these revisions; a revision may have several.
func changesAt(revisions ...int64) (events []*Event) {
	for i, rev := range revisions {
		events = append(events, newEvent(&mvccpb.Event{Kv: &mvccpb.KeyValue{Key: fmt.Append(nil, i), ModRevision: rev}}))
	}
	return events
}

func revisionsOf(events []*Event) (revisions []int64) {
	for _, e := range events {
		revisions = append(revisions, e.revision)
	}
	return revisions
}

func TestHistory(t *testing.T) {
	var total atomic.Int64
	h := &history{maxEvents: 5, start: 10, total: &total}
	read := func(from int64) []int64 {
		events, ok := h.read(from, 100, nil)
		if !ok {
			return []int64{-1}
		}
		return revisionsOf(events)
	}
	h.add(changesAt(11, 13, 13))
	require.Positive(t, total.Load())
	require.Equal(t, h.bytes.Load(), total.Load())
	require.Equal(t, []int64{11, 13, 13}, read(11))
	require.Equal(t, []int64{13, 13}, read(12))
	require.Equal(t, []int64{-1}, read(10), "there may have been one that is gone")
	require.Empty(t, read(14))

	// Half of a revision is gone: the rest is no answer from there.
	h.add(changesAt(14, 15, 16, 17))
	require.EqualValues(t, 13, h.start)
	require.Equal(t, []int64{13, 14, 15, 16, 17}, revisionsOf(h.events[h.head:]))
	require.Equal(t, []int64{-1}, read(13))
	require.Equal(t, []int64{14, 15, 16, 17}, read(14))
	number, ok := h.numberAfter(14)
	require.True(t, ok)
	events, ok := h.since(number, nil)
	require.True(t, ok)
	require.Equal(t, []int64{15, 16, 17}, revisionsOf(events))
	_, ok = h.numberAfter(12)
	require.False(t, ok)
	_, ok = h.since(h.oldest()-1, nil)
	require.False(t, ok)
	require.Equal(t, h.end.Load(), h.oldest()+5)

	// What the store still had comes before, as far as there is room.
	full := &history{maxEvents: 4, start: 10, total: new(atomic.Int64)}
	full.add(changesAt(11, 12))
	full.prepend(5, 9, changesAt(6, 8, 9))
	require.EqualValues(t, 10, full.start, "10 is gone")
	full.prepend(5, 10, changesAt(6, 8, 9))
	require.EqualValues(t, 6, full.start)
	require.Equal(t, []int64{8, 9, 11, 12}, revisionsOf(full.events))
	require.Equal(t, full.end.Load(), full.oldest()+4)

	before := total.Load()
	require.True(t, h.shrink())
	require.Less(t, total.Load(), before)
	require.Equal(t, []int64{16, 17}, read(16))
	require.Equal(t, h.bytes.Load(), total.Load())
	h.reset(40)
	require.False(t, h.shrink())
	require.Zero(t, total.Load())
	require.Zero(t, h.bytes.Load())
	require.Equal(t, []int64{-1}, read(40))
	require.Empty(t, read(41))
}

// A revision that is larger than what is read at a time is not cut in two.
func TestReadHistory(t *testing.T) {
	r := newRig(t, Config{ChunkEvents: 2, WindowEvents: 1, WindowBytes: 1, Resources: oneResource{}})
	r.put("p/a=1", "p/b=2 p/c=2 p/d=2 p/e=2 p/f=2 p/g=2", "p/b=3 p/c=3 p/d=3 p/e=3 p/f=3 p/g=3", "p/a=4")
	for range 2 * segmentBatches {
		r.put("x=0")
	}
	s := r.hub.NewStream()
	r.add(s, "p/", "p0", 2)
	got := r.drain(s)
	r.pass()
	got = append(got, r.drain(s)...)
	require.Equal(t, []string{
		"p/@3: 2:p/a=1 3:p/b=2 3:p/c=2 3:p/d=2 3:p/e=2 3:p/f=2 3:p/g=2",
		"p/@4: 4:p/b=3 4:p/c=3 4:p/d=3 4:p/e=3 4:p/f=3 4:p/g=3",
		"p/@517: 5:p/a=4",
	}, got)
	// Most of what is read is not for it.
	r.add(s, "p/g", "", 2)
	require.Equal(t, []string{"p/g@3: 3:p/g=2", "p/g@517: 4:p/g=3"}, r.drain(s))
	require.Positive(t, r.hub.caughtUpHistory.Load())
	require.Zero(t, r.hub.caughtUpStore.Load())
}

// oneResource has the keys below p/.
type oneResource struct{}

func (oneResource) ResourcePath(key []byte) []byte {
	if len(key) < 2 || string(key[:2]) != "p/" {
		return nil
	}
	return key[:2]
}

func (oneResource) ResourceName(path string) string { return path }
