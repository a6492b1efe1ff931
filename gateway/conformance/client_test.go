package conformance

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

const (
	// requestTimeout bounds every request of a test, and every wait for a
	// watch response. Reaching it fails the test.
	requestTimeout = 15 * time.Second

	// maxMessageBytes is more than any answer in these tests.
	maxMessageBytes = 64 << 20
)

// member is a server process of a test's own, with an empty store.
type member struct {
	*server.Server

	// conn speaks the API without a client library, so that a test sees what
	// the server says and nothing is repeated.
	conn *grpc.ClientConn

	clusterID, memberID uint64
}

// start runs a fresh server with more flags.
func start(t *testing.T, args ...string) *member {
	t.Helper()
	cases.watch(t)
	m := &member{Server: server.Run(t, server.Config{Binary: target.Path, Args: args})}
	m.connect(t)
	return m
}

// connect opens conn, a new one if there was one, and learns the ids that every header must carry.
func (m *member) connect(t *testing.T) {
	t.Helper()
	u, err := url.Parse(m.Endpoint())
	require.NoError(t, err)
	conn, err := grpc.NewClient("passthrough:///"+u.Host,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)))
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	m.conn = conn

	status, err := pb.NewMaintenanceClient(m.conn).Status(within(t), &pb.StatusRequest{})
	require.NoError(t, err)
	m.clusterID, m.memberID = status.Header.ClusterId, status.Header.MemberId
	require.NotZero(t, m.clusterID)
	require.NotZero(t, m.memberID)
}

// client opens etcd's own client library.
func (m *member) client(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{m.Endpoint()},
		DialTimeout: requestTimeout,
		Logger:      zap.NewNop(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// within bounds a request.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
	t.Cleanup(cancel)
	return ctx
}

// step is a line of a specification: a request, and etcd's answer in the
// notation of the render functions below.
type step struct {
	name string
	req  proto.Message
	want string
}

// tell sends the requests one after another. On a fresh member every revision
// is known beforehand: the first write is 2, and so on without gaps.
func tell(t *testing.T, m *member, steps []step) {
	t.Helper()
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			once(t)
			t.Helper()
			if got := m.answer(within(t), s.req); got != s.want {
				t.Errorf("%T{%s}\n want: %s\n  got: %s", s.req, requestText(s.req), s.want, got)
			}
		})
	}
}

// must sends a request that is not the point of the test but needed for it.
func (m *member) must(t *testing.T, req proto.Message, want string) {
	t.Helper()
	require.Equal(t, want, m.answer(within(t), req), "%T{%s}", req, requestText(req))
}

// maxRequestText bounds how much of a request a failure shows.
const maxRequestText = 400

func requestText(req proto.Message) string {
	s := prototext.MarshalOptions{}.Format(req)
	if len(s) > maxRequestText {
		return fmt.Sprintf("%s... (%d bytes)", s[:maxRequestText], len(s))
	}
	return s
}

// answer sends any unary request and renders the response or the error.
func (m *member) answer(ctx context.Context, req proto.Message) string {
	kv, lease, cluster := pb.NewKVClient(m.conn), pb.NewLeaseClient(m.conn), pb.NewClusterClient(m.conn)
	maintenance := pb.NewMaintenanceClient(m.conn)
	switch req := req.(type) {
	case *pb.RangeRequest:
		return render(m, m.renderRange)(kv.Range(ctx, req))
	case *pb.PutRequest:
		return render(m, m.renderPut)(kv.Put(ctx, req))
	case *pb.DeleteRangeRequest:
		return render(m, m.renderDelete)(kv.DeleteRange(ctx, req))
	case *pb.TxnRequest:
		return render(m, m.renderTxn)(kv.Txn(ctx, req))
	case *pb.CompactionRequest:
		return render(m, func(*pb.CompactionResponse) string { return "" })(kv.Compact(ctx, req))
	case *pb.LeaseGrantRequest:
		return render(m, renderGrant)(lease.LeaseGrant(ctx, req))
	case *pb.LeaseRevokeRequest:
		return render(m, func(*pb.LeaseRevokeResponse) string { return "" })(lease.LeaseRevoke(ctx, req))
	case *pb.LeaseTimeToLiveRequest:
		return render(m, renderTimeToLive)(lease.LeaseTimeToLive(ctx, req))
	case *pb.LeaseLeasesRequest:
		return render(m, renderLeases)(lease.LeaseLeases(ctx, req))
	case *pb.AlarmRequest:
		return render(m, m.renderAlarms)(maintenance.Alarm(ctx, req))
	case *pb.HashKVRequest:
		return render(m, renderHashKV)(maintenance.HashKV(ctx, req))
	case *pb.MoveLeaderRequest:
		return render(m, func(*pb.MoveLeaderResponse) string { return "" })(maintenance.MoveLeader(ctx, req))
	case *pb.MemberListRequest:
		return renderMembers[*pb.MemberListResponse](m)(cluster.MemberList(ctx, req))
	case *pb.MemberAddRequest:
		return renderMembers[*pb.MemberAddResponse](m)(cluster.MemberAdd(ctx, req))
	case *pb.MemberRemoveRequest:
		return renderMembers[*pb.MemberRemoveResponse](m)(cluster.MemberRemove(ctx, req))
	case *pb.MemberUpdateRequest:
		return renderMembers[*pb.MemberUpdateResponse](m)(cluster.MemberUpdate(ctx, req))
	case *pb.MemberPromoteRequest:
		return renderMembers[*pb.MemberPromoteResponse](m)(cluster.MemberPromote(ctx, req))
	default:
		return m.authAnswer(ctx, req)
	}
}

// response is what all etcd's responses have.
type response interface{ GetHeader() *pb.ResponseHeader }

// render makes a function that takes a call's results: "rev=N" of the header
// and what body says; or the error, as "Code: text". A header that misses
// something is shown whole.
func render[R response](m *member, body func(R) string) func(R, error) string {
	return func(r R, err error) string {
		if err != nil {
			s := status.Convert(err)
			return fmt.Sprintf("%v: %s", s.Code(), s.Message())
		}
		return strings.TrimSpace(m.renderHeader(r.GetHeader()) + " " + body(r))
	}
}

func (m *member) renderHeader(h *pb.ResponseHeader) string {
	switch {
	case h == nil:
		return "no header"
	case h.ClusterId != m.clusterID || h.MemberId != m.memberID || h.RaftTerm == 0:
		return fmt.Sprintf("incomplete header{%s}", requestText(h))
	case h.Revision == 0:
		return ""
	default:
		return fmt.Sprintf("rev=%d", h.Revision)
	}
}

// renderKV shows a key as key=value@create/mod/version, and its lease if it
// has one.
func renderKV(kv *mvccpb.KeyValue) string {
	value := string(kv.Value)
	if len(value) > 20 {
		value = fmt.Sprintf("(%d bytes)", len(value))
	}
	s := fmt.Sprintf("%s=%s@%d/%d/%d", printable(kv.Key), value, kv.CreateRevision, kv.ModRevision, kv.Version)
	if kv.Lease != 0 {
		s += fmt.Sprintf("/lease%d", kv.Lease)
	}
	return s
}

func renderKVs(kvs []*mvccpb.KeyValue) string {
	var parts []string
	for _, kv := range kvs {
		parts = append(parts, renderKV(kv))
	}
	return "[" + strings.Join(parts, " ") + "]"
}

// printable shows zero bytes as \0.
func printable(key []byte) string { return strings.ReplaceAll(string(key), "\x00", `\0`) }

func (m *member) renderRange(r *pb.RangeResponse) string {
	s := fmt.Sprintf("count=%d", r.Count)
	if r.More {
		s += " more"
	}
	return s + " " + renderKVs(r.Kvs)
}

func (m *member) renderPut(r *pb.PutResponse) string {
	if r.PrevKv == nil {
		return ""
	}
	return "prev=" + renderKV(r.PrevKv)
}

func (m *member) renderDelete(r *pb.DeleteRangeResponse) string {
	s := fmt.Sprintf("deleted=%d", r.Deleted)
	if len(r.PrevKvs) > 0 {
		s += " prev=" + renderKVs(r.PrevKvs)
	}
	return s
}

// renderTxn shows the branch taken and, in braces, each operation's answer
// with the revision of its own header.
func (m *member) renderTxn(r *pb.TxnResponse) string {
	s := "else"
	if r.Succeeded {
		s = "then"
	}
	for _, op := range r.Responses {
		var h *pb.ResponseHeader
		var body string
		switch op := op.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			h, body = op.ResponseRange.Header, m.renderRange(op.ResponseRange)
		case *pb.ResponseOp_ResponsePut:
			h, body = op.ResponsePut.Header, strings.TrimSpace("put "+m.renderPut(op.ResponsePut))
		case *pb.ResponseOp_ResponseDeleteRange:
			h, body = op.ResponseDeleteRange.Header, m.renderDelete(op.ResponseDeleteRange)
		case *pb.ResponseOp_ResponseTxn:
			h, body = op.ResponseTxn.Header, m.renderTxn(op.ResponseTxn)
		}
		s += " {"
		if h.GetRevision() != 0 {
			s += fmt.Sprintf("rev=%d ", h.Revision)
		}
		s += body + "}"
	}
	return s
}

// b saves the tables from conversions.
func b(s string) []byte { return []byte(s) }

func get(key string) *pb.RangeRequest       { return &pb.RangeRequest{Key: b(key)} }
func list(key, end string) *pb.RangeRequest { return &pb.RangeRequest{Key: b(key), RangeEnd: b(end)} }
func put(key, value string) *pb.PutRequest  { return &pb.PutRequest{Key: b(key), Value: b(value)} }
func del(key string) *pb.DeleteRangeRequest { return &pb.DeleteRangeRequest{Key: b(key)} }
func compact(revision int64) *pb.CompactionRequest {
	return &pb.CompactionRequest{Revision: revision}
}

func delRange(key, end string) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: b(key), RangeEnd: b(end)}
}

// at pins a read to a revision.
func at(revision int64, r *pb.RangeRequest) *pb.RangeRequest {
	r.Revision = revision
	return r
}
