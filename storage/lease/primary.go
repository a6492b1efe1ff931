package lease

import (
	"context"
	"time"
)

// Remaining is a lease and the seconds that a checkpoint leaves of it.
type Remaining struct{ ID, Seconds int64 }

// Renew gives a lease its full TTL again and returns it.
//
// If reset is true the caller must not acknowledge the renewal before a
// checkpoint of this lease with 0 has been applied: a former checkpoint says,
// or may come to say, that less is left, and the next primary would believe it.
//
// The caller must also confirm that this member still leads core, by a round of
// heartbeats that began after Renew returned (a reset that was applied will do
// as well). Only then any other member's Promote comes later than the renewal.
//
// A lease that has expired but was not handed out yet is renewed like any
// other: all its keys are still there. One that was handed out by Expired is
// lost: Renew waits until its revocation is applied, and returns ErrNotFound; or
// ErrNotPrimary if this member is demoted before, since the next primary may
// have it alive.
func (le *Lessor) Renew(ctx context.Context, id int64) (ttl int64, reset bool, err error) {
	for {
		ttl, reset, wait, err := le.renew(id)
		if wait == nil {
			return ttl, reset, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
}

// renew is one try of Renew. If it returns a channel the caller has to wait for
// that and try again.
func (le *Lessor) renew(id int64) (ttl int64, reset bool, wait <-chan struct{}, err error) {
	le.mu.Lock()
	defer le.mu.Unlock()
	l := le.leases[id]
	switch {
	case !le.primary:
		return 0, false, nil, ErrNotPrimary
	case l == nil:
		return 0, false, nil, ErrNotFound
	case l.revoking:
		return 0, false, le.waitingLocked(id), nil
	}
	now := le.now()
	le.expireAtLocked(l, after(now, seconds(l.ttl)))
	if l.checkpointing {
		// The lease is safe here meanwhile, but a reset that overtakes the
		// checkpoint in the log would be undone by it.
		return 0, false, le.waitingLocked(id), nil
	}
	if l.pos[byCheckpoint] < 0 {
		le.planCheckpointLocked(l, now)
	}
	le.metrics.renewed.Inc()
	return l.ttl, l.remaining > 0 || l.unsettled, nil, nil
}

// Wait returns nil when Expired or DueCheckpoints has work, at once if it has
// some already, and else the context's error. It is meant for one caller, the
// expiry loop:
//
//	for le.Wait(ctx) == nil {
//		for _, id := range le.Expired(limit) {
//			// Propose the revocation; if that fails, RevokeFailed(id).
//		}
//		if due := le.DueCheckpoints(limit); len(due) > 0 {
//			// Propose them in one entry; then CheckpointDone(due, err).
//		}
//	}
//
// On a member that is not primary it only returns when the context ends.
func (le *Lessor) Wait(ctx context.Context) error {
	for {
		le.mu.Lock()
		next := le.nextLocked()
		le.armed = next
		sleep := next - le.now()
		le.mu.Unlock()
		if sleep <= 0 {
			return ctx.Err()
		}
		if err := le.sleep(ctx, sleep); err != nil {
			return err
		}
	}
}

// sleep returns nil after d, or earlier if something has become due earlier.
func (le *Lessor) sleep(ctx context.Context, d time.Duration) error {
	timer := le.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-le.wake:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Expired hands out the leases that have expired, at most limit of them, those
// that expired first coming first. Each has to be revoked, and is not handed
// out again unless RevokeFailed says that it was not.
func (le *Lessor) Expired(limit int) []int64 {
	le.mu.Lock()
	defer le.mu.Unlock()
	var ids []int64
	for now := le.now(); len(ids) < limit && !le.paused; {
		l, due := le.queues[byExpiry].first()
		if l == nil || due > now {
			break
		}
		for q := range le.queues {
			le.queues[q].remove(l)
		}
		if !l.revoking {
			l.revoking = true
			le.revoking++
		}
		ids = append(ids, l.id)
	}
	return ids
}

// RevokeFailed says that the revocation of a lease that was handed out has
// failed, or that its outcome is not known. It is handed out again after the
// RetryInterval; until then it stays expired.
func (le *Lessor) RevokeFailed(id int64) {
	le.mu.Lock()
	defer le.mu.Unlock()
	if l := le.leases[id]; l != nil && l.revoking && l.pos[byExpiry] < 0 {
		le.expireAtLocked(l, after(le.now(), le.cfg.RetryInterval))
	}
}

// DueCheckpoints hands out what is left of the leases whose checkpoint is due.
// It looks at no more than limit leases, so it may return none although more
// are due. The caller proposes them in one entry and calls CheckpointDone.
func (le *Lessor) DueCheckpoints(limit int) []Remaining {
	le.mu.Lock()
	defer le.mu.Unlock()
	var due []Remaining
	now := le.now()
	if le.paused {
		return nil
	}
	for range limit {
		l, at := le.queues[byCheckpoint].first()
		if l == nil || at > now {
			break
		}
		le.queues[byCheckpoint].remove(l)
		left := ceilSeconds(l.due[byExpiry] - now)
		switch {
		case left <= 0:
			// It is about to be handed out by Expired. A renewal that comes
			// before that plans the next checkpoint.
		case left >= l.left():
			// Renewed since; there is nothing to take away.
			le.planCheckpointLocked(l, now)
		default:
			l.checkpointing = true
			due = append(due, Remaining{ID: l.id, Seconds: left})
		}
	}
	return due
}

// CheckpointDone says what has become of leases that DueCheckpoints handed out:
// err is nil once their checkpoint has been applied here. After an error they
// are due again after the RetryInterval, with the values of then.
func (le *Lessor) CheckpointDone(batch []Remaining, err error) {
	le.mu.Lock()
	defer le.mu.Unlock()
	now := le.now()
	for _, r := range batch {
		l := le.leases[r.ID]
		if l == nil || !l.checkpointing {
			continue // revoked, or of an earlier reign
		}
		l.checkpointing = false
		switch {
		case l.revoking:
		case err != nil:
			l.unsettled = true
			le.checkpointAtLocked(l, after(now, le.cfg.RetryInterval))
		default:
			le.planCheckpointLocked(l, now)
		}
		if !l.revoking {
			le.settleLocked(l.id)
		}
	}
}

// planCheckpointLocked plans the next checkpoint of a lease, counted from now,
// if it lives for long enough to need one, and reports whether it does.
func (le *Lessor) planCheckpointLocked(l *lease, now time.Duration) bool {
	if l.due[byExpiry] == forever || l.due[byExpiry]-now <= le.cfg.CheckpointInterval {
		return false
	}
	at := after(now, le.cfg.CheckpointInterval, checkpointGrain-1)
	le.checkpointAtLocked(l, at-at%checkpointGrain)
	return true
}

func (le *Lessor) checkpointAtLocked(l *lease, at time.Duration) {
	le.queues[byCheckpoint].set(l, at)
	le.kickLocked()
}

func (le *Lessor) nextLocked() time.Duration {
	if le.paused {
		return forever
	}
	_, expiry := le.queues[byExpiry].first()
	_, checkpoint := le.queues[byCheckpoint].first()
	return min(expiry, checkpoint)
}

// kickLocked wakes Wait if something is due earlier than what it sleeps for.
func (le *Lessor) kickLocked() {
	if next := le.nextLocked(); next < le.armed {
		le.armed = next
		select {
		case le.wake <- struct{}{}:
		default:
		}
	}
}
