package route

import (
	"slices"
	"strings"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Resources numbers the resources that have routes: there are few of them, whatever
// keys clients choose. It does not change; all methods may be called concurrently.
type Resources struct {
	table *Table
	names []string
	// numbers has the number of the resource whose keys lie at each of the table's
	// borders.
	numbers []int
}

// Other is the number, and OtherName the name, of what has no route.
const (
	Other     = 0
	OtherName = "other"
)

// Resources returns the table's.
func (t *Table) Resources() *Resources {
	r := &Resources{table: t, names: []string{OtherName}, numbers: make([]int, len(t.borders))}
	for i, border := range t.borders {
		if t.owners[i] == mvcc.CoreGroup {
			continue
		}
		// The bare path of a resource is its own, too.
		name := Prefix(t.prefix).ResourceName(strings.TrimSuffix(string(border), "/") + "/")
		n := slices.Index(r.names, name)
		if n < 0 {
			n = len(r.names)
			r.names = append(r.names, name)
		}
		r.numbers[i] = n
	}
	return r
}

// Names returns the resources' names at the places of their numbers.
func (r *Resources) Names() []string { return slices.Clone(r.names) }

// Of returns the number of the resource that a key belongs to. It does not
// allocate.
func (r *Resources) Of(key []byte) int { return r.numbers[r.table.find(key)] }
