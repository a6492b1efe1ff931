package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unique"

	"github.com/stretchr/testify/require"
)

// scene is a made-up session: a store that does everything right, and what its
// clients and a watcher of all keys say of it. Tests plant faults in that.
type scene struct {
	history
	model *model
	watch *watchLog
	now   time.Duration
	lease int64
}

func newScene() *scene {
	s := &scene{history: history{truth: newTruth()}, model: newModel(), watch: newWatchLog("a watch", everything, everything, firstRevision)}
	s.watch.prev, s.watch.whole = true, true
	s.watch.open(0)
	s.watch.take(delivery{kind: created, rev: firstRevision - 1})
	return s
}

// tick is how long a request takes; it is done in the middle of that.
const tick = 2 * time.Millisecond

// do has a request sent, done and answered.
func (s *scene) do(q request) *op {
	o := &op{request: q, id: int64(len(s.ops) + 1), client: "a client", call: s.now, ret: s.now + tick, outcome: answered}
	s.now += 2 * tick
	for _, steps := range [][]step{o.then, o.otherwise} {
		for i := range steps {
			if steps[i].verb == put {
				steps[i].value = valueOf(o.id, "")
			}
		}
	}
	s.ops = append(s.ops, o)
	s.execute(o)
	return o
}

// execute has the store do a request, now.
func (s *scene) execute(o *op) {
	if o.grant {
		s.lease++
		o.answer = answer{rev: s.model.revision, held: true, lease: s.lease}
		return
	}
	rev := s.model.revision + 1
	at := past{s.model, s.model.revision}
	if len(o.then) == 1 && o.then[0].rev != 0 {
		at.rev = o.then[0].rev
	}
	x := execute(at, &o.request, rev)
	if len(x.events) > 0 {
		s.reveal(rev, x.events, o.ret)
	}
	o.answer = answer{rev: s.model.revision, held: x.held, parts: x.parts}
}

// reveal makes a revision, and tells it to the watcher.
func (s *scene) reveal(rev int64, all []event, at time.Duration) {
	d := delivery{at: at, kind: events, rev: rev, prev: make([]stored, len(all))}
	for i, e := range all {
		d.prev[i], _ = s.model.at(e.key, s.model.revision)
	}
	d.events = handles(all)
	s.truth.add(rev, d.events)
	s.model.apply(rev, all)
	s.watch.take(d)
}

// verdicts are those of the judge, of porcupine, and of the watchers' judge.
func (s *scene) verdicts() (string, string, string) {
	var v [3]verdict
	s.sightings = s.watch.sightings()
	j := pass(&v[0], &s.history)
	linearize(&v[1], &s.history, j.model, windowOps)
	passWatch(&v[2], s.watch, s.truth, j.model, s.truth.last())
	var said [3]string
	for i := range v {
		_, lines := v[i].violations()
		said[i] = strings.Join(lines, "\n")
	}
	return said[0], said[1], said[2]
}

func putting(key string) request { return request{then: []step{{verb: put, key: key, prev: true}}} }
func getting(key string) request { return request{then: []step{{verb: get, key: key}}} }
func removing(key, end string) request {
	return request{then: []step{{verb: remove, key: key, end: end, prev: true}}}
}

func swapping(key string, mod int64) request {
	return request{
		txn: true, guards: []guard{{key, mod}},
		then: []step{{verb: put, key: key}}, otherwise: []step{{verb: get, key: key}},
	}
}

// lose takes revisions out of the truth and the watcher's account: nobody
// ever hears of them again.
func (s *scene) lose(rev int64) {
	s.truth.revs = slices.DeleteFunc(s.truth.revs, func(r int64) bool { return r == rev })
	delete(s.truth.at, rev)
	s.watch.deliveries = slices.DeleteFunc(s.watch.deliveries, func(d delivery) bool { return d.kind == events && d.rev == rev })
}

// of is the watcher's delivery of a revision.
func (s *scene) of(rev int64) int {
	return slices.IndexFunc(s.watch.deliveries, func(d delivery) bool { return d.kind == events && d.rev == rev })
}

// late has a request return with its outcome unknown.
func late(o *op) *op {
	o.outcome, o.failure, o.answer = unknown, "deadline exceeded", answer{}
	return o
}

// Every fault that this package is there to find is found in a history that has
// it, and nothing is found in those that have none. Porcupine has no part in
// watches, nor in what is not wrong with any order of requests.
func TestPlanted(t *testing.T) {
	const found = "finds no order"
	for name, c := range map[string]struct {
		play                    func(s *scene)
		judge, porcupine, watch string // "" is no violation
	}{
		"all is well": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b"))
			s.do(swapping("/a", 2))
			s.do(swapping("/a", 2))
			s.do(getting("/a"))
			s.do(request{then: []step{{verb: get, key: "/", end: "0", rev: 3}}})
			s.do(removing("/a", ""))
			s.do(removing("/a", ""))
			s.do(request{then: []step{{verb: get, key: "/", end: "0", limit: 1}}})
			l := s.do(request{grant: true})
			s.do(request{txn: true, then: []step{{verb: put, key: "/a", lease: l.lease}, {verb: put, key: "/c", lease: l.lease}, {verb: get, key: "/", end: "0"}}})
			s.do(request{revoke: l.lease})
			s.do(request{revoke: l.lease})
			s.watch.take(delivery{at: s.now, kind: progress, rev: 7})
		}},
		"of unknown outcome, there": {play: func(s *scene) {
			s.do(putting("/a"))
			late(s.do(putting("/a")))
			late(s.do(removing("/a", "")))
			s.do(getting("/a"))
		}},
		"of unknown outcome, not there": {play: func(s *scene) {
			s.do(putting("/a"))
			late(s.do(putting("/a")))
			s.lose(3)
		}},
		"of unknown outcome, there later": {play: func(s *scene) {
			s.do(putting("/a"))
			o := late(s.do(putting("/a")))
			s.ops[1] = s.do(getting("/a"))
			s.ops[2] = o
			o.call, o.ret = 2*tick, 2*tick+1
		}},
		"of unknown outcome, twice": {play: func(s *scene) {
			late(s.do(putting("/a")))
			s.reveal(3, []event{{item: item{"/a", valueOf(1, ""), 2, 3, 2, 0}}}, s.now)
		}, judge: "and so has revision 2", porcupine: found},
		"of unknown outcome, before it was sent": {play: func(s *scene) {
			s.do(putting("/a"))
			o := late(s.do(removing("/a", "")))
			s.do(putting("/b"))
			o.call = s.now
		}, judge: "before that was sent", porcupine: found},
		"of unknown outcome, half": {play: func(s *scene) {
			late(s.do(request{txn: true, then: []step{{verb: put, key: "/a"}, {verb: put, key: "/b"}}}))
			s.truth.at[2] = s.truth.at[2][:1]
		}, judge: "is 1, want 2", porcupine: found, watch: ": 2, want 1"},
		"a lost write": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b"))
			s.lose(3)
		}, judge: "lost: #2", porcupine: found},
		"a lost write, with others behind it": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b"))
			s.do(putting("/c"))
			s.do(getting("/b"))
			s.lose(3)
		}, judge: "lost: #2", porcupine: found},
		"a lost write, its revision given to another": {play: func(s *scene) {
			s.do(putting("/a"))
			late(s.do(putting("/b")))
			o := *s.ops[1]
			o.id, o.outcome, o.answer = 3, answered, answer{rev: 3, held: true, parts: []part{{}}}
			o.then = []step{{verb: put, key: "/b", value: valueOf(3, ""), prev: true}}
			s.ops = append(s.ops, &o)
		}, judge: "revision 3, of #3", porcupine: found},
		"a stale read": {play: func(s *scene) {
			s.do(putting("/a"))
			old := s.do(getting("/a"))
			s.do(putting("/a"))
			o := s.do(getting("/a"))
			o.answer = old.answer
		}, judge: "before it was sent 3 was told to", porcupine: found},
		"a stale read with a new header": {play: func(s *scene) {
			s.do(putting("/a"))
			old := s.do(getting("/a"))
			s.do(putting("/a"))
			s.do(getting("/a")).parts = old.parts
		}, judge: "the answer of step 0 is", porcupine: found},
		"a stale list of one group": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b"))
			s.do(putting("/a"))
			o := s.do(request{then: []step{{verb: get, key: "/", end: "0"}}})
			old, _ := s.model.at("/a", 2)
			o.parts[0].items[0] = old
		}, judge: "the answer of step 0 is", porcupine: found},
		"a stale read behind a watch": {play: func(s *scene) {
			s.do(putting("/a"))
			old := s.do(getting("/a"))
			late(s.do(putting("/a")))
			s.do(getting("/a")).answer = old.answer
		}, judge: "before it was sent 3 was told to a watch"},
		"a read of the future": {play: func(s *scene) {
			s.do(putting("/a"))
			o := s.do(getting("/a"))
			s.do(putting("/a"))
			o.answer = s.do(getting("/a")).answer
		}, judge: "before all that is in it had been sent", porcupine: found},
		"a wrong read of the past": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/a"))
			q := getting("/a")
			q.then[0].rev = 2
			o := s.do(q)
			o.parts = s.do(getting("/a")).parts
		}, judge: "the answer of step 0 is", porcupine: found},
		"a wrong count": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(request{then: []step{{verb: get, key: "/", end: "0", limit: 5}}}).parts[0].count = 2
		}, judge: "the answer of step 0 is", porcupine: found},
		"a serializable read of the past": {play: func(s *scene) {
			s.do(putting("/a"))
			old := s.do(getting("/a"))
			s.do(putting("/a"))
			o := s.do(getting("/a"))
			o.serializable, o.answer = true, old.answer
		}},
		"a serializable read of what never was": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/a"))
			o := s.do(getting("/a"))
			o.serializable, o.rev = true, 2
		}, judge: "the answer of step 0 is"},
		"a reused revision": {play: func(s *scene) {
			s.do(putting("/a"))
			o := s.do(putting("/b"))
			s.lose(3)
			o.rev = 2
		}, judge: "revision 2 was given twice", porcupine: found},
		"a revision for two requests": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b")).rev = 2
			s.truth.at[2] = append(s.truth.at[2], s.truth.at[3]...)
			s.lose(3)
		}, judge: "revision 2 was given twice", porcupine: found, watch: ": 1, want 2"},
		"a split revision": {play: func(s *scene) {
			o := s.do(request{txn: true, then: []step{{verb: put, key: "/a"}, {verb: put, key: "/b"}}})
			s.truth, s.watch = newTruth(), newScene().watch
			s.model = newModel()
			s.reveal(2, []event{{item: item{"/a", valueOf(o.id, ""), 2, 2, 1, 0}}}, s.now)
			s.reveal(3, []event{{item: item{"/b", valueOf(o.id, ""), 3, 3, 1, 0}}}, s.now)
		}, judge: "is 1, want 2", porcupine: found},
		"a gap without a fault": {play: func(s *scene) {
			s.do(putting("/a"))
			s.reveal(4, []event{{item: item{"/b", valueOf(2, ""), 4, 4, 1, 0}}}, s.now+tick)
			s.ops = append(s.ops, late(&op{request: request{then: []step{{verb: put, key: "/b", value: valueOf(2, "")}}}, id: 2, call: s.now}))
		}, judge: "no revision between 2 and 4"},
		"a gap with a fault": {play: func(s *scene) {
			s.mayLeaveGaps = true
			s.do(putting("/a"))
			s.reveal(4, []event{{item: item{"/b", valueOf(2, ""), 4, 4, 1, 0}}}, s.now+tick)
			s.ops = append(s.ops, late(&op{request: request{then: []step{{verb: put, key: "/b", value: valueOf(2, "")}}}, id: 2, call: s.now}))
		}},
		"a write that nobody asked for": {play: func(s *scene) {
			s.do(putting("/a"))
			s.reveal(3, []event{{item: item{"/b", "ghost", 3, 3, 1, 0}}}, s.now)
		}, judge: "nobody asked for", porcupine: found},
		"a removal that nobody asked for": {play: func(s *scene) {
			s.do(putting("/a"))
			s.reveal(3, []event{removal("/a", 3)}, s.now)
		}, judge: "nobody asked for", porcupine: found},
		"a write that was refused": {play: func(s *scene) {
			o := s.do(putting("/a"))
			o.outcome, o.failure = refused, "connection refused"
		}, judge: "refused: connection refused", porcupine: found},
		"a write of another value": {play: func(s *scene) {
			s.do(putting("/a"))
			s.truth.at[2] = handles([]event{{item: item{"/a", valueOf(1, "x"), 2, 2, 1, 0}}})
			s.watch.deliveries[s.of(2)].events = s.truth.at[2]
		}, judge: "revision 2, of #1", porcupine: found},
		"a wrong version": {play: func(s *scene) {
			s.do(putting("/a"))
			s.truth.at[2] = handles([]event{{item: item{"/a", valueOf(1, ""), 2, 2, 2, 0}}})
			s.watch.deliveries[s.of(2)].events = s.truth.at[2]
		}, judge: "revision 2, of #1", porcupine: found},
		"a wrong previous state in an answer": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/a")).parts[0].items = nil
		}, judge: "the answer of step 0 is", porcupine: found},
		"a swap on the wrong revision": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(swapping("/a", 2)).guards[0].mod = 1
		}, judge: "is 1, want 0", porcupine: found},
		"a swap that lost, and should not": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(swapping("/a", 1)).guards[0].mod = 2
		}, judge: "the guards held: false, want true", porcupine: found},
		"two swaps on one revision": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(swapping("/a", 2))
			s.do(swapping("/a", 3)).guards[0].mod = 2
		}, judge: "revision 4, of #3", porcupine: found},
		"an order against real time": {play: func(s *scene) {
			a, b := s.do(putting("/a")), s.do(putting("/b"))
			a.call, a.ret, b.call, b.ret = b.call, b.ret, a.call, a.ret
		}, judge: "before it was sent 3 was told to", porcupine: found},
		"a lease that outlives its end": {play: func(s *scene) {
			l := s.do(request{grant: true}).lease
			s.do(request{then: []step{{verb: put, key: "/a", lease: l}}})
			s.do(request{then: []step{{verb: put, key: "/b", lease: l}}})
			o := s.do(request{revoke: l})
			s.lose(4)
			o.rev = 3
		}, judge: "is still attached"},
		"a lease that ends in part": {play: func(s *scene) {
			l := s.do(request{grant: true}).lease
			s.do(request{txn: true, then: []step{{verb: put, key: "/a", lease: l}, {verb: put, key: "/b", lease: l}}})
			s.do(request{revoke: l})
			s.truth.at[3] = s.truth.at[3][:1]
			s.watch.deliveries[s.of(3)].events = s.truth.at[3]
		}, judge: "nobody asked for", porcupine: found},
		"a key with a lease that is gone": {play: func(s *scene) {
			l := s.do(request{grant: true}).lease
			s.do(request{then: []step{{verb: put, key: "/a", lease: l}}})
			s.do(request{revoke: l})
			s.do(request{then: []step{{verb: put, key: "/b", lease: l}}})
		}, judge: "whose lease was revoked at 3"},
		"a lease that is not found, and is there": {play: func(s *scene) {
			l := s.do(request{grant: true}).lease
			o := s.do(request{then: []step{{verb: put, key: "/b", lease: l}}})
			s.lose(2)
			o.outcome, o.failure = refused, leaseNotFound
		}, judge: "nobody had revoked it"},

		"an event twice": {play: func(s *scene) {
			s.do(putting("/a"))
			s.watch.deliveries = append(s.watch.deliveries, s.watch.deliveries[s.of(2)])
		}, watch: "after everything up to 2"},
		"an event twice in a response": {play: func(s *scene) {
			s.do(putting("/a"))
			d := &s.watch.deliveries[s.of(2)]
			d.events, d.prev = append(d.events, d.events[0]), append(d.prev, d.prev[0])
		}, watch: ": 2, want 1"},
		"an event twice, over a broken stream": {play: func(s *scene) {
			s.do(putting("/a"))
			s.watch.open(s.now)
			s.watch.deliveries = append(s.watch.deliveries, s.watch.deliveries[s.of(2)])
		}, watch: "after everything up to 2"},
		"a missing event": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b"))
			s.do(putting("/c"))
			s.watch.deliveries = slices.Delete(s.watch.deliveries, s.of(3), s.of(3)+1)
		}, watch: ": 1, want 2"},
		"a missing event at the end": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b"))
			s.watch.deliveries = slices.Delete(s.watch.deliveries, s.of(3), s.of(3)+1)
		}, watch: "never 1 events"},
		"an event of a revision that was lost": {play: func(s *scene) {
			s.do(putting("/a"))
			o := late(s.do(putting("/b")))
			d := s.watch.deliveries[s.of(3)]
			s.lose(3)
			s.model = newModel()
			s.watch.deliveries = append(s.watch.deliveries, d)
			s.now = o.ret
		}, watch: "the history ends at 2"},
		"events out of order": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b"))
			a, b := s.of(2), s.of(3)
			w := s.watch.deliveries
			w[a], w[b] = w[b], w[a]
		}, watch: ": 1, want 2"},
		"events out of order in a response": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b"))
			a, b := s.of(2), s.of(3)
			w := s.watch.deliveries
			w[b].events = []told{w[b].events[0], w[a].events[0]}
			w[b].prev = nil
			s.watch.deliveries = slices.Delete(w, a, a+1)
		}, watch: "out of order"},
		"a revision in two responses": {play: func(s *scene) {
			s.do(request{txn: true, then: []step{{verb: put, key: "/a"}, {verb: put, key: "/b"}}})
			s.split(false)
		}, watch: ": 1, want 2"},
		"a revision in two fragments": {play: func(s *scene) {
			s.watch.fragment = true
			s.do(request{txn: true, then: []step{{verb: put, key: "/a"}, {verb: put, key: "/b"}}})
			s.split(true)
		}},
		"a revision in two fragments that nobody asked for": {play: func(s *scene) {
			s.do(request{txn: true, then: []step{{verb: put, key: "/a"}, {verb: put, key: "/b"}}})
			s.split(true)
		}, watch: "did not ask for that"},
		"progress ahead of events": {play: func(s *scene) {
			s.do(putting("/a"))
			i := s.of(2)
			s.watch.deliveries = slices.Insert(s.watch.deliveries, i, delivery{at: s.now, kind: progress, rev: 2})
		}, watch: "ahead of 1 events"},
		"progress that goes back": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/a"))
			s.watch.take(delivery{at: s.now, kind: progress, rev: 2})
		}, watch: "progress to 2 at 8ms, after 3"},
		"an event that differs": {play: func(s *scene) {
			s.do(putting("/a"))
			d := &s.watch.deliveries[s.of(2)]
			e := d.events[0].Value()
			e.value = "other"
			d.events = handles([]event{e})
		}, watch: "[0] is put /a=other@2/2/1, want put /a=1@2/2/1"},
		"a wrong previous state of an event": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/a"))
			s.watch.deliveries[s.of(3)].prev = nil
		}, watch: "before there was nothing, want /a=1@2/2/1"},
		"an event from before the start": {play: func(s *scene) {
			s.do(putting("/a"))
			s.do(putting("/b"))
			s.watch.deliveries[0].rev = 3
		}, watch: "after everything up to 2"},
		"an event before it was sent": {play: func(s *scene) {
			s.do(putting("/a"))
			s.watch.deliveries[s.of(2)].at = -1
		}, judge: "before all that is in it had been sent"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			c.play(s)
			judge, porcupine, watch := s.verdicts()
			for _, v := range []struct{ who, want, got string }{
				{"judge", c.judge, judge}, {"porcupine", c.porcupine, porcupine}, {"watch", c.watch, watch},
			} {
				if v.want == "" {
					require.Empty(t, v.got, v.who)
				} else {
					require.Contains(t, v.got, v.want, v.who)
				}
			}
		})
	}
}

// split has revision 2 told in two responses.
func (s *scene) split(fragment bool) {
	i := s.of(2)
	d := s.watch.deliveries[i]
	first, second := d, d
	first.events, first.prev, first.fragment = d.events[:1], nil, fragment
	second.events, second.prev = d.events[1:], nil
	s.watch.deliveries = slices.Replace(s.watch.deliveries, i, i+1, first, second)
}

// crowd is a scene of several clients whose requests overlap.
func crowd(random *rand.Rand, n int) *scene {
	s := newScene()
	keys := []string{"/a", "/b", "/c", "/d"}
	key := func() string { return keys[random.IntN(len(keys))] }
	mods := map[string]int64{}
	for range n {
		var q request
		switch k := key(); random.IntN(8) {
		case 0, 1:
			q = putting(k)
		case 2:
			q = removing(k, "")
		case 3:
			q = removing("/b", "/d")
		case 4:
			q = swapping(k, mods[k])
		case 5:
			q = request{txn: true, then: []step{{verb: put, key: k}, {verb: get, key: "/", end: "0"}, {verb: remove, key: "/e"}}}
		case 6:
			q = getting(k)
		default:
			q = request{then: []step{{verb: get, key: "/", end: "0", limit: random.Int64N(4)}}}
		}
		o := s.do(q)
		if o.changes() && len(o.then) > 0 && o.then[0].verb == put {
			mods[o.then[0].key] = o.rev
		}
		// It was sent earlier and known later than it was done.
		o.call -= time.Duration(random.Int64N(int64(12 * tick)))
		o.ret += time.Duration(random.Int64N(int64(12 * tick)))
		if random.IntN(8) == 0 {
			late(o)
		}
	}
	return s
}

// What a right store does under many clients is found right, by both, in one
// window or in many.
func TestCrowd(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		s := crowd(random, 120)
		judge, porcupine, watch := s.verdicts()
		require.Empty(t, judge+porcupine+watch, "seed %d", seed)
		var v verdict
		j := pass(&v, &s.history)
		require.Greater(t, linearize(&v, &s.history, j.model, 10), 3)
		_, lines := v.violations()
		require.Empty(t, lines, "seed %d", seed)
	}
}

// A fault anywhere in such a crowd is found, and where it is one of order, by
// porcupine too.
func TestPlantedInCrowd(t *testing.T) {
	faults := map[string]func(s *scene, random *rand.Rand) (judge, porcupine, watch bool){
		"lost write": func(s *scene, random *rand.Rand) (bool, bool, bool) {
			o := pick(random, s.ops, func(o *op) bool { return o.changes() })
			s.truth.revs = slices.DeleteFunc(s.truth.revs, func(r int64) bool { return r == o.rev })
			return true, false, true
		},
		"stale read": func(s *scene, random *rand.Rand) (bool, bool, bool) {
			o := pick(random, s.ops, func(o *op) bool {
				return o.outcome == answered && len(o.then) == 1 && o.then[0].verb == get && o.rev > 20
			})
			// As it was before the latest change that was answered before it was
			// sent.
			var known int64
			for _, other := range s.ops {
				if other.changes() && other.ret < o.call {
					known = max(known, other.rev)
				}
			}
			o.rev = known - 1
			o.parts = execute(past{s.model, o.rev}, &o.request, 0).parts
			return true, true, false
		},
		"wrong read": func(s *scene, random *rand.Rand) (bool, bool, bool) {
			o := pick(random, s.ops, func(o *op) bool {
				return o.outcome == answered && len(o.then) == 1 && o.then[0].verb == get && len(o.parts[0].items) > 0
			})
			i := o.parts[0].items[0].Value()
			i.value += "?"
			o.parts[0].items[0] = unique.Make(i)
			return true, true, false
		},
		"reused revision": func(s *scene, random *rand.Rand) (bool, bool, bool) {
			a := pick(random, s.ops, func(o *op) bool { return o.changes() })
			b := pick(random, s.ops, func(o *op) bool { return o.changes() && o.rev != a.rev })
			b.rev = a.rev
			return true, true, false
		},
		"duplicated event": func(s *scene, random *rand.Rand) (bool, bool, bool) {
			i := s.someDelivery(random)
			w := &s.watch.deliveries
			*w = slices.Insert(*w, i+random.IntN(len(*w)-i), (*w)[i])
			return false, false, true
		},
		"missing event": func(s *scene, random *rand.Rand) (bool, bool, bool) {
			i := s.someDelivery(random)
			s.watch.deliveries = slices.Delete(s.watch.deliveries, i, i+1)
			return false, false, true
		},
		"progress ahead": func(s *scene, random *rand.Rand) (bool, bool, bool) {
			i := s.someDelivery(random)
			d := s.watch.deliveries[i]
			s.watch.deliveries = slices.Insert(s.watch.deliveries, i, delivery{at: d.at, kind: progress, rev: d.rev})
			return false, false, true
		},
	}
	for name, plant := range faults {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(50) {
				random := rand.New(rand.NewPCG(seed, 1))
				s := crowd(random, 120)
				judge, porcupine, watch := plant(s, random)
				gotJudge, gotPorcupine, gotWatch := s.verdicts()
				for _, v := range []struct {
					who  string
					want bool
					got  string
				}{{"judge", judge, gotJudge}, {"porcupine", porcupine, gotPorcupine}, {"watch", watch, gotWatch}} {
					if v.want {
						require.NotEmpty(t, v.got, "%s, seed %d", v.who, seed)
					}
				}
			}
		})
	}
}

func pick(random *rand.Rand, ops []*op, want func(*op) bool) *op {
	for {
		if o := ops[random.IntN(len(ops))]; want(o) {
			return o
		}
	}
}

func (s *scene) someDelivery(random *rand.Rand) int {
	for {
		if i := random.IntN(len(s.watch.deliveries)); s.watch.deliveries[i].kind == events {
			return i
		}
	}
}

// Porcupine comes to an end with as many requests as it is ever given.
func TestWindow(t *testing.T) {
	s := crowd(rand.New(rand.NewPCG(1, 2)), 2*windowOps)
	var v verdict
	j := pass(&v, &s.history)
	require.Greater(t, linearize(&v, &s.history, j.model, windowOps), 1)
	n, lines := v.violations()
	require.Zero(t, n, fmt.Sprint(lines))
}
