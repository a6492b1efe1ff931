package conformance

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fixture writes keys whose orders by key, version, create revision, mod
// revision and value are five different ones. It ends at revision 13 with
//
//	a=9@10/10/1 b=8@3/5/3 c=3@2/11/2 d=4@6/9/4
//
// and e, which was put at 12 and deleted at 13.
func (m *member) fixture(t *testing.T) {
	t.Helper()
	rev := 1
	for _, kv := range []string{"c7", "b5", "b1", "b8", "d1", "d2", "d3", "d4", "a9", "c3", "e0"} {
		rev++
		m.must(t, put(kv[:1], kv[1:]), fmt.Sprintf("rev=%d", rev))
	}
	m.must(t, del("e"), "rev=13 deleted=1")
}

const (
	keyA = "a=9@10/10/1"
	keyB = "b=8@3/5/3"
	keyC = "c=3@2/11/2"
	keyD = "d=4@6/9/4"

	allKeys = "[" + keyA + " " + keyB + " " + keyC + " " + keyD + "]"
)

func sorted(by pb.RangeRequest_SortTarget, order pb.RangeRequest_SortOrder, limit int64) *pb.RangeRequest {
	return &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), SortTarget: by, SortOrder: order, Limit: limit}
}

func TestFreshStore(t *testing.T) {
	t.Parallel()
	m := start(t)
	tell(t, m, []step{
		{"a fresh store is at revision 1", get("x"), "rev=1 count=0 []"},
		{"deleting nothing takes no revision", delRange("\x00", "\x00"), "rev=1 deleted=0"},
		{"a lease takes no revision", &pb.LeaseGrantRequest{ID: 7, TTL: 100}, "rev=1 lease=7 ttl=100"},
		{"the first write is revision 2", put("x", "1"), "rev=2"},
		{"the second is 3", put("x", "2"), "rev=3"},
	})
}

func TestRange(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.fixture(t)
	const (
		key, version, create = pb.RangeRequest_KEY, pb.RangeRequest_VERSION, pb.RangeRequest_CREATE
		mod, value           = pb.RangeRequest_MOD, pb.RangeRequest_VALUE

		none, ascend, descend = pb.RangeRequest_NONE, pb.RangeRequest_ASCEND, pb.RangeRequest_DESCEND
	)
	tell(t, m, []step{
		// Which keys.
		{"one key", get("b"), "rev=13 count=1 [" + keyB + "]"},
		{"a key that is not there", get("bb"), "rev=13 count=0 []"},
		{"a key that was deleted", get("e"), "rev=13 count=0 []"},
		{"an interval is half open", list("b", "d"), "rev=13 count=2 [" + keyB + " " + keyC + "]"},
		{"its bounds need not exist", list("aa", "cc"), "rev=13 count=2 [" + keyB + " " + keyC + "]"},
		{"an empty interval", list("b", "b"), "rev=13 count=0 []"},
		{"a reversed interval is empty", list("c", "b"), "rev=13 count=0 []"},
		{"an end of \\0 means no end", list("c", "\x00"), "rev=13 count=2 [" + keyC + " " + keyD + "]"},
		{"\\0 to \\0 is everything", list("\x00", "\x00"), "rev=13 count=4 " + allKeys},
		{"\\0 is a key as well", get("\x00"), "rev=13 count=0 []"},
		{"the prefix b", list("b", "c"), "rev=13 count=1 [" + keyB + "]"},
		{"without a key", &pb.RangeRequest{RangeEnd: b("z")}, "InvalidArgument: etcdserver: key is not provided"},

		// How many.
		{"limit", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), Limit: 2}, "rev=13 count=4 more [" + keyA + " " + keyB + "]"},
		{"a limit of exactly all", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), Limit: 4}, "rev=13 count=4 " + allKeys},
		{"a limit of more than all", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), Limit: 5}, "rev=13 count=4 " + allKeys},
		{"the next page counts the rest", &pb.RangeRequest{Key: b("b\x00"), RangeEnd: b("z"), Limit: 1}, "rev=13 count=2 more [" + keyC + "]"},
		{"a negative limit is none", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), Limit: -1}, "rev=13 count=4 " + allKeys},
		{"count only", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), CountOnly: true}, "rev=13 count=4 []"},
		{"count only ignores the limit", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), CountOnly: true, Limit: 1}, "rev=13 count=4 []"},
		{"count only of one key", &pb.RangeRequest{Key: b("a"), CountOnly: true}, "rev=13 count=1 []"},
		{"keys only", &pb.RangeRequest{Key: b("a"), RangeEnd: b("c"), KeysOnly: true}, "rev=13 count=2 [a=@10/10/1 b=@3/5/3]"},
		{"keys only with a limit", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), KeysOnly: true, Limit: 1}, "rev=13 count=4 more [a=@10/10/1]"},
		{"keys only of nothing", &pb.RangeRequest{Key: b("x"), RangeEnd: b("z"), KeysOnly: true}, "rev=13 count=0 []"},
		{"count only wins over keys only", &pb.RangeRequest{Key: b("a"), RangeEnd: b("c"), KeysOnly: true, CountOnly: true}, "rev=13 count=2 []"},

		// When.
		{"a past revision, under the current one's header", at(4, list("a", "z")), "rev=13 count=2 [b=1@3/4/2 c=7@2/2/1]"},
		{"a key before its first write", at(9, get("a")), "rev=13 count=0 []"},
		{"a key before its deletion", at(12, get("e")), "rev=13 count=1 [e=0@12/12/1]"},
		{"a key at its deletion", at(13, get("e")), "rev=13 count=0 []"},
		{"count at a past revision", at(4, &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), CountOnly: true}), "rev=13 count=2 []"},
		{"page at a past revision", at(12, &pb.RangeRequest{Key: b("c"), RangeEnd: b("\x00"), Limit: 2}), "rev=13 count=3 more [" + keyC + " " + keyD + "]"},
		{"keys at a past revision", at(4, &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), KeysOnly: true}), "rev=13 count=2 [b=@3/4/2 c=@2/2/1]"},
		{"the first revision", at(1, list("\x00", "\x00")), "rev=13 count=0 []"},
		{"a negative revision is the current one", at(-1, get("b")), "rev=13 count=1 [" + keyB + "]"},
		{"a future revision", at(14, get("b")), "OutOfRange: etcdserver: mvcc: required revision is a future revision"},
		{"a serializable read", &pb.RangeRequest{Key: b("b"), Serializable: true}, "rev=13 count=1 [" + keyB + "]"},
		{"a serializable future revision", at(14, &pb.RangeRequest{Key: b("b"), Serializable: true}), "OutOfRange: etcdserver: mvcc: required revision is a future revision"},

		// In which order.
		{"by key, ascending", sorted(key, ascend, 0), "rev=13 count=4 " + allKeys},
		{"by key, descending", sorted(key, descend, 0), "rev=13 count=4 [" + keyD + " " + keyC + " " + keyB + " " + keyA + "]"},
		{"by version, ascending", sorted(version, ascend, 0), "rev=13 count=4 [" + keyA + " " + keyC + " " + keyB + " " + keyD + "]"},
		{"by version, descending", sorted(version, descend, 0), "rev=13 count=4 [" + keyD + " " + keyB + " " + keyC + " " + keyA + "]"},
		{"by create revision, ascending", sorted(create, ascend, 0), "rev=13 count=4 [" + keyC + " " + keyB + " " + keyD + " " + keyA + "]"},
		{"by create revision, descending", sorted(create, descend, 0), "rev=13 count=4 [" + keyA + " " + keyD + " " + keyB + " " + keyC + "]"},
		{"by mod revision, ascending", sorted(mod, ascend, 0), "rev=13 count=4 [" + keyB + " " + keyD + " " + keyA + " " + keyC + "]"},
		{"by mod revision, descending", sorted(mod, descend, 0), "rev=13 count=4 [" + keyC + " " + keyA + " " + keyD + " " + keyB + "]"},
		{"by value, ascending", sorted(value, ascend, 0), "rev=13 count=4 [" + keyC + " " + keyD + " " + keyB + " " + keyA + "]"},
		{"by value, descending", sorted(value, descend, 0), "rev=13 count=4 [" + keyA + " " + keyB + " " + keyD + " " + keyC + "]"},
		{"a target without an order ascends", sorted(mod, none, 0), "rev=13 count=4 [" + keyB + " " + keyD + " " + keyA + " " + keyC + "]"},
		{"the limit cuts what is sorted", sorted(mod, descend, 1), "rev=13 count=4 more [" + keyC + "]"},
		{
			"keys only by value", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), KeysOnly: true, SortTarget: value, SortOrder: descend},
			"rev=13 count=4 [a=@10/10/1 b=@3/5/3 d=@6/9/4 c=@2/11/2]",
		},
		{"the newest key", sorted(create, descend, 1), "rev=13 count=4 more [" + keyA + "]"},
		{"sorted at a past revision", at(9, sorted(version, descend, 2)), "rev=13 count=3 more [" + keyD + " " + keyB + "]"},
		{"an unknown order", sorted(key, 9, 0), "InvalidArgument: etcdserver: invalid sort option"},
		{"an unknown target", sorted(9, ascend, 0), "InvalidArgument: etcdserver: invalid sort option"},

		// Filters by revision. They choose the keys, not the count.
		{"min mod revision", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinModRevision: 10}, "rev=13 count=4 [" + keyA + " " + keyC + "]"},
		{"max mod revision", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MaxModRevision: 9}, "rev=13 count=4 [" + keyB + " " + keyD + "]"},
		{"min create revision", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinCreateRevision: 6}, "rev=13 count=4 [" + keyA + " " + keyD + "]"},
		{"max create revision", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MaxCreateRevision: 3}, "rev=13 count=4 [" + keyB + " " + keyC + "]"},
		{
			"all four", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinModRevision: 5, MaxModRevision: 9, MinCreateRevision: 3, MaxCreateRevision: 5},
			"rev=13 count=4 [" + keyB + "]",
		},
		{"a filter with a limit", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinModRevision: 9, Limit: 2}, "rev=13 count=4 more [" + keyA + " " + keyC + "]"},
		{"a filter with a limit that suffices", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinModRevision: 10, Limit: 2}, "rev=13 count=4 [" + keyA + " " + keyC + "]"},
		{"a filter that leaves nothing", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinModRevision: 12}, "rev=13 count=4 []"},
		{"a filter with count only changes nothing", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinModRevision: 12, CountOnly: true}, "rev=13 count=4 []"},
		{
			"a filter with an order", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MaxModRevision: 10, SortTarget: mod, SortOrder: descend},
			"rev=13 count=4 [" + keyA + " " + keyD + " " + keyB + "]",
		},
		{"a filter at a past revision", at(9, &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinModRevision: 3}), "rev=13 count=3 [" + keyB + " " + keyD + "]"},
	})
}

// stream reads a RangeStream to its end and renders it like a Range, once it
// has checked what the chunks must look like.
func (m *member) stream(t *testing.T, req *pb.RangeRequest) string {
	t.Helper()
	rs, err := pb.NewKVClient(m.conn).RangeStream(within(t), req)
	require.NoError(t, err)
	return m.drain(t, rs, &pb.RangeResponse{})
}

// drain reads the rest of a stream behind what came before.
func (m *member) drain(t *testing.T, rs pb.KV_RangeStreamClient, whole *pb.RangeResponse) string {
	t.Helper()
	for {
		chunk, err := rs.Recv()
		if err != nil {
			if whole.Header == nil {
				return render(m, m.renderRange)(nil, err)
			}
			require.Equal(t, "EOF", err.Error(), "the chunk with the header is the last message")
			return render(m, m.renderRange)(whole, nil)
		}
		r := chunk.RangeResponse
		require.NotNil(t, r)
		require.Nil(t, whole.Header, "the chunk with the header is the last")
		if r.Header == nil {
			require.NotEmpty(t, r.Kvs, "a chunk in the middle has keys")
			require.Zero(t, r.Count, "the count comes with the header")
			require.False(t, r.More, "more comes with the header")
		}
		whole.Header, whole.Count, whole.More = r.Header, r.Count, r.More
		whole.Kvs = append(whole.Kvs, r.Kvs...)
	}
}

func TestRangeStream(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.fixture(t)
	unsupported := func(what string) string { return "Unimplemented: RangeStream does not support " + what }
	for _, s := range []struct {
		name string
		req  *pb.RangeRequest
		want string
	}{
		{"everything", list("\x00", "\x00"), "rev=13 count=4 " + allKeys},
		{"one key", get("b"), "rev=13 count=1 [" + keyB + "]"},
		{"nothing", get("x"), "rev=13 count=0 []"},
		{"by key, ascending, is the order it has", sorted(pb.RangeRequest_KEY, pb.RangeRequest_ASCEND, 0), "rev=13 count=4 " + allKeys},
		{"limit", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), Limit: 2}, "rev=13 count=4 more [" + keyA + " " + keyB + "]"},
		{"a limit of exactly all", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), Limit: 4}, "rev=13 count=4 " + allKeys},
		{"count only", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), CountOnly: true}, "rev=13 count=4 []"},
		{"keys only", &pb.RangeRequest{Key: b("a"), RangeEnd: b("c"), KeysOnly: true}, "rev=13 count=2 [a=@10/10/1 b=@3/5/3]"},
		{"a past revision, under the current one's header", at(4, list("a", "z")), "rev=13 count=2 [b=1@3/4/2 c=7@2/2/1]"},
		{"a serializable read", &pb.RangeRequest{Key: b("b"), Serializable: true}, "rev=13 count=1 [" + keyB + "]"},
		{"a future revision", at(14, get("b")), "OutOfRange: etcdserver: mvcc: required revision is a future revision"},
		{"without a key", &pb.RangeRequest{RangeEnd: b("z")}, "InvalidArgument: etcdserver: key is not provided"},
		{"an unknown order", sorted(pb.RangeRequest_KEY, 9, 0), "InvalidArgument: etcdserver: invalid sort option"},
		{"descending", sorted(pb.RangeRequest_KEY, pb.RangeRequest_DESCEND, 0), unsupported("custom sort orders")},
		{"by value", sorted(pb.RangeRequest_VALUE, pb.RangeRequest_ASCEND, 0), unsupported("custom sort orders")},
		{"min mod revision", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinModRevision: 1}, unsupported("revision filters")},
		{"max mod revision", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MaxModRevision: 1}, unsupported("revision filters")},
		{"min create revision", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MinCreateRevision: 1}, unsupported("revision filters")},
		{"max create revision", &pb.RangeRequest{Key: b("a"), RangeEnd: b("z"), MaxCreateRevision: 1}, unsupported("revision filters")},
	} {
		t.Run(s.name, func(t *testing.T) {
			once(t)
			require.Equal(t, s.want, m.stream(t, s.req))
		})
	}
}

// manyKeys writes n keys k0000... with values of size bytes, a hundred in a
// transaction.
func (m *member) manyKeys(t *testing.T, n, size int) (last int64) {
	t.Helper()
	value := make([]byte, size)
	for i := range value {
		value[i] = 'x'
	}
	for i := 0; i < n; {
		var req pb.TxnRequest
		for bytes := 0; i < n && len(req.Success) < 100 && bytes < 1<<20; i++ {
			req.Success = append(req.Success, op(&pb.PutRequest{Key: fmt.Appendf(nil, "k%04d", i), Value: value}))
			bytes += size
		}
		resp, err := pb.NewKVClient(m.conn).Txn(within(t), &req)
		require.NoError(t, err)
		last = resp.Header.Revision
	}
	return last
}

// A stream of many chunks is the same as one big answer.
func TestRangeStreamLarge(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	const keys = 3000
	rev := m.manyKeys(t, keys, 100)
	kv := pb.NewKVClient(m.conn)
	for _, req := range []*pb.RangeRequest{
		list("k", "l"),
		{Key: b("k"), RangeEnd: b("l"), Limit: 777},
		{Key: b("k1"), RangeEnd: b("\x00"), KeysOnly: true},
		at(rev-10, list("k", "l")),
	} {
		resp, err := kv.Range(within(t), req)
		require.NoError(t, err)
		require.Equal(t, render(m, m.renderRange)(resp, nil), m.stream(t, req), requestText(req))
	}
}

// A stream shows one revision, whatever is written while it is read.
func TestRangeStreamIsASnapshot(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	// More than the flow-control windows hold, so that the server cannot have
	// sent everything before the deletion.
	const keys, size = 100, 100 << 10
	rev := m.manyKeys(t, keys, size)
	whole := m.stream(t, list("k", "l"))

	rs, err := pb.NewKVClient(m.conn).RangeStream(within(t), list("k", "l"))
	require.NoError(t, err)
	first, err := rs.Recv()
	require.NoError(t, err)
	require.Nil(t, first.RangeResponse.Header)

	// On a connection of its own: the other one's window is full.
	other := *m
	other.connect(t)
	other.must(t, delRange("k", "l"), fmt.Sprintf("rev=%d deleted=%d", rev+1, keys))
	other.must(t, put("k0050", "new"), fmt.Sprintf("rev=%d", rev+2))
	require.Equal(t, whole, m.drain(t, rs, first.RangeResponse), "the same keys under the header of the beginning")
}

// The API says that no order is no sorting. etcd sorts each chunk of a stream
// for itself and so loses its place: keys come twice. Refusing is right, and so
// is any order, as long as each key comes once.
func TestRangeStreamTargetWithoutOrder(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	const keys = 50
	m.manyKeys(t, keys, 1)
	for i := range keys { // The younger, the smaller the key.
		m.must(t, put(fmt.Sprintf("k%04d", keys-1-i), "y"), fmt.Sprintf("rev=%d", 3+i))
	}
	rs, err := pb.NewKVClient(m.conn).RangeStream(within(t), sorted(pb.RangeRequest_MOD, pb.RangeRequest_NONE, 0))
	require.NoError(t, err)
	seen := map[string]int{}
	for {
		chunk, err := rs.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if status.Code(err) == codes.Unimplemented {
			return
		}
		require.NoError(t, err)
		for _, kv := range chunk.RangeResponse.Kvs {
			seen[string(kv.Key)]++
		}
		if chunk.RangeResponse.Header != nil {
			require.Equal(t, int64(keys), chunk.RangeResponse.Count)
		}
	}
	require.Len(t, seen, keys)
	for key, n := range seen {
		require.Equal(t, 1, n, key)
	}
}
