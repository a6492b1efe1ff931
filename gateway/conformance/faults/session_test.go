//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

const (
	// patience is how long anything may take that must happen in the end: a
	// write after a fault, a member that comes back, a watch that catches up.
	// Beyond it lies a violation.
	patience = 60 * time.Second

	workersPerMember = 2 // bound to it
	workersOfAll     = 3 // that use whichever member they get

	probeInterval = 10 * time.Millisecond
)

// session is a cluster under load and under one kind of fault.
type session struct {
	*verdict
	*cluster
	recorder *recorder
	random   *rand.Rand
	fault    *fault

	all     *clientv3.Client // of all members
	running sync.WaitGroup   // watchers

	mu   sync.Mutex
	logs []*watchLog // guarded by mu

	next    []time.Duration // from each fault to the next write
	struck  int             // faults
	flooded int             // large values
	until   int64           // what watchers were waited for
}

// newSession starts a cluster with clients and watchers, and waits until there
// is something to disturb.
func newSession(ctx context.Context, t *testing.T, program *server.Binary, f *fault, size int, seed uint64) *session {
	t.Helper()
	s := &session{
		verdict: &verdict{}, cluster: newCluster(ctx, t, program, size, f.disks),
		random: rand.New(rand.NewPCG(seed, 0)), fault: f,
	}
	s.recorder = newRecorder(s.clk)
	var err error
	if s.all, err = dial(s.endpoints()...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.all.Close() })
	return s
}

// play has workers and watchers at work while faults are made for at least a
// duration, and at least once.
func (s *session) play(ctx context.Context, duration time.Duration, seed uint64) error {
	watching, stopWatching := context.WithCancel(ctx)
	defer func() { stopWatching(); s.running.Wait() }()
	s.startWatchers(watching, seed)

	working, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	stop := make(chan struct{})
	var workers sync.WaitGroup
	warm := s.recorder.after(200)
	for _, w := range s.workers(seed) {
		workers.Go(func() { w.run(working, stop) })
	}
	err := s.await(ctx, warm)
	// Some faults have variants; where it is made but once, it is any of them.
	first := s.random.IntN(6)
	for began, n := s.recorder.now(), 0; err == nil && (n == 0 || s.recorder.now()-began < duration); n++ {
		if err = s.fault.once(ctx, s, first+n); err == nil {
			err = s.whole(ctx)
		}
		if err == nil {
			err = s.await(ctx, s.recorder.after(100))
		}
	}
	close(stop)
	workers.Wait()
	if err != nil {
		return err
	}
	return s.finish(ctx, stopWatching)
}

// await waits for something that must happen in the end.
func (s *session) await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-s.clk.After(patience):
		return fmt.Errorf("there were no answers for %v", patience)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait lets time pass.
func (s *session) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-s.clk.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *session) workers(seed uint64) []*worker {
	var all []*worker
	add := func(name string, lib *clientv3.Client) {
		c := &client{name: name, recorder: s.recorder, library: lib}
		all = append(all, newWorker(c, seed, uint64(len(all)+1)))
	}
	for _, m := range s.members {
		for i := range workersPerMember {
			add(fmt.Sprintf("worker %d of member %d", i+1, m.node), m.lib)
		}
	}
	for i := range workersOfAll {
		add(fmt.Sprintf("worker %d of all", i+1), s.all)
	}
	return all
}

func (s *session) add(l *watchLog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs = append(s.logs, l)
}

// newest is the newest revision that a watcher was told.
func (s *session) newest() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.logs[0].at()-1, firstRevision)
}

// log makes a watch that lasts.
func (s *session) log(name, key, end string) *watchLog {
	l := newWatchLog(name, key, end, firstRevision)
	l.whole = true
	s.add(l)
	return l
}

// startWatchers begins the watches:
//
//   - of each member, on a stream that lasts as long as it can: everything, with
//     previous states, and progress;
//   - of each member, on a stream that is broken every now and then: each prefix,
//     in different ways, and progress of the whole stream is asked for;
//   - of each member, short ones of old revisions;
//   - of all, by client/v3.
func (s *session) startWatchers(ctx context.Context, seed uint64) {
	for _, m := range s.members {
		who := fmt.Sprintf("member %d's", m.node)
		conn := m.lib.ActiveConnection()

		all := s.log(who+" watch of everything", everything, everything)
		all.prev, all.progress = true, true
		lasting := &stream{verdict: s.verdict, recorder: s.recorder, conn: conn, logs: []*watchLog{all}, leader: true}
		s.running.Go(func() { lasting.run(ctx) })

		broken := &stream{
			verdict: s.verdict, recorder: s.recorder, conn: conn, ask: true,
			life: 700*time.Millisecond + time.Duration(m.node)*130*time.Millisecond,
		}
		for i, prefix := range prefixes {
			l := s.log(who+" watch of "+prefix, prefix, after(prefix))
			l.prev, l.fragment, l.progress = i%2 == 0, i == 1, i == 2
			broken.logs = append(broken.logs, l)
		}
		broken.logs = append(broken.logs, s.log(who+" watch of a key", numbered(prefixes[0], 0), ""))
		s.running.Go(func() { broken.run(ctx) })

		r := &roamer{
			verdict: s.verdict, name: who, recorder: s.recorder, conn: conn, newest: s.newest, add: s.add,
			random: rand.New(rand.NewPCG(seed, uint64(1000+m.node))),
		}
		s.running.Go(func() { r.run(ctx) })
	}
	all := s.log("client/v3's watch of everything", everything, everything)
	all.prev, all.library, all.progress = true, true, true
	s.running.Go(func() { watchLibrary(ctx, s.verdict, s.recorder, s.all, all, true) })
	lasting := s.log("client/v3's watch of "+registry, registry, after(registry))
	lasting.library, lasting.fragment = true, true
	s.running.Go(func() { watchLibrary(ctx, s.verdict, s.recorder, s.all, lasting, false) })
}

// strike makes a fault and measures how long it takes until a write that is
// sent after it is answered.
func (s *session) strike(ctx context.Context, do func() error) error {
	since := s.recorder.now()
	if err := do(); err != nil {
		return err
	}
	s.struck++
	return s.nextWrite(ctx, since)
}

// nextWrite has a write sent every few milliseconds, to one member after
// another, until one is answered.
func (s *session) nextWrite(ctx context.Context, since time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	var probes sync.WaitGroup
	defer probes.Wait()
	defer cancel()
	var once sync.Once
	done := make(chan time.Duration, 1)
	for n := 0; ; n++ {
		m := s.members[n%len(s.members)]
		c := &client{name: fmt.Sprintf("probe of member %d", m.node), recorder: s.recorder, library: m.lib}
		probes.Go(func() {
			o := c.do(ctx, request{then: []step{{verb: put, key: numbered(prefixes[n%len(prefixes)], n%sharedKeys)}}})
			if o.outcome == answered {
				once.Do(func() { done <- o.ret })
			}
		})
		select {
		case at := <-done:
			s.next = append(s.next, at-since)
			return nil
		case <-s.clk.After(probeInterval):
		case <-ctx.Done():
			return fmt.Errorf("no write was answered in %v after the fault", patience)
		}
	}
}

// whole waits until each member serves.
func (s *session) whole(ctx context.Context) error {
	for _, m := range s.members {
		if err := s.revive(ctx, m); err != nil {
			return err
		}
		ended, err := s.serves(ctx, m)
		if ended && s.fault.ends {
			// It was about to end because of the fault, and had not yet.
			if err := s.revive(ctx, m); err != nil {
				return err
			}
			_, err = s.serves(ctx, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// serves waits until a member serves, or has ended.
func (s *session) serves(ctx context.Context, m *member) (ended bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	exited := m.srv.Exited()
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	c := &client{name: fmt.Sprintf("member %d's", m.node), recorder: s.recorder, library: m.lib}
	_, err = c.must(ctx, request{then: []step{{verb: get, key: numbered(prefixes[0], 0)}}})
	return err != nil && m.ended(), err
}

// finish makes a last change, which all watchers must be told, and has
// everybody say what there is.
func (s *session) finish(ctx context.Context, stopWatching func()) error {
	c := &client{name: "the last client", recorder: s.recorder, library: s.all}
	last := request{txn: true, then: []step{{verb: put, key: numbered(prefixes[0], 0)}}}
	for _, prefix := range prefixes[1:] {
		last.then = append(last.then, step{verb: put, key: prefix + "last"})
	}
	o, err := c.must(ctx, last)
	if err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.mu.Lock()
	logs := slices.Clone(s.logs)
	s.mu.Unlock()
	for _, l := range logs {
		if l.whole {
			if err := l.wait(patient, o.rev); err != nil {
				return err
			}
		}
	}
	s.until = o.rev
	stopWatching()
	s.running.Wait()
	return s.lookAround(ctx, c)
}

// lookAround reads everything through every member.
func (s *session) lookAround(ctx context.Context, c *client) error {
	look := request{then: []step{{verb: get, key: everything, end: everything}}}
	for _, m := range s.members {
		own := &client{name: fmt.Sprintf("member %d's", m.node), recorder: s.recorder, library: m.lib}
		if _, err := own.must(ctx, look); err != nil {
			return err
		}
		// What this member itself has, without asking the others.
		local := look
		local.serializable = true
		if _, err := own.must(ctx, local); err != nil {
			return err
		}
	}
	_, err := c.must(ctx, look)
	return err
}

// history collects what there is to judge. It begins again if a request whose
// outcome was unknown has been done meanwhile.
func (s *session) history(ctx context.Context) (*history, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		last, err := s.revision(ctx)
		if err != nil {
			return nil, err
		}
		h := &history{mayLeaveGaps: !s.fault.calm}
		for _, m := range s.members {
			t, err := readTruth(ctx, m.lib, last)
			switch {
			case err != nil:
				return nil, fmt.Errorf("%s's history: %w", m.name, err)
			case h.truth == nil:
				h.truth = t
			default:
				s.sameTruth(m, h.truth, t)
			}
		}
		s.sameHash(ctx, last)
		if now, err := s.revision(ctx); err != nil {
			return nil, err
		} else if now != last {
			continue
		}
		h.ops = s.recorder.ops
		for _, l := range s.logs {
			h.sightings = append(h.sightings, l.sightings()...)
		}
		return h, nil
	}
}

// revision is the store's.
func (s *session) revision(ctx context.Context) (int64, error) {
	r, err := s.all.Get(ctx, numbered(prefixes[0], 0))
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

// sameTruth holds one member's history against another's.
func (s *session) sameTruth(m *member, want, got *truth) {
	for _, rev := range want.revs {
		if a, b := want.at[rev], got.at[rev]; !slices.Equal(a, b) {
			s.violation("revision %d of %s is, other than of %s: %s", rev, m.name, s.members[0].name, difference(a, b, showTold))
			return
		}
	}
	if len(want.revs) != len(got.revs) {
		s.violation("%s has %d revisions, and %s %d", m.name, len(got.revs), s.members[0].name, len(want.revs))
	}
}

// sameHash compares the members' own sums over everything.
func (s *session) sameHash(ctx context.Context, rev int64) {
	var first *pb.HashKVResponse
	for _, m := range s.members {
		r, err := pb.NewMaintenanceClient(m.lib.ActiveConnection()).HashKV(ctx, &pb.HashKVRequest{Revision: rev})
		switch {
		case err != nil:
			s.violation("%s: HashKV of revision %d: %v", m.name, rev, err)
		case first == nil:
			first = r
		case first.Hash != r.Hash || first.CompactRevision != r.CompactRevision:
			s.violation("%s has the hash %d up to revision %d (compacted at %d), %s has %d (%d)",
				m.name, r.Hash, rev, r.CompactRevision, s.members[0].name, first.Hash, first.CompactRevision)
		}
	}
}

// readTruth reads the whole history by a watch that begins with the first
// revision.
func readTruth(ctx context.Context, lib *clientv3.Client, last int64) (*truth, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := newTruth()
	for r := range lib.Watch(ctx, everything, clientv3.WithRange(everything), clientv3.WithRev(firstRevision)) {
		if err := r.Err(); err != nil {
			return nil, err
		}
		for all := r.Events; len(all) > 0; {
			rev := all[0].Kv.ModRevision
			if rev > last {
				return t, nil
			}
			var these []told
			for len(all) > 0 && all[0].Kv.ModRevision == rev {
				these = append(these, toldOf(all[0]))
				all = all[1:]
			}
			t.add(rev, these)
		}
		if t.last() >= last {
			return t, nil
		}
	}
	return nil, errors.Join(ctx.Err(), errors.New("the watch has ended"))
}
