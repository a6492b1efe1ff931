package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// MaxGroups bounds the groups of a table, core included, and so their numbers.
const MaxGroups = 15

// CoreName is the name of core.
const CoreName = "core"

// Group is a group and its name.
type Group struct {
	ID   mvcc.GroupID
	Name string
}

// Segment is the part of a span that one group owns.
type Segment struct {
	Group mvcc.GroupID
	Span  mvcc.Span
}

// Table says which group owns which keys. It does not change; all methods may be
// called concurrently.
type Table struct {
	prefix string
	groups []Group
	text   string

	// owners[i] owns the keys from borders[i] on, below borders[i+1] if there is
	// one. Invariant: borders begin with the empty key, and increase; neighbours
	// differ in owners.
	borders [][]byte
	owners  []mvcc.GroupID
}

// routed is a group with its keys. A name that ends in / stands for all keys that
// begin with it, any other for the key itself.
type routed struct {
	Group
	names []string
}

// claim is one name of a routed group, as a span.
type claim struct {
	start, end, name string
	group            Group
}

// CoreOnly returns the table without routes.
func CoreOnly() *Table {
	t, err := build("", nil)
	if err != nil {
		panic(err)
	}
	return t
}

// build makes a table. The groups must be in the order of their numbers.
func build(prefix string, groups []routed) (*Table, error) {
	t := &Table{prefix: prefix, groups: []Group{{mvcc.CoreGroup, CoreName}}}
	var claims []claim
	for _, g := range groups {
		t.groups = append(t.groups, g.Group)
		for _, name := range g.names {
			end := name + "\x00"
			if rest, ok := strings.CutSuffix(name, "/"); ok {
				end = rest + string(rune('/'+1))
			}
			claims = append(claims, claim{start: name, end: end, name: name, group: g.Group})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int { return cmp.Compare(a.start, b.start) })
	t.extend("", mvcc.CoreGroup)
	for i, c := range claims {
		if i > 0 && claims[i-1].end > c.start {
			return nil, fmt.Errorf("%s (of group %s) and %s (of group %s) have keys in common; leave one of them out",
				claims[i-1].name, claims[i-1].group.Name, c.name, c.group.Name)
		}
		t.extend(c.start, c.group.ID)
		t.extend(c.end, mvcc.CoreGroup)
	}
	t.text = encode(prefix, groups)
	if len(t.text) > maxTextBytes {
		return nil, fmt.Errorf("the routes take %d bytes when they are written down, and %d is the most", len(t.text), maxTextBytes)
	}
	return t, nil
}

// extend gives the keys from border on to owner.
//
// REQUIRES: border is not below any before it.
func (t *Table) extend(border string, owner mvcc.GroupID) {
	n := len(t.owners)
	if n > 0 && string(t.borders[n-1]) == border {
		t.borders, t.owners = t.borders[:n-1], t.owners[:n-1]
		n--
	}
	if n > 0 && t.owners[n-1] == owner {
		return
	}
	// Borders end up in segments: nobody may append to one and so change another.
	t.borders = append(t.borders, slices.Clip([]byte(border)))
	t.owners = append(t.owners, owner)
}

// Groups returns the groups in the order of their numbers, core first.
func (t *Table) Groups() []Group { return slices.Clone(t.groups) }

// Lookup returns the group of that name.
func (t *Table) Lookup(name string) (Group, bool) {
	for _, g := range t.groups {
		if g.Name == name {
			return g, true
		}
	}
	return Group{}, false
}

// EtcdPrefix returns the prefix of the keys that the routes are about, as
// kube-apiserver's --etcd-prefix, with a slash before and none behind. It is
// empty if there are no routes.
func (t *Table) EtcdPrefix() string { return t.prefix }

// Equal says whether two tables have the same groups with the same keys.
func (t *Table) Equal(other *Table) bool { return t.text == other.text }

// find returns the greatest i whose border is not above key.
func (t *Table) find(key []byte) int {
	lo, hi := 0, len(t.borders)
	for hi-lo > 1 {
		if mid := int(uint(lo+hi) / 2); string(t.borders[mid]) <= string(key) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// Of returns the owner of a key. It does not allocate.
func (t *Table) Of(key []byte) mvcc.GroupID { return t.owners[t.find(key)] }

// Segments appends to dst the span cut where its owner changes, in the order of
// keys. Neighbours differ in owners, and none is empty. The segments share the
// memory of the span and of the table, and must not be written to.
func (t *Table) Segments(span mvcc.Span, dst []Segment) []Segment {
	if span.Empty() {
		return dst
	}
	for i := t.find(span.Key); ; i++ {
		end, more := t.cut(i, span)
		dst = append(dst, Segment{t.owners[i], mvcc.Span{Key: span.Key, End: end}})
		if !more {
			return dst
		}
		span.Key = end
	}
}

// Touches returns the owners of the keys of a span: bit 1<<id is set for the
// group of that id. It does not allocate.
func (t *Table) Touches(span mvcc.Span) uint64 {
	var mask uint64
	if span.Empty() {
		return mask
	}
	for i := t.find(span.Key); ; i++ {
		mask |= 1 << t.owners[i]
		if _, more := t.cut(i, span); !more {
			return mask
		}
	}
}

// cut returns where the part of span ends that lies at borders[i], and whether
// there is more behind it.
func (t *Table) cut(i int, span mvcc.Span) (end []byte, more bool) {
	if i+1 < len(t.borders) {
		if next := t.borders[i+1]; span.End == nil || string(next) < string(span.End) {
			return next, true
		}
	}
	return span.End, false
}
