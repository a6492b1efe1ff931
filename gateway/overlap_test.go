package gateway

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestCheckOverlaps(t *testing.T) {
	filler := make(ops, 0, smallTxn)
	for i := range smallTxn {
		filler = append(filler, opPut(fmt.Sprint("0filler", i)))
	}
	for _, c := range []struct {
		name string
		list ops
		ok   bool
	}{
		{"nothing", nil, true},
		{"two keys", ops{opPut("a"), opPut("b")}, true},
		{"a key twice", ops{opPut("a"), opPut("a")}, false},
		{"put, delete", ops{opPut("a"), opDel("a", "")}, false},
		{"delete, put", ops{opDel("a", ""), opPut("a")}, false},
		{"put, delete of a range", ops{opPut("b"), opDel("a", "c")}, false},
		{"put at a range's start", ops{opPut("a"), opDel("a", "c")}, false},
		{"put at a range's end", ops{opPut("c"), opDel("a", "c")}, true},
		{"put before a range", ops{opPut("A"), opDel("a", "c")}, true},
		{"put just after a key", ops{opPut("a\x00"), opDel("a", "")}, true},
		{"an end before the start", ops{opPut("b"), opDel("c", "a")}, true},
		{"no end: the put that fells etcd", ops{opDel("a", "\x00"), opPut("k")}, false},
		{"no end, put before", ops{opDel("b", "\x00"), opPut("a")}, true},
		{"everything", ops{opDel("\x00", "\x00"), opPut("a")}, false},
		{"deletes overlap", ops{opDel("a", ""), opDel("a", "z"), opDel("a", "\x00")}, true},
		{"ranges overlap", ops{opRange("a", "z"), opPut("b"), opRange("a", "z")}, true},

		{"nested put", ops{opPut("a"), opTxn(ops{opPut("a")}, nil)}, false},
		{"nested put in else", ops{opPut("a"), opTxn(nil, ops{opPut("a")})}, false},
		{"nested delete", ops{opPut("b"), opTxn(nil, ops{opDel("a", "c")})}, false},
		{"delete around nested put", ops{opDel("a", "c"), opTxn(nil, ops{opPut("b")})}, false},
		{"then or else put", ops{opTxn(ops{opPut("a")}, ops{opPut("a")})}, true},
		{"then put, else delete", ops{opTxn(ops{opPut("a")}, ops{opDel("a", "")})}, true},
		{"then delete, else put", ops{opTxn(ops{opDel("a", "")}, ops{opPut("a")})}, true},
		{"then or else, and another", ops{opTxn(ops{opPut("a")}, ops{opPut("a")}), opPut("a")}, false},
		{"two nested puts", ops{opTxn(ops{opPut("a")}, nil), opTxn(nil, ops{opPut("a")})}, false},
		{"nested delete, nested put", ops{opTxn(ops{opDel("a", "")}, nil), opTxn(ops{opPut("a")}, nil)}, false},
		{"nested put, nested delete, which etcd lets pass", ops{opTxn(ops{opPut("a")}, nil), opTxn(ops{opDel("a", "")}, nil)}, false},
		{"own branch and a farther delete", ops{
			opTxn(ops{opPut("m")}, ops{opDel("a", "z")}), opDel("a", "c"), opTxn(nil, ops{opDel("b", "n")}),
		}, false},
		{"own branch only", ops{opTxn(ops{opPut("m")}, ops{opDel("a", "z")}), opDel("a", "c")}, true},
	} {
		want := rpctypes.ErrGRPCDuplicateKey
		if c.ok {
			want = nil
		}
		require.Equal(t, want, checkOverlaps(c.list), c.name)
		// The other of the two ways to examine a list.
		require.Equal(t, want, checkOverlaps(append(filler[:len(filler):len(filler)], c.list...)), c.name)
	}
}

// A change is one put or delete, with the branches that lead to it: txn names
// a nested transaction and branch which of its two.
type change struct {
	put, end []byte // put, or start and end of a delete
	isPut    bool
	path     []step
}

type step struct {
	txn    *pb.TxnRequest
	branch int
}

func allChanges(list ops, path []step) (all []change) {
	for _, op := range list {
		switch u := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			all = append(all, change{put: u.RequestPut.Key, isPut: true, path: path})
		case *pb.RequestOp_RequestDeleteRange:
			all = append(all, change{put: u.RequestDeleteRange.Key, end: u.RequestDeleteRange.RangeEnd, path: path})
		case *pb.RequestOp_RequestTxn:
			for i, branch := range []ops{u.RequestTxn.Success, u.RequestTxn.Failure} {
				inner := append(path[:len(path):len(path)], step{u.RequestTxn, i})
				all = append(all, allChanges(branch, inner)...)
			}
		}
	}
	return all
}

// collide says whether both can run and change a key twice.
func collide(a, b change) bool {
	for i := range min(len(a.path), len(b.path)) {
		if a.path[i].txn != b.path[i].txn {
			break
		}
		if a.path[i].branch != b.path[i].branch {
			return false
		}
	}
	switch {
	case a.isPut && b.isPut:
		return bytes.Equal(a.put, b.put)
	case a.isPut:
		return covers(b, a.put)
	case b.isPut:
		return covers(a, b.put)
	default:
		return false
	}
}

func covers(del change, key []byte) bool {
	switch {
	case len(del.end) == 0:
		return bytes.Equal(del.put, key)
	case string(del.end) == "\x00":
		return bytes.Compare(del.put, key) <= 0
	default:
		return bytes.Compare(del.put, key) <= 0 && bytes.Compare(key, del.end) < 0
	}
}

// overlapsByDefinition compares each change with each.
func overlapsByDefinition(list ops) bool {
	all := allChanges(list, nil)
	for i := range all {
		for j := range i {
			if collide(all[i], all[j]) {
				return true
			}
		}
	}
	return false
}

// TestCheckOverlapsAgainstDefinition compares with the definition on random
// lists: few changes over many keys, so that both answers are frequent.
func TestCheckOverlapsAgainstDefinition(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	key := func() string { return string(rune('a' + rnd.IntN(20))) }
	var list func(depth int) ops
	list = func(depth int) (l ops) {
		for range rnd.IntN(4) {
			switch n := rnd.IntN(10); {
			case n < 4:
				l = append(l, opPut(key()))
			case n < 6:
				l = append(l, opDel(key(), ""))
			case n == 6:
				l = append(l, opDel(key(), key()))
			case n == 7 && rnd.IntN(3) == 0:
				l = append(l, opDel(key(), "\x00"))
			case depth > 0:
				l = append(l, opTxn(list(depth-1), list(depth-1)))
			}
		}
		return l
	}
	refused := 0
	const rounds = 20_000
	for range rounds {
		l := list(3)
		want := overlapsByDefinition(l)
		if got := checkOverlaps(l) != nil; got != want {
			t.Fatalf("refused: %t, want %t: %v", got, want, (&pb.TxnRequest{Success: l}).String())
		}
		if want {
			refused++
		}
	}
	require.Greater(t, refused, rounds/20)
	require.Less(t, refused, rounds*19/20)
}

func BenchmarkCheckTxnKubernetes(b *testing.B) {
	txn := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("/registry/pods/ns/name")}},
		Success: ops{opPut("/registry/pods/ns/name")},
		Failure: ops{opRange("/registry/pods/ns/name", "")},
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := checkTxn(txn, 128); err != nil {
			b.Fatal(err)
		}
		toTxn(txn)
	}
}
