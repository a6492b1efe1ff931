package evaluate_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/sim"
)

// FuzzEvaluate lets the bytes decide which requests are evaluated, how many
// share an entry, how many entries are in flight, when they are applied, which of
// them raft refuses, and which requests panic. Every answer must be the model's,
// and what is applied what the model was at that entry.
//
// storage/sim has a fuzz test of its own, of histories with crashes; here it is
// about entries.
func FuzzEvaluate(f *testing.F) {
	for seed := range uint64(24) {
		rng := rand.New(rand.NewPCG(seed, 5))
		data := make([]byte, 1500)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h := newFuzzHistory(t, data)
		for len(h.src.data) > 0 {
			h.step()
		}
		h.seal()
		h.applyAll()
		require.NoError(t, h.s.db.Close())
	})
}

// choices is a source of randomness whose high bits, which decide, are data's
// while there are any.
type choices struct {
	data []byte
	rest rand.Source
}

func (c *choices) Uint64() uint64 {
	v := c.rest.Uint64()
	if len(c.data) > 0 {
		v = v>>8 | uint64(c.data[0])<<56
		c.data = c.data[1:]
	}
	return v
}

// fuzzHistory is a script with a model beside it.
type fuzzHistory struct {
	t   *testing.T
	src *choices
	rng *rand.Rand
	gen *sim.Generator
	s   *script
	// model is the state with everything that was evaluated; before has, for each
	// entry in flight, the one that is built included, the state before it.
	model  *sim.Model
	before []*sim.Model
	// open says that an entry is being built.
	open bool
}

func newFuzzHistory(t *testing.T, data []byte) *fuzzHistory {
	t.Helper()
	src := &choices{data: data, rest: rand.NewPCG(1, 4)}
	h := &fuzzHistory{t: t, src: src, rng: rand.New(src), s: newScript(t), model: sim.NewModel()}
	h.gen = sim.NewHistoryFrom(src, nil).Generator
	h.gen.BigValue = 200
	h.gen.Rewrites = h.rng.IntN(2) == 0
	return h
}

func (h *fuzzHistory) step() {
	switch n := h.rng.IntN(32); {
	case n < 20:
		h.evaluate(h.gen.Next(h.model))
	case n < 25:
		h.seal()
	case n < 27:
		h.seal()
		h.apply(1 + h.rng.IntN(3))
	case n < 28:
		h.seal()
		h.refuse()
	case n < 29:
		h.panic()
	case n < 30:
		h.read()
	case n < 31:
		h.evaluate(&evaluate.LeaseCheckpoint{Remaining: []evaluate.LeaseRemaining{{ID: 1 + h.rng.Int64N(8), Seconds: 5}}})
	default:
		require.NoError(h.t, h.s.store.Scrub(1+h.rng.IntN(10), func() bool { return h.rng.IntN(3) > 0 }))
	}
}

// begin begins an entry if none is being built.
func (h *fuzzHistory) begin() {
	if !h.open {
		h.open = true
		h.before = append(h.before, h.model.Clone())
		h.s.eval.Begin(nil)
	}
}

func (h *fuzzHistory) evaluate(op evaluate.Op) {
	if r, ok := op.(*evaluate.Range); ok {
		op = &evaluate.Txn{Success: []evaluate.Op{r}} // alone it is not evaluated
	}
	h.begin()
	got, gotErr := h.s.eval.Do(context.Background(), op)
	if errors.Is(gotErr, evaluate.ErrDrain) {
		require.Greater(h.t, h.s.eval.Head(), h.s.store.Revision(), "nothing is in flight")
		h.seal()
		h.applyAll()
		h.begin()
		got, gotErr = h.s.eval.Do(context.Background(), op)
	}
	want, wantErr := h.model.Do(op)
	require.Equal(h.t, sim.FormatResult(op, want, wantErr), sim.FormatResult(op, got, gotErr), "%s", sim.FormatOp(op))
	require.Equal(h.t, h.model.Revision(), h.s.eval.Head())
}

func (h *fuzzHistory) seal() {
	if !h.open {
		return
	}
	h.open = false
	encoded, ok := h.s.eval.Seal(0)
	if !ok {
		h.before = h.before[:len(h.before)-1]
		return
	}
	h.s.flight = append(h.s.flight, encoded)
	require.Equal(h.t, len(h.s.flight), h.s.eval.InFlight())
}

// apply applies up to n entries, and compares the store with the model as it was
// behind the last of them.
func (h *fuzzHistory) apply(n int) {
	n = min(n, len(h.s.flight))
	h.s.apply(n)
	h.before = h.before[n:]
	h.read()
	h.compareLeases()
}

func (h *fuzzHistory) applyAll() { h.apply(len(h.s.flight)) }

// applied is the model of what is applied.
func (h *fuzzHistory) applied() *sim.Model {
	if len(h.before) > 0 {
		return h.before[0]
	}
	return h.model
}

// refuse has raft refuse the newest entry. As in a group nothing is evaluated
// until the others are applied; then the evaluator, and a new epoch, begin again.
func (h *fuzzHistory) refuse() {
	if len(h.s.flight) == 0 {
		return
	}
	last := len(h.before) - 1
	h.model, h.before = h.before[last], h.before[:last]
	h.s.flight = h.s.flight[:last]
	h.s.eval.Refused()
	h.applyAll()
	h.s.eval.Reset()
	h.s.revision = h.s.store.Revision()
}

// panic has a transaction panic after it has changed something.
func (h *fuzzHistory) panic() {
	h.begin()
	before := len(h.s.panicked)
	t := h.gen.Txn(h.model)
	t.Success = append(t.Success, (*evaluate.DeleteRange)(nil))
	t.Failure = append(t.Failure, (*evaluate.DeleteRange)(nil))
	_, err := h.s.eval.Do(context.Background(), t)
	if !errors.Is(err, evaluate.ErrInternal) {
		// It has failed before it came so far.
		require.Error(h.t, err)
		require.Len(h.t, h.s.panicked, before)
	}
	require.Equal(h.t, h.model.Revision(), h.s.eval.Head())
}

// read reads what is applied, at its head and at a revision before.
func (h *fuzzHistory) read() {
	m := h.applied()
	require.Equal(h.t, m.Revision(), h.s.store.Revision())
	for _, r := range []*evaluate.Range{{Key: []byte{0}, End: []byte{0}}, h.gen.Range(m)} {
		got, gotErr := evaluate.Read(context.Background(), h.s.store, h.s.store.Revision(), r)
		want, wantErr := m.Do(r)
		require.Equal(h.t, sim.FormatResult(r, want, wantErr), sim.FormatResult(r, got, gotErr), "%s", sim.FormatOp(r))
	}
}

func (h *fuzzHistory) compareLeases() {
	m := h.applied()
	var got []string
	require.NoError(h.t, h.s.store.Leases(func(id, ttl, _ int64) {
		keys, err := h.s.store.LeaseKeys(id)
		require.NoError(h.t, err)
		got = append(got, fmt.Sprintf("%d %d %q", id, ttl, keys))
	}))
	var want []string
	for _, id := range m.Leases() {
		ttl, keys, err := m.Lease(id)
		require.NoError(h.t, err)
		want = append(want, fmt.Sprintf("%d %d %q", id, ttl, keys))
	}
	require.Equal(h.t, want, got)
	require.Equal(h.t, max(0, m.Compacted()), h.s.store.Compacted())
}
