package evaluate

import (
	"bytes"
	"cmp"
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// A transaction is evaluated in etcd's three passes: all compares, those of
// nested transactions too, see the state before it; then every op of the
// branches taken is checked, so that nothing can fail half-way; then the ops run
// in order, each seeing the ones before.

// branches is the outcome of a transaction's compares, and of those nested in
// the branch taken, in the order of its ops.
type branches struct {
	succeeded bool
	nested    []branches
}

func (b *branches) ops(t *Txn) []Op {
	if b.succeeded {
		return t.Success
	}
	return t.Failure
}

func decide(t *Txn, holds func(*Compare) (bool, error)) (branches, error) {
	b := branches{succeeded: true}
	for i := range t.Compare {
		ok, err := holds(&t.Compare[i])
		if err != nil {
			return b, err
		}
		if !ok {
			b.succeeded = false
			break
		}
	}
	for _, op := range b.ops(t) {
		if nested, ok := op.(*Txn); ok {
			n, err := decide(nested, holds)
			if err != nil {
				return b, err
			}
			b.nested = append(b.nested, n)
		}
	}
	return b, nil
}

func (r *request) txn(t *Txn, res *Result) error {
	b, err := decide(t, func(c *Compare) (bool, error) { return holds(r.ctx, &r.s.w, r.s.w.head, c) })
	if err != nil {
		return err
	}
	if err := r.checkTxn(t, &b); err != nil {
		return err
	}
	if err := r.runTxn(t, &b, res); err != nil {
		return err
	}
	res.Revision = r.now()
	return nil
}

func (r *request) checkTxn(t *Txn, b *branches) error {
	nested := b.nested
	for _, op := range b.ops(t) {
		var err error
		switch op := op.(type) {
		case *Put:
			err = r.checkPut(op)
		case *Range:
			err = r.checkRange(op)
		case *Txn:
			err = r.checkTxn(op, &nested[0])
			nested = nested[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *request) runTxn(t *Txn, b *branches, res *Result) error {
	ops, nested := b.ops(t), b.nested
	res.Succeeded = b.succeeded
	res.Responses = make([]Result, len(ops))
	for i, op := range ops {
		var err error
		switch op := op.(type) {
		case *Put:
			err = r.put(op, &res.Responses[i])
		case *DeleteRange:
			err = r.deleteRange(op, &res.Responses[i])
		case *Range:
			err = r.rang(op, &res.Responses[i])
		case *Txn:
			err = r.runTxn(op, &nested[0], &res.Responses[i])
			nested = nested[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// holds says whether a condition holds in src. head is a cheaper way to a key
// without its value.
func holds(ctx context.Context, src source, head func([]byte) (mvcc.Head, bool, error), c *Compare) (bool, error) {
	if len(c.End) == 0 && c.Target != CompareValue {
		h, ok, err := head(c.Key)
		if err != nil {
			return false, err
		}
		if !ok {
			h = mvcc.Head{}
		}
		return relation(compareHead(h, c), c.Result), nil
	}
	if len(c.End) == 0 {
		kv, err := src.get(c.Key)
		if err != nil || kv == nil {
			return false, err
		}
		return relation(compareKV(kv, c), c.Result), nil
	}
	cur, err := src.scan(ctx, mvcc.SpanOf(c.Key, c.End))
	if err != nil {
		return false, err
	}
	defer func() { _ = cur.Close() }()
	found := false
	for cur.Next() {
		found = true
		kv, err := cur.KV(c.Target != CompareValue)
		if err != nil {
			return false, err
		}
		if !relation(compareKV(kv, c), c.Result) {
			return false, nil
		}
	}
	if err := cur.Err(); err != nil || found {
		return found && err == nil, err
	}
	// No key: a value can't be compared, a number is compared with 0.
	return c.Target != CompareValue && relation(compareHead(mvcc.Head{}, c), c.Result), nil
}

func compareKV(kv *mvccpb.KeyValue, c *Compare) int {
	if c.Target == CompareValue {
		return bytes.Compare(kv.Value, c.Value)
	}
	return compareHead(mvcc.Head{
		Mod: kv.ModRevision, Create: kv.CreateRevision, Version: kv.Version, Lease: kv.Lease,
	}, c)
}

func compareHead(h mvcc.Head, c *Compare) int {
	switch c.Target {
	case CompareVersion:
		return cmp.Compare(h.Version, c.Number)
	case CompareCreate:
		return cmp.Compare(h.Create, c.Number)
	case CompareMod:
		return cmp.Compare(h.Mod, c.Number)
	case CompareLease:
		return cmp.Compare(h.Lease, c.Number)
	case CompareValue:
	}
	return 0
}

func relation(order int, want CompareResult) bool {
	switch want {
	case CompareEqual:
		return order == 0
	case CompareNotEqual:
		return order != 0
	case CompareGreater:
		return order > 0
	case CompareLess:
		return order < 0
	}
	return true
}

// ReadTxn answers a transaction of Ranges only, nested ones included, from the
// state at revision head, which must be as for Read.
func ReadTxn(ctx context.Context, state Reader, head int64, t *Txn) (Result, error) {
	src := snapshot{state, head}
	b, err := decide(t, func(c *Compare) (bool, error) {
		return holds(ctx, src, func(key []byte) (h mvcc.Head, ok bool, err error) {
			kv, err := src.get(key)
			if err != nil || kv == nil {
				return h, false, err
			}
			return mvcc.Head{
				Mod: kv.ModRevision, Create: kv.CreateRevision, Version: kv.Version, Lease: kv.Lease,
			}, true, nil
		}, c)
	})
	if err != nil {
		return Result{}, err
	}
	var res Result
	if err := readTxn(ctx, state, head, t, &b, &res); err != nil {
		return Result{}, err
	}
	return res, nil
}

func readTxn(ctx context.Context, state Reader, head int64, t *Txn, b *branches, res *Result) error {
	ops, nested := b.ops(t), b.nested
	*res = Result{Revision: head, Succeeded: b.succeeded, Responses: make([]Result, len(ops))}
	for i, op := range ops {
		var err error
		switch op := op.(type) {
		case *Range:
			if err := checkRange(op, head, state.Compacted()); err != nil {
				return err
			}
			res.Responses[i], err = Read(ctx, state, head, op)
		case *Txn:
			err = readTxn(ctx, state, head, op, &nested[0], &res.Responses[i])
			nested = nested[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Writes says whether a request may change something, and so must be evaluated
// at the sequencer.
func Writes(op Op) bool {
	switch op := op.(type) {
	case *Range:
		return false
	case *Txn:
		for _, branch := range [][]Op{op.Success, op.Failure} {
			for _, o := range branch {
				if Writes(o) {
					return true
				}
			}
		}
		return false
	default:
		return true
	}
}
