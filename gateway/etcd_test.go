package gateway

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/member"
)

// record names an empty etcd 3.7.3 with default flags, of whose answers
// testdata/etcd-3.7.3.txt is made:
//
//	go test ./gateway -run TestAnswersLikeEtcd -args -record=127.0.0.1:2379
var record = flag.String("record", "", "endpoint of a fresh etcd whose answers to record")

// TestAnswersLikeEtcd asks a member what etcd was asked, and holds that it
// says the same, to the letter. What is different on purpose is not asked here
// but tested beside the code that makes the difference.
func TestAnswersLikeEtcd(t *testing.T) {
	golden := filepath.Join("testdata", "etcd-3.7.3.txt")
	if *record != "" {
		require.NoError(t, os.WriteFile(golden, []byte(interview(t, dial(t, *record))), 0o600))
		return
	}
	m, err := member.Open(within(t), member.Config{
		Dir: "data", FS: engine.NewMem(), Name: "default", InitialCluster: "default=http://127.0.0.1:2380",
		PeerURLs: []string{"http://127.0.0.1:2380"}, ClientURLs: []string{"http://127.0.0.1:2379"},
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	select {
	case <-m.Ready():
	case <-within(t).Done():
		t.Fatal("the member is not ready")
	}
	require.Eventually(t, func() bool { return len(m.Members()[0].ClientURLs) > 0 }, 20*time.Second, time.Millisecond)
	_, addr := serve(t, Config{}, m)
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), interview(t, dial(t, addr)))
}

// What differs from run to run.
var variable = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`cluster_id:\d+`), "cluster_id:C"},
	{regexp.MustCompile(`member_id:\d+`), "member_id:M"},
	{regexp.MustCompile(`raft_term:\d+`), "raft_term:T"},
	{regexp.MustCompile(`ID:\d{10,}`), "ID:I"},
	{regexp.MustCompile(`TTL:\d{3} grantedTTL`), "TTL:N grantedTTL"},
	{regexp.MustCompile(`(peer|client)URLs:"[^"]*"`), "${1}URLs:U"},
}

func render(m proto.Message, err error) string {
	if err != nil {
		return fmt.Sprintf("%s: %q", status.Code(err), status.Convert(err).Message())
	}
	text := strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(m)), " ")
	text = strings.ReplaceAll(strings.ReplaceAll(text, " }", "}"), "{ ", "{")
	for _, v := range variable {
		text = v.pattern.ReplaceAllString(text, v.name)
	}
	return text
}

// interviewer asks one thing after another and keeps the answers.
type interviewer struct {
	ctx     context.Context
	kv      pb.KVClient
	answers strings.Builder
}

func (i *interviewer) note(question string, m proto.Message, err error) {
	fmt.Fprintf(&i.answers, "%s\n    %s\n", question, render(m, err))
}

func (i *interviewer) rng(question string, r *pb.RangeRequest) {
	resp, err := i.kv.Range(i.ctx, r)
	i.note("range "+question, resp, err)
}

func (i *interviewer) put(question string, r *pb.PutRequest) {
	resp, err := i.kv.Put(i.ctx, r)
	i.note("put "+question, resp, err)
}

func (i *interviewer) del(question string, r *pb.DeleteRangeRequest) {
	resp, err := i.kv.DeleteRange(i.ctx, r)
	i.note("delete "+question, resp, err)
}

func (i *interviewer) txn(question string, r *pb.TxnRequest) {
	resp, err := i.kv.Txn(i.ctx, r)
	i.note("txn "+question, resp, err)
}

func (i *interviewer) stream(question string, r *pb.RangeRequest) {
	stream, err := i.kv.RangeStream(i.ctx, r)
	whole := &pb.RangeResponse{}
	for err == nil {
		var m *pb.RangeStreamResponse
		if m, err = stream.Recv(); err == nil {
			proto.Merge(whole, m.RangeResponse) // Chunks may differ in size.
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	i.note("stream "+question, whole, err)
}

func interview(t *testing.T, cc *grpc.ClientConn) string {
	t.Helper()
	i := &interviewer{ctx: within(t), kv: pb.NewKVClient(cc)}
	i.askKeys()
	i.askTxns()
	i.askLeases(t, pb.NewLeaseClient(cc))
	i.askRanges()
	i.askCompactions()
	i.askOthers(cc)
	return i.answers.String()
}

func (i *interviewer) askKeys() {
	b := func(s string) []byte { return []byte(s) }
	i.rng("of a fresh store", &pb.RangeRequest{Key: b("a")})
	i.rng("without a key", &pb.RangeRequest{})
	i.rng("in an unknown order", &pb.RangeRequest{Key: b("a"), SortOrder: 7})
	i.rng("by an unknown target", &pb.RangeRequest{Key: b("a"), SortTarget: -1})
	i.rng("at -1", &pb.RangeRequest{Key: b("a"), Revision: -1})
	i.rng("in the future", &pb.RangeRequest{Key: b("a"), Revision: 99})
	i.put("a key", &pb.PutRequest{Key: b("a"), Value: b("1")})
	i.put("it again", &pb.PutRequest{Key: b("a"), Value: b("2"), PrevKv: true})
	i.put("without a key", &pb.PutRequest{Value: b("2"), PrevKv: true})
	i.put("ignoring the value of no key", &pb.PutRequest{Key: b("x"), IgnoreValue: true})
	i.put("ignoring the lease of no key", &pb.PutRequest{Key: b("x"), IgnoreLease: true})
	i.put("ignoring the value that it gives", &pb.PutRequest{Key: b("x"), Value: b("1"), IgnoreValue: true})
	i.put("ignoring the lease that it gives", &pb.PutRequest{Key: b("x"), Lease: 1, IgnoreLease: true})
	i.put("with no such lease", &pb.PutRequest{Key: b("x"), Lease: 1})
	i.put("too large", &pb.PutRequest{Key: b("x"), Value: make([]byte, 1600<<10)})
	i.put("so large that it is not read", &pb.PutRequest{Key: b("x"), Value: make([]byte, 3<<20)})
	i.put("as large as can be", &pb.PutRequest{Key: b("x"), Value: make([]byte, 1536<<10-26)})
	i.put("a byte or two larger", &pb.PutRequest{Key: b("x"), Value: make([]byte, 1536<<10-24)})
	i.del("without a key", &pb.DeleteRangeRequest{})
	i.del("of nothing", &pb.DeleteRangeRequest{Key: b("zz")})
	i.del("of a key", &pb.DeleteRangeRequest{Key: b("x")})
	i.del("with the end first", &pb.DeleteRangeRequest{Key: b("b"), RangeEnd: b("a")})
	i.del("of all", &pb.DeleteRangeRequest{Key: b("\x00"), RangeEnd: b("\x00"), PrevKv: true})
}

func (i *interviewer) askTxns() {
	i.txn("of nothing", &pb.TxnRequest{})
	i.txn("put", &pb.TxnRequest{Success: ops{opPut("a")}})
	i.txn("range, put, range, delete, range", &pb.TxnRequest{
		Success: ops{opRange("a", ""), opPut("b"), opRange("a", "z"), opDel("a", ""), opRange("a", "z")},
	})
	i.txn("delete of nothing, range", &pb.TxnRequest{Success: ops{opDel("q", ""), opRange("a", "z")}})
	i.txn("delete of nothing, put, delete of nothing", &pb.TxnRequest{Success: ops{opDel("q", ""), opPut("d"), opDel("q", "")}})
	i.txn("nested", &pb.TxnRequest{Success: ops{
		opTxn(ops{opPut("c"), opRange("c", "")}, nil), opRange("c", ""), opTxn(nil, nil),
	}})
	i.txn("failed", &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("a"), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: 77}}},
		Success: ops{opPut("a")}, Failure: ops{opRange("b", "")},
	})
	i.txn("of an operation that is none", &pb.TxnRequest{Success: ops{{}}})
	i.txn("in the future", &pb.TxnRequest{Success: ops{
		opPut("a"), {Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), Revision: 999}}},
	}})
	i.txn("put, put", &pb.TxnRequest{Success: ops{opPut("k"), opPut("k")}})
	i.txn("put, delete", &pb.TxnRequest{Success: ops{opPut("k"), opDel("k", "")}})
	i.txn("delete, delete", &pb.TxnRequest{Success: ops{opDel("k", ""), opDel("a", "z")}})
	i.txn("nested delete, nested put", &pb.TxnRequest{Success: ops{opTxn(ops{opDel("k", "")}, nil), opTxn(ops{opPut("k")}, nil)}})
	i.txn("put or delete", &pb.TxnRequest{Success: ops{opTxn(ops{opPut("k")}, ops{opDel("k", "")})}})
	i.txn("delete or put", &pb.TxnRequest{Success: ops{opTxn(ops{opDel("k", "")}, ops{opPut("k")})}})
	i.txn("put or put", &pb.TxnRequest{Success: ops{opTxn(ops{opPut("k")}, ops{opPut("k")})}})
	i.txn("put, nested delete", &pb.TxnRequest{Success: ops{opPut("k"), opTxn(ops{opDel("a", "z")}, nil)}})

	compare := func(question string, c *pb.Compare) {
		i.txn("if "+question, &pb.TxnRequest{Compare: []*pb.Compare{c}})
	}
	there, gone, end := []byte("k"), []byte("gone"), []byte("gonf")
	compare("no key", &pb.Compare{})
	compare("unknown target =", &pb.Compare{Key: there, Target: 9})
	compare("unknown target !=", &pb.Compare{Key: there, Target: 9, Result: pb.Compare_NOT_EQUAL})
	compare("unknown result", &pb.Compare{Key: there, Target: pb.Compare_MOD, Result: 9})
	compare("unknown result of a value", &pb.Compare{Key: there, Target: pb.Compare_VALUE, Result: 9})
	compare("unknown result of a value that is not there", &pb.Compare{Key: gone, Target: pb.Compare_VALUE, Result: 9})
	compare("mod = a version", &pb.Compare{Key: gone, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_Version{Version: 3}})
	compare("create > 0, in an empty range", &pb.Compare{Key: gone, RangeEnd: end, Target: pb.Compare_CREATE, Result: pb.Compare_GREATER})
	compare("create = 0, in an empty range", &pb.Compare{Key: gone, RangeEnd: end, Target: pb.Compare_CREATE})
	compare("value, in an empty range", &pb.Compare{Key: gone, RangeEnd: end, Target: pb.Compare_VALUE})
	compare("version > 0, of all", &pb.Compare{Key: []byte{0}, RangeEnd: []byte{0}, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER})

	var many ops
	for n := range 129 {
		many = append(many, opRange(fmt.Sprint(n), ""))
	}
	i.txn("of 129", &pb.TxnRequest{Success: many})
	i.txn("of 128, nested", &pb.TxnRequest{Success: ops{opTxn(many[:128], nil)}})
}

func (i *interviewer) askLeases(t *testing.T, client pb.LeaseClient) {
	t.Helper()
	grant := func(question string, id, ttl int64) {
		resp, err := client.LeaseGrant(i.ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		i.note("grant "+question, resp, err)
	}
	revoke := func(question string, id int64) {
		resp, err := client.LeaseRevoke(i.ctx, &pb.LeaseRevokeRequest{ID: id})
		i.note("revoke "+question, resp, err)
	}
	ttl := func(question string, id int64, keys bool) {
		resp, err := client.LeaseTimeToLive(i.ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys})
		i.note("time to live "+question, resp, err)
	}
	grant("a lease", 5, 500)
	grant("it again", 5, 500)
	grant("for 0 s", 6, 0)
	revoke("one without keys", 6)
	grant("for -1 s", -7, -1)
	revoke("one with an ID below zero", -7)
	grant("for too long", 8, 9_000_000_001)
	grant("for as long as can be", 9, 9_000_000_000)
	grant("with any ID", 0, 5000)
	i.put("with a lease", &pb.PutRequest{Key: []byte("leased"), Lease: 5})
	ttl("of a lease", 5, false)
	ttl("with keys", 5, true)
	ttl("of no lease", 555, true)
	ttl("of 0", 0, true)
	leases, err := client.LeaseLeases(i.ctx, &pb.LeaseLeasesRequest{})
	i.note("leases", leases, err)
	stream, err := client.LeaseKeepAlive(i.ctx)
	require.NoError(t, err)
	for _, id := range []int64{5, 555, 0} {
		require.NoError(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: id}))
		resp, err := stream.Recv()
		i.note(fmt.Sprint("keep alive ", id), resp, err)
	}
	revoke("one with a key", 5)
	revoke("it again", 5)
	revoke("0", 0)
}

func (i *interviewer) askRanges() {
	for n := range 12 {
		i.put("one of twelve", &pb.PutRequest{Key: fmt.Appendf(nil, "s%02d", n), Value: []byte{byte('z' - n)}})
	}
	all := func() *pb.RangeRequest { return &pb.RangeRequest{Key: []byte("s"), RangeEnd: []byte("t")} }
	for _, ask := range []func(string, *pb.RangeRequest){i.rng, i.stream} {
		with := func(question string, change func(*pb.RangeRequest)) {
			r := all()
			change(r)
			ask(question, r)
		}
		with("all", func(*pb.RangeRequest) {})
		with("limit 3", func(r *pb.RangeRequest) { r.Limit = 3 })
		with("limit 12", func(r *pb.RangeRequest) { r.Limit = 12 })
		with("limit 13", func(r *pb.RangeRequest) { r.Limit = 13 })
		with("limit -2", func(r *pb.RangeRequest) { r.Limit, r.KeysOnly = -2, true })
		with("nothing", func(r *pb.RangeRequest) { r.Key = []byte("ss") })
		with("count", func(r *pb.RangeRequest) { r.CountOnly, r.Limit = true, 2 })
		with("keys", func(r *pb.RangeRequest) { r.KeysOnly, r.Limit = true, 2 })
		with("of an older revision", func(r *pb.RangeRequest) { r.Revision, r.Key = 16, []byte("a") })
		with("in ascending order", func(r *pb.RangeRequest) { r.SortOrder, r.Limit = pb.RangeRequest_ASCEND, 1 })
		with("in descending order", func(r *pb.RangeRequest) { r.SortOrder, r.Limit = pb.RangeRequest_DESCEND, 1 })
		with("by version", func(r *pb.RangeRequest) { r.SortOrder, r.SortTarget = pb.RangeRequest_ASCEND, pb.RangeRequest_CREATE })
		with("filtered", func(r *pb.RangeRequest) { r.MinModRevision, r.Limit = 25, 2 })
		with("filtered otherwise", func(r *pb.RangeRequest) { r.MaxCreateRevision, r.KeysOnly = 25, true })
		with("without a key", func(r *pb.RangeRequest) { r.Key, r.MinModRevision = nil, 3 })
		with("in the future", func(r *pb.RangeRequest) { r.Revision = 999 })
		with("at -1", func(r *pb.RangeRequest) { r.Revision, r.Limit = -1, 1 })
		with("to no end", func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte("s09"), []byte{0} })
		with("with the end first", func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte("t"), []byte("s") })
	}
	r := all()
	r.SortOrder, r.SortTarget, r.Limit = pb.RangeRequest_ASCEND, pb.RangeRequest_VALUE, 3
	i.rng("by value", r)
	r = all()
	r.SortTarget = pb.RangeRequest_VALUE // With a limit etcd sorts what it happens to have.
	i.rng("by value, without an order", r)
}

func (i *interviewer) askCompactions() {
	compact := func(rev int64, physical bool) {
		resp, err := i.kv.Compact(i.ctx, &pb.CompactionRequest{Revision: rev, Physical: physical})
		i.note(fmt.Sprintf("compact at %d, physical: %t", rev, physical), resp, err)
	}
	compact(-1, false)
	compact(3, true)
	compact(3, false)
	compact(2, false)
	compact(999, false)
	compact(4, false)
	for _, ask := range []func(string, *pb.RangeRequest){i.rng, i.stream} {
		ask("below the compaction", &pb.RangeRequest{Key: []byte("a"), Revision: 3})
		ask("at the compaction", &pb.RangeRequest{Key: []byte("a"), Revision: 4})
	}
	i.txn("below the compaction", &pb.TxnRequest{Success: ops{
		{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), Revision: 3}}},
	}})
}

func (i *interviewer) askOthers(cc *grpc.ClientConn) {
	cluster := pb.NewClusterClient(cc)
	members, err := cluster.MemberList(i.ctx, &pb.MemberListRequest{Linearizable: true})
	i.note("members", members, err)
	added, err := cluster.MemberAdd(i.ctx, &pb.MemberAddRequest{PeerURLs: []string{"nonsense"}})
	i.note("add a member with bad URLs", added, err)
	removed, err := cluster.MemberRemove(i.ctx, &pb.MemberRemoveRequest{ID: 4})
	i.note("remove a member that is not there", removed, err)
	promoted, err := cluster.MemberPromote(i.ctx, &pb.MemberPromoteRequest{ID: members.GetHeader().GetMemberId()})
	i.note("promote a voter", promoted, err)

	maintenance := pb.NewMaintenanceClient(cc)
	alarms, err := maintenance.Alarm(i.ctx, &pb.AlarmRequest{})
	i.note("alarms", alarms, err)
	defragmented, err := maintenance.Defragment(i.ctx, &pb.DefragmentRequest{})
	i.note("defragment", defragmented, err)
	moved, err := maintenance.MoveLeader(i.ctx, &pb.MoveLeaderRequest{TargetID: 4})
	i.note("move the leader to a stranger", moved, err)
	moved, err = maintenance.MoveLeader(i.ctx, &pb.MoveLeaderRequest{TargetID: members.GetHeader().GetMemberId()})
	i.note("move the leader to the leader", moved, err)
	hash, err := maintenance.HashKV(i.ctx, &pb.HashKVRequest{Revision: 2})
	i.note("hash below the compaction", hash, err)
	hash, err = maintenance.HashKV(i.ctx, &pb.HashKVRequest{Revision: 999})
	i.note("hash of the future", hash, err)

	auth := pb.NewAuthClient(cc)
	state, err := auth.AuthStatus(i.ctx, &pb.AuthStatusRequest{})
	i.note("authentication", state, err)
	token, err := auth.Authenticate(i.ctx, &pb.AuthenticateRequest{Name: "a", Password: "b"})
	i.note("authenticate", token, err)
	users, err := auth.UserList(i.ctx, &pb.AuthUserListRequest{})
	i.note("users", users, err)
	user, err := auth.UserGet(i.ctx, &pb.AuthUserGetRequest{Name: "u"})
	i.note("a user", user, err)
	i.note("no such method", nil, cc.Invoke(i.ctx, "/etcdserverpb.KV/Nonsense", &pb.PutRequest{}, &pb.PutResponse{}))
}
