package sequence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/sim"
)

const (
	// checkEvery is after how many steps the watches are compared, besides
	// before each compaction.
	checkEvery = 100
	// traceSteps is how many steps a difference shows.
	traceSteps = 20
)

// runner sends a sequence to several systems, of which the first is the
// reference.
type runner struct {
	systems []*system
	// model says how many events a watch must get: what they are, the reference
	// says.
	model *sim.Model
	// compactions has every revision that was compacted.
	compactions map[int64]bool
	watches     map[int]*watched

	mu    sync.Mutex // guards the tally while systems work at the same time
	tally tally
}

// watched is a watch that every system has opened.
type watched struct {
	number, lane int
	req          *pb.WatchCreateRequest
	// next is the least revision whose events are not compared yet.
	next int64
	// over says that it began below a compaction.
	over bool
}

// difference is what two systems do not agree on.
type difference struct {
	step      int
	system    string
	text      string
	want, got string
	trace     []string
}

func (d *difference) String() string {
	return fmt.Sprintf("step %d: %s\netcd: %s\n%s: %s\nbefore it:\n%s",
		d.step, d.text, d.want, d.system, d.got, strings.Join(d.trace, "\n"))
}

func newRunner(t *testing.T, kinds []kind) *runner {
	t.Helper()
	r, err := startRunner(t.Context(), kinds, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func startRunner(ctx context.Context, kinds []kind, folder string) (*runner, error) {
	r := &runner{
		systems: make([]*system, len(kinds)), model: sim.NewModel(),
		compactions: map[int64]bool{}, watches: map[int]*watched{},
	}
	errs := make([]error, len(kinds))
	var all sync.WaitGroup
	for i, k := range kinds {
		all.Go(func() { r.systems[i], errs[i] = open(ctx, k, folder) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		r.systems = slices.DeleteFunc(r.systems, func(s *system) bool { return s == nil })
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *runner) close() {
	for _, s := range r.systems {
		_ = s.close() // What could fail is over.
	}
	r.systems = nil
}

// each does something with every system at once.
func (r *runner) each(do func(i int, s *system) error) error {
	errs := make([]error, len(r.systems))
	var all sync.WaitGroup
	for i, s := range r.systems {
		all.Go(func() { errs[i] = do(i, s) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// run sends the steps and returns the first difference, or an error if a system
// does not do what it must.
func (r *runner) run(ctx context.Context, steps []step) (*difference, error) {
	var trace []string
	complete := func(i int, d *difference, err error) (*difference, error) {
		if d != nil {
			d.step, d.trace = i, trace
		}
		if err != nil {
			var logs strings.Builder
			for _, s := range r.systems {
				logs.WriteString(s.logs())
			}
			err = fmt.Errorf("step %d: %w\nthe last steps:\n%s\n%s", i, err, strings.Join(trace, "\n"), logs.String())
		}
		return d, err
	}
	for i, s := range steps {
		_, compacts := s.req.(*pb.CompactionRequest)
		if compacts || i%checkEvery == checkEvery-1 {
			if d, err := r.checkpoint(ctx); d != nil || err != nil {
				return complete(i, d, err)
			}
		}
		if trace = append(trace, fmt.Sprintf("%5d %v", i, s)); len(trace) > traceSteps {
			trace = trace[1:]
		}
		if d, err := r.step(ctx, s); d != nil || err != nil {
			return complete(i, d, err)
		}
	}
	d, err := r.checkpoint(ctx)
	if d == nil && err == nil {
		d, err = r.sameHashes(ctx)
	}
	for _, s := range r.systems {
		r.tally.behind += s.settles
	}
	return complete(len(steps)-1, d, err)
}

// step sends one request to all and compares the answers.
func (r *runner) step(ctx context.Context, st step) (*difference, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if r.leaveOut(st) {
		return nil, nil
	}
	answers := make([]answer, len(r.systems))
	if err := r.each(func(i int, s *system) error {
		if st.local() {
			if err := s.settle(ctx, s.asked(st), r.model.Revision(), s.lax && leases(st)); err != nil {
				return err
			}
		}
		answers[i] = normal(st.req, s.do(ctx, st))
		return nil
	}); err != nil {
		return nil, err
	}
	r.tally.requests++
	if answers[0].err != nil {
		r.tally.errors++
	}
	for i, s := range r.systems[1:] {
		if got := answers[i+1]; !got.equal(answers[0]) {
			return &difference{system: s.name, text: st.String(), want: answers[0].String(), got: got.String()}, nil
		}
	}
	return nil, r.follow(st, answers[0])
}

// leases says that an answer is about leases, which have no revisions.
func leases(st step) bool {
	switch st.req.(type) {
	case *pb.LeaseTimeToLiveRequest, *pb.LeaseLeasesRequest, *pb.LeaseKeepAliveRequest:
		return true
	default:
		return false
	}
}

// leaveOut says that a step has no meaning now: see doc.go, and a cancellation
// of a watch that was refused.
func (r *runner) leaveOut(st step) bool {
	switch req := st.req.(type) {
	case *pb.HashKVRequest:
		return r.compactions[req.Revision] || req.Revision == 0 && r.compactions[r.model.Revision()]
	case *pb.WatchCancelRequest:
		return r.watches[st.watch] == nil
	default:
		return false
	}
}

// follow has the model do what the reference has done, and notes watches.
func (r *runner) follow(st step, a answer) error {
	switch req := st.req.(type) {
	case *pb.HashKVRequest:
		r.tally.hashes++
	case *pb.WatchCreateRequest:
		if resp := a.resp.(*pb.WatchResponse); !resp.Canceled {
			r.tally.watches++
			r.watches[st.watch] = &watched{
				number: st.watch, lane: st.lane, req: req,
				next: startOf(req, r.model.Revision()), over: req.StartRevision != 0 && req.StartRevision < r.model.Compacted(),
			}
		}
	case *pb.WatchCancelRequest:
		delete(r.watches, st.watch)
	}
	if st.op == nil || st.stream { // A RangeStream may be refused.
		return nil
	}
	res, err := r.model.Do(st.op)
	if (err != nil) != (a.err != nil) {
		return fmt.Errorf("%v: the model says %w, etcd says %w", st, err, a.err)
	}
	if err == nil && revisionOf(a.resp) != res.Revision {
		return fmt.Errorf("%v: the model says revision %d, etcd says %v", st, res.Revision, a)
	}
	if _, ok := st.op.(*evaluate.Compact); ok && err == nil {
		r.compactions[r.model.Compacted()] = true
	}
	return nil
}

// startOf is the first revision that a new watch gets.
func startOf(req *pb.WatchCreateRequest, head int64) int64 {
	if req.StartRevision == 0 {
		return head + 1
	}
	return req.StartRevision
}

func revisionOf(resp proto.Message) int64 {
	h, ok := resp.(interface{ GetHeader() *pb.ResponseHeader })
	if !ok {
		return 0
	}
	return h.GetHeader().GetRevision()
}

// checkpoint waits until every watch has what it must have by now, and compares.
func (r *runner) checkpoint(ctx context.Context) (*difference, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	head := r.model.Revision()
	want := map[int][]*mvccpb.Event{}
	for _, w := range r.watches {
		if !w.over {
			events, err := r.model.Changes(w.req.Key, w.req.RangeEnd, min(w.next, head+1), head)
			if err != nil {
				return nil, fmt.Errorf("watch number %d from %d: %w", w.number, w.next, err)
			}
			want[w.number] = filter(events, w)
		}
	}
	got := make([]map[int][]*mvccpb.Event, len(r.systems))
	for i := range got {
		got[i] = map[int][]*mvccpb.Event{}
	}
	ends := make([]map[int]string, len(r.systems))
	if err := r.each(func(i int, s *system) error {
		ends[i] = map[int]string{}
		return s.collect(ctx, r, head, want, got[i], ends[i])
	}); err != nil {
		return nil, err
	}
	for _, number := range sortedNumbers(r.watches) {
		w := r.watches[number]
		for i, s := range r.systems {
			text := fmt.Sprintf("watch number %d on stream %d, %v: events from %d to %d", number, w.lane, w.req, w.next, head)
			if !sameEvents(got[i][number], got[0][number]) || ends[i][number] != ends[0][number] {
				return &difference{
					system: s.name, text: text,
					want: sim.FormatEvents(got[0][number], true) + ends[0][number],
					got:  sim.FormatEvents(got[i][number], true) + ends[i][number],
				}, nil
			}
		}
		if !w.over && len(got[0][number]) != len(want[number]) {
			return nil, fmt.Errorf("watch number %d: the model says\n%s\netcd says\n%s", number,
				sim.FormatEvents(want[number], true), sim.FormatEvents(got[0][number], true))
		}
		r.tally.events += len(got[0][number])
		if w.over && ends[0][number] != "" {
			r.tally.canceled++
		}
		w.next = max(w.next, head+1)
	}
	return nil, nil
}

func sortedNumbers(watches map[int]*watched) []int {
	var numbers []int
	for n := range watches {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

func sameEvents(a, b []*mvccpb.Event) bool {
	return slices.EqualFunc(a, b, func(x, y *mvccpb.Event) bool { return proto.Equal(x, y) })
}

// filter takes out of events what a watch did not ask for.
func filter(events []*mvccpb.Event, w *watched) []*mvccpb.Event {
	return slices.DeleteFunc(events, func(e *mvccpb.Event) bool {
		return slices.Contains(w.req.Filters, pb.WatchCreateRequest_NOPUT) && e.Type == mvccpb.Event_PUT ||
			slices.Contains(w.req.Filters, pb.WatchCreateRequest_NODELETE) && e.Type == mvccpb.Event_DELETE
	})
}

// collect waits for the events of all watches of a system, asks for progress,
// and checks what was said about it.
func (s *system) collect(
	ctx context.Context, r *runner, head int64, want, got map[int][]*mvccpb.Event, ends map[int]string,
) error {
	for n, l := range s.lanes {
		mine := map[int]*watched{}
		quiet := true
		for number, w := range r.watches {
			if w.lane == n {
				mine[number] = w
				quiet = quiet && !w.over && w.req.StartRevision <= head
			}
		}
		// Asked before the events are there: it must not overtake them.
		ask := quiet && len(mine) > 0
		if ask {
			if err := l.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
				ProgressRequest: &pb.WatchProgressRequest{},
			}}); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		var missing string
		if err := l.until(ctx, func() bool {
			missing = ""
			for number, w := range mine {
				in := l.byNumber[number]
				if w.over && in.ended == nil || !w.over && (in.partial || len(in.events) < len(want[number])) {
					missing = fmt.Sprintf("watch number %d has %d events of %d, ended %t", number, len(in.events), len(want[number]), in.ended != nil)
					return false
				}
			}
			return true
		}); err != nil {
			return fmt.Errorf("%s, stream %d: %s: %w", s.name, n, missing, err)
		}
		if ask {
			if err := s.awaitProgress(ctx, l, head); err != nil {
				return fmt.Errorf("%s, stream %d: %w", s.name, n, err)
			}
		}
		if err := l.checkNotes(mine, head, want); err != nil {
			return fmt.Errorf("%s, stream %d: %w", s.name, n, err)
		}
		l.mu.Lock()
		for number := range mine {
			in := l.byNumber[number]
			got[number] = in.events
			in.dropped += len(in.events)
			in.events = nil
			if in.ended != nil {
				ends[number] = normal(nil, answer{resp: proto.Clone(in.ended)}).String()
			}
		}
		r.count(len(l.told), l.fragments)
		l.told, l.fragments = nil, 0
		l.mu.Unlock()
	}
	return nil
}

// count counts what systems do at the same time.
func (r *runner) count(notes, fragments int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.progress += notes
	r.tally.fragments += fragments
}

// awaitProgress asks until a stream knows of a revision. A member that is behind
// may tell of an earlier one first.
func (s *system) awaitProgress(ctx context.Context, l *lane, head int64) error {
	for {
		l.mu.Lock()
		known := l.progress
		l.mu.Unlock()
		if known >= head {
			return nil
		}
		select {
		case <-l.changed:
			continue
		case <-s.clk.After(50 * pause):
		case <-ctx.Done():
			return fmt.Errorf("progress is told up to %d and not to %d", known, head)
		}
		if err := l.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
			ProgressRequest: &pb.WatchProgressRequest{},
		}}); err != nil {
			return err
		}
	}
}

// checkNotes checks that no note of progress was ahead of the events.
func (l *lane) checkNotes(mine map[int]*watched, head int64, want map[int][]*mvccpb.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.told {
		if n.revision > head {
			return fmt.Errorf("progress is told up to %d, and %d is the last revision", n.revision, head)
		}
		for number, had := range n.had {
			w := mine[number]
			if w == nil || w.over {
				continue // It is cancelled, or ends.
			}
			in := l.byNumber[number]
			must := in.dropped
			for _, e := range in.events {
				if e.Kv.ModRevision <= n.revision {
					must++
				}
			}
			if had < must {
				return fmt.Errorf("progress is told up to %d when watch number %d has %d of %d events", n.revision, number, had, must)
			}
		}
	}
	return nil
}

// sameHashes compares the hash of all members of all systems.
func (r *runner) sameHashes(ctx context.Context) (*difference, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if r.compactions[r.model.Revision()] {
		return nil, nil
	}
	st := step{req: &pb.HashKVRequest{}}
	for st.member = range 3 {
		if d, err := r.step(ctx, st); d != nil || err != nil {
			return d, err
		}
	}
	return nil, nil
}
