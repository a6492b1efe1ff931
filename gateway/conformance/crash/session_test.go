package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	// firstRevision is that of a new store's first write.
	firstRevision = 2

	connections = 4 // of the writers

	// A kill comes after so many answers, mostly, and at once or up to maxDelay
	// later.
	maxAcks, fewAcks = 1500, 20
	maxDelay         = 20 * time.Millisecond
)

// serverArgs make happen within a second what would else take minutes: truncated
// logs, progress notifications.
var serverArgs = []string{"--snapshot-count=500", "--watch-progress-notify-interval=100ms"}

// session is a server, its clients, and what they have been told.
type session struct {
	*verdict
	ledger  *ledger
	checker *checker
	clk     clock.Clock
	random  *rand.Rand
	seed    uint64

	server  *server.Server
	library *clientv3.Client
	conn    *grpc.ClientConn // of own watchers, and of what is asked between lives
	watches []*watcher
	running sync.WaitGroup // watchers

	verified int64 // up to which revision watchers have been checked
	figures  figures
}

func newSession(t *testing.T, seed uint64) *session {
	t.Helper()
	v := newVerdict()
	s := &session{
		verdict: v, ledger: newLedger(v), clk: clock.Real{},
		random: rand.New(rand.NewPCG(seed, 0)), seed: seed, verified: firstRevision - 1,
	}
	s.checker = newChecker(s.ledger, newHistory(s.clk))
	s.server = server.Run(t, server.Config{
		Binary: target.Path, Args: serverArgs,
		DataDir: filepath.Join(t.ArtifactDir(), "data"), // `go test -artifacts` keeps it.
	})
	s.started()
	return s
}

// over says that there is no use in going on.
func (s *session) over() bool {
	n, _ := s.violations()
	return n > 0
}

// begin looks at the new store, and starts watchers that will outlive all
// kills.
func (s *session) begin(t *testing.T) {
	t.Helper()
	var err error
	if s.conn, err = dial(s.server.Endpoint(), patient()); err != nil {
		t.Fatal(err)
	}
	s.library, err = clientv3.New(clientv3.Config{
		Endpoints: []string{s.server.Endpoint()}, Logger: zap.NewNop(), DialOptions: dialOptions(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		s.running.Wait()
		if err := errors.Join(s.conn.Close(), s.library.Close()); err != nil {
			t.Error(err)
		}
	})

	r, err := newClient(s.ledger, s.conn).read(ctx, "the first list", &pb.RangeRequest{
		Key: []byte(everything), RangeEnd: []byte(everything),
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Header.Revision != firstRevision-1 {
		s.violation("a new store is at revision %d, not %d", r.Header.Revision, firstRevision-1)
	}
	all := s.checker.history
	s.watches = []*watcher{
		{name: "watch of all keys", key: everything, end: everything, own: true, history: all},
		{name: "client/v3's watch of all keys", key: everything, end: everything, prev: true, history: all},
		{name: "client/v3's watch of all keys in fragments", key: root, end: after(root), fragment: true, history: all},
		{name: "watch of shared keys", key: sharedRoot, end: after(sharedRoot), own: true, prev: true},
		{name: "watch of one shared key", key: numbered(sharedRoot, 0), own: true},
		{name: "client/v3's watch of one shared key", key: numbered(sharedRoot, 1), prev: true},
		{name: "client/v3's watch of one writer's keys", key: ownRoot(0), end: after(ownRoot(0))},
		{name: "client/v3's watch of leased keys", key: leaseRoot, end: after(leaseRoot), prev: true},
	}
	for _, w := range s.watches {
		w.ledger, w.reached, w.advanced = s.ledger, firstRevision-1, make(chan bool, 1)
		s.running.Go(func() {
			if w.own {
				w.watchOwn(ctx, s.conn)
			} else {
				w.watchLibrary(ctx, s.library)
			}
		})
	}
	s.mark(t)
}

// started notes that the server is ready.
func (s *session) started() {
	s.ledger.startLife()
	s.figures.starts = append(s.figures.starts, s.server.StartDuration())
}

// mark is the first write of a life: it tells what came before from what comes
// after. It writes something into every watch.
func (s *session) mark(t *testing.T) {
	t.Helper()
	o := &op{id: fmt.Sprintf("mark%d", len(s.ledger.lives)-1)}
	written := map[string]bool{}
	for _, w := range s.watches {
		key := w.key
		switch {
		case w.end == everything:
			key = root + mark
		case w.end != "":
			key += mark
		}
		if !written[key] {
			o.steps = append(o.steps, step{key: key, value: o.id + idEnds})
			written[key] = true
		}
	}
	if err := newClient(s.ledger, s.conn).write(t.Context(), o); err != nil {
		t.Errorf("the first write after a start: %v", err)
		t.Fatalf("the server's log ends:\n%s", s.server.LogTail())
	}
	s.ledger.marked(o.rev)
}

// round is a life under load, its end, and the start of another. Most are
// verified before the load goes on.
func (s *session) round(t *testing.T) {
	t.Helper()
	s.load(t, func(ctx context.Context) { s.kill(ctx, t) })
	if s.over() || !s.restart(t) {
		return
	}
	s.mark(t)
	if s.random.IntN(4) > 0 || s.over() { // What is wrong already is told in full.
		s.verify(t)
	}
}

// load has all writers work until end returns, and waits for them.
func (s *session) load(t *testing.T, end func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var conns []*grpc.ClientConn
	for range connections {
		conn, err := dial(s.server.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	stop := make(chan struct{})
	var working sync.WaitGroup
	life := len(s.ledger.lives) - 1
	for i := range writers {
		w := &writer{
			client: newClient(s.ledger, conns[i%connections]), clk: s.clk, number: i, name: fmt.Sprintf("%d.%d", life, i),
			random:  rand.New(rand.NewPCG(s.seed, uint64(1+life*writers+i))),
			library: s.library, watches: s.watches, mods: map[string]int64{},
		}
		working.Go(func() { w.run(ctx, stop) })
	}
	end(ctx)
	close(stop)
	working.Wait()
	for _, conn := range conns {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	s.ledger.endLife()
}

// kill waits until enough has been answered, and a little, and kills the
// server.
func (s *session) kill(ctx context.Context, t *testing.T) {
	t.Helper()
	acks := s.random.IntN(maxAcks)
	if s.random.IntN(5) == 0 {
		acks = s.random.IntN(fewAcks)
	}
	delay := max(0, time.Duration(s.random.Int64N(int64(2*maxDelay)))-maxDelay)
	s.afterAcks(ctx, acks)
	select {
	case <-s.clk.After(delay):
	case <-s.server.Exited():
		s.violation("the server has ended by itself; its log ends:\n%s", s.server.LogTail())
	}
	s.ledger.goingDown()
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	s.figures.kills++
}

// afterAcks waits until so many ops have been answered, or all is over.
func (s *session) afterAcks(ctx context.Context, n int) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	select {
	case <-s.ledger.afterAcks(n):
	case <-s.first:
	case <-s.server.Exited():
	case <-ctx.Done():
		s.violation("no %d answers in %v", n, requestTimeout)
	}
}

// restart starts the server, and sometimes kills it before it is ready.
func (s *session) restart(t *testing.T) bool {
	t.Helper()
	for s.random.IntN(4) == 0 {
		usual := median(s.figures.starts)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(s.random.Int64N(int64(usual))))
		err := s.server.Restart(ctx)
		cancel()
		if err == nil { // It was faster.
			s.started()
			return true
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			s.violation("%v", err)
			return false
		}
		s.figures.startKills++
	}
	if err := s.server.Restart(t.Context()); err != nil {
		s.violation("%v", err)
		return false
	}
	s.started()
	return true
}

// finish has leases end, stops the server as an operator would, and verifies a
// last time.
func (s *session) finish(t *testing.T) {
	t.Helper()
	s.load(t, func(ctx context.Context) { s.afterAcks(ctx, maxAcks) })
	if s.over() {
		return
	}
	s.verifyUpTo(t, s.ledger.highest())
	s.waitForLeases(t)
	s.ledger.goingDown()
	if _, err := s.server.Stop(); err != nil {
		s.violation("%v", err)
		return
	}
	s.ledger.endLife()
	if err := s.server.Restart(t.Context()); err != nil {
		s.violation("%v", err)
		return
	}
	s.started()
	s.mark(t)
	s.verify(t)
}

// waitForLeases waits until the history has come to the end of all short
// leases' keys.
func (s *session) waitForLeases(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
	defer cancel()
	for !s.over() {
		var left []item
		for _, i := range s.checker.model.scan(everything, everything, s.checker.model.revision) {
			if l := s.ledger.leases[i.lease]; l != nil && l.short() {
				left = append(left, i)
			}
		}
		if len(left) == 0 {
			return
		}
		if err := s.watches[0].wait(ctx, s.checker.model.revision+1); err != nil {
			s.violation("the leases of %v do not end: %v", left, err)
			return
		}
		s.verifyUpTo(t, s.watches[0].at())
	}
}
