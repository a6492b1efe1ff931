package crash_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// scene is a made-up session, told as its clients and watchers would tell it.
type scene struct {
	*ledger
	checker *checker
	clk     *clock.Manual
	watcher *watcher
}

func newScene() *scene {
	clk := clock.NewManual(time.Unix(0, 0))
	l := newLedger(newVerdict())
	c := newChecker(l, newHistory(clk))
	w := &watcher{
		name: "watch", key: everything, end: everything, prev: true, ledger: l, history: c.history,
		reached: 1, advanced: make(chan bool, 1),
	}
	l.startLife()
	return &scene{l, c, clk, w}
}

// sent has a client send an op; answered has it answered at rev, with what it
// replaced or removed; shown has the watcher see it.
func (s *scene) sent(o *op) *op {
	s.begin(o)
	return o
}

func (s *scene) answered(o *op, rev int64, was ...[]item) {
	o.outcome, o.rev, o.was = applied, rev, was
	s.done(o)
}

func (s *scene) shown(rev int64, events ...*mvccpb.Event) { s.watcher.take(rev, events) }

// done is a write that is answered and shown as it should be.
func (s *scene) written(id, key string, rev, create, version int64, before ...item) {
	o := s.sent(putting(id, key))
	s.answered(o, rev, append([]item{}, before...))
	s.shown(rev, put(id, key, create, rev, version, before...))
}

// killed is a kill and a restart, whose first write is rev.
func (s *scene) killed(rev int64) {
	s.endLife()
	s.startLife()
	o := s.sent(putting("mark", "/mark"))
	s.answered(o, rev, []item{})
	s.marked(rev)
	s.shown(rev, put("mark", "/mark", rev, rev, 1))
}

func putting(id, key string) *op { return &op{id: id, steps: []step{{key: key, value: id}}} }

func put(id, key string, create, mod, version int64, before ...item) *mvccpb.Event {
	e := &mvccpb.Event{Kv: &mvccpb.KeyValue{
		Key: []byte(key), Value: []byte(id), CreateRevision: create, ModRevision: mod, Version: version,
	}}
	for _, b := range before {
		e.PrevKv = &mvccpb.KeyValue{
			Key: []byte(b.key), Value: []byte(b.value), CreateRevision: b.create, ModRevision: b.mod, Version: b.version, Lease: b.lease,
		}
	}
	return e
}

func del(key string, mod int64, before item) *mvccpb.Event {
	e := put("", key, 0, mod, 0, before)
	e.Type = mvccpb.Event_DELETE
	return e
}

func is(id, key string, create, mod, version int64) item {
	return item{key: key, value: id, create: create, mod: mod, version: version}
}

// judge returns what is found.
func (s *scene) judge(upTo int64) string {
	s.checker.advance(upTo)
	s.watcher.check(s.checker, 1, upTo)
	_, lines := s.violations()
	return strings.Join(lines, "\n")
}

// Every fault that this package is there to find is found in a history that has
// it, and nothing is found in those that have none.
func TestJudge(t *testing.T) {
	a1, a2 := is("a", "/k", 2, 2, 1), is("b", "/k", 2, 3, 2)
	for name, c := range map[string]struct {
		play func(s *scene)
		upTo int64
		want string // "" is no violation
	}{
		"all is well": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			s.written("b", "/k", 3, 2, 2, a1)
			o := s.sent(&op{id: "c", steps: []step{{remove: true, key: "/k"}}})
			s.answered(o, 4, []item{a2})
			s.shown(4, del("/k", 4, a2))
			s.looked("get", rangeOf("/k", 3), answer(4, a2), 4, "somebody")
			s.looked("get", rangeOf("/k", 0), answer(4), 4, "somebody")
			s.killed(5)
		}, 5, ""},
		"unacknowledged, there": {func(s *scene) {
			s.sent(putting("a", "/k"))
			s.shown(2, put("a", "/k", 2, 2, 1))
			s.killed(3)
		}, 3, ""},
		"unacknowledged, not there": {func(s *scene) {
			s.sent(putting("a", "/k"))
			s.killed(2)
		}, 2, ""},
		"unacknowledged, after the restart": {func(s *scene) {
			s.sent(putting("a", "/k"))
			s.killed(2)
			s.shown(3, put("a", "/k", 3, 3, 1))
		}, 3, "was sent before a kill"},
		"unacknowledged, twice": {func(s *scene) {
			s.sent(putting("a", "/k"))
			s.shown(2, put("a", "/k", 2, 2, 1))
			s.shown(3, put("a", "/k", 2, 3, 2, a1))
			s.killed(4)
		}, 4, "had its revision already"},
		"unacknowledged, half": {func(s *scene) {
			s.sent(&op{id: "a", steps: []step{{key: "/k", value: "a"}, {key: "/l", value: "a"}}})
			s.shown(2, put("a", "/k", 2, 2, 1))
			s.killed(3)
		}, 3, "is 1, want 2"},
		"acknowledged, lost": {func(s *scene) {
			s.answered(s.sent(putting("a", "/k")), 2, []item{})
			s.killed(3)
		}, 3, "not in the history"},
		"acknowledged, its revision given to another": {func(s *scene) {
			s.answered(s.sent(putting("a", "/k")), 2, []item{})
			s.killed(2)
		}, 2, "revision 2 was told by"},
		"acknowledged, at another revision": {func(s *scene) {
			s.answered(s.sent(putting("a", "/k")), 3, []item{})
			s.shown(2, put("a", "/k", 2, 2, 1))
			s.killed(4)
		}, 4, "acknowledged at 3"},
		"acknowledged, with another value": {func(s *scene) {
			s.answered(s.sent(putting("a", "/k")), 2, []item{})
			s.shown(2, put("x", "/k", 2, 2, 1))
			s.killed(3)
		}, 3, "want put /k=a"},
		"acknowledged, with a wrong version": {func(s *scene) {
			s.answered(s.sent(putting("a", "/k")), 2, []item{})
			s.shown(2, put("a", "/k", 2, 2, 7))
			s.killed(3)
		}, 3, "want put /k=a@2/2/1"},
		"acknowledged, with a wrong previous state": {func(s *scene) {
			s.answered(s.sent(putting("a", "/k")), 2, []item{a1})
			s.shown(2, put("a", "/k", 2, 2, 1))
			s.killed(3)
		}, 3, "by its answer"},
		"two told the same revision": {func(s *scene) {
			a, b := s.sent(putting("a", "/k")), s.sent(putting("b", "/k"))
			s.answered(a, 2, []item{})
			s.answered(b, 2, []item{})
			s.shown(2, put("a", "/k", 2, 2, 1))
		}, 2, "the same revision"},
		"an older revision than one told before": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			s.written("b", "/k", 3, 2, 2, a1)
			s.looked("get", rangeOf("/k", 0), answer(2, a1), 3, "somebody")
		}, 3, "revision 3 was told by"},
		"a wrong read": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			s.written("b", "/k", 3, 2, 2, a1)
			s.looked("get", rangeOf("/k", 0), answer(3, a1), 3, "somebody")
		}, 3, "want /k=b@2/3/2"},
		"refused, and there": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			o := s.sent(&op{id: "b", guard: &guard{"/k", 9}, steps: []step{{key: "/k", value: "b"}}})
			o.outcome, o.rev, o.found = refused, 2, []item{a1}
			s.done(o)
			s.shown(3, put("b", "/k", 2, 3, 2, a1))
		}, 3, "refused at 2"},
		"refused, though it should not": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			o := s.sent(&op{id: "b", guard: &guard{"/k", 2}, steps: []step{{key: "/k", value: "b"}}})
			o.outcome, o.rev, o.found = refused, 2, []item{a1}
			s.done(o)
		}, 2, "its guard holds"},
		"applied, though its guard did not hold": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			o := s.sent(&op{id: "b", guard: &guard{"/k", 9}, steps: []step{{key: "/k", value: "b"}}})
			s.answered(o, 3, []item{a1})
			s.shown(3, put("b", "/k", 2, 3, 2, a1))
		}, 3, "its guard did not hold"},
		"a removal that nobody asked for": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			s.shown(3, del("/k", 3, a1))
		}, 3, "nobody asked"},
		"a gap at a kill": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			s.killed(5)
		}, 5, ""},
		"a gap elsewhere": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			s.written("b", "/k", 4, 2, 2, a1)
			s.killed(5)
		}, 5, "revision 3 is missing"},
		"a history that changes": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			if err := s.checker.history.add(2, []event{{item: is("b", "/k", 2, 2, 1)}}); err != nil {
				s.violation("%v", err)
			}
		}, 2, "and was"},
		"an event twice": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			s.shown(2, put("a", "/k", 2, 2, 1))
		}, 2, "after everything up to 2"},
		"an event after its progress": {func(s *scene) {
			o := s.sent(putting("a", "/k"))
			s.shown(2)
			s.answered(o, 2, []item{})
			s.shown(2, put("a", "/k", 2, 2, 1))
		}, 2, "after everything up to 2"},
		"progress that goes back": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			s.shown(1)
		}, 2, "progress to 1 after 2"},
		"an event of another watcher only": {func(s *scene) {
			s.answered(s.sent(putting("a", "/k")), 2, []item{})
			_ = s.checker.history.add(2, []event{{item: a1}})
		}, 2, "watch: revision 2 is 0, want 1"},
		"a wrong previous state in an event": {func(s *scene) {
			s.written("a", "/k", 2, 2, 1)
			s.answered(s.sent(putting("b", "/k")), 3, []item{a1})
			s.shown(3, put("b", "/k", 2, 3, 2, a2))
		}, 3, "has the previous state"},
		"a lease that ends in time":  {func(s *scene) { s.expire(2 * time.Second) }, 3, ""},
		"a lease that ends too soon": {func(s *scene) { s.expire(1999 * time.Millisecond) }, 3, "the end of lease 7"},
		"a revocation": {func(s *scene) {
			s.expiring()
			o := s.sent(&op{id: "b", revoke: 7})
			s.answered(o, 3)
			s.shown(3, del("/k", 3, a1.of(7)))
		}, 3, ""},
		"a revocation without effect": {func(s *scene) {
			s.expiring()
			s.answered(s.sent(&op{id: "b", revoke: 7}), 2)
		}, 2, "b{revoke 7}"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			c.play(s)
			got := s.judge(c.upTo)
			if c.want == "" {
				require.Empty(t, got)
			} else {
				require.Contains(t, got, c.want)
			}
		})
	}
}

// expiring has a key put with a lease of two seconds, expire has it end by
// itself.
func (s *scene) expiring() {
	s.granting(&lease{id: 7, ttl: shortTTL, asked: s.clk.Now(), granted: true})
	o := s.sent(putting("a", "/k"))
	o.steps[0].lease = 7
	s.answered(o, 2, []item{})
	e := put("a", "/k", 2, 2, 1)
	e.Kv.Lease = 7
	s.shown(2, e)
}

func (s *scene) expire(after time.Duration) {
	s.expiring()
	s.clk.Advance(after)
	s.shown(3, del("/k", 3, is("a", "/k", 2, 2, 1).of(7)))
}

func (i item) of(lease int64) item {
	i.lease = lease
	return i
}

func rangeOf(key string, rev int64) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), Revision: rev}
}

func answer(rev int64, items ...item) *pb.RangeResponse {
	r := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: rev}, Count: int64(len(items))}
	for _, i := range items {
		r.Kvs = append(r.Kvs, &mvccpb.KeyValue{
			Key: []byte(i.key), Value: []byte(i.value), CreateRevision: i.create, ModRevision: i.mod, Version: i.version,
		})
	}
	return r
}
