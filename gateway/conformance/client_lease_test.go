package conformance

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func renderGrant(r *pb.LeaseGrantResponse) string {
	return fmt.Sprintf("lease=%d ttl=%d", r.ID, r.TTL)
}

// renderTimeToLive says whether the lease is alive, for the time it has left
// depends on how fast the test is; it must lie between nothing and all.
func renderTimeToLive(r *pb.LeaseTimeToLiveResponse) string {
	left := fmt.Sprintf("left=%d", r.TTL)
	if r.TTL >= 0 && r.TTL <= r.GrantedTTL {
		left = "alive"
	}
	var keys []string
	for _, k := range r.Keys {
		keys = append(keys, string(k))
	}
	slices.Sort(keys)
	return fmt.Sprintf("lease=%d granted=%d %s keys=[%s]", r.ID, r.GrantedTTL, left, strings.Join(keys, " "))
}

func renderLeases(r *pb.LeaseLeasesResponse) string {
	var ids []int64
	for _, l := range r.Leases {
		ids = append(ids, l.ID)
	}
	slices.Sort(ids)
	return fmt.Sprintf("leases=%d", ids)
}

func grant(id, ttl int64) *pb.LeaseGrantRequest { return &pb.LeaseGrantRequest{ID: id, TTL: ttl} }

func revoke(id int64) *pb.LeaseRevokeRequest { return &pb.LeaseRevokeRequest{ID: id} }

func putLeased(key, value string, lease int64) *pb.PutRequest {
	return &pb.PutRequest{Key: b(key), Value: b(value), Lease: lease}
}

func ttl(id int64) *pb.LeaseTimeToLiveRequest { return &pb.LeaseTimeToLiveRequest{ID: id, Keys: true} }

func TestLease(t *testing.T) {
	t.Parallel()
	m := start(t)
	const noLease = "NotFound: etcdserver: requested lease not found"
	tell(t, m, []step{
		{"there are none", &pb.LeaseLeasesRequest{}, "rev=1 leases=[]"},
		{"one of a chosen id", grant(7, 100), "rev=1 lease=7 ttl=100"},
		{"the same id again", grant(7, 200), "FailedPrecondition: etcdserver: lease already exists"},
		{"the shortest outlives an election", grant(8, 1), "rev=1 lease=8 ttl=2"},
		{"even if it has no time at all", grant(9, 0), "rev=1 lease=9 ttl=2"},
		{"the longest", grant(10, 9_000_000_000), "rev=1 lease=10 ttl=9000000000"},
		{"longer than that", grant(11, 9_000_000_001), "OutOfRange: etcdserver: too large lease TTL"},
		{"much longer", grant(11, math.MaxInt64), "OutOfRange: etcdserver: too large lease TTL"},
		{"an id below zero is an id", grant(-5, 100), "rev=1 lease=-5 ttl=100"},
		{"revoking the short ones", revoke(8), "rev=1"},
		{"takes no revision without keys", revoke(9), "rev=1"},
		{"those that live", &pb.LeaseLeasesRequest{}, "rev=1 leases=[-5 7 10]"},

		{"keys", putLeased("b", "1", 7), "rev=2"},
		{"more", txn(nil, ops(putLeased("a", "1", 7), putLeased("c", "1", 7), putLeased("d", "1", 10)), nil), "rev=3 then {rev=3 put} {rev=3 put} {rev=3 put}"},
		{"the time to live, with keys", ttl(7), "rev=3 lease=7 granted=100 alive keys=[a b c]"},
		{"without", &pb.LeaseTimeToLiveRequest{ID: 7}, "rev=3 lease=7 granted=100 alive keys=[]"},
		{"of a lease that does not exist", ttl(77), "rev=3 lease=77 granted=0 left=-1 keys=[]"},
		{"a deleted key leaves its lease", del("c"), "rev=4 deleted=1"},
		{"as told", ttl(7), "rev=4 lease=7 granted=100 alive keys=[a b]"},
		{"and comes back without", put("c", "2"), "rev=5"},
		{"as told too", get("c"), "rev=5 count=1 [c=2@5/5/1]"},

		{"revoking deletes the keys at one revision", revoke(7), "rev=6"},
		{"those and no others", list("a", "z"), "rev=6 count=2 [c=2@5/5/1 d=1@3/3/1/lease10]"},
		{"the past remembers", at(5, get("a")), "rev=6 count=1 [a=1@3/3/1/lease7]"},
		{"a second time", revoke(7), noLease},
		{"a lease that never was", revoke(77), noLease},
		{"the id is free again", grant(7, 100), "rev=6 lease=7 ttl=100"},
		{"and has no keys", ttl(7), "rev=6 lease=7 granted=100 alive keys=[]"},
	})
	t.Run("the server chooses an id if there is none", func(t *testing.T) {
		once(t)
		lease := pb.NewLeaseClient(m.conn)
		ids := map[int64]bool{}
		for range 10 {
			r, err := lease.LeaseGrant(within(t), grant(0, 100))
			require.NoError(t, err)
			require.Positive(t, r.ID)
			ids[r.ID] = true
		}
		require.Len(t, ids, 10)
	})
	t.Run("deletions by revoking are events of one response", func(t *testing.T) {
		once(t)
		m.must(t, grant(20, 100), "rev=6 lease=20 ttl=100")
		m.must(t, putLeased("x2", "1", 20), "rev=7")
		m.must(t, putLeased("x1", "1", 20), "rev=8")
		m.must(t, putLeased("x3", "1", 20), "rev=9")
		w := m.watch(t)
		w.create(t, &pb.WatchCreateRequest{Key: b("x"), RangeEnd: b("y"), PrevKv: true})
		w.expect(t, "#0 created rev=9")
		m.must(t, revoke(20), "rev=10")
		w.expect(t, "#0 rev=10 del x1@10 was x1=1@8/8/1/lease20, del x2@10 was x2=1@7/7/1/lease20, del x3@10 was x3=1@9/9/1/lease20")
	})
}

func TestLeaseKeepAlive(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	m.must(t, grant(7, 100), "rev=1 lease=7 ttl=100")
	m.must(t, put("k", "1"), "rev=2")
	stream, err := pb.NewLeaseClient(m.conn).LeaseKeepAlive(t.Context())
	require.NoError(t, err)
	for _, c := range []struct {
		id   int64
		want string
	}{
		{7, "rev=2 lease=7 ttl=100"},
		{7, "rev=2 lease=7 ttl=100"},
		{77, "rev=2 lease=77 ttl=0"}, // One that does not exist does not end the stream.
		{7, "rev=2 lease=7 ttl=100"},
	} {
		require.NoError(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: c.id}))
		r, err := stream.Recv()
		require.NoError(t, err)
		require.Equal(t, c.want, fmt.Sprintf("%s lease=%d ttl=%d", m.renderHeader(r.Header), r.ID, r.TTL))
	}
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.EqualError(t, err, "EOF")
}

// An expired lease deletes its keys at one revision, and a lease that is kept
// alive does not expire.
func TestLeaseExpiry(t *testing.T) {
	t.Parallel()
	long(t)
	once(t)
	m := start(t)
	m.must(t, grant(7, 2), "rev=1 lease=7 ttl=2")
	m.must(t, grant(8, 2), "rev=1 lease=8 ttl=2")
	m.must(t, txn(nil, ops(putLeased("k2", "1", 7), putLeased("k1", "1", 7), putLeased("l", "1", 8)), nil), "rev=2 then {rev=2 put} {rev=2 put} {rev=2 put}")
	w := m.watch(t)
	w.create(t, onRange("\x00", "\x00"))
	w.expect(t, "#0 created rev=2")

	// Keep-alives go on until the other lease has expired, and a while longer:
	// until it would have expired too, as a third lease shows.
	stream, err := pb.NewLeaseClient(m.conn).LeaseKeepAlive(t.Context())
	require.NoError(t, err)
	keep := func() {
		require.NoError(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: 8}))
		r, err := stream.Recv()
		require.NoError(t, err)
		require.Equal(t, int64(2), r.TTL)
	}
	await := func(want string) {
		t.Helper()
		for {
			keep()
			select {
			case r := <-w.responses:
				require.Equal(t, want, m.renderWatch(r))
				return
			default:
			}
		}
	}
	await("#0 rev=3 del k1@3, del k2@3")
	m.must(t, ttl(7), "rev=3 lease=7 granted=0 left=-1 keys=[]")
	m.must(t, &pb.LeaseLeasesRequest{}, "rev=3 leases=[8]")
	m.must(t, grant(9, 2), "rev=3 lease=9 ttl=2")
	m.must(t, putLeased("m", "1", 9), "rev=4")
	await("#0 rev=4 put m=1@4/4/1/lease9")
	await("#0 rev=5 del m@5")
	m.must(t, get("l"), "rev=5 count=1 [l=1@2/2/1/lease8]")
	m.must(t, putLeased("k", "1", 7), "NotFound: etcdserver: requested lease not found")

	// Left alone, it expires as well.
	w.expect(t, "#0 rev=6 del l@6")
	m.must(t, &pb.LeaseLeasesRequest{}, "rev=6 leases=[]")
	m.must(t, list("\x00", "\x00"), "rev=6 count=0 []")
}
