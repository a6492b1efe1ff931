package conformance

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// op wraps a request for use in a transaction.
func op(req proto.Message) *pb.RequestOp {
	switch req := req.(type) {
	case *pb.RangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: req}}
	case *pb.PutRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: req}}
	case *pb.DeleteRangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: req}}
	case *pb.TxnRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: req}}
	default:
		panic(fmt.Sprintf("%T in a transaction", req))
	}
}

func ops(reqs ...proto.Message) []*pb.RequestOp {
	var all []*pb.RequestOp
	for _, req := range reqs {
		all = append(all, op(req))
	}
	return all
}

func txn(ifs []*pb.Compare, then, els []*pb.RequestOp) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: ifs, Success: then, Failure: els}
}

// cmp makes a comparison such as cmp("k", "version", "=", 3).
func cmp(key, what, how string, with any) *pb.Compare {
	c := &pb.Compare{Key: b(key), Result: map[string]pb.Compare_CompareResult{
		"=": pb.Compare_EQUAL, ">": pb.Compare_GREATER, "<": pb.Compare_LESS, "!=": pb.Compare_NOT_EQUAL,
	}[how]}
	number, _ := with.(int)
	text, _ := with.(string)
	switch what {
	case "version":
		c.Target, c.TargetUnion = pb.Compare_VERSION, &pb.Compare_Version{Version: int64(number)}
	case "create":
		c.Target, c.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: int64(number)}
	case "mod":
		c.Target, c.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: int64(number)}
	case "lease":
		c.Target, c.TargetUnion = pb.Compare_LEASE, &pb.Compare_Lease{Lease: int64(number)}
	case "value":
		c.Target, c.TargetUnion = pb.Compare_VALUE, &pb.Compare_Value{Value: b(text)}
	default:
		panic("cannot compare " + what)
	}
	return c
}

func ifs(all ...*pb.Compare) []*pb.Compare { return all }

// over makes a comparison hold for a whole interval.
func over(end string, c *pb.Compare) *pb.Compare {
	c.RangeEnd = b(end)
	return c
}

// Every target with every relation, below, at and above what is compared with.
func TestTxnCompare(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.fixture(t) // a=9@10/10/1 b=8@3/5/3 c=3@2/11/2 d=4@6/9/4
	m.must(t, &pb.LeaseGrantRequest{ID: 7, TTL: 1000}, "rev=13 lease=7 ttl=1000")
	m.must(t, &pb.PutRequest{Key: b("l"), Value: b("1"), Lease: 7}, "rev=14")
	m.must(t, &pb.LeaseGrantRequest{ID: 5, TTL: 1000}, "rev=14 lease=5 ttl=1000")

	// relations says for which of below, at and above a relation holds.
	relations := []struct {
		how             string
		less, eq, great bool
	}{
		{"=", false, true, false},
		{"!=", true, false, true},
		{">", false, false, true},
		{"<", true, false, false},
	}
	for _, c := range []struct {
		key              string
		what             string
		below, at, above any // of what the key has
	}{
		{"b", "version", 2, 3, 4},
		{"b", "create", 2, 3, 4},
		{"b", "mod", 4, 5, 6},
		{"b", "value", "7", "8", "9"},
		{"b", "value", "", "8", "80"},
		{"l", "lease", 6, 7, 8},
		{"b", "lease", -1, 0, 1},
		// A key that is not there has zeros.
		{"x", "version", -1, 0, 1},
		{"x", "create", -1, 0, 1},
		{"x", "mod", -1, 0, 1},
		{"x", "lease", -1, 0, 1},
		// And so has a deleted one.
		{"e", "version", -1, 0, 1},
		{"e", "create", -1, 0, 1},
		{"e", "mod", -1, 0, 1},
	} {
		var steps []step
		for _, r := range relations {
			for _, w := range []struct {
				with  any
				holds bool
			}{{c.above, r.less}, {c.at, r.eq}, {c.below, r.great}} {
				want := "rev=14 else"
				if w.holds {
					want = "rev=14 then"
				}
				steps = append(steps, step{
					fmt.Sprintf("%s of %s %s %v", c.what, c.key, r.how, w.with),
					txn(ifs(cmp(c.key, c.what, r.how, w.with)), nil, nil), want,
				})
			}
		}
		tell(t, m, steps)
	}

	tell(t, m, []step{
		// A key that is not there has no value, not even the empty one.
		{"no value = empty", txn(ifs(cmp("x", "value", "=", "")), nil, nil), "rev=14 else"},
		{"no value != something", txn(ifs(cmp("x", "value", "!=", "1")), nil, nil), "rev=14 else"},
		{"no value < something", txn(ifs(cmp("x", "value", "<", "1")), nil, nil), "rev=14 else"},

		{"no comparison holds", txn(nil, nil, nil), "rev=14 then"},
		{"two that hold", txn(ifs(cmp("a", "version", "=", 1), cmp("b", "version", "=", 3)), nil, nil), "rev=14 then"},
		{"one of two", txn(ifs(cmp("a", "version", "=", 1), cmp("b", "version", "=", 4)), nil, nil), "rev=14 else"},
		{"two of the same key", txn(ifs(cmp("b", "mod", ">", 4), cmp("b", "mod", "<", 6)), nil, nil), "rev=14 then"},

		{"an interval of which all hold", txn(ifs(over("e", cmp("a", "mod", ">", 4))), nil, nil), "rev=14 then"},
		{"of which one does not", txn(ifs(over("e", cmp("a", "mod", ">", 5))), nil, nil), "rev=14 else"},
		{"an interval without keys has zeros", txn(ifs(over("z", cmp("x", "create", "=", 0))), nil, nil), "rev=14 then"},
		{"and no values", txn(ifs(over("z", cmp("x", "value", "!=", "1"))), nil, nil), "rev=14 else"},
		{"an interval with keys is not empty", txn(ifs(over("z", cmp("a", "create", "=", 0))), nil, nil), "rev=14 else"},
		{"from a key on", txn(ifs(over("\x00", cmp("b", "version", ">", 0))), nil, nil), "rev=14 then"},
		{"from a key on, of which one does not", txn(ifs(over("\x00", cmp("b", "version", ">", 1))), nil, nil), "rev=14 else"},
		{"values of an interval", txn(ifs(over("d", cmp("b", "value", ">", "2"))), nil, nil), "rev=14 then"},

		{"without a key", txn(ifs(cmp("", "version", "=", 0)), nil, nil), "InvalidArgument: etcdserver: key is not provided"},
		{"a target without a number means zero", txn(ifs(&pb.Compare{Key: b("x"), Target: pb.Compare_MOD}), nil, nil), "rev=14 then"},
	})
}

func TestTxn(t *testing.T) {
	t.Parallel()
	m := start(t)
	const (
		noKey    = "InvalidArgument: etcdserver: key is not provided"
		notFound = "InvalidArgument: etcdserver: key not found"
	)
	missing := &pb.PutRequest{Key: b("none"), IgnoreValue: true}
	tell(t, m, []step{
		{
			"all of a branch at one revision", txn(nil, ops(put("a", "1"), put("b", "1"), get("a"), del("x")), nil),
			"rev=2 then {rev=2 put} {rev=2 put} {rev=2 count=1 [a=1@2/2/1]} {rev=2 deleted=0}",
		},
		{"then", txn(ifs(cmp("a", "version", "=", 1)), ops(put("a", "2")), ops(put("a", "3"))), "rev=3 then {rev=3 put}"},
		{
			"else", txn(ifs(cmp("a", "version", "=", 1)), ops(put("a", "2")), ops(put("a", "3"), get("a"))),
			"rev=4 else {rev=4 put} {rev=4 count=1 [a=3@2/4/3]}",
		},
		{
			"else, to read what is there, takes no revision", txn(ifs(cmp("a", "mod", "=", 2)), ops(put("a", "4")), ops(get("a"))),
			"rev=4 else {rev=4 count=1 [a=3@2/4/3]}",
		},
		{"an empty branch takes none", txn(ifs(cmp("a", "mod", "=", 2)), ops(put("a", "4")), nil), "rev=4 else"},
		{"deleting nothing takes none", txn(nil, ops(del("x"), delRange("x", "z")), nil), "rev=4 then {rev=4 deleted=0} {rev=4 deleted=0}"},
		{
			"reading takes none", txn(nil, ops(get("a"), at(3, get("a")), list("a", "\x00")), nil),
			"rev=4 then {rev=4 count=1 [a=3@2/4/3]} {rev=4 count=1 [a=2@2/3/2]} {rev=4 count=2 [a=3@2/4/3 b=1@2/2/1]}",
		},
		{"a create", txn(ifs(cmp("n", "mod", "=", 0)), ops(put("n", "1")), nil), "rev=5 then {rev=5 put}"},
		{"an update", txn(ifs(cmp("n", "mod", "=", 5)), ops(put("n", "2")), ops(get("n"))), "rev=6 then {rev=6 put}"},
		{"a delete", txn(ifs(cmp("n", "mod", "=", 6)), ops(del("n")), ops(get("n"))), "rev=7 then {rev=7 deleted=1}"},
		{"an update of what is gone", txn(ifs(cmp("n", "mod", "=", 6)), ops(put("n", "3")), ops(get("n"))), "rev=7 else {rev=7 count=0 []}"},

		// Reads see what the transaction has written before them.
		{
			"reads see writes before them", txn(nil, ops(get("a"), put("a", "5"), get("a"), del("b"), list("a", "c")), nil),
			"rev=8 then {rev=7 count=1 [a=3@2/4/3]} {rev=8 put} {rev=8 count=1 [a=5@2/8/4]} {rev=8 deleted=1} {rev=8 count=1 [a=5@2/8/4]}",
		},
		{
			"previous keys do too", txn(nil, ops(
				&pb.PutRequest{Key: b("a"), Value: b("6"), PrevKv: true},
				&pb.DeleteRangeRequest{Key: b("b"), PrevKv: true},
				&pb.PutRequest{Key: b("b"), Value: b("6"), PrevKv: true}), nil),
			"InvalidArgument: etcdserver: duplicate key given in txn request",
		},
		{
			"previous keys", txn(nil, ops(&pb.PutRequest{Key: b("a"), Value: b("6"), PrevKv: true}, &pb.DeleteRangeRequest{Key: b("b"), PrevKv: true}), nil),
			"rev=9 then {rev=9 put prev=a=5@2/8/4} {rev=9 deleted=0}",
		},
		{
			"two deletions may overlap", txn(nil, ops(del("a"), delRange("a", "c"), list("a", "c")), nil),
			"rev=10 then {rev=10 deleted=1} {rev=10 deleted=0} {rev=10 count=0 []}",
		},
		{
			"limits and orders work inside", txn(nil, ops(put("p", "1"), put("q", "2"), put("r", "3"),
				sorted(pb.RangeRequest_KEY, pb.RangeRequest_DESCEND, 2), &pb.RangeRequest{Key: b("p"), RangeEnd: b("s"), CountOnly: true}), nil),
			"rev=11 then {rev=11 put} {rev=11 put} {rev=11 put} {rev=11 count=3 more [r=3@11/11/1 q=2@11/11/1]} {rev=11 count=3 []}",
		},

		// A transaction that cannot be done whole is not done at all.
		{"a value that cannot stay", txn(nil, ops(put("w", "1"), missing), nil), notFound},
		{"in the branch that is not taken", txn(nil, ops(put("w", "1")), ops(missing)), "rev=12 then {rev=12 put}"},
		{"a lease that does not exist", txn(nil, ops(put("w", "2"), &pb.PutRequest{Key: b("v"), Lease: 9}), nil), "NotFound: etcdserver: requested lease not found"},
		{"a read of the future", txn(nil, ops(put("w", "2"), at(99, get("a"))), nil), "OutOfRange: etcdserver: mvcc: required revision is a future revision"},
		{"the revision that it would take is the future", txn(nil, ops(put("w", "2"), at(13, get("a"))), nil), "OutOfRange: etcdserver: mvcc: required revision is a future revision"},
		{"none of them has left a trace", get("w"), "rev=12 count=1 [w=1@12/12/1]"},

		// Checks come before the comparison and see both branches.
		{"a read without a key", txn(nil, nil, ops(&pb.RangeRequest{})), noKey},
		{"a put without a key", txn(nil, nil, ops(put("", ""))), noKey},
		{"a deletion without a key", txn(nil, nil, ops(del(""))), noKey},
		{"an unknown order", txn(nil, nil, ops(sorted(pb.RangeRequest_KEY, 9, 0))), "InvalidArgument: etcdserver: invalid sort option"},
		{"a value twice", txn(nil, nil, ops(&pb.PutRequest{Key: b("k"), Value: b("1"), IgnoreValue: true})), "InvalidArgument: etcdserver: value is provided"},
		{"a lease twice", txn(nil, nil, ops(&pb.PutRequest{Key: b("k"), Lease: 1, IgnoreLease: true})), "InvalidArgument: etcdserver: lease is provided"},
		{"an operation that is none", txn(nil, []*pb.RequestOp{{}}, nil), notFound},
	})
}

func TestTxnNested(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.must(t, put("a", "1"), "rev=2")
	tell(t, m, []step{
		{
			"a transaction in a transaction", txn(nil, ops(put("b", "1"), txn(ifs(cmp("a", "version", "=", 1)), ops(put("c", "1"), get("b")), ops(put("d", "1"))), get("c")), nil),
			"rev=3 then {rev=3 put} {then {rev=3 put} {rev=3 count=1 [b=1@3/3/1]}} {rev=3 count=1 [c=1@3/3/1]}",
		},
		{
			"its else", txn(nil, ops(txn(ifs(cmp("a", "version", "=", 9)), ops(put("c", "2")), ops(put("d", "1")))), nil),
			"rev=4 then {else {rev=4 put}}",
		},
		{
			"its comparisons are made before anything is written", txn(nil, ops(put("e", "1"), txn(ifs(cmp("e", "version", "=", 0)), ops(get("e")), nil)), nil),
			"rev=5 then {rev=5 put} {then {rev=5 count=1 [e=1@5/5/1]}}",
		},
		{
			"three deep", txn(nil, ops(txn(nil, ops(txn(ifs(cmp("x", "version", ">", 0)), nil, ops(put("f", "1")))), nil), get("f")), nil),
			"rev=6 then {then {else {rev=6 put}}} {rev=6 count=1 [f=1@6/6/1]}",
		},
		{
			"side by side", txn(nil, ops(txn(ifs(cmp("x", "version", ">", 0)), nil, ops(put("g", "1"))), txn(nil, ops(put("h", "1")), nil)), nil),
			"rev=7 then {else {rev=7 put}} {then {rev=7 put}}",
		},
		{"reads alone take no revision", txn(nil, ops(txn(nil, ops(get("g")), nil)), nil), "rev=7 then {then {rev=7 count=1 [g=1@7/7/1]}}"},
		{"nor does an empty one", txn(nil, ops(txn(nil, nil, nil)), nil), "rev=7 then {then}"},
		{
			"what fails inside fails all", txn(nil, ops(put("a", "9"), txn(nil, ops(&pb.PutRequest{Key: b("none"), IgnoreValue: true}), nil)), nil),
			"InvalidArgument: etcdserver: key not found",
		},
		{"checks reach inside", txn(nil, ops(txn(nil, nil, ops(put("", "")))), nil), "InvalidArgument: etcdserver: key is not provided"},
		{"so do those of comparisons", txn(nil, ops(txn(ifs(cmp("", "version", "=", 0)), nil, nil)), nil), "InvalidArgument: etcdserver: key is not provided"},
		{"nothing has changed", get("a"), "rev=7 count=1 [a=1@2/2/1]"},
	})
}

// No key may be written twice in one transaction, and none both put and
// deleted; two branches of which only one can be taken do not count together.
func TestTxnDuplicateKey(t *testing.T) {
	t.Parallel()
	m := start(t)
	const duplicate = "InvalidArgument: etcdserver: duplicate key given in txn request"
	nested := func(then, els []*pb.RequestOp) *pb.TxnRequest { return txn(nil, then, els) }
	k := func() proto.Message { return put("k", "1") }
	tell(t, m, []step{
		{"two puts", txn(nil, ops(k(), k()), nil), duplicate},
		{"in the branch that is not taken", txn(nil, nil, ops(k(), k())), duplicate},
		{"one in each branch", txn(nil, ops(k()), ops(k())), "rev=2 then {rev=2 put}"},
		{"a put and a deletion", txn(nil, ops(k(), del("k")), nil), duplicate},
		{"a deletion and a put", txn(nil, ops(del("k"), k()), nil), duplicate},
		{"a put in a deleted interval", txn(nil, ops(delRange("a", "z"), k()), nil), duplicate},
		{"a put at its end", txn(nil, ops(delRange("a", "k"), k()), nil), "rev=3 then {rev=2 deleted=0} {rev=3 put}"},
		{"a put at its beginning", txn(nil, ops(delRange("k", "l"), k()), nil), duplicate},
		{"a put just behind a deleted key", txn(nil, ops(del("k"), put("k\x00", "1")), nil), "rev=4 then {rev=4 deleted=1} {rev=4 put}"},
		{"deletions of one interval", txn(nil, ops(delRange("a", "l"), delRange("b", "z")), nil), "rev=5 then {rev=5 deleted=1} {rev=5 deleted=0}"},

		{"inside and outside", txn(nil, ops(k(), nested(ops(k()), nil)), nil), duplicate},
		{"inside, in the branch that is not taken", txn(nil, ops(k(), nested(nil, ops(k()))), nil), duplicate},
		{"in both branches inside", txn(nil, ops(nested(ops(k()), ops(k()))), nil), "rev=6 then {then {rev=6 put}}"},
		{"in two side by side", txn(nil, ops(nested(ops(k()), nil), nested(ops(k()), nil)), nil), duplicate},
		{"in two side by side, in branches apart", txn(nil, ops(nested(ops(k()), nil), nested(nil, ops(k()))), nil), duplicate},
		{"deleted outside, put inside", txn(nil, ops(delRange("a", "z"), nested(ops(k()), nil)), nil), duplicate},
		{"deleted outside, put inside in the other branch", txn(nil, ops(delRange("a", "z"), nested(nil, ops(k()))), nil), duplicate},
		{"put outside, deleted inside", txn(nil, ops(k(), nested(ops(delRange("a", "z")), nil)), nil), duplicate},
		{"put outside, deleted inside in the other branch", txn(nil, ops(k(), nested(nil, ops(del("k")))), nil), duplicate},
		{"deleted inside one, put inside the next", txn(nil, ops(nested(ops(del("k")), nil), nested(ops(k()), nil)), nil), duplicate},
		{"put and deleted three deep", txn(nil, ops(nested(ops(nested(ops(del("k"), k()), nil)), nil)), nil), duplicate},
		{"nothing of it has happened", list("\x00", "\x00"), "rev=6 count=1 [k=1@6/6/1]"},
	})
}

// With k there, etcd 3.7.3 lets these through its check, because it takes the
// interval from a to \0 for an empty one; then it dies while applying them, and
// again at each start.
func TestTxnDuplicateKeyFromKeyOn(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	m.must(t, put("k", "1"), "rev=2")
	const duplicate = "InvalidArgument: etcdserver: duplicate key given in txn request"
	m.must(t, txn(nil, ops(delRange("a", "\x00"), &pb.PutRequest{Key: b("k"), IgnoreValue: true}), nil), duplicate)
	m.must(t, txn(nil, ops(delRange("a", "\x00"), &pb.PutRequest{Key: b("k"), IgnoreLease: true}), nil), duplicate)
	m.must(t, txn(nil, ops(delRange("a", "\x00"), txn(nil, ops(&pb.PutRequest{Key: b("k"), IgnoreValue: true}), nil)), nil), duplicate)
	m.must(t, txn(nil, ops(delRange("b", "\x00"), put("a", "1")), nil), "rev=3 then {rev=3 deleted=1} {rev=3 put}")
	m.must(t, list("\x00", "\x00"), "rev=3 count=1 [a=1@3/3/1]")
	require.NoError(t, m.Kill())
	require.NoError(t, m.Restart(t.Context()))
	m.must(t, list("\x00", "\x00"), "rev=3 count=1 [a=1@3/3/1]")
}

func TestTxnMaxOps(t *testing.T) {
	t.Parallel()
	m := start(t)
	const (
		most    = 128
		tooMany = "InvalidArgument: etcdserver: too many operations in txn request"
	)
	reads := func(n int) []*pb.RequestOp { return slices.Repeat(ops(get("x")), n) }
	compares := func(n int) []*pb.Compare { return slices.Repeat(ifs(cmp("x", "version", "=", 0)), n) }
	puts := func(n int) (all []*pb.RequestOp) {
		for i := range n {
			all = append(all, op(put(fmt.Sprintf("k%03d", i), "1")))
		}
		return all
	}
	tell(t, m, []step{
		{"129 comparisons", txn(compares(most+1), nil, nil), tooMany},
		{"129 operations", txn(nil, reads(most+1), nil), tooMany},
		{"129 other operations", txn(nil, nil, reads(most+1)), tooMany},
		{"129 puts", txn(nil, puts(most+1), nil), tooMany},
		{"128 comparisons", txn(compares(most), nil, nil), "rev=1 then"},
		{"the depth counts too: 1 and 128", txn(nil, ops(txn(nil, reads(most), nil)), nil), tooMany},
		{"64 and 65", txn(nil, append(ops(txn(nil, reads(65), nil)), reads(63)...), nil), tooMany},
		{"128 at once", txn(compares(most), ops(delRange("\x00", "\x00")), reads(most)), "rev=1 then {rev=1 deleted=0}"},
	})
	t.Run("128 puts", func(t *testing.T) {
		once(t)
		m.must(t, txn(nil, puts(most), nil), "rev=2 then"+repeat(" {rev=2 put}", most))
	})
	t.Run("1 and 127", func(t *testing.T) {
		once(t)
		m.must(t, txn(nil, ops(txn(nil, reads(most-1), nil)), nil), "rev=2 then {then"+repeat(" {rev=2 count=0 []}", most-1)+"}")
	})
}

func repeat(s string, n int) (all string) {
	for range n {
		all += s
	}
	return all
}
