package group_test

import (
	"bytes"
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// simulatedKeys are a few of each group, with core's on both sides of the others'.
var simulatedKeys = [][]string{
	{"/registry/a", "/registry/minions/n", "/z"},
	{"/registry/events/a", "/registry/events/b", "/registry/events/c"},
	{"/registry/leases/a", "/registry/leases/b"},
	{"/registry/pods/a", "/registry/pods/b", "/registry/pods/c"},
}

// requests makes up what clients ask.
type requests struct {
	c *cluster
	// put counts the puts of the call that is being made.
	put int
}

func (r *requests) oneIn(n int) bool { return r.c.rng.IntN(n) == 0 }

func (r *requests) group() int { return r.c.rng.IntN(len(simulatedKeys)) }

func (r *requests) key(g int) []byte {
	keys := simulatedKeys[g]
	return []byte(keys[r.c.rng.IntN(len(keys))])
}

// value is one of its own: it names the call.
func (r *requests) value() []byte {
	r.put++
	return fmt.Appendf(nil, "%d.%d", r.c.callCount+1, r.put)
}

// maker returns the call that has written a value.
func maker(value []byte) int {
	n, _, _ := bytes.Cut(value, []byte("."))
	i, err := strconv.Atoi(string(n))
	must(err)
	return i
}

// span returns the keys of one group, or of several.
func (r *requests) span(g int) (key, end []byte) {
	switch {
	case g < 0 && r.oneIn(2):
		return []byte("\x00"), []byte("\x00")
	case g < 0:
		return []byte("/registry/e"), []byte("/registry/q")
	case g == 0:
		return []byte("/registry/minions"), []byte("/registry/n")
	default:
		name := []string{"", "events", "leases", "pods"}[g]
		return []byte("/registry/" + name + "/"), []byte("/registry/" + name + "0")
	}
}

func (r *requests) putOf(g int) *evaluate.Put {
	return &evaluate.Put{Key: r.key(g), Value: r.value(), PrevKV: r.oneIn(3)}
}

// someLease returns a lease that there may be.
func (r *requests) someLease() int64 {
	newest := r.c.newestLease
	return max(1, newest-r.c.rng.Int64N(4))
}

// near returns a revision around the last that was answered.
func (r *requests) near() int64 {
	rev := r.c.answered
	switch r.c.rng.IntN(6) {
	case 0:
		rev++
	case 1, 2, 3:
		rev -= r.c.rng.Int64N(6)
	case 4:
		rev -= r.c.rng.Int64N(30)
	}
	return max(1, rev)
}

// compare returns a compare that holds about every second time.
func (r *requests) compare(g int) evaluate.Compare {
	c := evaluate.Compare{Key: r.key(g)}
	switch r.c.rng.IntN(5) {
	case 0:
		c.Target, c.Result = evaluate.CompareVersion, evaluate.CompareEqual // it is not there
	case 1:
		c.Target, c.Result, c.Number = evaluate.CompareVersion, evaluate.CompareGreater, r.c.rng.Int64N(5)
	case 2, 3:
		c.Target, c.Result, c.Number = evaluate.CompareMod, evaluate.CompareLess, r.near()
	default:
		c.Target, c.Result, c.Number = evaluate.CompareMod, evaluate.CompareGreater, r.near()
		c.Key, c.End = r.span(g)
	}
	return c
}

// txn makes a transaction of one group, or, if g is negative, of several.
func (r *requests) txn(g int) *evaluate.Txn {
	of := func() int {
		if g >= 0 {
			return g
		}
		return r.group()
	}
	t := &evaluate.Txn{}
	for range 1 + r.c.rng.IntN(2) {
		t.Compare = append(t.Compare, r.compare(of()))
	}
	used := map[string]bool{}
	for range 1 + r.c.rng.IntN(3) {
		switch k := of(); r.c.rng.IntN(6) {
		case 0:
			key, end := r.span(k)
			t.Success = append(t.Success, &evaluate.Range{Key: key, End: end})
		case 1:
			// What is deleted is not put again.
			if key := r.key(k); !used[string(key)] {
				used[string(key)] = true
				t.Success = append(t.Success, &evaluate.DeleteRange{Key: key, PrevKV: true})
			}
		default:
			if p := r.putOf(k); !used[string(p.Key)] {
				used[string(p.Key)] = true
				t.Success = append(t.Success, p)
			}
		}
	}
	key, end := r.span(g)
	t.Failure = []evaluate.Op{&evaluate.Range{Key: key, End: end}}
	if r.oneIn(3) {
		t.Failure = append(t.Failure, r.putOf(of()))
	}
	if r.oneIn(8) {
		t.Failure = append(t.Failure, &evaluate.Range{Key: key, End: end, Revision: r.near()})
	}
	return t
}

// never makes a transaction that changes nothing.
func (r *requests) never(g int) *evaluate.Txn {
	key, end := r.span(g)
	at := g
	if g < 0 {
		at = r.group()
	}
	return &evaluate.Txn{
		Compare: []evaluate.Compare{{Target: evaluate.CompareVersion, Result: evaluate.CompareLess, Key: r.key(at)}},
		Success: []evaluate.Op{r.putOf(at)},
		Failure: []evaluate.Op{&evaluate.Range{Key: key, End: end}},
	}
}

// leased makes a put with a lease, or a transaction of such.
func (r *requests) leased() evaluate.Op {
	id := r.someLease()
	p := r.putOf(r.group())
	p.Lease = id
	if r.oneIn(3) {
		q := r.putOf(r.group())
		q.Lease = id
		if !bytes.Equal(p.Key, q.Key) {
			return &evaluate.Txn{Success: []evaluate.Op{p, q}}
		}
	}
	return p
}

func (r *requests) rang(g int) *evaluate.Range {
	key, end := r.span(g)
	if g >= 0 && r.oneIn(3) {
		key, end = r.key(g), nil
	}
	return &evaluate.Range{Key: key, End: end}
}

// unchanging makes a request that changes nothing.
func (r *requests) unchanging() (op evaluate.Op, kind callKind) {
	r.put = 0
	g := r.group()
	if r.oneIn(2) {
		g = -1
	}
	if r.oneIn(3) {
		return r.rang(g), reads
	}
	return r.never(g), writes
}

// next makes a request.
func (r *requests) next() (op evaluate.Op, kind callKind) {
	r.put = 0
	several := -1
	switch n := r.c.rng.IntN(100); {
	case n < 24:
		return r.putOf(r.group()), writes
	case n < 28:
		return &evaluate.DeleteRange{Key: r.key(r.group()), PrevKV: true}, writes
	case n < 31:
		g := r.group()
		if r.oneIn(2) {
			g = several
		}
		key, end := r.span(g)
		return &evaluate.DeleteRange{Key: key, End: end, PrevKV: r.oneIn(2)}, writes
	case n < 39:
		return r.txn(r.group()), writes
	case n < 47:
		return r.txn(several), writes
	case n < 52:
		return r.never(r.group()), writes
	case n < 55:
		return r.never(several), writes
	case n < 58:
		r.c.newestLease++
		return &evaluate.LeaseGrant{ID: r.c.newestLease, TTL: 60}, writes
	case n < 64:
		return r.leased(), writes
	case n < 66:
		return &evaluate.LeaseRevoke{ID: r.someLease()}, writes
	case n < 68:
		return &evaluate.Compact{Revision: max(1, r.c.answered-r.c.rng.Int64N(25))}, writes
	case n < 76:
		return r.rang(r.group()), reads
	case n < 84:
		return r.rang(several), reads
	case n < 91:
		g := r.group()
		if r.oneIn(2) {
			g = several
		}
		op := r.rang(g)
		op.Revision = r.near()
		return op, reads
	case n < 94:
		key, end := r.span(several)
		return &evaluate.Txn{
			Compare: []evaluate.Compare{r.compare(r.group())},
			Success: []evaluate.Op{&evaluate.Range{Key: key, End: end}},
			Failure: []evaluate.Op{r.rang(r.group()), &evaluate.Range{Key: key, End: end, Revision: r.near()}},
		}, reads
	default:
		g := r.group()
		if r.oneIn(2) {
			g = several
		}
		return r.rang(g), readsSerializable
	}
}

// changed says whether an answered request has changed a key; of a revocation
// the answer does not say it.
func changed(op evaluate.Op, res evaluate.Result) bool {
	switch op := op.(type) {
	case *evaluate.Put:
		return true
	case *evaluate.DeleteRange:
		return res.Deleted > 0
	case *evaluate.Txn:
		for i, o := range branch(op, &res) {
			if changed(o, res.Responses[i]) {
				return true
			}
		}
	}
	return false
}

func branch(t *evaluate.Txn, res *evaluate.Result) []evaluate.Op {
	if res.Succeeded {
		return t.Success
	}
	return t.Failure
}

// readsOf appends the ranges that were answered.
func readsOf(dst []*evaluate.Range, op evaluate.Op, res *evaluate.Result) []*evaluate.Range {
	switch op := op.(type) {
	case *evaluate.Range:
		return append(dst, op)
	case *evaluate.Txn:
		for i, o := range branch(op, res) {
			dst = readsOf(dst, o, &res.Responses[i])
		}
	}
	return dst
}

// leaseOf returns the lease that a request is about, 0 for none.
func leaseOf(op evaluate.Op) int64 {
	switch op := op.(type) {
	case *evaluate.Put:
		return op.Lease
	case *evaluate.LeaseRevoke:
		return op.ID
	case *evaluate.Txn:
		for _, o := range op.Success {
			if id := leaseOf(o); id != 0 {
				return id
			}
		}
	}
	return 0
}

// makerOf returns the call that has made a change, 0 if it does not say.
func makerOf(events []*mvccpb.Event) int {
	for _, e := range events {
		if e.Type == mvccpb.Event_PUT {
			return maker(e.Kv.Value)
		}
	}
	return 0
}
