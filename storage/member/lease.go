package member

import (
	"context"
	"errors"
	"sync"

	"github.com/pebbledash/pebbledash/storage/evaluate"
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
	if err := m.started(ctx); err != nil {
		return 0, err
	}
	ttl, reset, err := m.lessor.Renew(ctx, id)
	if err != nil {
		return 0, err
	}
	if reset {
		op := &evaluate.LeaseCheckpoint{Remaining: []evaluate.LeaseRemaining{{ID: id}}}
		if _, err := m.Do(ctx, op); err != nil {
			return 0, err
		}
		return ttl, nil
	}
	if !m.core.Sole() {
		_, err = m.ReadIndex(ctx)
	}
	return ttl, err
}

// LeaseTimeToLive describes a lease, or returns lease.ErrNotFound.
func (m *Member) LeaseTimeToLive(ctx context.Context, id int64, keys bool) (LeaseInfo, error) {
	if _, err := m.ReadIndex(ctx); err != nil {
		return LeaseInfo{}, err
	}
	granted, remaining, err := m.lessor.TimeToLive(id)
	if err != nil {
		return LeaseInfo{}, err
	}
	info := LeaseInfo{ID: id, GrantedTTL: granted, TTL: remaining}
	if keys {
		info.Keys, err = m.store.LeaseKeys(id)
	}
	return info, err
}

// Leases returns the ids of all leases, those that expire first coming first.
func (m *Member) Leases(ctx context.Context) ([]int64, error) {
	if _, err := m.ReadIndex(ctx); err != nil {
		return nil, err
	}
	return m.lessor.Leases(), nil
}

// expireLeases revokes leases that have expired and keeps the checkpoints of
// long ones.
func (m *Member) expireLeases(ctx context.Context) {
	for m.lessor.Wait(ctx) == nil {
		m.revokeExpired(ctx)
		due := m.lessor.DueCheckpoints(checkpointBatch)
		if len(due) == 0 {
			continue
		}
		op := &evaluate.LeaseCheckpoint{}
		for _, d := range due {
			op.Remaining = append(op.Remaining, evaluate.LeaseRemaining(d))
		}
		_, err := m.Do(ctx, op)
		m.lessor.CheckpointDone(due, err)
	}
}

// revokeExpired proposes the revocations together, so that they share an entry;
// each has a revision of its own.
func (m *Member) revokeExpired(ctx context.Context) {
	var wg sync.WaitGroup
	for _, id := range m.lessor.Expired(expiryBatch) {
		wg.Go(func() {
			_, err := m.Do(ctx, &evaluate.LeaseRevoke{ID: id})
			if err == nil || errors.Is(err, lease.ErrNotFound) {
				return
			}
			m.cfg.Logger.Warn("could not revoke an expired lease, will try again", "lease", id, "error", err)
			m.lessor.RevokeFailed(id)
		})
	}
	wg.Wait()
}
