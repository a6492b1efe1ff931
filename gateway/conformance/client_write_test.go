package conformance

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestPut(t *testing.T) {
	t.Parallel()
	m := start(t)
	const (
		notFound = "InvalidArgument: etcdserver: key not found"
		noLease  = "NotFound: etcdserver: requested lease not found"
	)
	tell(t, m, []step{
		{"a key is created", put("k", "1"), "rev=2"},
		{"with create revision, mod revision and version", get("k"), "rev=2 count=1 [k=1@2/2/1]"},
		{"and overwritten", put("k", "2"), "rev=3"},
		{"which keeps the create revision", get("k"), "rev=3 count=1 [k=2@2/3/2]"},
		{"the same value again is a write", put("k", "2"), "rev=4"},
		{"which counts", get("k"), "rev=4 count=1 [k=2@2/4/3]"},

		{"the previous key if asked", &pb.PutRequest{Key: b("k"), Value: b("3"), PrevKv: true}, "rev=5 prev=k=2@2/4/3"},
		{"none of a new key", &pb.PutRequest{Key: b("new"), Value: b("1"), PrevKv: true}, "rev=6"},

		{"a deletion", del("k"), "rev=7 deleted=1"},
		{"none of a deleted key either", &pb.PutRequest{Key: b("k"), Value: b("4"), PrevKv: true}, "rev=8"},
		{"which starts again", get("k"), "rev=8 count=1 [k=4@8/8/1]"},

		{"an empty value is a value", put("empty", ""), "rev=9"},
		{"and is there", get("empty"), "rev=9 count=1 [empty=@9/9/1]"},
		{"a key may be any bytes", put("\x00\xff/\x00", "z"), "rev=10"},
		{"such as these", list("\x00", "\x01"), "rev=10 count=1 [\\0\xff/\\0=z@10/10/1]"},

		{"without a key", put("", "v"), "InvalidArgument: etcdserver: key is not provided"},

		{"the value may stay", &pb.PutRequest{Key: b("k"), IgnoreValue: true}, "rev=11"},
		{"which is a write like any other", get("k"), "rev=11 count=1 [k=4@8/11/2]"},
		{"but not be given too", &pb.PutRequest{Key: b("k"), Value: b("5"), IgnoreValue: true}, "InvalidArgument: etcdserver: value is provided"},
		{"nor stay where there is none", &pb.PutRequest{Key: b("none"), IgnoreValue: true}, notFound},
		{"nor where it was deleted", &pb.PutRequest{Key: b("none"), IgnoreValue: true, PrevKv: true}, notFound},

		{"a lease", &pb.LeaseGrantRequest{ID: 7, TTL: 1000}, "rev=11 lease=7 ttl=1000"},
		{"another", &pb.LeaseGrantRequest{ID: 8, TTL: 1000}, "rev=11 lease=8 ttl=1000"},
		{"a key with a lease", &pb.PutRequest{Key: b("k"), Value: b("5"), Lease: 7}, "rev=12"},
		{"shows it", get("k"), "rev=12 count=1 [k=5@8/12/3/lease7]"},
		{"the lease may stay", &pb.PutRequest{Key: b("k"), Value: b("6"), IgnoreLease: true}, "rev=13"},
		{"as it is", get("k"), "rev=13 count=1 [k=6@8/13/4/lease7]"},
		{"both may stay", &pb.PutRequest{Key: b("k"), IgnoreLease: true, IgnoreValue: true}, "rev=14"},
		{"as they are", get("k"), "rev=14 count=1 [k=6@8/14/5/lease7]"},
		{"a lease that stays may not be given too", &pb.PutRequest{Key: b("k"), Value: b("6"), IgnoreLease: true, Lease: 8}, "InvalidArgument: etcdserver: lease is provided"},
		{"nor stay where there is no key", &pb.PutRequest{Key: b("none"), Value: b("6"), IgnoreLease: true}, notFound},
		{"another lease takes over", &pb.PutRequest{Key: b("k"), Value: b("7"), Lease: 8, PrevKv: true}, "rev=15 prev=k=6@8/14/5/lease7"},
		{"the key has left the one", &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true}, "rev=15 lease=7 granted=1000 alive keys=[]"},
		{"and joined the other", &pb.LeaseTimeToLiveRequest{ID: 8, Keys: true}, "rev=15 lease=8 granted=1000 alive keys=[k]"},
		{"no lease is no lease", put("k", "8"), "rev=16"},
		{"so the key has left that too", &pb.LeaseTimeToLiveRequest{ID: 8, Keys: true}, "rev=16 lease=8 granted=1000 alive keys=[]"},
		{"a lease that does not exist", &pb.PutRequest{Key: b("k"), Value: b("9"), Lease: 9}, noLease},
		{"what was refused has left no trace", list("\x00", "\x00"), "rev=16 count=4 [\\0\xff/\\0=z@10/10/1 empty=@9/9/1 k=8@8/16/7 new=1@6/6/1]"},
	})
}

func TestDeleteRange(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.fixture(t) // a=9@10/10/1 b=8@3/5/3 c=3@2/11/2 d=4@6/9/4
	tell(t, m, []step{
		{"a key that is not there", del("x"), "rev=13 deleted=0"},
		{"a key that was deleted before", del("e"), "rev=13 deleted=0"},
		{"an empty interval", delRange("b", "b"), "rev=13 deleted=0"},
		{"a reversed interval", delRange("c", "b"), "rev=13 deleted=0"},
		{"nothing, with previous keys", &pb.DeleteRangeRequest{Key: b("x"), PrevKv: true}, "rev=13 deleted=0"},
		{"without a key", &pb.DeleteRangeRequest{RangeEnd: b("z")}, "InvalidArgument: etcdserver: key is not provided"},
		{"none of them took a revision", list("a", "z"), "rev=13 count=4 " + allKeys},

		{"one key", &pb.DeleteRangeRequest{Key: b("a"), PrevKv: true}, "rev=14 deleted=1 prev=[" + keyA + "]"},
		{"an interval, at one revision", &pb.DeleteRangeRequest{Key: b("b"), RangeEnd: b("d"), PrevKv: true}, "rev=15 deleted=2 prev=[" + keyB + " " + keyC + "]"},
		{"what remains", list("\x00", "\x00"), "rev=15 count=1 [" + keyD + "]"},
		{"what was", at(14, list("\x00", "\x00")), "rev=15 count=3 [" + keyB + " " + keyC + " " + keyD + "]"},
		{"more keys", put("f", "1"), "rev=16"},
		{"and more", put("e", "1"), "rev=17"},
		{"from a key on", delRange("e", "\x00"), "rev=18 deleted=2"},
		{"everything", delRange("\x00", "\x00"), "rev=19 deleted=1"},
		{"everything of nothing", delRange("\x00", "\x00"), "rev=19 deleted=0"},
		{"nothing remains", list("\x00", "\x00"), "rev=19 count=0 []"},
	})
}

func TestCompact(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.fixture(t) // e was put at 12 and deleted at 13.
	const (
		compacted = "OutOfRange: etcdserver: mvcc: required revision has been compacted"
		future    = "OutOfRange: etcdserver: mvcc: required revision is a future revision"
	)
	tell(t, m, []step{
		{"the future", compact(14), future},
		{"a past revision", compact(5), "rev=13"},
		{"the same again", compact(5), compacted},
		{"an earlier one", compact(4), compacted},
		{"revision 0", compact(0), compacted},
		{"a negative revision", compact(-1), compacted},
		{"before it nothing can be read", at(4, list("a", "z")), compacted},
		{"not even what is not there", at(4, get("x")), compacted},
		{"nor counted", at(4, &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), CountOnly: true}), compacted},
		{"nor read by a transaction", txn(nil, ops(at(4, get("b"))), nil), compacted},
		{"at it everything can", at(5, list("a", "z")), "rev=13 count=2 [b=8@3/5/3 c=7@2/2/1]"},
		{"after it too", at(7, list("a", "z")), "rev=13 count=3 [b=8@3/5/3 c=7@2/2/1 d=2@6/7/2]"},
		{"the present is as it was", list("a", "z"), "rev=13 count=4 " + allKeys},

		{"to the end, and wait for it", &pb.CompactionRequest{Revision: 13, Physical: true}, "rev=13"},
		{"just before it", at(12, list("a", "z")), compacted},
		{"at it", at(13, list("a", "z")), "rev=13 count=4 " + allKeys},
		{"versions and create revisions stay", list("a", "z"), "rev=13 count=4 " + allKeys},
		{"the next write is the next revision", put("e", "1"), "rev=14"},
		{"and begins the deleted key again", get("e"), "rev=14 count=1 [e=1@14/14/1]"},
		{"a write to an old key goes on", put("d", "5"), "rev=15"},
		{"from its version", get("d"), "rev=15 count=1 [d=5@6/15/5]"},
	})
	t.Run("a stream before it", func(t *testing.T) {
		once(t)
		if got := m.stream(t, at(12, list("a", "z"))); got != compacted {
			t.Errorf("want: %s\n got: %s", compacted, got)
		}
	})
}

// A request may have 1.5 MiB; gRPC takes half a MiB more before it refuses to
// read on.
func TestRequestSize(t *testing.T) {
	t.Parallel()
	m := start(t)
	const limit = 3 << 19
	tell(t, m, []step{
		{"almost 1.5 MiB", put("k", string(make([]byte, limit-1024))), "rev=2"},
		{"with its key more than 1.5 MiB", put("k", string(make([]byte, limit))), "InvalidArgument: etcdserver: request is too large"},
		{"in a transaction", txn(nil, ops(put("a", string(make([]byte, limit/2))), put("b", string(make([]byte, limit/2)))), nil), "InvalidArgument: etcdserver: request is too large"},
		{"more than gRPC takes", &pb.PutRequest{Key: b("k"), Value: make([]byte, limit+1<<19-5)}, "ResourceExhausted: grpc: received message larger than max (2097154 vs. 2097152)"},
		{"what was refused has left no trace", get("k"), "rev=2 count=1 [k=(1571840 bytes)@2/2/1]"},
	})
}
