package watchcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// fakeStore is a store that keeps its whole history in a slice.
type fakeStore struct {
	revision, compacted atomic.Int64
	// open is how many of the last revisions can not be read yet.
	open              atomic.Int64
	changes, previous atomic.Int64 // calls
	events            atomic.Int64 // that Changes has given

	mu      sync.RWMutex
	history []*mvccpb.Event
	latest  map[string]*mvccpb.KeyValue
	// failing is what Changes and Previous return.
	failing error
}

var errFakeCompacted = errors.New("fake: compacted")

func newFakeStore() *fakeStore {
	s := &fakeStore{latest: map[string]*mvccpb.KeyValue{}}
	s.revision.Store(1)
	return s
}

// change is a key and a value; no value is a deletion.
type change struct{ key, value string }

// apply makes changes at the next revision and returns their events.
func (s *fakeStore) apply(changes ...change) []*mvccpb.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	rev := s.revision.Load() + 1
	var events []*mvccpb.Event
	for _, c := range changes {
		before := s.latest[c.key]
		ev := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(c.key), ModRevision: rev}}
		if c.value == "" {
			if before == nil {
				continue
			}
			ev.Type = mvccpb.Event_DELETE
			delete(s.latest, c.key)
		} else {
			ev.Kv.Value, ev.Kv.Version, ev.Kv.CreateRevision = []byte(c.value), 1, rev
			if before != nil {
				ev.Kv.Version, ev.Kv.CreateRevision = before.Version+1, before.CreateRevision
			}
			s.latest[c.key] = ev.Kv
		}
		events = append(events, ev)
	}
	if len(events) == 0 {
		return nil
	}
	s.history = append(s.history, events...)
	s.revision.Store(rev)
	return events
}

func (s *fakeStore) Revision() int64  { return s.revision.Load() }
func (s *fakeStore) Closed() int64    { return s.revision.Load() - s.open.Load() }
func (s *fakeStore) Compacted() int64 { return s.compacted.Load() }

func (s *fakeStore) Changes(ctx context.Context, key, end []byte, from, to int64, fn func(*mvccpb.Event) error) error {
	s.changes.Add(1)
	for _, ev := range s.view() {
		rev := ev.Kv.ModRevision
		if from < s.compacted.Load() {
			return errFakeCompacted
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if rev < from || rev > to || !contains(key, end, ev.Kv.Key) {
			continue
		}
		s.events.Add(1)
		if err := fn(proto.CloneOf(ev)); err != nil {
			return err
		}
	}
	return s.failing
}

func (s *fakeStore) Previous(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	s.previous.Add(1)
	if s.failing != nil {
		return nil, s.failing
	}
	if rev-1 < s.compacted.Load() {
		return nil, errFakeCompacted
	}
	return s.before(key, rev), nil
}

// before is Previous without compaction.
func (s *fakeStore) before(key []byte, rev int64) *mvccpb.KeyValue {
	history := s.view()
	for i := len(history) - 1; i >= 0; i-- {
		if ev := history[i]; ev.Kv.ModRevision < rev && bytes.Equal(ev.Kv.Key, key) {
			if ev.Type == mvccpb.Event_DELETE {
				return nil
			}
			return ev.Kv
		}
	}
	return nil
}

// view returns the history up to now.
func (s *fakeStore) view() []*mvccpb.Event {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.history
}

// rig is a hub whose passes the test runs itself, over a fakeStore.
type rig struct {
	t     testing.TB
	store *fakeStore
	hub   *Hub
}

func newRig(tb testing.TB, cfg Config) *rig {
	tb.Helper()
	r := &rig{tb, newFakeStore(), NewHub(cfg)}
	r.hub.bind(r.store, 1)
	return r
}

// put makes one revision of each line "k=v k=v", "-k" for a deletion, and
// publishes them together.
func (r *rig) put(lines ...string) {
	r.t.Helper()
	var events []*mvccpb.Event
	for _, line := range lines {
		var changes []change
		for word := range strings.FieldsSeq(line) {
			if key, found := strings.CutPrefix(word, "-"); found {
				changes = append(changes, change{key: key})
			} else {
				key, value, _ := strings.Cut(word, "=")
				changes = append(changes, change{key, value})
			}
		}
		events = append(events, r.store.apply(changes...)...)
	}
	r.hub.Publish(events, r.store.Revision())
}

// pass runs the hub until it has nothing more to do.
func (r *rig) pass() {
	for r.hub.pass() {
	}
}

func (r *rig) add(s *Stream, key, end string, start int64) *Watcher {
	r.t.Helper()
	w, _, err := s.Add(Watch{Key: []byte(key), End: []byte(end), Start: start, Owner: key})
	require.NoError(r.t, err)
	return w
}

// drain renders what Next gives until it is Idle.
func (r *rig) drain(s *Stream) []string {
	r.t.Helper()
	var out []string
	for {
		var d Delivery
		switch status, err := s.Next(r.t.Context(), &d); {
		case err != nil:
			return append(out, err.Error())
		case status == Idle:
			return out
		case status == Ready:
			out = append(out, r.render(&d))
		}
	}
}

func (r *rig) render(d *Delivery) string {
	if d.Watcher == nil {
		return fmt.Sprintf("progress %d", d.Revision)
	}
	if d.Compacted != 0 {
		return fmt.Sprintf("%s: compacted %d", d.Watcher.Owner(), d.Compacted)
	}
	var parts []string
	for _, e := range d.Events {
		ev := e.Plain()
		if d.Watcher.previous {
			encoded, err := r.hub.WithPrevious(e)
			require.NoError(r.t, err)
			ev = new(mvccpb.Event)
			require.NoError(r.t, proto.Unmarshal(encoded, ev))
		}
		part := fmt.Sprintf("%d:%s=%s", e.Revision(), ev.Kv.Key, ev.Kv.Value)
		if ev.Type == mvccpb.Event_DELETE {
			part = fmt.Sprintf("%d:-%s", e.Revision(), ev.Kv.Key)
		}
		if ev.PrevKv != nil {
			part += fmt.Sprintf("(%s)", ev.PrevKv.Value)
		}
		parts = append(parts, part)
	}
	return fmt.Sprintf("%s@%d: %s", d.Watcher.Owner(), d.Revision, strings.Join(parts, " "))
}
