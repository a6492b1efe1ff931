package evaluate

import (
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// An Op is one request for a group, or one step of a Txn. It is immutable once
// it has been handed over: the byte slices in it may be shared with the log.
type Op interface{ isOp() }

// SortTarget names the field by which a Range sorts.
type SortTarget int8

// The targets, in etcd's order.
const (
	SortByKey SortTarget = iota
	SortByVersion
	SortByCreate
	SortByMod
	SortByValue
)

// SortOrder is the direction of a Range's sort.
type SortOrder int8

// The orders, in etcd's order. SortNone is ascending by key when the target is
// the key, and ascending by the target otherwise, as in etcd.
const (
	SortNone SortOrder = iota
	SortAscend
	SortDescend
)

// Range reads keys. End has etcd's three forms: empty for the one key Key,
// "\x00" for every key from Key on, anything else for [Key, End).
type Range struct {
	Key, End []byte
	// Limit bounds the number of keys in the answer; 0 is no bound.
	Limit int64
	// Revision is the revision to read at; 0 or less is the head.
	Revision   int64
	SortTarget SortTarget
	SortOrder  SortOrder
	KeysOnly   bool
	CountOnly  bool
	// MinMod, MaxMod, MinCreate and MaxCreate drop keys outside the bounds
	// from the answer (not from the count); 0 is no bound.
	MinMod, MaxMod, MinCreate, MaxCreate int64
}

// Put writes one key.
type Put struct {
	Key, Value  []byte
	Lease       int64
	PrevKV      bool
	IgnoreValue bool
	IgnoreLease bool
}

// DeleteRange deletes keys; End is as in Range.
type DeleteRange struct {
	Key, End []byte
	PrevKV   bool
}

// CompareTarget names what a Compare looks at.
type CompareTarget int8

// The targets, in etcd's order.
const (
	CompareVersion CompareTarget = iota
	CompareCreate
	CompareMod
	CompareValue
	CompareLease
)

// CompareResult is the relation that a Compare demands.
type CompareResult int8

// The relations, in etcd's order.
const (
	CompareEqual CompareResult = iota
	CompareGreater
	CompareLess
	CompareNotEqual
)

// Compare is one condition of a Txn. With End set it must hold for every key
// of the range; a range without keys counts as one key that is not there: its
// numbers are 0, and a comparison of its value never holds.
type Compare struct {
	Target   CompareTarget
	Result   CompareResult
	Key, End []byte
	// Number is compared with a version, revision or lease, Value with a value.
	Number int64
	Value  []byte
}

// Txn runs Success if every Compare holds, else Failure. The ops may be *Range,
// *Put, *DeleteRange and *Txn.
type Txn struct {
	Compare          []Compare
	Success, Failure []Op
}

// Compact drops history below Revision.
type Compact struct{ Revision int64 }

// LeaseGrant makes a lease of TTL seconds. ID must not be 0.
type LeaseGrant struct{ ID, TTL int64 }

// LeaseRevoke ends a lease and deletes its keys, all at one revision.
type LeaseRevoke struct{ ID int64 }

// LeaseCheckpoint records what remains of leases' time to live, so that a new
// leader does not begin again with the full one.
type LeaseCheckpoint struct{ Remaining []LeaseRemaining }

// Records changes a table of the cluster's records (mvcc.RecordWrite), all rows or
// none. Names of tables hold no 0x00.
type Records struct {
	Table string
	// Version is the table's as the writer has seen it; ErrRecordsChanged if it is
	// another. The change makes it one more.
	Version int64
	Writes  []mvcc.RecordWrite
}

// LeaseRemaining is one lease of a LeaseCheckpoint; Seconds is what remains.
type LeaseRemaining struct{ ID, Seconds int64 }

func (*Range) isOp()           {}
func (*Put) isOp()             {}
func (*DeleteRange) isOp()     {}
func (*Txn) isOp()             {}
func (*Compact) isOp()         {}
func (*LeaseGrant) isOp()      {}
func (*LeaseRevoke) isOp()     {}
func (*LeaseCheckpoint) isOp() {}
func (*Records) isOp()         {}
func (*Mirror) isOp()          {}

// Result is the answer to an Op: of the fields below Revision those are set
// that belong to its kind.
type Result struct {
	// Revision is the store's revision when the op was evaluated: the op's own
	// if it changed something. It is what the response header shows.
	Revision int64

	// KVs, More and Count answer a Range. The KeyValues belong to the caller;
	// their bytes may be shared and must not be changed.
	KVs   []*mvccpb.KeyValue
	More  bool
	Count int64

	// PrevKVs answers PrevKV: none or one for a Put, all for a DeleteRange.
	PrevKVs []*mvccpb.KeyValue
	// Deleted counts the keys that a DeleteRange deleted.
	Deleted int64

	// Succeeded says which branch of a Txn ran; Responses has a Result for
	// each op of that branch.
	Succeeded bool
	Responses []Result

	// TTL answers a LeaseGrant, in seconds: not less than the least that the
	// server grants.
	TTL int64
}

// Size returns about how many bytes the effects of an op can take, those that
// only its evaluation shows left out.
func Size(op Op) int {
	const fixed = 32
	switch op := op.(type) {
	case *Put:
		return fixed + len(op.Key) + len(op.Value)
	case *DeleteRange:
		return fixed + len(op.Key)
	case *Txn:
		n := 0
		for _, o := range op.Success {
			n += Size(o)
		}
		for _, o := range op.Failure {
			n += Size(o)
		}
		return n
	case *Mirror:
		n := fixed * (1 + len(op.Grants) + len(op.Revokes) + len(op.Revisions))
		for i := range op.Revisions {
			for _, c := range op.Revisions[i].Changes {
				n += fixed + len(c.Key) + len(c.Value)
			}
		}
		return n
	case *Records:
		n := fixed
		for _, w := range op.Writes {
			n += len(w.Key) + len(w.Value)
		}
		return n
	default:
		return fixed
	}
}
