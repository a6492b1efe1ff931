package watchcache

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tidwall/btree"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

const (
	// objectOverhead is what a key costs in memory besides itself and its value.
	objectOverhead = 150
	// maxUndo is how many changes a view may lie back; more are read from the store.
	maxUndo = 1024
	// stepsPerCheck is how many keys a walk passes between looks at its context.
	stepsPerCheck = 1024
)

// objects are the keys of one resource as they are behind the last event that was
// taken in, and what those events have replaced, so that there is a view at every
// revision since.
type objects struct {
	history *history
	// total counts the bytes of all resources.
	total *atomic.Int64

	// mu guards the fields below. The history's lock is taken after it.
	mu sync.Mutex
	// tree has the keys; nil if they are not here. A copy of it costs nothing, and
	// nodes are copied when one of the two changes. full says that it is there.
	tree *btree.BTreeG[*mvccpb.KeyValue]
	full atomic.Bool
	// next is the number of the next event to take in. old[i] is what the event of
	// number oldest+i has replaced, nil for nothing.
	next, oldest int64
	old          []*mvccpb.KeyValue
	// bytes is what the tree takes.
	bytes int64
	// fresh is scratch.
	fresh []*Event
}

func newTree() *btree.BTreeG[*mvccpb.KeyValue] {
	return btree.NewBTreeGOptions(func(a, b *mvccpb.KeyValue) bool {
		return bytes.Compare(a.Key, b.Key) < 0
	}, btree.Options{NoLocks: true})
}

func objectBytes(kv *mvccpb.KeyValue) int64 {
	if kv == nil {
		return 0
	}
	return int64(len(kv.Key) + len(kv.Value) + objectOverhead)
}

// fill takes over a tree that was read at a revision; ok is false if events behind it
// are gone.
func (o *objects) fill(tree *btree.BTreeG[*mvccpb.KeyValue], size, revision int64) (ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next, ok := o.history.numberAfter(revision)
	if !ok {
		return false
	}
	o.emptyLocked()
	o.tree, o.next, o.oldest = tree, next, next
	o.growLocked(size)
	o.full.Store(true)
	return true
}

// empty lets go of the keys.
func (o *objects) empty() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.emptyLocked()
}

func (o *objects) emptyLocked() {
	o.growLocked(-o.bytes)
	o.tree, o.old = nil, nil
	o.full.Store(false)
}

func (o *objects) growLocked(delta int64) {
	o.bytes += delta
	o.total.Add(delta)
}

// isFull says whether the keys are here.
func (o *objects) isFull() bool { return o.full.Load() }

// count returns how many keys are here, their bytes, and how many events are still
// to be taken in.
func (o *objects) count() (keys, size, lag int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tree == nil {
		return 0, 0, 0
	}
	return int64(o.tree.Len()), o.bytes, o.history.end.Load() - o.next
}

// takeInLocked brings the tree to the end of the history; ok is false if there is
// none, or its events are gone.
func (o *objects) takeInLocked() (ok bool) {
	if o.tree == nil {
		return false
	}
	if o.history.end.Load() == o.next {
		return true
	}
	fresh, ok := o.history.since(o.next, o.fresh[:0])
	if !ok {
		o.emptyLocked()
		return false
	}
	delta := int64(0)
	for _, e := range fresh {
		var was *mvccpb.KeyValue
		if kv := e.plain.Kv; e.plain.Type == mvccpb.Event_DELETE {
			was, _ = o.tree.Delete(kv)
		} else {
			was, _ = o.tree.Set(kv)
			delta += objectBytes(kv)
		}
		delta -= objectBytes(was)
		o.old = append(o.old, was)
	}
	o.growLocked(delta)
	o.next += int64(len(fresh))
	clear(fresh)
	o.fresh = fresh[:0]
	// What lies further back than anybody may look is let go, now and then.
	if n := len(o.old) - maxUndo; n > maxUndo {
		o.old = slices.Clone(o.old[n:])
		o.oldest += int64(n)
	}
	return true
}

// undoLocked returns what the keys that have changed after revision were then, in
// the order of the changes; ok is false if that is not known.
// REQUIRES: takeInLocked.
func (o *objects) undoLocked(revision int64) (changed []*Event, old []*mvccpb.KeyValue, ok bool) {
	number, ok := o.history.numberAfter(revision)
	if !ok || number < o.oldest || o.next-number > maxUndo {
		return nil, nil, false
	}
	if number >= o.next {
		return nil, nil, true
	}
	changed, ok = o.history.since(number, nil)
	if !ok {
		return nil, nil, false
	}
	changed = changed[:o.next-number] // others have come meanwhile
	return changed, o.old[number-o.oldest:], true
}

// get returns a key as it was at revision, nil if it was not there; ok is false if
// that is not known.
// REQUIRES: revision is published.
func (o *objects) get(key []byte, revision int64) (kv *mvccpb.KeyValue, ok bool) {
	if !o.isFull() {
		return nil, false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.takeInLocked() {
		return nil, false
	}
	kv, _ = o.tree.Get(&mvccpb.KeyValue{Key: key})
	if kv != nil && kv.ModRevision <= revision {
		return kv, true
	}
	changed, old, ok := o.undoLocked(revision)
	if !ok {
		return nil, false
	}
	for i, e := range changed {
		if bytes.Equal(e.plain.Kv.Key, key) {
			return old[i], true
		}
	}
	return kv, true
}

// scan returns a view of a span at revision; ok is false if there is none.
// REQUIRES: revision is published, and the span lies in the resource.
func (o *objects) scan(ctx context.Context, span mvcc.Span, revision int64) (cur *cursor, ok bool) {
	if !o.isFull() {
		return nil, false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.takeInLocked() {
		return nil, false
	}
	changed, old, ok := o.undoLocked(revision)
	if !ok {
		return nil, false
	}
	cur = &cursor{ctx: ctx, span: span}
	seen := map[string]bool{}
	for i, e := range changed {
		// The first change of a key after the revision has replaced what it was then.
		if key := e.plain.Kv.Key; span.Contains(key) && !seen[string(key)] {
			seen[string(key)] = true
			cur.undo = append(cur.undo, undone{key, old[i]})
		}
	}
	slices.SortFunc(cur.undo, func(a, b undone) int { return bytes.Compare(a.key, b.key) })
	cur.tree = o.tree.Copy().Iter()
	return cur, true
}

// undone is a key that the tree has otherwise than a view: kv is nil if it is not in
// the view.
type undone struct {
	key []byte
	kv  *mvccpb.KeyValue
}

// cursor walks a view: the keys of the tree, with some of them as they were. It
// implements mvcc.Cursor.
type cursor struct {
	ctx  context.Context //nolint:containedctx // The caller's, who has the cursor.
	err  error
	span mvcc.Span
	// steps counts keys between looks at ctx.
	steps int
	tree  btree.IterG[*mvccpb.KeyValue]
	undo  []undone
	// begun says that the tree's iterator stands on head, nil at the end.
	begun   bool
	head    *mvccpb.KeyValue
	current *mvccpb.KeyValue
}

var _ mvcc.Cursor = (*cursor)(nil)

// step moves the tree's iterator.
func (c *cursor) step() {
	ok := false
	if c.begun {
		ok = c.tree.Next()
	} else {
		c.begun = true
		ok = c.tree.Seek(&mvccpb.KeyValue{Key: c.span.Key})
	}
	c.head = nil
	if ok {
		if kv := c.tree.Item(); c.span.Contains(kv.Key) {
			c.head = kv
		}
	}
}

// Next implements mvcc.Cursor.
func (c *cursor) Next() bool {
	if c.steps++; c.steps%stepsPerCheck == 0 {
		c.err = c.ctx.Err()
	}
	if c.err != nil {
		return false
	}
	if !c.begun {
		c.step()
	}
	for {
		if len(c.undo) == 0 {
			c.current = c.head
			if c.head == nil {
				return false
			}
			c.step()
			return true
		}
		u := c.undo[0]
		order := 1
		if c.head != nil {
			order = bytes.Compare(c.head.Key, u.key)
		}
		if order < 0 {
			c.current = c.head
			c.step()
			return true
		}
		if order == 0 {
			c.step()
		}
		c.undo = c.undo[1:]
		if u.kv != nil {
			c.current = u.kv
			return true
		}
	}
}

// Key implements mvcc.Cursor.
func (c *cursor) Key() []byte { return c.current.Key }

// KV implements mvcc.Cursor.
func (c *cursor) KV(keysOnly bool) (*mvccpb.KeyValue, error) {
	if keysOnly {
		return mvcc.WithoutValue(c.current), nil
	}
	return c.current, nil
}

// CountRest implements mvcc.Cursor.
func (c *cursor) CountRest() (n int64, err error) {
	for c.Next() {
		n++
	}
	return n, c.err
}

// Err implements mvcc.Cursor.
func (c *cursor) Err() error { return c.err }

// Close implements mvcc.Cursor.
func (c *cursor) Close() error {
	c.tree.Release()
	return nil
}
