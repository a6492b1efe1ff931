package watchcache

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// benchEvents makes events for Publish, one a revision, in turn over keys.
func benchEvents(keys int) func(rev int64) []*mvccpb.Event {
	value := make([]byte, 1024)
	names := make([][]byte, keys)
	for i := range names {
		names[i] = fmt.Appendf(nil, "/registry/pods/default/pod-%06d", i)
	}
	return func(rev int64) []*mvccpb.Event {
		return []*mvccpb.Event{{Kv: &mvccpb.KeyValue{
			Key: names[int(rev)%keys], Value: value, CreateRevision: 1, ModRevision: rev, Version: rev,
		}}}
	}
}

func (r *rig) drainCount(b *testing.B, s *Stream) (events int) {
	b.Helper()
	for {
		var d Delivery
		status, err := s.Next(b.Context(), &d)
		if err != nil {
			b.Fatal(err)
		}
		if status == Idle {
			return events
		}
		events += len(d.Events)
	}
}

// BenchmarkFanOut is the CPU time from Publish to what Next returns, without the
// switch between goroutines: one event that all watchers of a prefix get.
func BenchmarkFanOut(b *testing.B) {
	for _, watchers := range []int{1, 100, 1000, 10_000} {
		for _, perStream := range slices.Compact([]int{1, watchers}) {
			b.Run(fmt.Sprintf("watchers=%d/streams=%d", watchers, watchers/perStream), func(b *testing.B) {
				r := newRig(b, Config{})
				var streams []*Stream
				for i := range watchers {
					if i%perStream == 0 {
						streams = append(streams, r.hub.NewStream())
					}
					r.add(streams[len(streams)-1], "/registry/pods/", "/registry/pods0", 0)
				}
				event := benchEvents(1000)
				rev, delivered := int64(1), 0
				b.ReportAllocs()
				for b.Loop() {
					rev++
					r.store.revision.Store(rev)
					r.hub.Publish(event(rev), rev)
					r.pass()
					for _, s := range streams {
						delivered += r.drainCount(b, s)
					}
				}
				require.Equal(b, int(rev-1)*watchers, delivered)
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(delivered), "ns/delivered")
			})
		}
	}
}

// BenchmarkDistinct is what an event costs among many watchers of other keys.
func BenchmarkDistinct(b *testing.B) {
	for _, kind := range []string{"keys", "prefixes"} {
		const watchers = 10_000
		b.Run(fmt.Sprintf("%s=%d", kind, watchers), func(b *testing.B) {
			r := newRig(b, Config{})
			s := r.hub.NewStream()
			for i := range watchers {
				key, end := fmt.Sprintf("/registry/pods/default/pod-%06d", i), ""
				if kind == "prefixes" {
					end = key + "0"
				}
				r.add(s, key, end, 0)
			}
			event := benchEvents(watchers)
			rev, delivered := int64(1), 0
			b.ReportAllocs()
			for b.Loop() {
				rev++
				r.store.revision.Store(rev)
				r.hub.Publish(event(rev), rev)
				r.pass()
				delivered += r.drainCount(b, s)
			}
			require.Equal(b, int(rev-1), delivered)
		})
	}
}

// BenchmarkPublish is what the writer pays: nobody watches, or somebody does.
func BenchmarkPublish(b *testing.B) {
	for _, watchers := range []int{0, 1} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			r := newRig(b, Config{})
			s := r.hub.NewStream()
			for range watchers {
				r.add(s, "other", "", 0)
			}
			event := benchEvents(1000)
			b.ReportAllocs()
			rev := int64(1)
			for b.Loop() {
				rev++
				r.hub.Publish(event(rev), rev)
			}
		})
	}
}

// BenchmarkPrevious is BenchmarkFanOut of one watcher that wants PrevKv, which
// the hub remembers.
func BenchmarkPrevious(b *testing.B) {
	r := newRig(b, Config{})
	s := r.hub.NewStream()
	_, _, err := s.Add(Watch{Key: []byte("/registry/pods/"), End: []byte("/registry/pods0"), Previous: true})
	require.NoError(b, err)
	event := benchEvents(1000)
	rev := int64(1)
	b.ReportAllocs()
	for b.Loop() {
		rev++
		r.store.revision.Store(rev)
		r.hub.Publish(event(rev), rev)
		r.pass()
		var d Delivery
		for status := Ready; status != Idle; {
			if status, err = s.Next(b.Context(), &d); err != nil {
				b.Fatal(err)
			}
			for _, e := range d.Events {
				if _, err := r.hub.WithPrevious(e); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	require.LessOrEqual(b, r.hub.previousRead.Load(), int64(1000))
}

// BenchmarkCatchUp is a watcher, or many that were away together, reading a
// window of 50,000 events for those of one key.
func BenchmarkCatchUp(b *testing.B) {
	for _, watchers := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			r := newRig(b, Config{})
			event := benchEvents(watchers)
			const events = 50_000
			for rev := int64(2); rev < events; rev++ {
				r.store.revision.Store(rev)
				r.hub.Publish(event(rev), rev)
			}
			for b.Loop() {
				s := r.hub.NewStream()
				for i := range watchers {
					r.add(s, fmt.Sprintf("/registry/pods/default/pod-%06d", i), "", 2)
				}
				if got := r.drainCount(b, s); got < events-watchers-2 {
					b.Fatal(got)
				}
				s.Close()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*watchers), "µs/watcher")
		})
	}
}
