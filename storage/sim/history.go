package sim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// Target is a store under test. It fails as the Model does, with the same
// sentinels; any other error ends the history.
type Target interface {
	// Do runs a request and answers when it is done.
	Do(op evaluate.Op) (evaluate.Result, error)
	// RangeStream answers r in chunks of about maxBytes, put together.
	RangeStream(r *evaluate.Range, maxBytes int) (evaluate.Result, error)
	// Changes, Previous, HashKV, Revision, Compacted, Leases and Lease are the
	// Model's; the events of Changes are without PrevKv, and Compacted is 0 if
	// there was no compaction.
	Changes(key, end []byte, from, to int64) ([]*mvccpb.Event, error)
	Previous(key []byte, revision int64) (*mvccpb.KeyValue, error)
	HashKV(revision int64) (uint32, error)
	Revision() int64
	Compacted() int64
	Leases() ([]int64, error)
	Lease(id int64) (ttl int64, keys [][]byte, err error)
	// Restart stops the store in good order and opens it again.
	Restart() error
	// Crash loses what was not durable, or some of it, and opens the store
	// again.
	Crash(rng *rand.Rand) error
}

// Chances say how often a History does something beside the generated
// requests: once in so many times, never if 0.
type Chances struct {
	Stream, Pages, Changes, Hash, Leases, Restart, Crash int
}

// DefaultChances restart rarely: it takes long.
func DefaultChances() Chances {
	return Chances{Stream: 15, Pages: 40, Changes: 15, Hash: 30, Leases: 50, Restart: 250, Crash: 120}
}

// Tally counts what was done, so that a run can show that it was not idle.
type Tally struct {
	Histories, Ops, Failed, Compactions int
	Streams, Changes, Events, Hashes    int
	Restarts, Crashes, Faults           int
}

// Add adds another's counts.
func (t *Tally) Add(o Tally) {
	t.Histories += o.Histories
	t.Ops += o.Ops
	t.Failed += o.Failed
	t.Compactions += o.Compactions
	t.Streams += o.Streams
	t.Changes += o.Changes
	t.Events += o.Events
	t.Hashes += o.Hashes
	t.Restarts += o.Restarts
	t.Crashes += o.Crashes
	t.Faults += o.Faults
}

// Count counts a request.
func (t *Tally) Count(op evaluate.Op, err error) {
	t.Ops++
	if err != nil {
		t.Failed++
	}
	if _, ok := op.(*evaluate.Compact); ok && err == nil {
		t.Compactions++
	}
}

// A History runs random requests, one after another, against a store and the
// model and compares every answer.
type History struct {
	Target    Target
	Model     *Model
	Generator *Generator
	Chances   Chances
	Tally     Tally

	rng *rand.Rand
	// trace holds the last lines of what was done.
	trace []string
}

// traceLines is how much of a history a failure shows.
const traceLines = 40

// NewHistory prepares a history with the defaults.
func NewHistory(seed uint64, target Target) *History {
	return &History{
		Target:    target,
		Model:     NewModel(),
		Generator: NewGenerator(seed),
		Chances:   DefaultChances(),
		rng:       rand.New(rand.NewPCG(seed, 1)),
	}
}

// NewHistoryFrom prepares a history that draws its requests from src, such as
// the bytes of a fuzzer.
func NewHistoryFrom(src rand.Source, target Target) *History {
	h := NewHistory(0, target)
	h.Generator = newGenerator(src)
	h.rng = rand.New(src)
	return h
}

// Run does n requests and what happens beside them, and returns the first
// difference, with what led to it.
func (h *History) Run(n int) error {
	h.Tally.Histories++
	for range n {
		if err := h.step(); err != nil {
			return fmt.Errorf("%w\nthe history ended with\n%s", err, strings.Join(h.trace, "\n"))
		}
	}
	return nil
}

func (h *History) step() error {
	c := h.Chances
	for _, beside := range []struct {
		chance int
		do     func() error
	}{
		{c.Stream, h.stream},
		{c.Pages, h.pages},
		{c.Changes, h.changes},
		{c.Hash, h.hash},
		{c.Leases, h.leases},
		{c.Restart, h.restart},
		{c.Crash, h.crash},
	} {
		if beside.chance > 0 && h.rng.IntN(beside.chance) == 0 {
			if err := beside.do(); err != nil {
				return err
			}
		}
	}
	return h.stepTo(h.Generator.Next(h.Model))
}

// stepTo does one request.
func (h *History) stepTo(op evaluate.Op) error {
	h.note("%s", FormatOp(op))
	want, wantErr := h.Model.Do(op)
	h.Tally.Count(op, wantErr)
	got, gotErr := h.Target.Do(op)
	if err := differ(FormatResult(op, got, gotErr), FormatResult(op, want, wantErr)); err != nil {
		return err
	}
	return sameMarks(h.Target, h.Model)
}

func (h *History) note(format string, args ...any) {
	if len(h.trace) == traceLines {
		h.trace = slices.Delete(h.trace, 0, 1)
	}
	h.trace = append(h.trace, fmt.Sprintf("%6d: ", h.Tally.Ops)+fmt.Sprintf(format, args...))
}

// stream compares a stream with the same range unstreamed.
func (h *History) stream() error {
	r := h.Generator.Range(h.Model)
	r.SortTarget, r.SortOrder = evaluate.SortByKey, evaluate.SortNone
	r.MinMod, r.MaxMod, r.MinCreate, r.MaxCreate = 0, 0, 0, 0
	chunk := 1 << h.rng.IntN(14)
	h.note("stream by %d bytes: %s", chunk, FormatOp(r))
	h.Tally.Streams++
	want, wantErr := h.Model.Do(r)
	got, gotErr := h.Target.RangeStream(r, chunk)
	return differ(FormatResult(r, got, gotErr), FormatResult(r, want, wantErr))
}

// pages lists a span page by page, at the revision that the first page showed.
func (h *History) pages() error {
	r := &evaluate.Range{Limit: 1 + h.rng.Int64N(3), Revision: h.Generator.Revision(h.Model), KeysOnly: h.rng.IntN(2) == 0}
	r.Key, r.End = h.Generator.Span()
	for {
		h.note("page: %s", FormatOp(r))
		want, wantErr := h.Model.Do(r)
		got, gotErr := h.Target.Do(r)
		if err := differ(FormatResult(r, got, gotErr), FormatResult(r, want, wantErr)); err != nil {
			return err
		}
		if !want.More {
			return nil
		}
		next := *r
		next.Key = append(bytes.Clone(want.KVs[len(want.KVs)-1].Key), 0)
		if r.Revision <= 0 {
			next.Revision = want.Revision
		}
		r = &next
		switch h.rng.IntN(20) {
		case 0:
			// The rest goes away under the reader.
			if err := h.stepTo(h.Generator.Compact(h.Model)); err != nil {
				return err
			}
			fallthrough
		case 1:
			next.CountOnly = true
			return h.stepTo(&next)
		}
	}
}

// changes compares the events of a span between two revisions.
func (h *History) changes() error {
	key, end := h.Generator.Span()
	from, to := h.Generator.Revision(h.Model), h.Generator.Revision(h.Model)
	if to <= 0 || to > h.Model.Revision() || h.rng.IntN(2) == 0 {
		to = h.Model.Revision()
	}
	if from = max(1, from); from > to {
		from, to = 1, h.Model.Revision()
	}
	h.note("changes of %s from %d to %d", span(key, end), from, to)
	h.Tally.Changes++
	n, err := sameChanges(h.Target, h.Model, key, end, from, to)
	h.Tally.Events += n
	return err
}

func (h *History) hash() error {
	revision := h.Generator.Revision(h.Model)
	h.note("hash of %d", revision)
	h.Tally.Hashes++
	want, wantErr := h.Model.HashKV(revision)
	got, gotErr := h.Target.HashKV(revision)
	return differ(
		fmt.Sprintf("hash %08x, %s", got, FormatError(gotErr)),
		fmt.Sprintf("hash %08x, %s", want, FormatError(wantErr)))
}

func (h *History) leases() error {
	h.note("leases")
	return sameLeases(h.Target, h.Model)
}

func (h *History) restart() error {
	h.note("restart")
	h.Tally.Restarts++
	if err := h.Target.Restart(); err != nil {
		return fmt.Errorf("sim: restart: %w", err)
	}
	return Same(h.Target, h.Model)
}

func (h *History) crash() error {
	h.note("crash")
	h.Tally.Crashes++
	if err := h.Target.Crash(h.rng); err != nil {
		return fmt.Errorf("sim: crash: %w", err)
	}
	return Same(h.Target, h.Model)
}
