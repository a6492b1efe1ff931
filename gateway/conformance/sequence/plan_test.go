package sequence

import (
	"bytes"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// families are keys that go together: those of a group with its borders first,
// then core's.
var families = [][]string{
	{
		"/registry/event", "/registry/events", "/registry/events/", "/registry/events/default/a",
		"/registry/events/default/b", "/registry/events/kube-system/a", "/registry/events0",
	},
	{
		"/registry/leaser", "/registry/leases", "/registry/leases\x00", "/registry/leases/kube-node-lease/n1",
		"/registry/leases/kube-node-lease/n2", "/registry/leases0",
	},
	{
		"/registry/podr", "/registry/pods", "/registry/pods\x00", "/registry/pods-x", "/registry/pods/",
		"/registry/pods/default/a", "/registry/pods/default/a\x00", "/registry/pods/default/b",
		"/registry/pods\xff", "/registry/podtemplates/default/a",
	},
	{"\x00", "a", "a\x00", "/registry", "/registry/configmaps/default/a", "/registry/configmaps/default/b", "compact_rev_key", "\xff"},
}

const (
	// lanes is how many streams a system's watches are on, and maxWatches how
	// many there are at a time.
	lanes, maxWatches = 6, 16
	// bigValue bounds the few values that are not short.
	bigValue = 48 << 10

	// A burst is so many puts of so many bytes, which together are more than a
	// watch gets in one response: servers are told to take requests of no more
	// than requestBytes, to which they add half a MiB.
	burstPuts, burstValue = 16, 64 << 10
	requestBytes          = 256 << 10
)

// planner makes a sequence of requests. It has a model, to ask near what is
// there.
type planner struct {
	rng   *rand.Rand
	gen   *sim.Generator
	model *sim.Model

	created int
	open    []openWatch
	// queue has steps that come next.
	queue []step
}

// openWatch is a watch that is not cancelled yet, by number.
type openWatch struct{ number, lane int }

func newPlanner(seed uint64) *planner {
	p := &planner{
		rng:   rand.New(rand.NewPCG(seed, 5)),
		gen:   sim.NewGenerator(seed),
		model: sim.NewModel(),
	}
	p.gen.Weights.Compact = 1
	p.gen.BigValue = bigValue
	return p
}

// plan makes n steps.
func (p *planner) plan(n int) []step {
	steps := make([]step, n)
	for i := range steps {
		steps[i] = p.next()
		steps[i].member = p.rng.IntN(3)
	}
	return steps
}

func (p *planner) oneIn(n int) bool { return p.rng.IntN(n) == 0 }

// focus chooses the keys of the next request: of all families, of one, or of two.
func (p *planner) focus() {
	order := p.rng.Perm(len(families))[:[]int{1, 2, len(families)}[p.rng.IntN(3)]]
	p.gen.Keys = nil
	for _, i := range order {
		for _, k := range families[i] {
			p.gen.Keys = append(p.gen.Keys, []byte(k))
		}
	}
}

func (p *planner) next() step {
	if len(p.queue) > 0 {
		s := p.queue[0]
		p.queue = p.queue[1:]
		return s
	}
	p.focus()
	if p.oneIn(400) {
		p.burst()
		return p.next()
	}
	switch p.rng.IntN(40) {
	case 0, 1, 2, 17, 18:
		return p.watch()
	case 3, 4:
		return step{req: p.lease()}
	case 5, 6:
		return step{req: &pb.HashKVRequest{Revision: max(0, p.gen.Revision(p.model))}}
	case 7:
		return step{req: p.refused()}
	case 8, 9, 10, 11, 12:
		return p.ask(p.kubernetes())
	case 13, 14:
		return p.rangeStream()
	default:
		return p.ask(p.generate())
	}
}

// generate makes an op that Pebbledash takes if etcd does: see doc.go.
func (p *planner) generate() evaluate.Op {
	for {
		op := p.gen.Next(p.model)
		if t, ok := op.(*evaluate.Txn); !ok || !rewrites(t.Success) && !rewrites(t.Failure) {
			return op
		}
	}
}

// rewrites says whether a transaction among ops puts a key that a later one may
// delete.
func rewrites(ops []evaluate.Op) bool {
	var puts []*evaluate.Put
	for _, op := range ops {
		t, ok := op.(*evaluate.Txn)
		if !ok {
			continue
		}
		if rewrites(t.Success) || rewrites(t.Failure) {
			return true
		}
		for _, d := range of[*evaluate.DeleteRange](t) {
			for _, p := range puts {
				if covers(d, p.Key) {
					return true
				}
			}
		}
		puts = append(puts, of[*evaluate.Put](t)...)
	}
	return false
}

// of lists the ops of one type in a transaction, at any depth and in both
// branches.
func of[Op evaluate.Op](t *evaluate.Txn) []Op {
	var all []Op
	for _, op := range append(append([]evaluate.Op(nil), t.Success...), t.Failure...) {
		if o, ok := op.(Op); ok {
			all = append(all, o)
		} else if nested, ok := op.(*evaluate.Txn); ok {
			all = append(all, of[Op](nested)...)
		}
	}
	return all
}

func covers(d *evaluate.DeleteRange, key []byte) bool {
	switch {
	case len(d.End) == 0:
		return bytes.Equal(d.Key, key)
	case string(d.End) == "\x00":
		return bytes.Compare(d.Key, key) <= 0
	default:
		return bytes.Compare(d.Key, key) <= 0 && bytes.Compare(key, d.End) < 0
	}
}

// ask makes a step of an op, and has the model do it.
func (p *planner) ask(op evaluate.Op) step {
	p.arrange(op)
	s := step{req: request(op), op: op}
	all := p.oneIn(6)
	switch r := s.req.(type) {
	case *pb.RangeRequest:
		r.Serializable = all
	case *pb.TxnRequest:
		serialize(r, all)
	}
	// The model has no opinion here: it fails as the servers do.
	_, _ = p.model.Do(op)
	return s
}

// serialize makes the reads of a transaction serializable.
func serialize(t *pb.TxnRequest, all bool) {
	for _, ops := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range ops {
			if r := op.GetRequestRange(); r != nil {
				r.Serializable = all
			}
		}
	}
}

// arrange takes limits out of ranges for which etcd's answer is one of several,
// or not what it says: see doc.go.
func (p *planner) arrange(op evaluate.Op) {
	switch op := op.(type) {
	case *evaluate.Range:
		if op.SortTarget == evaluate.SortByKey {
			return
		}
		// A transaction may have put some before it reads.
		const most = sortedExactly - 8
		res, err := p.model.Do(&evaluate.Range{Key: op.Key, End: op.End, CountOnly: true, Revision: op.Revision})
		if op.SortOrder == evaluate.SortNone || err == nil && res.Count > most {
			op.Limit = 0
		}
	case *evaluate.Txn:
		for _, ops := range [][]evaluate.Op{op.Success, op.Failure} {
			for _, o := range ops {
				p.arrange(o)
			}
		}
	}
}

// kubernetes makes one of the transactions of kube-apiserver.
func (p *planner) kubernetes() evaluate.Op {
	key := p.gen.Key()
	var mod int64
	if kv := p.model.Get(key); kv != nil && !p.oneIn(5) {
		mod = kv.ModRevision
	}
	t := &evaluate.Txn{
		Compare: []evaluate.Compare{{Target: evaluate.CompareMod, Result: evaluate.CompareEqual, Key: key, Number: mod}},
		Failure: []evaluate.Op{&evaluate.Range{Key: key}},
	}
	if mod != 0 && p.oneIn(3) {
		t.Success = []evaluate.Op{&evaluate.DeleteRange{Key: key}}
		return t
	}
	put := p.gen.Put(p.model)
	put.Key, put.IgnoreValue, put.IgnoreLease, put.PrevKV = key, false, false, false
	t.Success = []evaluate.Op{put}
	if mod == 0 && p.oneIn(2) {
		t.Failure = nil
	}
	return t
}

// rangeStream makes a RangeStream, now and then one that is refused.
func (p *planner) rangeStream() step {
	op := p.gen.Range(p.model)
	op.SortTarget = evaluate.SortByKey
	if !p.oneIn(10) {
		op.MinMod, op.MaxMod, op.MinCreate, op.MaxCreate = 0, 0, 0, 0
		op.SortOrder %= evaluate.SortDescend
	}
	s := p.ask(op)
	s.stream = true
	return s
}

func (p *planner) lease() proto.Message {
	id := 1 + p.rng.Int64N(8)
	if all := p.model.Leases(); len(all) > 0 && !p.oneIn(8) {
		id = all[p.rng.IntN(len(all))]
	}
	switch p.rng.IntN(4) {
	case 0:
		return &pb.LeaseLeasesRequest{}
	case 1:
		return &pb.LeaseKeepAliveRequest{ID: id}
	default:
		return &pb.LeaseTimeToLiveRequest{ID: id, Keys: !p.oneIn(3)}
	}
}

// refused makes a request that is wrong in itself.
func (p *planner) refused() proto.Message {
	key, value := p.gen.Key(), []byte("refused")
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value}}}
	remove := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
	within := func(ops ...*pb.RequestOp) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: ops}}}
	}
	many := make([]*pb.RequestOp, 129)
	for i := range many {
		many[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}
	}
	all := []proto.Message{
		&pb.RangeRequest{},
		&pb.PutRequest{Value: value},
		&pb.DeleteRangeRequest{RangeEnd: key},
		&pb.PutRequest{Key: key, Value: value, IgnoreValue: true},
		&pb.PutRequest{Key: key, Lease: 1, IgnoreLease: true},
		&pb.PutRequest{Key: key, Lease: 999},
		&pb.RangeRequest{Key: key, SortOrder: 7},
		&pb.RangeRequest{Key: key, SortTarget: 7},
		&pb.TxnRequest{Success: []*pb.RequestOp{put, put}},
		&pb.TxnRequest{Success: []*pb.RequestOp{put, within(put)}},
		&pb.TxnRequest{Failure: []*pb.RequestOp{remove, put}},
		&pb.TxnRequest{Failure: []*pb.RequestOp{remove, within(put)}},
		&pb.TxnRequest{Failure: many},
		&pb.TxnRequest{Success: []*pb.RequestOp{{}}},
		&pb.TxnRequest{Compare: []*pb.Compare{{}}},
		&pb.LeaseRevokeRequest{ID: 999},
		&pb.LeaseGrantRequest{ID: 5, TTL: 1 << 40},
		&pb.CompactionRequest{Revision: -1},
		&pb.HashKVRequest{Revision: 1 << 40},
	}
	return all[p.rng.IntN(len(all))]
}

// burst queues puts of large values and a watch of them.
func (p *planner) burst() {
	from := p.model.Revision()
	for range burstPuts {
		put := &evaluate.Put{Key: p.gen.Key(), Value: bytes.Repeat([]byte{'a' + byte(p.rng.IntN(26))}, burstValue)}
		p.queue = append(p.queue, p.ask(put))
	}
	r := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from, Fragment: !p.oneIn(4), PrevKv: p.oneIn(2)}
	p.queue = append(p.queue, p.opens(r))
}

// watch opens or cancels one.
func (p *planner) watch() step {
	if len(p.open) > 0 && (len(p.open) >= maxWatches || p.oneIn(3)) {
		i := p.rng.IntN(len(p.open))
		w := p.open[i]
		p.open = append(p.open[:i], p.open[i+1:]...)
		return step{req: &pb.WatchCancelRequest{}, watch: w.number, lane: w.lane}
	}
	r := &pb.WatchCreateRequest{PrevKv: p.oneIn(2), Fragment: p.oneIn(3), ProgressNotify: p.oneIn(4)}
	r.Key, r.RangeEnd = p.gen.Span()
	switch p.rng.IntN(7) {
	case 0, 1: // From now on.
	case 2:
		r.StartRevision = p.model.Revision() + p.rng.Int64N(4)
	case 3:
		r.StartRevision = max(1, p.model.Compacted()-1+p.rng.Int64N(3))
	default:
		low := max(1, p.model.Compacted())
		r.StartRevision = low + p.rng.Int64N(p.model.Revision()+1-low)
	}
	if p.oneIn(4) {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_FilterType(p.rng.IntN(2)))
	}
	return p.opens(r)
}

// opens numbers a watch.
func (p *planner) opens(r *pb.WatchCreateRequest) step {
	w := openWatch{number: p.created, lane: p.rng.IntN(lanes)}
	p.created++
	switch p.rng.IntN(8) {
	case 0: // The server chooses an id.
	case 1:
		r.WatchId = 1000 + p.rng.Int64N(int64(p.created)) // Perhaps one that is in use.
	default:
		r.WatchId = 1000 + int64(w.number)
	}
	if !empty(r) {
		p.open = append(p.open, w)
	}
	return step{req: r, watch: w.number, lane: w.lane}
}

// empty says that there can be no key in a watch's range. Servers refuse it.
func empty(r *pb.WatchCreateRequest) bool {
	return len(r.RangeEnd) > 0 && string(r.RangeEnd) != "\x00" && bytes.Compare(r.Key, r.RangeEnd) >= 0
}
