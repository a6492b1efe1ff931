package evaluate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// ErrDrain says that a request can only be evaluated when nothing is in flight:
// it reads at a revision that is not applied yet. Try again then.
var ErrDrain = errors.New("evaluate: wait until nothing is in flight")

// Leases is what evaluation asks about the leases that are applied.
type Leases interface {
	Exists(id int64) bool
}

// Config of an Evaluator.
type Config struct {
	Store  *mvcc.Store
	Leases Leases
	// MinTTL is the least TTL that a lease is granted, in seconds.
	MinTTL int64
	// Next hands out the next revision. It is called once for each request that
	// changes something, when nothing can go wrong with it any more.
	Next func() int64
	// Panicked is told of a request whose evaluation panicked; may be nil.
	Panicked func(op Op, cause any, stack []byte)
}

// Evaluator evaluates requests into entries, in the order of the log. It is
// for one goroutine: the group's.
type Evaluator struct {
	cfg     Config
	overlay overlay
	// head and compact are the revision and the compacted revision of the state
	// with everything in flight.
	head, compact int64
	// entry numbers the entries; effects are those of the one being built.
	entry   uint64
	effects *mvcc.Effects
	entries []entryKeys
	w       working
}

// entryKeys remembers what an entry in flight put into the overlay.
type entryKeys struct {
	entry  uint64
	keys   []string
	leases []int64
}

// New makes an Evaluator that stands on the applied state.
func New(cfg Config) *Evaluator {
	e := &Evaluator{cfg: cfg, overlay: newOverlay()}
	e.w = working{store: cfg.Store, inFlight: e.overlay.keys, own: map[string]*version{}}
	e.Reset()
	return e
}

// Reset forgets everything in flight and stands on the applied state again.
// REQUIRES: nothing that was in flight will be applied, or all of it has been.
func (e *Evaluator) Reset() {
	e.overlay.reset()
	e.w.heads.reset()
	e.entries = e.entries[:0]
	e.effects = nil
	e.head = e.cfg.Store.Revision()
	e.compact = e.cfg.Store.Compacted()
}

// Head returns the revision of the state with everything in flight.
func (e *Evaluator) Head() int64 { return e.head }

// InFlight returns how many sealed entries are not applied.
func (e *Evaluator) InFlight() int { return len(e.entries) }

// Begin starts an entry whose effects are encoded onto dst.
func (e *Evaluator) Begin(dst []byte) {
	e.entry++
	e.entries = append(e.entries, entryKeys{entry: e.entry})
	e.effects = mvcc.NewEffects(dst)
}

// Seal ends the entry and returns its encoding; ok is false, and the entry is
// forgotten, if nothing was changed.
func (e *Evaluator) Seal(prefix int) (encoded []byte, ok bool) {
	encoded = e.effects.Bytes()
	e.effects = nil
	if len(encoded) == prefix {
		e.entries = e.entries[:len(e.entries)-1]
		return nil, false
	}
	return encoded, true
}

// Refused tells that the newest entry will not be logged. What was evaluated
// stands in the overlay until Reset, which must follow when nothing else is in
// flight; nothing may be evaluated before.
func (e *Evaluator) Refused() { e.entries = e.entries[:len(e.entries)-1] }

// Applied tells that the oldest entry in flight has been applied.
func (e *Evaluator) Applied() {
	done := e.entries[0]
	e.entries = slices.Delete(e.entries, 0, 1)
	for _, k := range done.keys {
		if v := e.overlay.keys[k]; v != nil && v.entry == done.entry {
			delete(e.overlay.keys, k)
			e.w.heads.put(k, headOrNone{v.head, !v.deleted})
		}
	}
	for _, id := range done.leases {
		if l, ok := e.overlay.leases[id]; ok && l.entry == done.entry {
			delete(e.overlay.leases, id)
		}
	}
}

// Do evaluates a request. Its changes are in the entry that is being built, and
// later requests see them. An error means that it changed nothing. The answer
// may be given only when everything in flight at its time is committed.
func (e *Evaluator) Do(ctx context.Context, op Op) (res Result, err error) {
	before := len(e.effects.Bytes())
	defer func() {
		if cause := recover(); cause != nil {
			if e.cfg.Panicked != nil {
				e.cfg.Panicked(op, cause, debug.Stack())
			}
			*e.effects = *mvcc.NewEffects(e.effects.Bytes()[:before])
			res, err = Result{}, ErrInternal
		}
		clear(e.w.own)
		e.w.pending = e.w.pending[:0]
	}()
	e.w.next = e.head + 1
	r := request{e: e, ctx: ctx}
	if err := r.run(op, &res); err != nil {
		return Result{}, err
	}
	r.commit(&res)
	return res, nil
}

// request is one request in evaluation: changes are gathered here, and reach
// the entry and the overlay together in commit.
type request struct {
	e       *Evaluator
	ctx     context.Context
	changes []change
	// special are the effects of leases and compaction.
	special func(*mvcc.Effects)
	leaseID int64
	leased  bool
	compact int64
}

type change struct {
	key         []byte
	v           *version
	leaseBefore int64
}

// pendingRevision stands in a Result for the revision that its request will
// have if it changes something.
const pendingRevision = -1

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
	default:
		return fmt.Errorf("evaluate: unknown request %T", op)
	}
}

// commit gives the request its revision, if it changed a key, and makes its
// changes visible to the requests after it.
func (r *request) commit(res *Result) {
	e := r.e
	in := &e.entries[len(e.entries)-1]
	if len(r.changes) > 0 {
		main := e.cfg.Next()
		e.head = main
		e.effects.Revision(main)
		for sub, c := range r.changes {
			r.commitChange(c, int64(sub), main)
			in.keys = append(in.keys, string(c.key))
		}
		for _, kv := range e.w.pending {
			kv.ModRevision = main
			if kv.CreateRevision == e.w.next {
				kv.CreateRevision = main
			}
		}
		settle(res, main)
	} else {
		settle(res, e.head)
	}
	if r.special != nil {
		r.special(e.effects)
	}
	if r.leaseID != 0 {
		e.overlay.leases[r.leaseID] = leaseInFlight{r.leased, in.entry}
		in.leases = append(in.leases, r.leaseID)
	}
	if r.compact != 0 {
		e.compact = r.compact
	}
}

func (r *request) commitChange(c change, sub, main int64) {
	e := r.e
	c.v.entry = e.entry
	if c.v.deleted {
		e.effects.Delete(sub, c.key, c.leaseBefore)
	} else {
		c.v.head.Mod = main
		if c.v.head.Create == 0 {
			c.v.head.Create = main
		}
		e.effects.Put(sub, c.key, c.v.head, c.leaseBefore, c.v.value)
	}
	e.overlay.keys[string(c.key)] = c.v
}

// settle fills in the revisions that were not known during evaluation.
func settle(res *Result, main int64) {
	if res.Revision == pendingRevision {
		res.Revision = main
	}
	for i := range res.Responses {
		settle(&res.Responses[i], main)
	}
}

// now is the revision that an answer shows at this point of the request.
func (r *request) now() int64 {
	if len(r.changes) > 0 {
		return pendingRevision
	}
	return r.e.head
}

func (r *request) leaseExists(id int64) bool {
	if l, ok := r.e.overlay.leases[id]; ok {
		return l.exists
	}
	return r.e.cfg.Leases.Exists(id)
}

func (r *request) checkPut(p *Put) error {
	if p.Lease != 0 && !r.leaseExists(p.Lease) {
		return lease.ErrNotFound
	}
	if p.IgnoreValue || p.IgnoreLease {
		if _, ok, err := r.e.w.head(p.Key); err != nil || !ok {
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
	w := &r.e.w
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
	res.Revision = pendingRevision
	return nil
}

// change notes a change; later steps of the request see it.
func (r *request) change(key []byte, v *version, leaseBefore int64) {
	r.changes = append(r.changes, change{key, v, leaseBefore})
	r.e.w.own[string(key)] = v
}

func (r *request) deleteRange(d *DeleteRange, res *Result) error {
	w := &r.e.w
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
	w := &r.e.w
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
	if err := checkRange(g, r.e.head, r.e.compact); err != nil {
		return err
	}
	if g.Revision > r.e.cfg.Store.Revision() {
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
	var src source = &r.e.w
	if g.Revision > 0 {
		src = snapshot{r.e.cfg.Store, g.Revision}
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
	case c.Revision <= r.e.compact:
		return mvcc.ErrCompacted
	case c.Revision > r.e.head:
		return mvcc.ErrFutureRevision
	}
	r.special = func(e *mvcc.Effects) { e.Compact(c.Revision) }
	r.compact = c.Revision
	res.Revision = r.now()
	return nil
}

func (r *request) grant(g *LeaseGrant, res *Result) error {
	if g.ID == 0 {
		return errors.New("evaluate: lease without an id")
	}
	var err error
	if res.TTL, err = lease.GrantTTL(g.TTL, r.e.cfg.MinTTL); err != nil {
		return err
	}
	if r.leaseExists(g.ID) {
		return lease.ErrExists
	}
	r.special = func(e *mvcc.Effects) { e.LeaseGrant(g.ID, res.TTL) }
	r.leaseID, r.leased = g.ID, true
	res.Revision = r.now()
	return nil
}

// revoke deletes the lease's keys, in their order, and the lease.
func (r *request) revoke(g *LeaseRevoke, res *Result) error {
	if !r.leaseExists(g.ID) {
		return lease.ErrNotFound
	}
	keys, err := r.leaseKeys(g.ID)
	if err != nil {
		return err
	}
	for _, key := range keys {
		r.change(key, &version{deleted: true}, g.ID)
	}
	r.special = func(e *mvcc.Effects) { e.LeaseRevoke(g.ID) }
	r.leaseID, r.leased = g.ID, false
	res.Revision = r.now()
	return nil
}

func (r *request) leaseKeys(id int64) ([][]byte, error) {
	applied, err := r.e.cfg.Store.LeaseKeys(id)
	if err != nil {
		return nil, err
	}
	keys := slices.DeleteFunc(applied, func(k []byte) bool { return r.e.w.unapplied(k) != nil })
	for k, v := range r.e.overlay.keys {
		if !v.deleted && v.head.Lease == id {
			keys = append(keys, []byte(k))
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys, nil
}

func (r *request) checkpoint(g *LeaseCheckpoint, res *Result) error {
	r.special = func(e *mvcc.Effects) {
		for _, l := range g.Remaining {
			e.LeaseCheckpoint(l.ID, l.Seconds)
		}
	}
	res.Revision = r.now()
	return nil
}
