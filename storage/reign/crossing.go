package reign

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pebbledash/pebbledash/pkg/tracing"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// Bounds of what waits for, and goes into, one round of transactions over
// several groups.
const (
	maxQueued     = 5000
	maxRound      = 512
	maxRoundBytes = 4 << 20
)

// call is one request that concerns several groups.
type call struct {
	ctx  context.Context
	op   evaluate.Op
	size int
	// done is closed when res and err are set.
	done chan struct{}
	res  evaluate.Result
	err  error
	// trace is nil if the request is not traced.
	trace *tracing.Request
	// rests says that it is no request, but Rest.
	rests bool
}

func (c *call) fail(err error) {
	c.res, c.err = evaluate.Result{}, err
	close(c.done)
}

// round are the requests that are run together, while the groups that they touch
// are held.
type round struct {
	epoch uint64
	mask  revline.Mask
	// calls are those that were not answered.
	calls []*call
	// waiting counts what the present step waits for.
	waiting int
	parts   []evaluate.Part
	// began is when the groups were begun to be held, if there is a clock.
	began time.Time
	// rest is the call of a round that holds all groups until it is resumed, or the end
	// of the reign.
	rest *call
}

func (rd *round) fail(err error) {
	for _, c := range rd.calls {
		c.fail(err)
	}
}

func (rd *round) answer() {
	for _, c := range rd.calls {
		close(c.done)
	}
}

// Do runs a request that may change something and concerns several groups, and
// returns when it is applied here in all of them. Its errors are those of
// group.Group.Do.
func (r *Reign) Do(ctx context.Context, op evaluate.Op, size int) (evaluate.Result, error) {
	c, err := r.enqueue(ctx, op, size)
	if err != nil {
		return evaluate.Result{}, err
	}
	select {
	case <-c.done:
		return c.res, c.err
	case <-ctx.Done():
		return evaluate.Result{}, ctx.Err()
	}
}

func (r *Reign) enqueue(ctx context.Context, op evaluate.Op, size int) (*call, error) {
	c := &call{ctx: ctx, op: op, size: size, done: make(chan struct{})}
	if r.cfg.Traced {
		c.trace = tracing.From(ctx)
		c.trace.Mark(tracing.Submitted)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.begun:
		return nil, group.ErrNotSequencer
	case len(r.queue) >= maxQueued:
		return nil, group.ErrTooManyRequests
	}
	r.queue = append(r.queue, c)
	r.stepLocked()
	return c, nil
}

// stepLocked begins the next round, if none is under way.
func (r *Reign) stepLocked() {
	if !r.begun || r.round != nil || len(r.queue) == 0 {
		return
	}
	rd := &round{epoch: r.epoch}
	size := 0
	for len(r.queue) > 0 && len(rd.calls) < maxRound && size < maxRoundBytes && rd.rest == nil {
		c := r.queue[0]
		if c.rests {
			if len(rd.calls) > 0 {
				break
			}
			rd.rest, rd.mask = c, 1<<len(r.groups)-1
		}
		r.queue[0] = nil
		r.queue = r.queue[1:]
		rd.calls = append(rd.calls, c)
		if c.rests {
			break
		}
		// NB: not before: the groups that take part in a lease are changed by rounds,
		// and by nothing else.
		rd.mask |= r.cfg.Needs(c.op)
		size += c.size
	}
	r.round = rd
	r.noteRoundLocked(rd)
	// Core comes last: it has work for the time that the others take.
	rd.mask &^= 1
	r.eachLocked(rd, func(i int) {
		rd.waiting++
		r.groups[i].Hold(rd.epoch, func() { r.next(rd, r.holdCoreLocked) })
	})
	if rd.waiting == 0 {
		r.holdCoreLocked(rd)
	}
}

func (r *Reign) holdCoreLocked(rd *round) {
	rd.mask |= 1
	rd.waiting = 1
	r.groups[0].Hold(rd.epoch, func() { r.next(rd, r.evaluateLocked) })
}

func (r *Reign) eachLocked(rd *round, fn func(place int)) {
	for i := range r.groups {
		if rd.mask>>i&1 == 1 {
			fn(i)
		}
	}
}

// next goes on with step once everything that the round waits for has come.
func (r *Reign) next(rd *round, step func(*round)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.round != rd {
		return
	}
	if rd.waiting--; rd.waiting == 0 {
		step(rd)
	}
}

// evaluateLocked evaluates the round: nothing is in flight in its groups.
func (r *Reign) evaluateLocked(rd *round) {
	if rd.rest != nil {
		rd.answer()
		rd.calls = nil // The round stays until it is resumed.
		return
	}
	r.cfg.Line.BeginCrossing(rd.mask)
	r.cfg.Crossing.Begin()
	for i, c := range rd.calls {
		if c.err = c.ctx.Err(); c.err == nil {
			c.trace.Mark(tracing.Evaluating)
			c.res, c.err = r.cfg.Crossing.Do(c.ctx, c.op)
			c.trace.Mark(tracing.Evaluated)
		}
		if errors.Is(c.err, evaluate.ErrDrain) {
			// It reads what one before it has written: it goes into the next round.
			c.err = nil
			r.queue = append(slices.Clone(rd.calls[i:]), r.queue...)
			rd.calls = rd.calls[:i]
			break
		}
	}
	rd.parts = r.cfg.Crossing.Seal()
	if len(rd.parts) == 0 {
		rd.mark(tracing.Confirming)
	} else {
		rd.mark(tracing.Proposed)
	}
	switch {
	case len(rd.parts) == 0:
		r.answerUnchangedLocked(rd)
	case len(rd.parts) == 1:
		p := rd.parts[0]
		rd.waiting = 1
		r.groups[r.placeOf(p.Group)].Submit(rd.epoch, group.KindEffects, 0, p.Effects, nil, func(uint64) {
			r.next(rd, r.finishLocked)
		})
	default:
		r.decideLocked(rd)
	}
}

// answerUnchangedLocked answers a round that has changed nothing, once the reign
// is confirmed.
func (r *Reign) answerUnchangedLocked(rd *round) {
	// The round stays, so that the end of the reign would answer it.
	r.groups[0].Confirm(func(err error) {
		r.cfg.Go(func() { r.confirmed(rd, err) })
	})
}

func (r *Reign) confirmed(rd *round, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.round != rd {
		return
	}
	if err != nil {
		rd.fail(group.ErrLeaderChanged)
	} else {
		rd.mark(tracing.Confirmed)
		rd.answer()
	}
	r.releaseLocked(rd)
}

// decideLocked logs the decision in core, and then the parts in their groups.
func (r *Reign) decideLocked(rd *round) {
	var own []byte
	var others []evaluate.Part
	for _, p := range rd.parts {
		if p.Group == mvcc.CoreGroup {
			own = p.Effects
		} else {
			others = append(others, p)
		}
	}
	r.groups[0].Submit(rd.epoch, group.KindDecision, 0, own, encodeParts(others), func(id uint64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.round != rd {
			return
		}
		rd.waiting = len(others)
		for _, p := range others {
			r.groups[r.placeOf(p.Group)].Submit(rd.epoch, group.KindPart, id, p.Effects, nil, func(uint64) {
				r.next(rd, r.finishLocked)
			})
		}
	})
}

// finishLocked ends a round whose changes are applied everywhere.
func (r *Reign) finishLocked(rd *round) {
	r.cfg.Line.SettleCrossing()
	rd.mark(tracing.Applied)
	rd.answer()
	r.releaseLocked(rd)
}

func (r *Reign) releaseLocked(rd *round) {
	r.eachLocked(rd, func(i int) { r.groups[i].Release(rd.epoch) })
	r.noteReleaseLocked(rd)
	r.round = nil
	r.stepLocked()
}

// The parts of a decision, as core's log and state have them: for each the
// group, the length of its effects, and the effects; numbers are varints. Part
// of the log's format, and should not be changed.
func encodeParts(parts []evaluate.Part) []byte {
	var dst []byte
	for _, p := range parts {
		dst = binary.AppendUvarint(dst, uint64(p.Group))
		dst = binary.AppendUvarint(dst, uint64(len(p.Effects)))
		dst = append(dst, p.Effects...)
	}
	return dst
}

var errShortPart = errors.New("a part is cut short")

func decodeParts(data []byte) ([]evaluate.Part, error) {
	var parts []evaluate.Part
	for len(data) > 0 {
		g, n := binary.Uvarint(data)
		if n <= 0 {
			return nil, errShortPart
		}
		size, m := binary.Uvarint(data[n:])
		if m <= 0 || size > uint64(len(data)-n-m) {
			return nil, errShortPart
		}
		if g == 0 || g > 1<<16-1 {
			return nil, fmt.Errorf("a part of group %d", g)
		}
		data = data[n+m:]
		parts = append(parts, evaluate.Part{Group: mvcc.GroupID(g), Effects: data[:size:size]})
		data = data[size:]
	}
	return parts, nil
}
