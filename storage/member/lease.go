package member

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/lease"
)

const (
	// expiryBatch bounds the revocations that are proposed together.
	expiryBatch = 512
	// checkpointBatch bounds the leases of one checkpoint.
	checkpointBatch = 1000
)

// LeaseInfo describes a lease.
type LeaseInfo struct {
	ID int64
	// GrantedTTL is what it was granted with, TTL what remains, in seconds.
	GrantedTTL, TTL int64
	// Keys are those attached to it, in order, if they were asked for.
	Keys [][]byte
}

// LeaseRenew gives a lease its full time to live again and returns it, in
// seconds, or lease.ErrNotFound.
func (m *Member) LeaseRenew(ctx context.Context, id int64) (int64, error) {
	reply, err := m.atSequencer(ctx, methodRenew, binary.AppendVarint(nil, id))
	if err != nil {
		return 0, err
	}
	ttl, n := binary.Varint(reply)
	if n <= 0 {
		return 0, errBadLease
	}
	return ttl, nil
}

var errBadLease = errors.New("member: bad question or answer about a lease")

// serveRenew is LeaseRenew at the sequencer.
func (m *Member) serveRenew(ctx context.Context, payload []byte) ([]byte, error) {
	id, n := binary.Varint(payload)
	if n <= 0 {
		return nil, errBadLease
	}
	ttl, reset, err := m.leases.Renew(ctx, id)
	if errors.Is(err, lease.ErrNotPrimary) {
		err = group.ErrNotSequencer
	}
	if err != nil {
		return nil, err
	}
	if reset {
		op := &evaluate.LeaseCheckpoint{Remaining: []evaluate.LeaseRemaining{{ID: id}}}
		if _, err := m.doHere(ctx, op); err != nil {
			return nil, err
		}
	} else if !m.core.Sole() {
		if _, err = m.pointHere(ctx, 1); err != nil {
			return nil, err
		}
	}
	return binary.AppendVarint(nil, ttl), nil
}

// LeaseTimeToLive describes a lease, or returns lease.ErrNotFound.
func (m *Member) LeaseTimeToLive(ctx context.Context, id int64, keys bool) (LeaseInfo, error) {
	reply, err := m.atSequencer(ctx, methodTimeToLive, binary.AppendVarint(nil, id))
	if err != nil {
		return LeaseInfo{}, err
	}
	info := LeaseInfo{ID: id}
	var n, k int
	info.GrantedTTL, n = binary.Varint(reply)
	info.TTL, k = binary.Varint(reply[max(n, 0):])
	if n <= 0 || k <= 0 {
		return LeaseInfo{}, errBadLease
	}
	if keys {
		if _, err := m.ReadIndex(ctx); err != nil {
			return LeaseInfo{}, err
		}
		info.Keys, err = m.space.LeaseKeys(id)
	}
	return info, err
}

// serveTimeToLive is LeaseTimeToLive at the sequencer, but for the keys.
func (m *Member) serveTimeToLive(ctx context.Context, payload []byte) ([]byte, error) {
	id, n := binary.Varint(payload)
	if n <= 0 {
		return nil, errBadLease
	}
	if _, err := m.pointHere(ctx, 1); err != nil {
		return nil, err
	}
	granted, remaining, err := m.leases.TimeToLive(id)
	if err != nil {
		return nil, err
	}
	return binary.AppendVarint(binary.AppendVarint(nil, granted), remaining), nil
}

// LeaseKeys returns the keys that are attached to a lease here, in order.
func (m *Member) LeaseKeys(id int64) ([][]byte, error) { return m.space.LeaseKeys(id) }

// Leases returns the ids of all leases, those that expire first coming first.
func (m *Member) Leases(ctx context.Context) ([]int64, error) {
	if _, err := m.readRevision(ctx, 1, false); err != nil {
		return nil, err
	}
	return m.leases.Leases(), nil
}

// expireLeases revokes leases that have expired and keeps the checkpoints of
// long ones.
func (m *Member) expireLeases(ctx context.Context) {
	for m.leases.Wait(ctx) == nil {
		m.revokeExpired(ctx)
		due := m.leases.DueCheckpoints(checkpointBatch)
		if len(due) == 0 {
			continue
		}
		op := &evaluate.LeaseCheckpoint{}
		for _, d := range due {
			op.Remaining = append(op.Remaining, evaluate.LeaseRemaining(d))
		}
		_, err := m.doHere(ctx, op)
		m.leases.CheckpointDone(due, err)
	}
}

// revokeExpired proposes the revocations together, so that they share an entry;
// each has a revision of its own.
func (m *Member) revokeExpired(ctx context.Context) {
	var wg sync.WaitGroup
	for _, id := range m.leases.Expired(expiryBatch) {
		wg.Go(func() {
			_, err := m.doHere(ctx, &evaluate.LeaseRevoke{ID: id})
			if err == nil || errors.Is(err, lease.ErrNotFound) {
				return
			}
			m.cfg.Logger.Warn("could not revoke an expired lease, will try again", "lease", id, "error", err)
			m.leases.RevokeFailed(id)
		})
	}
	wg.Wait()
}
