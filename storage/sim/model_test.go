package sim_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/sim"
)

func put(k, v string) *evaluate.Put { return &evaluate.Put{Key: []byte(k), Value: []byte(v)} }

func del(k string) *evaluate.DeleteRange { return &evaluate.DeleteRange{Key: []byte(k)} }

func get(k string, revision int64) *evaluate.Range {
	return &evaluate.Range{Key: []byte(k), Revision: revision}
}

func then(ops ...evaluate.Op) *evaluate.Txn { return &evaluate.Txn{Success: ops} }

// TestModel is the model's semantics as a story. A real etcd has the last word:
// see TestModelAgreesWithEtcd.
func TestModel(t *testing.T) {
	m := sim.NewModel()
	for _, step := range []struct {
		what string
		op   evaluate.Op
		want string
	}{
		{"a fresh store is at 1", get("a", 0), `rev=1 {rev=1}`},
		{"what deletes nothing takes no revision", del("a"), `rev=1 {rev=1}`},
		{"the first write is 2", put("a", "1"), `rev=2 {rev=2}`},
		{
			"a txn sees its own writes and is one revision", then(put("b", "2"), get("b", 0), del("a"), get("a", 0)),
			`rev=3 {succeeded=true {rev=3} {rev=3 "b"="2" c3 m3 v1 count=1} {rev=3 deleted=1} {rev=3}}`,
		},
		{
			"but not in the past", then(put("b", "3"), get("b", 3)),
			`rev=4 {succeeded=true {rev=4} {rev=4 "b"="2" c3 m3 v1 count=1}}`,
		},
		{
			"and it is all or nothing", then(put("b", "4"), &evaluate.Put{Key: []byte("a"), IgnoreValue: true}),
			`error: evaluate: key not found`,
		},
		{
			"which can turn out half-way", then(del("b"), &evaluate.Put{Key: []byte("b"), IgnoreValue: true}),
			`error: evaluate: key not found`,
		},
		{"all compares see the state before the txn", then(put("a", "5"), &evaluate.Txn{
			Compare: []evaluate.Compare{{Target: evaluate.CompareCreate, Key: []byte("a")}},
		}), `rev=5 {succeeded=true {rev=5} {succeeded=true}}`},
		{"a missing value compares with nothing", &evaluate.Txn{
			Compare: []evaluate.Compare{{Target: evaluate.CompareValue, Result: evaluate.CompareNotEqual, Key: []byte("x")}},
		}, `rev=5 {succeeded=false}`},
		{"a lease must be there", &evaluate.Put{Key: []byte("l"), Lease: 7}, `error: lease not found`},
		{"it takes no revision", &evaluate.LeaseGrant{ID: 7, TTL: 1}, `rev=5 {rev=5 ttl=2}`},
		{"a key of a lease", &evaluate.Put{Key: []byte("l"), Lease: 7}, `rev=6 {rev=6}`},
		{"goes with it", &evaluate.LeaseRevoke{ID: 7}, `rev=7 {rev=7}`},
		{
			"the count is the whole span's", &evaluate.Range{Key: []byte("a"), End: []byte{0}, Limit: 1, MinMod: 5},
			`rev=7 {rev=7 "a"="5" c5 m5 v1 count=2}`,
		},
		{"a compaction takes no revision", &evaluate.Compact{Revision: 7}, `rev=7 {rev=7}`},
		{"it can not be had twice", &evaluate.Compact{Revision: 7}, `error: mvcc: required revision has been compacted`},
		{"nor ahead of time", &evaluate.Compact{Revision: 8}, `error: mvcc: required revision is a future revision`},
		{"what lies below is gone", get("b", 6), `error: mvcc: required revision has been compacted`},
		{"what was there is kept", get("b", 7), `rev=7 {rev=7 "b"="3" c3 m4 v2 count=1}`},
	} {
		res, err := m.Do(step.op)
		require.Equal(t, step.want, sim.FormatResult(step.op, res, err), step.what)
	}
	events, err := m.Changes([]byte{0}, []byte{0}, 7, 7)
	require.NoError(t, err)
	require.Equal(t, "DELETE \"l\"=\"\" c0 m7 v0 prev:none\n", sim.FormatEvents(events, true),
		"a deletion at the compaction is still an event")
	_, err = m.Changes([]byte{0}, []byte{0}, 6, 7)
	require.ErrorIs(t, err, mvcc.ErrCompacted)
}

// TestGeneratorRepeats checks that a seed gives the same requests again.
func TestGeneratorRepeats(t *testing.T) {
	ops := func(seed uint64) (all []string) {
		g, m := sim.NewGenerator(seed), sim.NewModel()
		for range 200 {
			op := g.Next(m)
			res, err := m.Do(op)
			all = append(all, sim.FormatOp(op), sim.FormatResult(op, res, err))
		}
		return all
	}
	first := ops(1)
	require.Equal(t, first, ops(1))
	require.NotEqual(t, first, ops(2))
}

// TestReplay shows what a Replay takes for a fault.
func TestReplay(t *testing.T) {
	call := func(worker int, begin, end int64, op evaluate.Op, res evaluate.Result) *sim.Call {
		return &sim.Call{Worker: worker, Op: op, Result: res, Begin: begin, End: end}
	}
	at := func(revision int64) evaluate.Result { return evaluate.Result{Revision: revision} }
	for _, c := range []struct {
		what  string
		calls []*sim.Call
		want  string // part of the failure, empty for none
	}{
		{"overlapping writes may go either way", []*sim.Call{
			call(0, 1, 4, put("a", ""), at(3)), call(1, 2, 3, put("a", ""), at(2)),
		}, ""},
		{"a read that overlaps a write may miss it", []*sim.Call{
			call(0, 1, 4, put("a", ""), at(2)), call(1, 2, 3, get("a", 0), at(1)),
		}, ""},
		{"a read after a write may not", []*sim.Call{
			call(0, 1, 2, put("a", ""), at(2)), call(1, 3, 4, get("a", 0), at(1)),
		}, "lower revision"},
		{"nor show its revision without it", []*sim.Call{
			call(0, 1, 2, put("a", ""), at(2)), call(1, 3, 4, get("a", 0), at(2)),
		}, "answers differ"},
		{"nobody knows a revision before it is asked for", []*sim.Call{
			call(0, 1, 2, get("a", 0), at(2)), call(1, 3, 4, put("a", ""), at(2)),
		}, "answered before it began"},
		{"a revision is one call's", []*sim.Call{
			call(0, 1, 3, put("a", ""), at(2)), call(1, 2, 4, put("a", ""), at(2)),
		}, "one revision for two"},
		{"none is left out", []*sim.Call{call(0, 1, 2, put("a", ""), at(3))}, "no place"},
	} {
		err := (&sim.Replay{Model: sim.NewModel(), Calls: c.calls}).Run()
		if c.want == "" {
			require.NoError(t, err, c.what)
		} else {
			require.ErrorContains(t, err, c.want, c.what)
		}
	}
}
