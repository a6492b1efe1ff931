package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// call is an RPC with its request.
type call struct {
	// method is the RPC's full name.
	method string
	do     func(ctx context.Context, conn *grpc.ClientConn) string
}

// unary is a call of one answer, of which everything is shown that does not differ
// from run to run.
func unary[Resp any, P interface {
	*Resp
	proto.Message
}](method string, req proto.Message) call {
	return call{method, func(ctx context.Context, conn *grpc.ClientConn) string {
		resp := P(new(Resp))
		if err := conn.Invoke(ctx, method, req, resp); err != nil {
			return failed(err)
		}
		return show(resp)
	}}
}

// quiet is unary of which only the success is shown.
func quiet[Resp any, P interface {
	*Resp
	proto.Message
}](method string, req proto.Message) call {
	return call{method, func(ctx context.Context, conn *grpc.ClientConn) string {
		if err := conn.Invoke(ctx, method, req, P(new(Resp))); err != nil {
			return failed(err)
		}
		return "OK"
	}}
}

// streaming is a call whose requests are sent, and of which the first answer is
// shown.
func streaming[Resp any, P interface {
	*Resp
	proto.Message
}](method string, render func(P) string, reqs ...proto.Message) call {
	return call{method, func(ctx context.Context, conn *grpc.ClientConn) string {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			return failed(err)
		}
		for _, req := range reqs {
			if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
				return failed(err)
			}
		}
		if method == pb.Maintenance_Snapshot_FullMethodName {
			if err := stream.CloseSend(); err != nil { // Only then the server has the request.
				return failed(err)
			}
		}
		resp := P(new(Resp))
		if err := stream.RecvMsg(resp); err != nil {
			return failed(err)
		}
		return render(resp)
	}}
}

func failed(err error) string {
	s, _ := status.FromError(err)
	return fmt.Sprintf("%s: %s", s.Code(), s.Message())
}

// differing are the fields of answers that differ from run to run.
var differing = []string{"clusterId", "memberId", "raftTerm", "ID", "TTL"}

// show writes an answer in one line: its revision, and the rest as JSON.
func show(m proto.Message) string {
	b, err := protojson.Marshal(m)
	if err != nil {
		panic(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		panic(err)
	}
	out := "OK"
	if header, ok := fields["header"].(map[string]any); ok {
		out += fmt.Sprintf(" rev=%v", header["revision"])
		delete(fields, "header")
	}
	if _, ok := fields["token"]; ok {
		fields["token"] = "<token>"
	}
	for _, f := range differing {
		delete(fields, f)
	}
	if len(fields) == 0 {
		return out
	}
	text(fields)
	b, err = json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return out + " " + strings.ReplaceAll(string(b), `"`, "")
}

// text has keys and values as they are and not in base64.
func text(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			text(e)
		}
	case map[string]any:
		for name, e := range v {
			if s, ok := e.(string); ok && slices.Contains([]string{"key", "value", "rangeEnd"}, name) {
				b, err := base64.StdEncoding.DecodeString(s)
				if err != nil {
					panic(err)
				}
				v[name] = strings.ReplaceAll(string(b), fromKey, "0x00")
			}
			text(e)
		}
	}
}

func watchAnswer(r *pb.WatchResponse) string {
	out := fmt.Sprintf("OK rev=%d created=%t", r.Header.Revision, r.Created)
	if r.Canceled {
		out += " canceled " + r.CancelReason
	}
	return out
}

func get(key, end string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func put(key string, lease int64) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte("v"), Lease: lease}
}

func del(key, end string) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func op(req proto.Message) *pb.RequestOp {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
	case *pb.PutRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
	case *pb.DeleteRangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	case *pb.TxnRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
	}
	panic("no operation")
}

func txn(success ...proto.Message) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for _, s := range success {
		r.Success = append(r.Success, op(s))
	}
	return r
}

func or(r *pb.TxnRequest, failure ...proto.Message) *pb.TxnRequest {
	r.Failure = txn(failure...).Success
	return r
}

func exists(key, end string) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: []*pb.Compare{{
		Key: []byte(key), RangeEnd: []byte(end), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER,
		TargetUnion: &pb.Compare_Version{},
	}}}
}

func watch(key, end string) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)},
	}}
}

func watching(key, end string) call {
	return streaming(pb.Watch_Watch_FullMethodName, watchAnswer, watch(key, end))
}

func permission(role, key, end string, what authpb.Permission_Type) *pb.AuthRoleGrantPermissionRequest {
	return &pb.AuthRoleGrantPermissionRequest{
		Name: role, Perm: &authpb.Permission{Key: []byte(key), RangeEnd: []byte(end), PermType: what},
	}
}

func ranged(r *pb.RangeRequest, change func(*pb.RangeRequest)) call {
	change(r)
	return unary[pb.RangeResponse](pb.KV_Range_FullMethodName, r)
}

// streamed shows the answers, and how they end.
func streamed(r *pb.RangeRequest) call {
	return call{pb.KV_RangeStream_FullMethodName, func(ctx context.Context, conn *grpc.ClientConn) string {
		stream, err := pb.NewKVClient(conn).RangeStream(ctx, r)
		if err != nil {
			return failed(err)
		}
		var out []string
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return strings.Join(out, " ")
			}
			if err != nil {
				return strings.Join(append(out, failed(err)), " ")
			}
			out = append(out, show(resp.RangeResponse))
		}
	}}
}

func transacted(r *pb.TxnRequest) call {
	return unary[pb.TxnResponse](pb.KV_Txn_FullMethodName, r)
}

const fromKey = "\x00"

// calls are all calls by name. Those of a lease show neither its id nor its time.
var calls = map[string]call{
	"get-a":             unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("a", "")),
	"get-a-to-d":        unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("a", "d")),
	"get-d":             unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("d", "")),
	"get-a-to-e":        unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("a", "e")),
	"get-k-to-m":        unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("k", "m")),
	"get-from-a":        unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("a", fromKey)),
	"get-from-x":        unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("x", fromKey)),
	"get-all":           unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get(fromKey, fromKey)),
	"get-nothing":       unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("", "")),
	"get-b-to-b":        unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("b", "b")),
	"get-c-to-a":        unary[pb.RangeResponse](pb.KV_Range_FullMethodName, get("c", "a")),
	"get-serializable":  ranged(get("a", ""), func(r *pb.RangeRequest) { r.Serializable = true }),
	"count-a-to-e":      ranged(get("a", "e"), func(r *pb.RangeRequest) { r.CountOnly = true }),
	"get-compacted":     ranged(get("a", ""), func(r *pb.RangeRequest) { r.Revision = 1 }),
	"stream-a-to-d":     streamed(get("a", "d")),
	"stream-all":        streamed(get(fromKey, fromKey)),
	"put-b":             unary[pb.PutResponse](pb.KV_Put_FullMethodName, put("b", 0)),
	"put-b-before":      unary[pb.PutResponse](pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("b"), PrevKv: true}),
	"put-l-before":      unary[pb.PutResponse](pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("l"), PrevKv: true}),
	"put-b-leased-a":    unary[pb.PutResponse](pb.KV_Put_FullMethodName, put("b", 7)),
	"put-l-leased-k":    unary[pb.PutResponse](pb.KV_Put_FullMethodName, put("l", 8)),
	"put-b-no-lease":    unary[pb.PutResponse](pb.KV_Put_FullMethodName, put("b", 99)),
	"put-nothing":       unary[pb.PutResponse](pb.KV_Put_FullMethodName, put("", 0)),
	"put-too-large":     unary[pb.PutResponse](pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("a"), Value: make([]byte, 1<<21-1<<12)}),
	"del-b":             unary[pb.DeleteRangeResponse](pb.KV_DeleteRange_FullMethodName, del("b", "")),
	"del-b-before":      unary[pb.DeleteRangeResponse](pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{Key: []byte("b"), PrevKv: true}),
	"del-b-to-c":        unary[pb.DeleteRangeResponse](pb.KV_DeleteRange_FullMethodName, del("b", "c")),
	"del-from-m":        unary[pb.DeleteRangeResponse](pb.KV_DeleteRange_FullMethodName, del("m", fromKey)),
	"del-a-to-c":        unary[pb.DeleteRangeResponse](pb.KV_DeleteRange_FullMethodName, del("a", "c")),
	"txn-empty":         transacted(txn()),
	"txn-get":           transacted(txn(get("a", ""))),
	"txn-get-two":       transacted(txn(get("a", ""), get("d", ""))),
	"txn-if-a":          transacted(exists("a", "")),
	"txn-if-d":          transacted(exists("d", "")),
	"txn-if-range":      transacted(exists("a", "e")),
	"txn-put":           transacted(txn(put("b", 0))),
	"txn-else-put":      transacted(or(txn(get("a", "")), put("b", 0))),
	"txn-put-leased-a":  transacted(txn(put("b", 7))),
	"txn-put-before":    transacted(txn(&pb.PutRequest{Key: []byte("b"), PrevKv: true})),
	"txn-del":           transacted(txn(del("b", ""))),
	"txn-del-before":    transacted(txn(&pb.DeleteRangeRequest{Key: []byte("b"), PrevKv: true})),
	"txn-nested-get":    transacted(txn(txn(get("a", "")))),
	"txn-nested-if-d":   transacted(txn(exists("d", ""))),
	"txn-nested-else":   transacted(txn(or(txn(get("a", "")), put("b", 0)))),
	"txn-nested-put-l":  transacted(txn(txn(put("l", 0)))),
	"compact":           quiet[pb.CompactionResponse](pb.KV_Compact_FullMethodName, &pb.CompactionRequest{Revision: 2}),
	"lease-grant":       unary[pb.LeaseGrantResponse](pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{TTL: 1000}),
	"lease-grant-long":  unary[pb.LeaseGrantResponse](pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{TTL: 1 << 60}),
	"lease-time-a":      unary[pb.LeaseTimeToLiveResponse](pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: 7}),
	"lease-keys-a":      unary[pb.LeaseTimeToLiveResponse](pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true}),
	"lease-keys-k":      unary[pb.LeaseTimeToLiveResponse](pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: 8, Keys: true}),
	"lease-keys-none":   unary[pb.LeaseTimeToLiveResponse](pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: 99, Keys: true}),
	"lease-list":        quiet[pb.LeaseLeasesResponse](pb.Lease_LeaseLeases_FullMethodName, &pb.LeaseLeasesRequest{}),
	"lease-keep-a":      keeping(7),
	"lease-keep-k":      keeping(8),
	"lease-keep-none":   keeping(99),
	"lease-revoke-a":    unary[pb.LeaseRevokeResponse](pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: 7}),
	"lease-revoke-k":    unary[pb.LeaseRevokeResponse](pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: 8}),
	"lease-revoke-none": unary[pb.LeaseRevokeResponse](pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: 99}),
	"watch-a":           watching("a", ""),
	"watch-a-to-d":      watching("a", "d"),
	"watch-a-to-e":      watching("a", "e"),
	"watch-from-k":      watching("k", fromKey),
	"watch-all":         watching("", fromKey),
	"watch-nothing":     watching("c", "b"),

	"member-list":        quiet[pb.MemberListResponse](pb.Cluster_MemberList_FullMethodName, &pb.MemberListRequest{}),
	"member-list-now":    quiet[pb.MemberListResponse](pb.Cluster_MemberList_FullMethodName, &pb.MemberListRequest{Linearizable: true}),
	"member-add-bad":     quiet[pb.MemberAddResponse](pb.Cluster_MemberAdd_FullMethodName, &pb.MemberAddRequest{PeerURLs: []string{"x"}}),
	"member-add":         forOthers(quiet[pb.MemberAddResponse](pb.Cluster_MemberAdd_FullMethodName, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}})),
	"member-remove":      quiet[pb.MemberRemoveResponse](pb.Cluster_MemberRemove_FullMethodName, &pb.MemberRemoveRequest{ID: 1}),
	"member-update":      quiet[pb.MemberUpdateResponse](pb.Cluster_MemberUpdate_FullMethodName, &pb.MemberUpdateRequest{ID: 1, PeerURLs: []string{"http://127.0.0.1:1"}}),
	"member-promote":     quiet[pb.MemberPromoteResponse](pb.Cluster_MemberPromote_FullMethodName, &pb.MemberPromoteRequest{ID: 1}),
	"alarm-get":          quiet[pb.AlarmResponse](pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{}),
	"alarm-disarm":       quiet[pb.AlarmResponse](pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE}),
	"status":             quiet[pb.StatusResponse](pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{}),
	"defragment":         quiet[pb.DefragmentResponse](pb.Maintenance_Defragment_FullMethodName, &pb.DefragmentRequest{}),
	"hash":               quiet[pb.HashResponse](pb.Maintenance_Hash_FullMethodName, &pb.HashRequest{}),
	"hash-kv":            quiet[pb.HashKVResponse](pb.Maintenance_HashKV_FullMethodName, &pb.HashKVRequest{}),
	"snapshot":           streaming(pb.Maintenance_Snapshot_FullMethodName, func(*pb.SnapshotResponse) string { return "OK" }, &pb.SnapshotRequest{}),
	"move-leader":        quiet[pb.MoveLeaderResponse](pb.Maintenance_MoveLeader_FullMethodName, &pb.MoveLeaderRequest{TargetID: 1}),
	"downgrade":          quiet[pb.DowngradeResponse](pb.Maintenance_Downgrade_FullMethodName, &pb.DowngradeRequest{Version: "x"}),
	"health":             unary[healthpb.HealthCheckResponse](healthpb.Health_Check_FullMethodName, &healthpb.HealthCheckRequest{}),
	"auth-status":        unary[pb.AuthStatusResponse](pb.Auth_AuthStatus_FullMethodName, &pb.AuthStatusRequest{}),
	"auth-enable":        unary[pb.AuthEnableResponse](pb.Auth_AuthEnable_FullMethodName, &pb.AuthEnableRequest{}),
	"auth-disable":       unary[pb.AuthDisableResponse](pb.Auth_AuthDisable_FullMethodName, &pb.AuthDisableRequest{}),
	"log-in":             unary[pb.AuthenticateResponse](pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "alice", Password: "alice"}),
	"log-in-wrong":       unary[pb.AuthenticateResponse](pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "alice", Password: "bob"}),
	"log-in-empty":       unary[pb.AuthenticateResponse](pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "alice"}),
	"log-in-nobody":      unary[pb.AuthenticateResponse](pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "mallory", Password: "x"}),
	"log-in-no-password": unary[pb.AuthenticateResponse](pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "cert", Password: "cert"}),

	"user-add":                 unary[pb.AuthUserAddResponse](pb.Auth_UserAdd_FullMethodName, &pb.AuthUserAddRequest{Name: "temp", Password: "p"}),
	"user-add-unnamed":         unary[pb.AuthUserAddResponse](pb.Auth_UserAdd_FullMethodName, &pb.AuthUserAddRequest{Password: "p"}),
	"user-add-long-password":   unary[pb.AuthUserAddResponse](pb.Auth_UserAdd_FullMethodName, &pb.AuthUserAddRequest{Name: "long", Password: strings.Repeat("p", 73)}),
	"user-get-alice":           unary[pb.AuthUserGetResponse](pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: "alice"}),
	"user-get-temp":            unary[pb.AuthUserGetResponse](pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: "temp"}),
	"user-get-unnamed":         unary[pb.AuthUserGetResponse](pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{}),
	"user-get-mallory":         unary[pb.AuthUserGetResponse](pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: "mallory"}),
	"user-list":                unary[pb.AuthUserListResponse](pb.Auth_UserList_FullMethodName, &pb.AuthUserListRequest{}),
	"user-passwd":              unary[pb.AuthUserChangePasswordResponse](pb.Auth_UserChangePassword_FullMethodName, &pb.AuthUserChangePasswordRequest{Name: "temp", Password: "q"}),
	"user-passwd-no-password":  unary[pb.AuthUserChangePasswordResponse](pb.Auth_UserChangePassword_FullMethodName, &pb.AuthUserChangePasswordRequest{Name: "cert", Password: "q"}),
	"user-passwd-empty":        unary[pb.AuthUserChangePasswordResponse](pb.Auth_UserChangePassword_FullMethodName, &pb.AuthUserChangePasswordRequest{Name: "temp"}),
	"user-passwd-bad-hash":     unary[pb.AuthUserChangePasswordResponse](pb.Auth_UserChangePassword_FullMethodName, &pb.AuthUserChangePasswordRequest{Name: "temp", HashedPassword: "?"}),
	"user-passwd-nobody":       unary[pb.AuthUserChangePasswordResponse](pb.Auth_UserChangePassword_FullMethodName, &pb.AuthUserChangePasswordRequest{Name: "mallory", Password: "q"}),
	"user-grant":               unary[pb.AuthUserGrantRoleResponse](pb.Auth_UserGrantRole_FullMethodName, &pb.AuthUserGrantRoleRequest{User: "temp", Role: "temp"}),
	"user-grant-nobody":        unary[pb.AuthUserGrantRoleResponse](pb.Auth_UserGrantRole_FullMethodName, &pb.AuthUserGrantRoleRequest{User: "mallory", Role: "temp"}),
	"user-grant-nothing":       unary[pb.AuthUserGrantRoleResponse](pb.Auth_UserGrantRole_FullMethodName, &pb.AuthUserGrantRoleRequest{User: "temp", Role: "none"}),
	"user-revoke":              unary[pb.AuthUserRevokeRoleResponse](pb.Auth_UserRevokeRole_FullMethodName, &pb.AuthUserRevokeRoleRequest{Name: "temp", Role: "temp"}),
	"user-revoke-root":         unary[pb.AuthUserRevokeRoleResponse](pb.Auth_UserRevokeRole_FullMethodName, &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"}),
	"user-delete":              unary[pb.AuthUserDeleteResponse](pb.Auth_UserDelete_FullMethodName, &pb.AuthUserDeleteRequest{Name: "temp"}),
	"user-delete-root":         unary[pb.AuthUserDeleteResponse](pb.Auth_UserDelete_FullMethodName, &pb.AuthUserDeleteRequest{Name: "root"}),
	"role-add":                 unary[pb.AuthRoleAddResponse](pb.Auth_RoleAdd_FullMethodName, &pb.AuthRoleAddRequest{Name: "temp"}),
	"role-add-unnamed":         unary[pb.AuthRoleAddResponse](pb.Auth_RoleAdd_FullMethodName, &pb.AuthRoleAddRequest{}),
	"role-add-root":            unary[pb.AuthRoleAddResponse](pb.Auth_RoleAdd_FullMethodName, &pb.AuthRoleAddRequest{Name: "root"}),
	"role-get-reader":          unary[pb.AuthRoleGetResponse](pb.Auth_RoleGet_FullMethodName, &pb.AuthRoleGetRequest{Role: "reader"}),
	"role-get-root":            unary[pb.AuthRoleGetResponse](pb.Auth_RoleGet_FullMethodName, &pb.AuthRoleGetRequest{Role: "root"}),
	"role-get-none":            unary[pb.AuthRoleGetResponse](pb.Auth_RoleGet_FullMethodName, &pb.AuthRoleGetRequest{Role: "none"}),
	"role-get-temp":            unary[pb.AuthRoleGetResponse](pb.Auth_RoleGet_FullMethodName, &pb.AuthRoleGetRequest{Role: "temp"}),
	"role-list":                unary[pb.AuthRoleListResponse](pb.Auth_RoleList_FullMethodName, &pb.AuthRoleListRequest{}),
	"role-permit":              unary[pb.AuthRoleGrantPermissionResponse](pb.Auth_RoleGrantPermission_FullMethodName, permission("temp", "p", "q", authpb.Permission_READ)),
	"role-permit-more":         unary[pb.AuthRoleGrantPermissionResponse](pb.Auth_RoleGrantPermission_FullMethodName, permission("temp", "p", "r", authpb.Permission_WRITE)),
	"role-permit-unknown-type": unary[pb.AuthRoleGrantPermissionResponse](pb.Auth_RoleGrantPermission_FullMethodName, permission("temp", "o", "", 9)),
	"role-permit-nothing":      unary[pb.AuthRoleGrantPermissionResponse](pb.Auth_RoleGrantPermission_FullMethodName, &pb.AuthRoleGrantPermissionRequest{Name: "temp"}),
	"role-permit-no-key":       unary[pb.AuthRoleGrantPermissionResponse](pb.Auth_RoleGrantPermission_FullMethodName, permission("temp", "", "", authpb.Permission_READ)),
	"role-permit-reversed":     unary[pb.AuthRoleGrantPermissionResponse](pb.Auth_RoleGrantPermission_FullMethodName, permission("temp", "q", "p", authpb.Permission_READ)),
	"role-permit-none":         unary[pb.AuthRoleGrantPermissionResponse](pb.Auth_RoleGrantPermission_FullMethodName, permission("none", "p", "", authpb.Permission_READ)),
	"role-forbid":              unary[pb.AuthRoleRevokePermissionResponse](pb.Auth_RoleRevokePermission_FullMethodName, &pb.AuthRoleRevokePermissionRequest{Role: "temp", Key: []byte("p"), RangeEnd: []byte("q")}),
	"role-forbid-none":         unary[pb.AuthRoleRevokePermissionResponse](pb.Auth_RoleRevokePermission_FullMethodName, &pb.AuthRoleRevokePermissionRequest{Role: "none", Key: []byte("p")}),
	"role-delete":              unary[pb.AuthRoleDeleteResponse](pb.Auth_RoleDelete_FullMethodName, &pb.AuthRoleDeleteRequest{Role: "temp"}),
	"role-delete-root":         unary[pb.AuthRoleDeleteResponse](pb.Auth_RoleDelete_FullMethodName, &pb.AuthRoleDeleteRequest{Role: "root"}),
}

func keeping(lease int64) call {
	return streaming(pb.Lease_LeaseKeepAlive_FullMethodName,
		func(r *pb.LeaseKeepAliveResponse) string { return fmt.Sprintf("OK alive=%t", r.TTL > 0) },
		&pb.LeaseKeepAliveRequest{ID: lease})
}

// forOthers is a call that those leave out for whom it would succeed, because it
// could not be undone.
func forOthers(c call) call {
	do := c.do
	c.do = func(ctx context.Context, conn *grpc.ClientConn) string {
		if isRoot(ctx) {
			return "left out"
		}
		return do(ctx, conn)
	}
	return c
}

// methods are all RPCs of etcd's services.
func methods() []string {
	var all []string
	for _, d := range []*grpc.ServiceDesc{
		&pb.KV_ServiceDesc, &pb.Watch_ServiceDesc, &pb.Lease_ServiceDesc, &pb.Cluster_ServiceDesc,
		&pb.Maintenance_ServiceDesc, &pb.Auth_ServiceDesc,
	} {
		for _, m := range d.Methods {
			all = append(all, "/"+d.ServiceName+"/"+m.MethodName)
		}
		for _, s := range d.Streams {
			all = append(all, "/"+d.ServiceName+"/"+s.StreamName)
		}
	}
	slices.Sort(all)
	return all
}
