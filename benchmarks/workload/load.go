package workload

import (
	"fmt"
	"slices"
	"strings"
)

// Load is a kind of request, of one size.
type Load struct {
	// Name is short and without spaces, Title says it to people.
	Name, Title string
	// Writes says that each request is one revision.
	Writes bool

	kind       kind
	valueBytes int
}

type kind int

const (
	put kind = iota
	txn
	get
	serializableGet
)

// readValueBytes is the size of the values that are there to be read.
const readValueBytes = 1 << 10

// Loads are all there are, in an order in which they can follow each other:
// reads find a store that has been written to.
var Loads = []Load{
	{"put256", "put, 256 B", true, put, 256},
	{"put1k", "put, 1 KiB", true, put, 1 << 10},
	{"txn1k", "Kubernetes txn (if MOD=N then PUT else RANGE), 1 KiB", true, txn, 1 << 10},
	{"get1k", "get, linearizable, 1 KiB", false, get, readValueBytes},
	{"get1k-serializable", "get, serializable, 1 KiB", false, serializableGet, readValueBytes},
}

// ParseLoads finds loads by their names, separated by commas.
func ParseLoads(names string) ([]Load, error) {
	var loads []Load
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(Loads, func(l Load) bool { return l.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no load %q, but %s", name, Names(Loads))
		}
		loads = append(loads, Loads[i])
	}
	return loads, nil
}

// Names are the names of loads, separated by commas.
func Names(loads []Load) string {
	names := make([]string, 0, len(loads))
	for _, l := range loads {
		names = append(names, l.Name)
	}
	return strings.Join(names, ",")
}

// Shape is how many clients there are, and how many connections they share.
type Shape struct{ Conns, Clients int }

func (s Shape) String() string { return fmt.Sprintf("%d/%d", s.Conns, s.Clients) }

// ParseShapes reads shapes, as conns/clients, separated by commas.
func ParseShapes(text string) ([]Shape, error) {
	var shapes []Shape
	for one := range strings.SplitSeq(text, ",") {
		var s Shape
		if n, err := fmt.Sscanf(one, "%d/%d", &s.Conns, &s.Clients); n != 2 || err != nil || s.String() != one ||
			s.Conns < 1 || s.Clients < s.Conns {
			return nil, fmt.Errorf("%q is not conns/clients, with as many clients as connections at least", one)
		}
		shapes = append(shapes, s)
	}
	return shapes, nil
}
