package sim

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/lease"
)

// Weights say how often each kind of request is generated, relative to each
// other.
type Weights struct {
	Put, Delete, Txn, Range, Compact, Grant, Revoke int
}

// DefaultWeights visit every kind, writes first.
func DefaultWeights() Weights {
	return Weights{Put: 30, Delete: 10, Txn: 30, Range: 20, Compact: 2, Grant: 3, Revoke: 2}
}

// Keys returns the default keys: few, prefixes of one another, and next to the
// bytes that end ranges and escapes. Twelve is the number up to which etcd's
// sort keeps equal keys in order.
func Keys() [][]byte {
	return [][]byte{
		[]byte("\x00"), []byte("a"), []byte("a\x00"), []byte("a\x00\x00b"), []byte("aa"), []byte("b\xff"),
		[]byte("b\xff\xff"), []byte("c/"), []byte("c/1"), []byte("c/10"), []byte("c/2"), []byte("\xff"),
	}
}

// State is what a Generator wants to know of the store, to ask near what is
// there. It may be out of date.
type State interface {
	Revision() int64
	Compacted() int64
	Leases() []int64
	Get(key []byte) *mvccpb.KeyValue
}

// Generator makes random requests, the same ones from the same seed and the
// same states.
type Generator struct {
	Weights Weights
	Keys    [][]byte
	// BigValue bounds the length of the few values that are not short.
	BigValue int
	// LeaseBase is the number before the first of the few leases.
	LeaseBase int64
	// Rewrites lets a txn put a key twice, or delete and put it, in ways that
	// etcd's API refuses.
	Rewrites bool

	rng    *rand.Rand
	values int
}

// NewGenerator returns a Generator with the defaults.
func NewGenerator(seed uint64) *Generator { return newGenerator(rand.NewPCG(seed, 0)) }

func newGenerator(src rand.Source) *Generator {
	return &Generator{
		Weights:  DefaultWeights(),
		Keys:     Keys(),
		BigValue: 4 << 10,
		rng:      rand.New(src),
	}
}

// Next makes a request.
func (g *Generator) Next(s State) evaluate.Op {
	w := g.Weights
	n := g.rng.IntN(w.Put + w.Delete + w.Txn + w.Range + w.Compact + w.Grant + w.Revoke)
	for _, kind := range []struct {
		weight int
		make   func(State) evaluate.Op
	}{
		{w.Put, func(s State) evaluate.Op { return g.Put(s) }},
		{w.Delete, func(s State) evaluate.Op { return g.Delete(s) }},
		{w.Txn, func(s State) evaluate.Op { return g.Txn(s) }},
		{w.Range, func(s State) evaluate.Op { return g.Range(s) }},
		{w.Compact, func(s State) evaluate.Op { return g.Compact(s) }},
		{w.Grant, func(s State) evaluate.Op { return g.Grant(s) }},
		{w.Revoke, func(s State) evaluate.Op { return g.Revoke(s) }},
	} {
		if n < kind.weight {
			return kind.make(s)
		}
		n -= kind.weight
	}
	panic("sim: no weight is positive")
}

// oneIn is true once in n times.
func (g *Generator) oneIn(n int) bool { return g.rng.IntN(n) == 0 }

// Key picks a key.
func (g *Generator) Key() []byte { return g.Keys[g.rng.IntN(len(g.Keys))] }

// Span picks a key and an end, in all forms that requests have.
func (g *Generator) Span() (key, end []byte) {
	if key = g.Key(); g.oneIn(8) {
		key = append(bytes.Clone(key), 0) // Where the next page begins.
	}
	switch g.rng.IntN(8) {
	case 0, 1:
		return key, nil
	case 2:
		return key, []byte{0}
	case 3:
		return []byte{0}, []byte{0}
	case 4:
		return key, append(bytes.Clone(key), 0)
	case 5:
		// The prefix.
		end = bytes.Clone(key)
		for i := len(end) - 1; i >= 0; i-- {
			if end[i] < 0xff {
				end[i]++
				return key, end[:i+1]
			}
		}
		return key, []byte{0}
	default:
		// Now and then empty or backward.
		if end = g.Key(); g.oneIn(8) {
			end = append(bytes.Clone(end), 0)
		}
		if bytes.Compare(key, end) > 0 && !g.oneIn(6) {
			key, end = end, key
		}
		return key, end
	}
}

// Revision picks a revision near the head, the compaction's or the future; 0,
// for the head, most of the time, or a negative one.
func (g *Generator) Revision(s State) int64 {
	switch g.rng.IntN(12) {
	case 0:
		return max(0, s.Compacted()+int64(g.rng.IntN(4))-2)
	case 1:
		return s.Revision() + int64(g.rng.IntN(5)) - 2
	case 2, 3, 4:
		low := max(0, s.Compacted())
		return low + g.rng.Int64N(max(1, s.Revision()+1-low))
	case 5:
		return -int64(g.rng.IntN(4)) / 2
	default:
		return 0
	}
}

func (g *Generator) value() []byte {
	switch g.rng.IntN(10) {
	case 0:
		return nil
	case 1, 2:
		return []byte{byte('x' + g.rng.IntN(3))}
	case 3:
		if g.oneIn(4) {
			g.values++
			return bytes.Repeat(fmt.Appendf(nil, "%09d.", g.values), g.rng.IntN(1+g.BigValue/10))
		}
	}
	g.values++
	return fmt.Appendf(nil, "v%d", g.values)
}

// lease picks a lease that is there, if there is one, and seldom one that is
// not.
func (g *Generator) lease(s State) int64 {
	if all := s.Leases(); len(all) > 0 && !g.oneIn(20) {
		return all[g.rng.IntN(len(all))]
	}
	return g.someLease()
}

func (g *Generator) someLease() int64 { return g.LeaseBase + 1 + g.rng.Int64N(8) }

// Put makes a Put.
func (g *Generator) Put(s State) *evaluate.Put {
	p := &evaluate.Put{Key: g.Key(), PrevKV: g.oneIn(3)}
	p.IgnoreValue, p.IgnoreLease = g.oneIn(12), g.oneIn(12)
	if !p.IgnoreValue {
		p.Value = g.value()
	}
	if !p.IgnoreLease && g.oneIn(5) && (len(s.Leases()) > 0 || g.oneIn(8)) {
		p.Lease = g.lease(s)
	}
	return p
}

// Delete makes a DeleteRange, of one key half of the time.
func (g *Generator) Delete(State) *evaluate.DeleteRange {
	d := &evaluate.DeleteRange{Key: g.Key(), PrevKV: g.oneIn(2)}
	if g.oneIn(2) {
		d.Key, d.End = g.Span()
	}
	return d
}

// Range makes a Range.
func (g *Generator) Range(s State) *evaluate.Range {
	r := &evaluate.Range{Revision: g.Revision(s), KeysOnly: g.oneIn(6), CountOnly: g.oneIn(8)}
	r.Key, r.End = g.Span()
	if g.oneIn(3) {
		r.Limit = 1 + g.rng.Int64N(6)
	} else if g.oneIn(20) {
		r.Limit = []int64{-1, math.MaxInt64, math.MaxInt64 - 1}[g.rng.IntN(3)]
	}
	if g.oneIn(3) {
		r.SortTarget = evaluate.SortTarget(g.rng.IntN(5))
		r.SortOrder = evaluate.SortOrder(g.rng.IntN(3))
	}
	if g.oneIn(5) {
		for _, bound := range []*int64{&r.MinMod, &r.MaxMod, &r.MinCreate, &r.MaxCreate} {
			if g.oneIn(3) {
				*bound = max(1, s.Revision()-g.rng.Int64N(20))
			}
		}
	}
	return r
}

func (g *Generator) compare(s State) evaluate.Compare {
	c := evaluate.Compare{
		Target: evaluate.CompareTarget(g.rng.IntN(5)),
		Result: evaluate.CompareResult(g.rng.IntN(4)),
		Key:    g.Key(),
	}
	kv := s.Get(c.Key)
	if g.oneIn(4) {
		c.Key, c.End = g.Span()
	}
	if kv == nil || g.oneIn(8) {
		kv = &mvccpb.KeyValue{}
	}
	near := func(n int64) int64 {
		if g.oneIn(3) {
			n += int64(g.rng.IntN(5)) - 2
		}
		return n
	}
	switch c.Target {
	case evaluate.CompareVersion:
		c.Number = near(kv.Version)
	case evaluate.CompareCreate:
		c.Number = near(kv.CreateRevision)
	case evaluate.CompareMod:
		c.Number = near(kv.ModRevision)
	case evaluate.CompareLease:
		c.Number = near(kv.Lease)
	case evaluate.CompareValue:
		if c.Value = kv.Value; g.oneIn(3) {
			c.Value = g.value()
		}
	}
	return c
}

// Txn makes a Txn, now and then with others inside.
func (g *Generator) Txn(s State) *evaluate.Txn { return g.txn(s, 3) }

func (g *Generator) txn(s State, depth int) *evaluate.Txn {
	t := &evaluate.Txn{}
	for n := g.rng.IntN(3); n > 0; n-- {
		t.Compare = append(t.Compare, g.compare(s))
	}
	t.Success, t.Failure = g.branch(s, depth), g.branch(s, depth)
	return t
}

func (g *Generator) branch(s State, depth int) []evaluate.Op {
	var ops []evaluate.Op
	for n := g.rng.IntN(5); n > 0; n-- {
		var op evaluate.Op
		switch k := g.rng.IntN(12); {
		case k < 5:
			op = g.Put(s)
		case k < 7:
			op = g.Delete(s)
		case k < 10 || depth == 1:
			op = g.Range(s)
		default:
			op = g.txn(s, depth-1)
		}
		if _, _, ok := writes(append(ops, op)); ok || g.Rewrites {
			ops = append(ops, op)
		}
	}
	return ops
}

// writes returns the keys that ops may put and the spans that they may delete,
// and whether etcd's API takes them: a key is put once at most, and not if it
// is in a span that is deleted at its level, above it, or by a nested txn before
// it. A nested txn may delete what one before it puts.
func writes(ops []evaluate.Op) (puts []string, dels []*evaluate.DeleteRange, ok bool) {
	hit := func(k string) bool {
		return slices.ContainsFunc(dels, func(d *evaluate.DeleteRange) bool { return within(k, d.Key, d.End) })
	}
	for _, op := range ops {
		if d, is := op.(*evaluate.DeleteRange); is {
			dels = append(dels, d)
		}
	}
	for _, op := range ops {
		t, is := op.(*evaluate.Txn)
		if !is {
			continue
		}
		// The branches were found good when they were made.
		then, thenDels, _ := writes(t.Success)
		other, otherDels, _ := writes(t.Failure)
		nested := append(then, other...)
		if slices.ContainsFunc(nested, func(k string) bool { return slices.Contains(puts, k) || hit(k) }) {
			return nil, nil, false
		}
		puts = append(puts, nested...)
		dels = append(append(dels, thenDels...), otherDels...)
	}
	for _, op := range ops {
		if p, is := op.(*evaluate.Put); is {
			if k := string(p.Key); slices.Contains(puts, k) || hit(k) {
				return nil, nil, false
			}
			puts = append(puts, string(p.Key))
		}
	}
	return puts, dels, true
}

// Compact makes a Compact, mostly of a revision that may be compacted.
func (g *Generator) Compact(s State) *evaluate.Compact {
	low := max(1, s.Compacted())
	switch g.rng.IntN(10) {
	case 0:
		return &evaluate.Compact{Revision: s.Revision() + g.rng.Int64N(3)}
	case 1:
		return &evaluate.Compact{Revision: max(1, s.Compacted()-g.rng.Int64N(2))}
	default:
		return &evaluate.Compact{Revision: low + g.rng.Int64N(max(1, s.Revision()+1-low))}
	}
}

// Grant makes a LeaseGrant of one of few leases.
func (g *Generator) Grant(State) *evaluate.LeaseGrant {
	l := &evaluate.LeaseGrant{ID: g.someLease(), TTL: 600 + g.rng.Int64N(1000)}
	if g.oneIn(12) {
		l.TTL = lease.MaxTTL + g.rng.Int64N(2)
	}
	return l
}

// Revoke makes a LeaseRevoke.
func (g *Generator) Revoke(s State) *evaluate.LeaseRevoke {
	return &evaluate.LeaseRevoke{ID: g.lease(s)}
}
