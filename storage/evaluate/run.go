package evaluate

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

func (r *request) run(op Op, res *Result) error {
	switch op := op.(type) {
	case *Put:
		if err := r.checkPut(op); err != nil {
			return err
		}
		return r.put(op, res)
	case *DeleteRange:
		return r.deleteRange(op, res)
	case *Range:
		if err := r.checkRange(op); err != nil {
			return err
		}
		return r.rang(op, res)
	case *Txn:
		return r.txn(op, res)
	case *Compact:
		return r.runCompact(op, res)
	case *LeaseGrant:
		return r.grant(op, res)
	case *LeaseRevoke:
		return r.revoke(op, res)
	case *LeaseCheckpoint:
		return r.checkpoint(op, res)
	case *Records:
		return r.records(op, res)
	case *Mirror:
		return r.mirror(r.ctx, op, res)
	default:
		return fmt.Errorf("evaluate: unknown request %T", op)
	}
}

func (r *request) checkPut(p *Put) error {
	if p.Lease != 0 {
		if err := r.s.scope.mayAttach(p.Lease, p.Key); err != nil {
			return err
		}
	}
	if p.IgnoreValue || p.IgnoreLease {
		if _, ok, err := r.s.w.head(p.Key); err != nil || !ok {
			return cmpErr(err, ErrKeyNotFound)
		}
	}
	return nil
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func (r *request) put(p *Put, res *Result) error {
	w := &r.s.w
	var before mvcc.Head
	var ok bool
	value := p.Value
	if p.PrevKV || p.IgnoreValue {
		kv, err := w.get(p.Key)
		if err != nil {
			return err
		}
		if ok = kv != nil; ok {
			before = mvcc.Head{Create: kv.CreateRevision, Version: kv.Version, Lease: kv.Lease}
			if p.PrevKV {
				res.PrevKVs = []*mvccpb.KeyValue{kv}
			}
			if p.IgnoreValue {
				value = kv.Value
			}
		}
	} else {
		var err error
		if before, ok, err = w.head(p.Key); err != nil {
			return err
		}
	}
	if !ok {
		before = mvcc.Head{}
		if p.IgnoreValue || p.IgnoreLease {
			return ErrKeyNotFound // deleted by the same transaction
		}
	}
	v := &version{value: value, head: mvcc.Head{Create: before.Create, Version: before.Version + 1, Lease: p.Lease}}
	if p.IgnoreLease {
		v.head.Lease = before.Lease
	}
	r.change(p.Key, v, before.Lease)
	res.Revision = r.now()
	return nil
}

func (r *request) deleteRange(d *DeleteRange, res *Result) error {
	w := &r.s.w
	if len(d.End) == 0 {
		return r.deleteKey(d, res)
	}
	cur, err := w.scan(r.ctx, mvcc.SpanOf(d.Key, d.End))
	if err != nil {
		return err
	}
	defer func() { _ = cur.Close() }()
	var kvs []*mvccpb.KeyValue
	for cur.Next() {
		kv, err := cur.KV(!d.PrevKV)
		if err != nil {
			return err
		}
		kvs = append(kvs, kv)
	}
	if err := cur.Err(); err != nil {
		return err
	}
	for _, kv := range kvs {
		r.delete(kv, d.PrevKV, res)
	}
	res.Revision = r.now()
	return nil
}

func (r *request) deleteKey(d *DeleteRange, res *Result) error {
	w := &r.s.w
	if d.PrevKV {
		kv, err := w.get(d.Key)
		if err != nil {
			return err
		}
		if kv != nil {
			r.delete(kv, true, res)
		}
	} else {
		h, ok, err := w.head(d.Key)
		if err != nil {
			return err
		}
		if ok {
			r.delete(&mvccpb.KeyValue{Key: d.Key, Lease: h.Lease}, false, res)
		}
	}
	res.Revision = r.now()
	return nil
}

func (r *request) delete(kv *mvccpb.KeyValue, prev bool, res *Result) {
	r.change(kv.Key, &version{deleted: true}, kv.Lease)
	res.Deleted++
	if prev {
		res.PrevKVs = append(res.PrevKVs, kv)
	}
}

// checkRange is etcd's check of a Range within a transaction, before any of it
// is run.
func (r *request) checkRange(g *Range) error {
	if err := checkRange(g, r.head, r.compacted); err != nil {
		return err
	}
	// No change up to head is to come but what is in flight here.
	if g.Revision > 0 && r.s.unsettled(g.Revision) {
		return ErrDrain
	}
	return nil
}

func checkRange(g *Range, head, compacted int64) error {
	if compacted == 0 {
		compacted = -1 // as etcd has it before the first compaction
	}
	switch {
	case g.Revision == 0:
		return nil
	case g.Revision > head:
		return mvcc.ErrFutureRevision
	case g.Revision < compacted:
		return mvcc.ErrCompacted
	}
	return nil
}

func (r *request) rang(g *Range, res *Result) error {
	var src source = &r.s.w
	if g.Revision > 0 {
		src = snapshot{r.s.state, g.Revision}
	}
	out, err := runRange(r.ctx, src, g)
	if err != nil {
		return err
	}
	*res = out
	res.Revision = r.now()
	return nil
}

func (r *request) runCompact(c *Compact, res *Result) error {
	switch {
	case c.Revision <= r.compacted:
		return mvcc.ErrCompacted
	case c.Revision > r.head:
		return mvcc.ErrFutureRevision
	}
	r.after = append(r.after, func(e *mvcc.Effects) { e.Compact(c.Revision) })
	r.compact = c.Revision
	res.Revision = r.now()
	return nil
}

func (r *request) grant(g *LeaseGrant, res *Result) error {
	if g.ID == 0 {
		return errors.New("evaluate: lease without an id")
	}
	var err error
	if res.TTL, err = lease.GrantTTL(g.TTL, r.s.minTTL); err != nil {
		return err
	}
	if r.s.leaseExists(g.ID) {
		return lease.ErrExists
	}
	ttl := res.TTL
	r.after = append(r.after, func(e *mvcc.Effects) { e.LeaseGrant(g.ID, ttl) })
	r.lease(g.ID, true)
	res.Revision = r.now()
	return nil
}

// revoke deletes the lease's keys, in their order, and the lease.
func (r *request) revoke(g *LeaseRevoke, res *Result) error {
	if !r.s.leaseExists(g.ID) {
		return lease.ErrNotFound
	}
	if err := r.s.scope.mayRevoke(g.ID); err != nil {
		return err
	}
	keys, err := r.leaseKeys(g.ID)
	if err != nil {
		return err
	}
	for _, key := range keys {
		r.change(key, &version{deleted: true}, g.ID)
	}
	r.after = append(r.after, func(e *mvcc.Effects) { e.LeaseRevoke(g.ID) })
	r.lease(g.ID, false)
	res.Revision = r.now()
	return nil
}

func (r *request) leaseKeys(id int64) ([][]byte, error) {
	applied, err := r.s.state.LeaseKeys(id)
	if err != nil {
		return nil, err
	}
	keys := slices.DeleteFunc(applied, func(k []byte) bool { return r.s.w.unapplied(k) != nil })
	for k, v := range r.s.overlay.keys {
		if _, own := r.s.w.own[k]; !own && !v.deleted && v.head.Lease == id {
			keys = append(keys, []byte(k))
		}
	}
	for k, v := range r.s.w.own {
		if !v.deleted && v.head.Lease == id {
			keys = append(keys, []byte(k))
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys, nil
}

func (r *request) checkpoint(g *LeaseCheckpoint, res *Result) error {
	r.after = append(r.after, func(e *mvcc.Effects) {
		for _, l := range g.Remaining {
			e.LeaseCheckpoint(l.ID, l.Seconds)
		}
	})
	res.Revision = r.now()
	return nil
}

// ErrRecordsChanged says that somebody else has changed the records in the meantime:
// look at them again.
var ErrRecordsChanged = errors.New("evaluate: the records were changed by another")

func (r *request) records(c *Records, res *Result) error {
	version, ok := r.s.overlay.records[c.Table]
	if !ok {
		if r.s.records == nil {
			return errors.New("evaluate: records are not for several groups")
		}
		var err error
		if version.version, err = r.s.records(c.Table); err != nil {
			return err
		}
	}
	if version.version != c.Version {
		return ErrRecordsChanged
	}
	r.after = append(r.after, func(e *mvcc.Effects) { e.Records(c.Table, c.Version+1, c.Writes) })
	r.table, r.version = c.Table, c.Version+1
	res.Revision = r.now()
	return nil
}
