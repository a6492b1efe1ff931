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
	// keys is how many keys puts and gets are of, 0 for the default.
	keys int
	// folder is where a get reads, "" for where Prepare has put.
	folder string
	// resources are where the keys are, in turn; none is one.
	resources []string
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

// Loads are those for one member, in an order in which they can follow each other:
// reads find a store that has been written to.
var Loads = []Load{
	{Name: "put256", Title: "put, 256 B", Writes: true, kind: put, valueBytes: 256},
	{Name: "put1k", Title: "put, 1 KiB", Writes: true, kind: put, valueBytes: 1 << 10},
	{Name: "txn1k", Title: "Kubernetes txn (if MOD=N then PUT else RANGE), 1 KiB", Writes: true, kind: txn, valueBytes: 1 << 10},
	{Name: "get1k", Title: "get, linearizable, 1 KiB", kind: get, valueBytes: readValueBytes},
	{Name: "get1k-serializable", Title: "get, serializable, 1 KiB", kind: serializableGet, valueBytes: readValueBytes},
}

// Grouped are writes of keys of several groups: config maps, events, leases and
// pods, each a quarter.
var Grouped = []Load{
	{Name: "put256-groups", Title: "put, 256 B, keys of four groups", Writes: true, kind: put, valueBytes: 256, resources: grouped},
	{Name: "put1k-groups", Title: "put, 1 KiB, keys of four groups", Writes: true, kind: put, valueBytes: 1 << 10, resources: grouped},
	{Name: "txn1k-groups", Title: "Kubernetes txn, 1 KiB, keys of four groups", Writes: true, kind: txn, valueBytes: 1 << 10, resources: grouped},
}

// grouped are resources that have raft groups of their own, and one that has not.
var grouped = []string{"configmaps", "events", "leases", "pods"}

// Large are of values that not many objects have: a large config map, a custom
// resource.
var Large = []Load{
	{Name: "put16k", Title: "put, 16 KiB", Writes: true, kind: put, valueBytes: 16 << 10},
}

// All are Loads, Large and Grouped.
func All() []Load { return slices.Concat(Loads, Large, Grouped) }

// Population is puts and gets of so many keys, spread over so many resources; nothing
// but fill.Run with its Key puts what is read.
type Population struct {
	Keys, ValueBytes int
	// Resources have names from Resource(0) on; 0 is one of another name.
	Resources int
}

// Resource is the name of one of many resources.
func Resource(i int) string { return fmt.Sprintf("resource%02d", i) }

// populated is the folder of a population's keys.
const populated = "population"

// Key is key i.
func (p Population) Key(i int) []byte {
	folders := Load{resources: p.resources()}.folders()
	return fmt.Appendf(nil, "%s%s/%0*d", folders[i%len(folders)], populated, keyDigits, i)
}

func (p Population) resources() []string {
	var names []string
	for i := range p.Resources {
		names = append(names, Resource(i))
	}
	return names
}

// Loads are a put and a get of random keys.
func (p Population) Loads() (putLoad, getLoad Load) {
	l := Load{valueBytes: p.ValueBytes, keys: p.Keys, folder: populated, resources: p.resources()}
	putLoad, getLoad = l, l
	putLoad.Name, putLoad.Writes, putLoad.kind = "put", true, put
	getLoad.Name, getLoad.kind = "get", get
	return putLoad, getLoad
}

// Reads says whether any of some loads reads what Prepare has put.
func Reads(loads []Load) bool {
	return slices.ContainsFunc(loads, func(l Load) bool { return !l.Writes })
}

// Full says that it takes a whole etcd. kine, which is not one, has no plain puts and no
// serializable reads.
func (l Load) Full() bool { return l.kind == put || l.kind == serializableGet }

// folders are where the keys of a load are.
func (l Load) folders() []string {
	if len(l.resources) == 0 {
		return []string{"/registry/benchmark/"}
	}
	var folders []string
	for _, r := range l.resources {
		folders = append(folders, "/registry/"+r+"/benchmark/")
	}
	return folders
}

// ParseLoads finds loads by their names, separated by commas.
func ParseLoads(names string) ([]Load, error) {
	var loads []Load
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(All(), func(l Load) bool { return l.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no load %q, but %s", name, Names(All()))
		}
		loads = append(loads, All()[i])
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
type Shape struct {
	Conns, Clients int
	// Leader says that all connections are to the leader; else they are to all
	// members in turn, the leader last.
	Leader bool
}

const toLeader = "@leader"

func (s Shape) String() string {
	text := fmt.Sprintf("%d/%d", s.Conns, s.Clients)
	if s.Leader {
		text += toLeader
	}
	return text
}

// ParseShapes reads shapes, as conns/clients or conns/clients@leader, separated by
// commas.
func ParseShapes(text string) ([]Shape, error) {
	var shapes []Shape
	for one := range strings.SplitSeq(text, ",") {
		var s Shape
		counts, leader := strings.CutSuffix(one, toLeader)
		s.Leader = leader
		if n, err := fmt.Sscanf(counts, "%d/%d", &s.Conns, &s.Clients); n != 2 || err != nil || s.String() != one ||
			s.Conns < 1 || s.Clients < s.Conns {
			return nil, fmt.Errorf("%q is not conns/clients, with as many clients as connections at least", one)
		}
		shapes = append(shapes, s)
	}
	return shapes, nil
}
