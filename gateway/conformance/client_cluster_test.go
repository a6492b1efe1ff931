package conformance

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func (m *member) renderAlarms(r *pb.AlarmResponse) string {
	var alarms []string
	for _, a := range r.Alarms {
		who := fmt.Sprint(a.MemberID)
		if a.MemberID == m.memberID {
			who = "me"
		}
		alarms = append(alarms, a.Alarm.String()+" of "+who)
	}
	return "alarms=[" + strings.Join(alarms, ", ") + "]"
}

func renderHashKV(r *pb.HashKVResponse) string {
	s := fmt.Sprintf("hash at %d compacted %d", r.HashRevision, r.CompactRevision)
	if r.Hash == 0 {
		s += " is zero"
	}
	return s
}

// renderMembers makes a function that shows all members of a response about
// them.
func renderMembers[R interface {
	response
	GetMembers() []*pb.Member
}](m *member) func(R, error) string {
	return render(m, func(r R) string {
		var members []string
		for _, mm := range r.GetMembers() {
			s := fmt.Sprintf("%q %v %v", mm.Name, mm.PeerURLs, mm.ClientURLs)
			if mm.ID == m.memberID {
				s += " me"
			}
			if mm.IsLearner {
				s += " learner"
			}
			members = append(members, s)
		}
		return strings.Join(members, ", ")
	})
}

func TestStatus(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	m.awaitVersion(t)
	m.must(t, put("k", "1"), "rev=2")
	r, err := pb.NewMaintenanceClient(m.conn).Status(within(t), &pb.StatusRequest{})
	require.NoError(t, err)
	require.Equal(t, "rev=2", m.renderHeader(r.Header))
	// kube-apiserver reads it; below 3.5.13 it would not serve consistent reads
	// from its cache.
	require.Equal(t, "3.7.3", r.Version)
	require.Equal(t, "3.7.0", r.StorageVersion)
	require.Equal(t, m.memberID, r.Leader, "a lonely member leads")
	require.Equal(t, r.Header.RaftTerm, r.RaftTerm)
	require.Positive(t, r.RaftIndex)
	require.Positive(t, r.RaftAppliedIndex)
	require.LessOrEqual(t, r.RaftAppliedIndex, r.RaftIndex)
	require.Positive(t, r.DbSize)
	require.Positive(t, r.DbSizeInUse)
	require.Equal(t, int64(2<<30), r.DbSizeQuota, "the default")
	require.False(t, r.IsLearner)
	require.Empty(t, r.Errors)
	require.NotNil(t, r.DowngradeInfo)
	require.False(t, r.DowngradeInfo.Enabled)
}

func TestHash(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.fixture(t)
	at := func(revision int64) *pb.HashKVRequest { return &pb.HashKVRequest{Revision: revision} }
	const (
		compacted = "OutOfRange: etcdserver: mvcc: required revision has been compacted"
		future    = "OutOfRange: etcdserver: mvcc: required revision is a future revision"
	)
	tell(t, m, []step{
		{"now", at(0), "rev=13 hash at 13 compacted -1"},
		{"in the past", at(5), "rev=13 hash at 5 compacted -1"},
		{"in the future", at(14), future},
		{"a compaction", &pb.CompactionRequest{Revision: 7, Physical: true}, "rev=13"},
		{"before it", at(6), compacted},
		{"after it", at(8), "rev=13 hash at 8 compacted 7"},
	})
	t.Run("says whether two histories are the same", func(t *testing.T) {
		once(t)
		maintenance := pb.NewMaintenanceClient(m.conn)
		hash := func(revision int64) uint32 {
			t.Helper()
			r, err := maintenance.HashKV(within(t), at(revision))
			require.NoError(t, err)
			return r.Hash
		}
		h13, h12 := hash(13), hash(12)
		require.NotEqual(t, h12, h13)
		require.Equal(t, h13, hash(0))
		m.must(t, put("x", "1"), "rev=14")
		require.Equal(t, h13, hash(13), "later writes do not count")
		require.NotEqual(t, h13, hash(14))
		_, err := maintenance.Defragment(within(t), &pb.DefragmentRequest{})
		require.NoError(t, err)
		require.Equal(t, h13, hash(13), "nor does defragmentation")
		require.NoError(t, m.Kill())
		require.NoError(t, m.Restart(t.Context()))
		require.Equal(t, h13, hash(13), "nor does a restart")

		r, err := maintenance.Hash(within(t), &pb.HashRequest{})
		require.NoError(t, err)
		require.Equal(t, "rev=14", m.renderHeader(r.Header))
		require.NotZero(t, r.Hash)
	})
	t.Run("is the same on two members of the same history", func(t *testing.T) {
		once(t)
		other := start(t)
		other.fixture(t)
		other.must(t, &pb.CompactionRequest{Revision: 7, Physical: true}, "rev=13")
		// At 7 itself etcd gives the hash that the compaction made, until it is
		// restarted.
		for rev := int64(8); rev <= 13; rev++ {
			one, err := pb.NewMaintenanceClient(m.conn).HashKV(within(t), at(rev))
			require.NoError(t, err)
			two, err := pb.NewMaintenanceClient(other.conn).HashKV(within(t), at(rev))
			require.NoError(t, err)
			require.Equal(t, one.Hash, two.Hash, "at %d", rev)
		}
	})
}

func TestAlarm(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	const noSpace = "ResourceExhausted: etcdserver: mvcc: database space exceeded"
	alarm := func(what pb.AlarmRequest_AlarmAction, which pb.AlarmType, who uint64) *pb.AlarmRequest {
		return &pb.AlarmRequest{Action: what, Alarm: which, MemberID: who}
	}
	list := alarm(pb.AlarmRequest_GET, pb.AlarmType_NONE, 0)
	tell(t, m, []step{
		{"there are none", list, "rev=1 alarms=[]"},
		{"a key", put("k", "1"), "rev=2"},
		{"another", put("l", "1"), "rev=3"},
		{"NOSPACE is raised", alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_NOSPACE, m.memberID), "rev=3 alarms=[NOSPACE of me]"},
		{"and listed", list, "rev=3 alarms=[NOSPACE of me]"},
		{"no more writes", put("k", "2"), noSpace},
		{"nor in transactions", txn(nil, ops(put("k", "2")), nil), noSpace},
		{"nor leases", grant(7, 100), noSpace},
		{"reads go on", get("k"), "rev=3 count=1 [k=1@2/2/1]"},
		{"so do deletions, which make space", del("k"), "rev=4 deleted=1"},
		{"in transactions too", txn(nil, ops(del("l")), nil), "rev=5 then {rev=5 deleted=1}"},
		{"and compactions", compact(5), "rev=5"},
		{"disarmed", alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE, m.memberID), "rev=5 alarms=[NOSPACE of me]"},
		{"there are none again", list, "rev=5 alarms=[]"},
		{"writes go on", put("k", "3"), "rev=6"},
		{"what is not there can be disarmed", alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE, m.memberID), "rev=6 alarms=[]"},
	})
}

// An alarm outlives the process that raised it.
func TestAlarmAfterRestart(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: m.memberID}
	m.must(t, alarm, "rev=1 alarms=[NOSPACE of me]")
	require.NoError(t, m.Kill())
	require.NoError(t, m.Restart(t.Context()))
	m.must(t, &pb.AlarmRequest{}, "rev=1 alarms=[NOSPACE of me]")
	m.must(t, put("k", "1"), "ResourceExhausted: etcdserver: mvcc: database space exceeded")
	alarm.Action = pb.AlarmRequest_DEACTIVATE
	m.must(t, alarm, "rev=1 alarms=[NOSPACE of me]")
	m.must(t, put("k", "1"), "rev=2")
}

// A snapshot is a file followed by the SHA-256 of its bytes.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	m.awaitVersion(t)
	m.manyKeys(t, 500, 1000)
	stream, err := pb.NewMaintenanceClient(m.conn).Snapshot(t.Context(), &pb.SnapshotRequest{})
	require.NoError(t, err)
	var all bytes.Buffer
	remaining := uint64(1) << 62
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.LessOrEqual(t, r.RemainingBytes, remaining)
		remaining = r.RemainingBytes
		require.Equal(t, "3.7.0", r.Version)
		all.Write(r.Blob)
	}
	require.Zero(t, remaining)
	file, sum := all.Bytes()[:all.Len()-sha256.Size], all.Bytes()[all.Len()-sha256.Size:]
	want := sha256.Sum256(file)
	require.Equal(t, want[:], sum)
	require.Greater(t, len(file), 500*1000)
	require.Zero(t, len(file)%4096, "it is whole pages")
	require.Equal(t, []byte{0xed, 0xda, 0x0c, 0xed}, file[16:20], "of a bbolt file")
}

func TestDefragment(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	m.manyKeys(t, 1000, 1000)
	before := m.answer(within(t), list("\x00", "\x00"))
	_, err := pb.NewMaintenanceClient(m.conn).Defragment(within(t), &pb.DefragmentRequest{})
	require.NoError(t, err)
	require.Equal(t, before, m.answer(within(t), list("\x00", "\x00")))
}

func TestCluster(t *testing.T) {
	t.Parallel()
	once(t)
	// Without the check etcd changes a cluster that is younger than 5 seconds.
	m := start(t, "--strict-reconfig-check=false")
	me := fmt.Sprintf("%q [%s] [%s] me", "default", m.PeerURL(), m.Endpoint())
	const learner, learner2 = "http://127.0.0.1:1", "http://127.0.0.1:2"
	peer := func(urls ...string) *pb.MemberAddRequest {
		return &pb.MemberAddRequest{PeerURLs: urls, IsLearner: true}
	}
	tell(t, m, []step{
		{"the members", &pb.MemberListRequest{Linearizable: true}, me},
		{"as this one knows them", &pb.MemberListRequest{}, me},
		{"a member that does not exist", &pb.MemberRemoveRequest{ID: 77}, "NotFound: etcdserver: member not found"},
		{"cannot be changed", &pb.MemberUpdateRequest{ID: 77, PeerURLs: []string{learner}}, "NotFound: etcdserver: member not found"},
		{"nor promoted", &pb.MemberPromoteRequest{ID: 77}, "NotFound: etcdserver: member not found"},
		{"a voter cannot be promoted", &pb.MemberPromoteRequest{ID: m.memberID}, "FailedPrecondition: etcdserver: can only promote a learner member"},
		{"a URL that is none", peer("nonsense"), "InvalidArgument: etcdserver: given member URLs are invalid"},
		{"no URL at all", peer(), "InvalidArgument: etcdserver: given member URLs are invalid"},
		{"a URL that is taken", peer(m.PeerURL()), "FailedPrecondition: etcdserver: Peer URLs already exists"},
		{"the leader stays if asked to give way to nobody", &pb.MoveLeaderRequest{TargetID: 77}, "FailedPrecondition: etcdserver: bad leader transferee"},
	})
	t.Run("a learner", func(t *testing.T) {
		once(t)
		r, err := pb.NewClusterClient(m.conn).MemberAdd(within(t), peer(learner))
		require.NoError(t, err)
		require.NotZero(t, r.Member.ID)
		require.NotEqual(t, m.memberID, r.Member.ID)
		require.True(t, r.Member.IsLearner)
		require.Equal(t, []string{learner}, r.Member.PeerURLs)
		require.Empty(t, r.Member.Name, "until it starts")
		require.Len(t, r.Members, 2)

		m.must(t, peer(learner2), "FailedPrecondition: etcdserver: too many learner members in cluster")
		m.must(t, &pb.MemberPromoteRequest{ID: r.Member.ID}, "FailedPrecondition: etcdserver: can only promote a learner member which is in sync with leader")
		m.must(t, put("k", "1"), "rev=2")
		m.must(t, &pb.MemberRemoveRequest{ID: r.Member.ID}, me)
		m.must(t, &pb.MemberRemoveRequest{ID: r.Member.ID}, "NotFound: etcdserver: member not found")
		m.must(t, &pb.MemberListRequest{Linearizable: true}, me)
	})
}

func TestGRPCHealth(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	client := healthpb.NewHealthClient(m.conn)
	r, err := client.Check(within(t), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, r.Status)
	_, err = client.Check(within(t), &healthpb.HealthCheckRequest{Service: "nonsense"})
	require.EqualError(t, err, "rpc error: code = NotFound desc = unknown service")

	stream, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	r, err = stream.Recv()
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, r.Status)
}
