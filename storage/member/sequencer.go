package member

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/evaluate/wire"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/peer"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// What members ask of each other; part of the protocol between them.
const (
	methodDo byte = iota + 1
	methodPoint
	methodRenew
	methodTimeToLive
	methodMembers
	// methodJoin is asked of any member, by one that does not know the cluster.
	methodJoin
	methodRecords
	methodMembersNow
	// methodHash is asked of any member.
	methodHash
	// methodDoOn is methodDo with a Basis before the request.
	methodDoOn
	// methodCaughtUp is asked of who leads a group.
	methodCaughtUp
)

// The errors that the sequencer answers with, by code; part of the protocol
// between members. Code 0 is an error that is only text.
var remoteErrors = map[byte]error{
	1: group.ErrNotSequencer, 2: group.ErrLeaderChanged, 3: group.ErrNoLeader, 4: group.ErrTimeout,
	5: group.ErrTooManyRequests, 6: group.ErrStopped,
	10: mvcc.ErrCompacted, 11: mvcc.ErrFutureRevision,
	20: evaluate.ErrKeyNotFound, 21: evaluate.ErrInternal, 22: evaluate.ErrRecordsChanged,
	23: evaluate.ErrMirroring, 24: evaluate.ErrNotMirroring, 25: evaluate.ErrMirrorGap,
	30: lease.ErrNotFound, 31: lease.ErrExists, 32: lease.ErrTTLTooLarge, 33: lease.ErrNotPrimary,
	40: ErrMemberNotFound, 41: ErrMemberExists, 42: ErrPeerURLExists, 43: ErrNotLearner,
	44: ErrLearnerNotReady, 45: ErrTooManyLearners, 46: ErrNotEnoughStarted, 47: ErrUnhealthy,
	48: ErrRemoved,
}

// toRemote makes an error one that another member understands.
func toRemote(err error) error {
	for code, e := range remoteErrors {
		if errors.Is(err, e) {
			return &peer.RemoteError{Code: code, Message: e.Error()}
		}
	}
	return &peer.RemoteError{Message: err.Error()}
}

// fromRemote is what a call of another member has failed of.
func fromRemote(err error) error {
	var remote *peer.RemoteError
	switch {
	case errors.As(err, &remote):
		if e := remoteErrors[remote.Code]; e != nil {
			return e
		}
		return errors.New(remote.Message)
	case errors.Is(err, peer.ErrNotSent), errors.Is(err, peer.ErrBusy):
		return group.ErrNotSequencer // nothing was done: somebody else may
	case errors.Is(err, peer.ErrUnknown):
		return group.ErrLeaderChanged
	}
	return err
}

// bounded gives ctx the time that a request may take: etcd's, five seconds, and
// twice the election timeout so that it survives a change of the leader.
func (m *Member) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, 5*time.Second+2*m.cfg.electionTimeout(), group.ErrTimeout)
}

// cause is what has ended a context of bounded.
func (m *Member) cause(ctx context.Context) error {
	if m.stopCtx.Err() != nil {
		return group.ErrStopped
	}
	return context.Cause(ctx)
}

// retryInterval is how long to wait for news of a sequencer before it is looked
// for again.
const retryInterval = 20 * time.Millisecond

// asSequencer runs fn, again and again, until it fails with another error than
// group.ErrNotSequencer: there is no sequencer, or another one than was thought.
func (m *Member) asSequencer(ctx context.Context, fn func(context.Context) error) error {
	err := fn(ctx)
	if !errors.Is(err, group.ErrNotSequencer) {
		return err
	}
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	for {
		news := m.news.wait()
		if err := fn(ctx); !errors.Is(err, group.ErrNotSequencer) {
			if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
				err = m.cause(ctx)
			}
			return err
		}
		timer := m.cfg.Clock.NewTimer(retryInterval)
		select {
		case <-news:
		case <-timer.C():
		case <-m.stopCtx.Done():
			timer.Stop()
			return group.ErrStopped
		case <-ctx.Done():
			timer.Stop()
			return m.cause(ctx)
		}
		timer.Stop()
	}
}

// atSequencer runs a method at the sequencer, wherever it is.
func (m *Member) atSequencer(ctx context.Context, method byte, payload []byte) (reply []byte, err error) {
	err = m.asSequencer(ctx, func(ctx context.Context) error {
		if m.reigning.Load() {
			reply, err = m.serve(ctx, method, payload)
			return err
		}
		reply, err = m.call(ctx, method, payload)
		return err
	})
	return reply, err
}

// ask is atSequencer for a question, which changes nothing: one that was lost with its
// sequencer is asked again.
func (m *Member) ask(ctx context.Context, method byte, payload []byte) ([]byte, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	for {
		reply, err := m.atSequencer(ctx, method, payload)
		if !errors.Is(err, group.ErrLeaderChanged) || ctx.Err() != nil {
			return reply, err
		}
	}
}

// call asks the sequencer, which is another member.
func (m *Member) call(ctx context.Context, method byte, payload []byte) ([]byte, error) {
	leader := m.core.Status().Leader
	if leader == 0 || leader == m.id.MemberID || m.peers == nil {
		return nil, group.ErrNotSequencer
	}
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	return m.callMember(ctx, leader, method, payload)
}

// callMember asks another member.
// REQUIRES: m.peers.
func (m *Member) callMember(ctx context.Context, id uint64, method byte, payload []byte) ([]byte, error) {
	reply, err := m.peers.Call(ctx, id, method, payload)
	if err != nil && (ctx.Err() != nil || m.stopCtx.Err() != nil) {
		return nil, m.cause(ctx)
	}
	if err != nil {
		return nil, fromRemote(err)
	}
	return reply, nil
}

// serve answers what another member, or this one, asks of the sequencer.
func (m *Member) serve(ctx context.Context, method byte, payload []byte) ([]byte, error) {
	switch method {
	case methodDo:
		op, err := wire.DecodeOp(payload)
		if err != nil {
			return nil, err
		}
		res, err := m.doHere(ctx, op)
		if err != nil {
			return nil, err
		}
		return wire.AppendResult(nil, &res), nil
	case methodPoint:
		return m.servePoint(ctx, payload)
	case methodRenew:
		return m.serveRenew(ctx, payload)
	case methodTimeToLive:
		return m.serveTimeToLive(ctx, payload)
	case methodMembers:
		return m.serveMembers(ctx, payload)
	case methodRecords:
		return m.serveRecords(ctx, payload)
	case methodMembersNow:
		return m.serveMembersNow(ctx)
	case methodDoOn:
		return m.serveDoOn(ctx, payload)
	}
	return nil, errors.New("member: unknown method: asked by a newer version?")
}

// needs returns the groups that a request touches.
func (m *Member) needs(op evaluate.Op) revline.Mask {
	// The groups' ids count from 1 on, in the line's order.
	mask := revline.Mask(evaluate.Needs(op, m.space) >> mvcc.CoreGroup)
	if r, ok := op.(*evaluate.LeaseRevoke); ok {
		for _, g := range m.leases.Groups(r.ID) {
			mask |= 1 << (g - mvcc.CoreGroup)
		}
	}
	return mask
}

// points asks the sequencer where to read: those who come while a question is
// under way share the next.
type points struct {
	mu      sync.Mutex // guards the fields below; nothing is taken after it
	waiting []*pointWait
	asking  bool
}

type pointWait struct {
	mask revline.Mask
	done chan pointAnswer
}

type pointAnswer struct {
	point revline.Point
	err   error
}

// point returns where a linearizable read of the groups of mask has to read.
func (m *Member) point(ctx context.Context, mask revline.Mask) (revline.Point, error) {
	if m.reigning.Load() {
		return m.pointHere(ctx, mask)
	}
	if m.peers == nil {
		return revline.Point{}, group.ErrNotSequencer
	}
	w := &pointWait{mask, make(chan pointAnswer, 1)}
	p := &m.points
	p.mu.Lock()
	p.waiting = append(p.waiting, w)
	if !p.asking {
		p.asking = true
		go m.askPoints()
	}
	p.mu.Unlock()
	select {
	case a := <-w.done:
		return a.point, a.err
	case <-ctx.Done():
		return revline.Point{}, ctx.Err()
	}
}

// askPoints asks until nobody waits.
func (m *Member) askPoints() {
	p := &m.points
	for {
		p.mu.Lock()
		waiting := p.waiting
		p.waiting = nil
		p.asking = len(waiting) > 0
		p.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		var mask revline.Mask
		for _, w := range waiting {
			mask |= w.mask
		}
		all, err := m.remotePoint(mask)
		for _, w := range waiting {
			w.done <- pointAnswer{all, err}
		}
	}
}

func (m *Member) remotePoint(mask revline.Mask) (revline.Point, error) {
	reply, err := m.call(m.stopCtx, methodPoint, binary.AppendUvarint(nil, uint64(mask)))
	if err != nil {
		// Whoever asked has had nothing done.
		if errors.Is(err, group.ErrLeaderChanged) {
			err = group.ErrNotSequencer
		}
		return revline.Point{}, err
	}
	return decodePoint(reply, len(m.parts))
}

var errBadPoint = errors.New("member: bad answer of the leader to where to read")

func decodePoint(data []byte, groups int) (revline.Point, error) {
	p := revline.Point{Indexes: make([]uint64, groups)}
	rev, n := binary.Uvarint(data)
	data = data[max(n, 0):]
	compacted, n := binary.Uvarint(data)
	for i := range p.Indexes {
		if n <= 0 {
			return p, errBadPoint
		}
		data = data[n:]
		p.Indexes[i], n = binary.Uvarint(data)
	}
	if n <= 0 || len(data) != n || rev == 0 {
		return p, errBadPoint
	}
	p.Revision, p.Compacted = int64(rev), int64(compacted)
	return p, nil
}

func (m *Member) servePoint(ctx context.Context, payload []byte) ([]byte, error) {
	mask, n := binary.Uvarint(payload)
	if n <= 0 || mask>>len(m.parts) != 0 {
		return nil, errBadPoint
	}
	p, err := m.pointHere(ctx, revline.Mask(mask))
	if err != nil {
		return nil, err
	}
	reply := binary.AppendUvarint(nil, uint64(p.Revision))
	reply = binary.AppendUvarint(reply, uint64(p.Compacted))
	for _, index := range p.Indexes {
		reply = binary.AppendUvarint(reply, index)
	}
	return reply, nil
}

// pointHere is point at the sequencer.
func (m *Member) pointHere(ctx context.Context, mask revline.Mask) (revline.Point, error) {
	done := make(chan pointAnswer, 1)
	// As of now, as the revision is: both are at least what was acknowledged.
	compacted := m.space.Compacted()
	m.reign.ReadPoint(mask, func(p revline.Point, err error) {
		p.Compacted = compacted
		done <- pointAnswer{p, err}
	})
	select {
	case a := <-done:
		return a.point, a.err
	case <-ctx.Done():
		return revline.Point{}, ctx.Err()
	case <-m.stopCtx.Done():
		return revline.Point{}, group.ErrStopped
	}
}
