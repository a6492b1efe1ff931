package gateway

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/pebbledash/pebbledash/storage/alarm"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

// What a request is taken to add beside its keys and values, as in etcd.
const (
	leaseOverhead = 64
	keyOverhead   = 256
)

// quota bounds what the versions of all keys take, and those of some groups. Who
// reaches it raises an alarm, and until that is disarmed nothing may grow: in the whole
// store, or in the group.
type quota struct {
	store  Store
	alarms *alarms
	routes *route.Table
	member uint64
	// bytes is of all groups together, of those of each; 0 is no bound.
	bytes int64
	of    map[mvcc.GroupID]int64
}

func newQuota(cfg *Config, store Store, a *alarms) *quota {
	q := &quota{
		store: store, alarms: a, routes: cfg.Routes, member: store.Status().MemberID,
		bytes: max(cfg.QuotaBytes, 0), of: map[mvcc.GroupID]int64{},
	}
	for name, n := range cfg.GroupQuotaBytes {
		if g, ok := cfg.Routes.Lookup(name); ok && n > 0 {
			q.of[g.ID] = n
		}
	}
	return q
}

// cost is what a request may add to the store; one that adds nothing is never refused.
func cost(op evaluate.Op) int64 {
	switch op := op.(type) {
	case *evaluate.Put:
		return int64(keyOverhead + len(op.Key) + len(op.Value))
	case *evaluate.LeaseGrant:
		return leaseOverhead
	case *evaluate.Txn:
		var success, failure int64
		for _, o := range op.Success {
			success += cost(o)
		}
		for _, o := range op.Failure {
			failure += cost(o)
		}
		return max(success, failure)
	}
	return 0
}

// check refuses what would grow the store beyond a quota.
func (q *quota) check(ctx context.Context, op evaluate.Op) error {
	n := cost(op)
	if n == 0 {
		return nil
	}
	now := q.alarms.now.Load()
	if now.noSpace {
		return rpctypes.ErrGRPCNoSpace
	}
	var groups uint64
	if now.groups != 0 || len(q.of) > 0 {
		groups = grows(op, q.routes)
		if groups&now.groups != 0 {
			return rpctypes.ErrGRPCNoSpace
		}
	}
	for id, most := range q.of {
		if groups&(1<<id) != 0 && q.store.GroupBytes(id)+n >= most {
			q.alarms.raise(ctx, alarm.Alarm{Kind: alarm.NoSpace, Member: q.member, Group: q.name(id)})
			return rpctypes.ErrGRPCNoSpace
		}
	}
	if q.bytes > 0 && q.store.Bytes()+n >= q.bytes {
		q.alarms.raise(ctx, alarm.Alarm{Kind: alarm.NoSpace, Member: q.member})
		return rpctypes.ErrGRPCNoSpace
	}
	return nil
}

func (q *quota) name(id mvcc.GroupID) string {
	for _, g := range q.routes.Groups() {
		if g.ID == id {
			return g.Name
		}
	}
	return ""
}

// grows returns the groups to which a request may add, in the form of
// evaluate.Needs.
func grows(op evaluate.Op, r *route.Table) (mask uint64) {
	switch op := op.(type) {
	case *evaluate.Put:
		return 1 << r.Of(op.Key)
	case *evaluate.LeaseGrant:
		return 1 << mvcc.CoreGroup
	case *evaluate.Txn:
		for _, branch := range [...][]evaluate.Op{op.Success, op.Failure} {
			for _, o := range branch {
				mask |= grows(o, r)
			}
		}
	}
	return mask
}
