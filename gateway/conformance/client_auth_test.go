package conformance

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// authAnswer is answer for the requests of the Auth service.
func (m *member) authAnswer(ctx context.Context, req proto.Message) string {
	auth := pb.NewAuthClient(m.conn)
	switch req := req.(type) {
	case *pb.AuthStatusRequest:
		return render(m, func(r *pb.AuthStatusResponse) string {
			return fmt.Sprintf("enabled=%t auth=%d", r.Enabled, r.AuthRevision)
		})(auth.AuthStatus(ctx, req))
	case *pb.AuthEnableRequest:
		return render(m, func(*pb.AuthEnableResponse) string { return "" })(auth.AuthEnable(ctx, req))
	case *pb.AuthDisableRequest:
		return render(m, func(*pb.AuthDisableResponse) string { return "" })(auth.AuthDisable(ctx, req))
	case *pb.AuthenticateRequest:
		return render(m, func(r *pb.AuthenticateResponse) string { return fmt.Sprintf("token=%t", r.Token != "") })(auth.Authenticate(ctx, req))
	case *pb.AuthUserAddRequest:
		return render(m, func(*pb.AuthUserAddResponse) string { return "" })(auth.UserAdd(ctx, req))
	case *pb.AuthUserGetRequest:
		return render(m, func(r *pb.AuthUserGetResponse) string { return fmt.Sprintf("roles=%v", r.Roles) })(auth.UserGet(ctx, req))
	case *pb.AuthUserListRequest:
		return render(m, func(r *pb.AuthUserListResponse) string { return fmt.Sprintf("users=%v", r.Users) })(auth.UserList(ctx, req))
	case *pb.AuthUserDeleteRequest:
		return render(m, func(*pb.AuthUserDeleteResponse) string { return "" })(auth.UserDelete(ctx, req))
	case *pb.AuthUserChangePasswordRequest:
		return render(m, func(*pb.AuthUserChangePasswordResponse) string { return "" })(auth.UserChangePassword(ctx, req))
	case *pb.AuthUserGrantRoleRequest:
		return render(m, func(*pb.AuthUserGrantRoleResponse) string { return "" })(auth.UserGrantRole(ctx, req))
	case *pb.AuthUserRevokeRoleRequest:
		return render(m, func(*pb.AuthUserRevokeRoleResponse) string { return "" })(auth.UserRevokeRole(ctx, req))
	case *pb.AuthRoleAddRequest:
		return render(m, func(*pb.AuthRoleAddResponse) string { return "" })(auth.RoleAdd(ctx, req))
	case *pb.AuthRoleGetRequest:
		return render(m, renderRole)(auth.RoleGet(ctx, req))
	case *pb.AuthRoleListRequest:
		return render(m, func(r *pb.AuthRoleListResponse) string { return fmt.Sprintf("roles=%v", r.Roles) })(auth.RoleList(ctx, req))
	case *pb.AuthRoleDeleteRequest:
		return render(m, func(*pb.AuthRoleDeleteResponse) string { return "" })(auth.RoleDelete(ctx, req))
	case *pb.AuthRoleGrantPermissionRequest:
		return render(m, func(*pb.AuthRoleGrantPermissionResponse) string { return "" })(auth.RoleGrantPermission(ctx, req))
	case *pb.AuthRoleRevokePermissionRequest:
		return render(m, func(*pb.AuthRoleRevokePermissionResponse) string { return "" })(auth.RoleRevokePermission(ctx, req))
	default:
		return fmt.Sprintf("the test cannot send a %T", req)
	}
}

func renderRole(r *pb.AuthRoleGetResponse) string {
	s := "permissions=["
	for i, p := range r.Perm {
		if i > 0 {
			s += ", "
		}
		s += fmt.Sprintf("%s %s..%s", p.PermType, printable(p.Key), printable(p.RangeEnd))
	}
	return s + "]"
}

// token authenticates.
func (m *member) token(t *testing.T, name, password string) string {
	t.Helper()
	r, err := pb.NewAuthClient(m.conn).Authenticate(within(t), &pb.AuthenticateRequest{Name: name, Password: password})
	require.NoError(t, err)
	require.Equal(t, "rev=", m.renderHeader(r.Header)[:4])
	return r.Token
}

// with sends a token with each request of a context.
func with(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "token", token)
}

// tellAs is tell with a token, which may be empty.
func tellAs(t *testing.T, m *member, token string, steps []step) {
	t.Helper()
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			once(t)
			t.Helper()
			ctx := within(t)
			if token != "" {
				ctx = with(ctx, token)
			}
			if got := m.answer(ctx, s.req); got != s.want {
				t.Errorf("%T{%s}\n want: %s\n  got: %s", s.req, requestText(s.req), s.want, got)
			}
		})
	}
}

func permit(role string, what authpb.Permission_Type, key, end string) *pb.AuthRoleGrantPermissionRequest {
	return &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: &authpb.Permission{PermType: what, Key: b(key), RangeEnd: b(end)}}
}

func TestAuth(t *testing.T) {
	t.Parallel()
	once(t)
	m := start(t)
	userAdd := func(name, password string) *pb.AuthUserAddRequest {
		return &pb.AuthUserAddRequest{Name: name, Password: password}
	}
	userGrant := func(user, role string) *pb.AuthUserGrantRoleRequest {
		return &pb.AuthUserGrantRoleRequest{User: user, Role: role}
	}
	const read, write, readWrite = authpb.Permission_READ, authpb.Permission_WRITE, authpb.Permission_READWRITE
	tellAs(t, m, "", []step{
		{"it is off", &pb.AuthStatusRequest{}, "rev=1 enabled=false auth=1"},
		{"nobody can authenticate", &pb.AuthenticateRequest{Name: "root", Password: "r"}, "FailedPrecondition: etcdserver: authentication is not enabled"},
		{"it needs a user root", &pb.AuthEnableRequest{}, "FailedPrecondition: etcdserver: root user does not exist"},
		{"a user without a name", userAdd("", "x"), "InvalidArgument: etcdserver: user name is empty"},
		{"root", userAdd("root", "r"), "rev=1"},
		{"root again", userAdd("root", "r"), "FailedPrecondition: etcdserver: user name already exists"},
		{"root needs the role root", &pb.AuthEnableRequest{}, "FailedPrecondition: etcdserver: root user does not have root role"},
		{"which exists without being added", userGrant("root", "root"), "rev=1"},
		{"alice", userAdd("alice", "a"), "rev=1"},
		{"bob", userAdd("bob", "b"), "rev=1"},
		{"a role without a name", &pb.AuthRoleAddRequest{}, "InvalidArgument: etcdserver: role name is empty"},
		{"reader", &pb.AuthRoleAddRequest{Name: "reader"}, "rev=1"},
		{"reader again", &pb.AuthRoleAddRequest{Name: "reader"}, "FailedPrecondition: etcdserver: role name already exists"},
		{"writer", &pb.AuthRoleAddRequest{Name: "writer"}, "rev=1"},
		{"reader may read keys from a to c", permit("reader", read, "a", "d"), "rev=1"},
		{"and one beside", permit("reader", read, "x", ""), "rev=1"},
		{"writer may write keys from b on", permit("writer", write, "b", "\x00"), "rev=1"},
		{"a permission that is none", &pb.AuthRoleGrantPermissionRequest{Name: "reader"}, "InvalidArgument: etcdserver: permission not given"},
		{"a role that does not exist", permit("nobody", readWrite, "a", ""), "FailedPrecondition: etcdserver: role name not found"},
		{"what reader may", &pb.AuthRoleGetRequest{Role: "reader"}, "rev=1 permissions=[READ a..d, READ x..]"},
		{"what writer may", &pb.AuthRoleGetRequest{Role: "writer"}, `rev=1 permissions=[WRITE b..\0]`},
		{"what nobody may", &pb.AuthRoleGetRequest{Role: "nobody"}, "FailedPrecondition: etcdserver: role name not found"},
		{"alice is a reader", userGrant("alice", "reader"), "rev=1"},
		{"bob is a writer", userGrant("bob", "writer"), "rev=1"},
		{"a user that does not exist", userGrant("nobody", "reader"), "FailedPrecondition: etcdserver: user name not found"},
		{"a role that does not exist, to alice", userGrant("alice", "nobody"), "FailedPrecondition: etcdserver: role name not found"},
		{"alice's roles", &pb.AuthUserGetRequest{Name: "alice"}, "rev=1 roles=[reader]"},
		{"nobody's roles", &pb.AuthUserGetRequest{Name: "nobody"}, "FailedPrecondition: etcdserver: user name not found"},
		{"the users", &pb.AuthUserListRequest{}, "rev=1 users=[alice bob root]"},
		{"the roles", &pb.AuthRoleListRequest{}, "rev=1 roles=[reader writer]"},
		{"a key", put("a", "1"), "rev=2"},
		{"and another", put("d", "1"), "rev=3"},
		{"every change so far counted", &pb.AuthStatusRequest{}, "rev=3 enabled=false auth=12"},
		{"on", &pb.AuthEnableRequest{}, "rev=3"},
	})

	const (
		denied  = "PermissionDenied: etcdserver: permission denied"
		nobody  = "InvalidArgument: etcdserver: user name is empty"
		invalid = "Unauthenticated: etcdserver: invalid auth token"
	)
	tellAs(t, m, "", []step{
		{"reading without a token", get("a"), nobody},
		{"writing without a token", put("a", "2"), nobody},
		{"administering without a token", &pb.AuthUserListRequest{}, nobody},
		{"granting a lease without a token", grant(7, 100), nobody},
		{"a wrong password", &pb.AuthenticateRequest{Name: "alice", Password: "b"}, "InvalidArgument: etcdserver: authentication failed, invalid user ID or password"},
		{"a user that is none", &pb.AuthenticateRequest{Name: "nobody", Password: "b"}, "InvalidArgument: etcdserver: authentication failed, invalid user ID or password"},
	})
	tellAs(t, m, "made.up", []step{{"a token that is none", get("a"), invalid}})

	alice, bob, root := m.token(t, "alice", "a"), m.token(t, "bob", "b"), m.token(t, "root", "r")
	tellAs(t, m, alice, []step{
		{"alice reads", get("a"), "rev=3 count=1 [a=1@2/2/1]"},
		{"all that she may", list("a", "d"), "rev=3 count=1 [a=1@2/2/1]"},
		{"counting is reading", &pb.RangeRequest{Key: b("a"), RangeEnd: b("d"), CountOnly: true}, "rev=3 count=1 []"},
		{"more than she may", list("a", "e"), denied},
		{"what she may not", get("d"), denied},
		{"the one beside", get("x"), "rev=3 count=0 []"},
		{"what lies behind that", get("x\x00"), denied},
		{"alice writes", put("a", "2"), denied},
		{"alice deletes", del("a"), denied},
		{"alice reads in a transaction", txn(nil, ops(get("a")), nil), "rev=3 then {rev=3 count=1 [a=1@2/2/1]}"},
		{"compares what she may not read", txn(ifs(cmp("d", "version", "=", 1)), ops(get("a")), nil), denied},
		{"writes in the branch that is not taken", txn(nil, ops(get("a")), ops(put("a", "2"))), denied},
		{"administers", &pb.AuthUserAddRequest{Name: "eve"}, denied},
		{"sees herself", &pb.AuthUserGetRequest{Name: "alice"}, "rev=3 roles=[reader]"},
		{"sees another", &pb.AuthUserGetRequest{Name: "bob"}, denied},
		{"sees her role", &pb.AuthRoleGetRequest{Role: "reader"}, "rev=3 permissions=[READ a..d, READ x..]"},
		{"sees another role", &pb.AuthRoleGetRequest{Role: "writer"}, denied},
		{"compacts", compact(2), denied},
	})
	tellAs(t, m, bob, []step{
		{"bob writes", put("d", "2"), "rev=4"},
		{"but not there", put("a", "2"), denied},
		{"bob reads", get("d"), denied},
		{"not even what was there before", &pb.PutRequest{Key: b("d"), Value: b("3"), PrevKv: true}, denied},
		{"nor what he deletes", &pb.DeleteRangeRequest{Key: b("d"), PrevKv: true}, denied},
		{"bob deletes from a key on", delRange("c", "\x00"), "rev=5 deleted=1"},
		{"but not from a", delRange("a", "\x00"), denied},
	})
	tellAs(t, m, root, []step{
		{"root may all", delRange("\x00", "\x00"), "rev=6 deleted=1"},
		{"keys for a lease", grant(7, 100), "rev=6 lease=7 ttl=100"},
		{"of root", putLeased("a", "1", 7), "rev=7"},
	})
	tellAs(t, m, bob, []step{
		{"bob revokes a lease whose keys he may not write", revoke(7), denied},
		{"or adds to it", putLeased("d", "1", 7), denied},
		{"or sees its keys", ttl(7), denied},
		{"but its time he may see", &pb.LeaseTimeToLiveRequest{ID: 7}, "rev=7 lease=7 granted=100 alive keys=[]"},
	})
	t.Run("alice watches", func(t *testing.T) {
		once(t)
		ctx, cancel := context.WithCancel(with(t.Context(), alice))
		defer cancel()
		stream, err := pb.NewWatchClient(m.conn).Watch(ctx)
		require.NoError(t, err)
		watch := func(req *pb.WatchCreateRequest) string {
			require.NoError(t, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}}))
			r, err := stream.Recv()
			require.NoError(t, err)
			return m.renderWatch(r)
		}
		require.Equal(t, "#0 created rev=7", watch(onRange("a", "d")))
		require.Equal(t, `#-1 created canceled rev=7 "rpc error: code = PermissionDenied desc = etcdserver: permission denied"`, watch(onRange("a", "e")))
	})

	require.NoError(t, m.Kill())
	require.NoError(t, m.Restart(t.Context()))
	tellAs(t, m, "", []step{{"it is on after a restart", get("a"), nobody}})
	tellAs(t, m, alice, []step{{"tokens do not outlive one", get("a"), invalid}})
	alice, root = m.token(t, "alice", "a"), m.token(t, "root", "r")
	tellAs(t, m, root, []step{
		{"switching it on did not count", &pb.AuthStatusRequest{}, "rev=7 enabled=true auth=12"},
		{"a password", &pb.AuthUserChangePasswordRequest{Name: "alice", Password: "new"}, "rev=7"},
		{"of nobody", &pb.AuthUserChangePasswordRequest{Name: "nobody", Password: "new"}, "FailedPrecondition: etcdserver: user name not found"},
	})
	tellAs(t, m, alice, []step{{"a token ends with its password", get("a"), invalid}})
	tellAs(t, m, "", []step{
		{"the old password", &pb.AuthenticateRequest{Name: "alice", Password: "a"}, "InvalidArgument: etcdserver: authentication failed, invalid user ID or password"},
		{"the new password", &pb.AuthenticateRequest{Name: "alice", Password: "new"}, "rev=7 token=true"},
	})
	alice = m.token(t, "alice", "new")
	tellAs(t, m, root, []step{
		{"a permission is taken", &pb.AuthRoleRevokePermissionRequest{Role: "reader", Key: b("a"), RangeEnd: b("d")}, "rev=7"},
		{"one that was not given", &pb.AuthRoleRevokePermissionRequest{Role: "reader", Key: b("a")}, "FailedPrecondition: etcdserver: permission is not granted to the role"},
		{"what is left", &pb.AuthRoleGetRequest{Role: "reader"}, "rev=7 permissions=[READ x..]"},
	})
	tellAs(t, m, alice, []step{
		{"alice reads no more", get("a"), denied},
		{"but the one beside", get("x"), "rev=7 count=0 []"},
	})
	tellAs(t, m, root, []step{
		{"a role is taken", &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "reader"}, "rev=7"},
		{"one that was not given to her", &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "reader"}, "FailedPrecondition: etcdserver: role is not granted to the user"},
		{"a role is deleted", &pb.AuthRoleDeleteRequest{Role: "writer"}, "rev=7"},
		{"and taken from all", &pb.AuthUserGetRequest{Name: "bob"}, "rev=7 roles=[]"},
		{"a second time", &pb.AuthRoleDeleteRequest{Role: "writer"}, "FailedPrecondition: etcdserver: role name not found"},
		{"a user is deleted", &pb.AuthUserDeleteRequest{Name: "bob"}, "rev=7"},
		{"root stays while it is on", &pb.AuthUserDeleteRequest{Name: "root"}, "InvalidArgument: etcdserver: invalid auth management"},
		{"so does its role", &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"}, "InvalidArgument: etcdserver: invalid auth management"},
		{"off", &pb.AuthDisableRequest{}, "rev=7"},
	})
	tellAs(t, m, "", []step{
		{"nobody is asked any more", get("a"), "rev=7 count=1 [a=1@7/7/1/lease7]"},
		{"and everything since has counted", &pb.AuthStatusRequest{}, "rev=7 enabled=false auth=18"},
	})
}
