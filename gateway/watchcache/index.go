package watchcache

import (
	"bytes"
	"math/rand/v2"
)

// index finds the spans that an event's key lies in: a map for single keys and
// a tree for ranges. Watchers of the same keys share a span, so that ten thousand
// watchers of one prefix are one entry. Hub.mu guards it.
type index struct {
	exact  map[string]*span
	ranges map[rangeKey]*span
	tree   *node
}

type rangeKey struct{ key, end string }

// node is a node of a treap: a search tree by (key, end) that is a heap by
// priority. Each node knows the greatest end below it, so that stab need not
// enter subtrees that end before a key.
type node struct {
	span        *span
	maxEnd      []byte // nil is infinity
	priority    uint32
	left, right *node
}

// toInfinity says whether end is etcd's form for every key from the first on.
func toInfinity(end []byte) bool { return len(end) == 1 && end[0] == 0 }

func (x *index) empty() bool { return len(x.exact) == 0 && x.tree == nil }

func (x *index) clear() {
	x.exact, x.ranges, x.tree = nil, nil, nil
}

// get returns the span of key and end, adding it if there is none.
func (x *index) get(key, end []byte, maxEvents int) *span {
	if len(end) == 0 {
		sp := x.exact[string(key)]
		if sp == nil {
			sp = newSpan(key, end, maxEvents)
			if x.exact == nil {
				x.exact = make(map[string]*span)
			}
			x.exact[string(key)] = sp
		}
		return sp
	}
	rk := rangeKey{string(key), string(end)}
	sp := x.ranges[rk]
	if sp == nil {
		sp = newSpan(key, end, maxEvents)
		if x.ranges == nil {
			x.ranges = make(map[rangeKey]*span)
		}
		x.ranges[rk] = sp
		x.tree = insert(x.tree, &node{span: sp, maxEnd: sp.upper(), priority: rand.Uint32()})
	}
	return sp
}

// remove takes sp out.
func (x *index) remove(sp *span) {
	if len(sp.end) == 0 {
		delete(x.exact, string(sp.key))
		return
	}
	delete(x.ranges, rangeKey{string(sp.key), string(sp.end)})
	x.tree = remove(x.tree, sp)
}

// stab appends the spans that hold key to found.
func (x *index) stab(key []byte, found []*span) []*span {
	if sp := x.exact[string(key)]; sp != nil {
		found = append(found, sp)
	}
	return x.tree.stab(key, found)
}

func (n *node) stab(key []byte, found []*span) []*span {
	for n != nil && (n.maxEnd == nil || bytes.Compare(key, n.maxEnd) < 0) {
		found = n.left.stab(key, found)
		if bytes.Compare(key, n.span.key) < 0 {
			return found // nor in what lies right of it
		}
		if upper := n.span.upper(); upper == nil || bytes.Compare(key, upper) < 0 {
			found = append(found, n.span)
		}
		n = n.right
	}
	return found
}

// less orders by key and then by end.
func less(a, b *span) bool {
	if c := bytes.Compare(a.key, b.key); c != 0 {
		return c < 0
	}
	return bytes.Compare(a.end, b.end) < 0
}

func (n *node) update() {
	n.maxEnd = n.span.upper()
	for _, child := range [...]*node{n.left, n.right} {
		if n.maxEnd == nil || child == nil {
			continue
		}
		if child.maxEnd == nil || bytes.Compare(child.maxEnd, n.maxEnd) > 0 {
			n.maxEnd = child.maxEnd
		}
	}
}

// split parts n into what is less than sp and the rest.
func split(n *node, sp *span) (left, right *node) {
	if n == nil {
		return nil, nil
	}
	if less(n.span, sp) {
		n.right, right = split(n.right, sp)
		n.update()
		return n, right
	}
	left, n.left = split(n.left, sp)
	n.update()
	return left, n
}

// merge joins two trees, all of a before all of b.
func merge(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = merge(a.right, b)
		a.update()
		return a
	default:
		b.left = merge(a, b.left)
		b.update()
		return b
	}
}

func insert(n, add *node) *node {
	if n == nil || add.priority > n.priority {
		add.left, add.right = split(n, add.span)
		add.update()
		return add
	}
	if less(n.span, add.span) {
		n.right = insert(n.right, add)
	} else {
		n.left = insert(n.left, add)
	}
	n.update()
	return n
}

func remove(n *node, sp *span) *node {
	switch {
	case n == nil:
		panic("watchcache: a span that is not in the index")
	case n.span == sp:
		return merge(n.left, n.right)
	case less(n.span, sp):
		n.right = remove(n.right, sp)
	default:
		n.left = remove(n.left, sp)
	}
	n.update()
	return n
}
