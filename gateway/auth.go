package gateway

import (
	"context"
	"errors"
	"log/slog"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/crypto/bcrypt"

	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// authServer serves etcd's Auth service. What it shows is as of now, wherever it was
// changed.
type authServer struct {
	*Server
	pb.UnsafeAuthServer
}

// AuthStatus says whether authentication is on.
func (s *authServer) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	by, err := s.auth.again(ctx)
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.AuthStatusResponse{Header: s.header(0), Enabled: by.Enabled(), AuthRevision: by.Revision()}, nil
}

// AuthEnable switches authentication on, which needs a user root.
func (s *authServer) AuthEnable(ctx context.Context, _ *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) { return st.Enable(newSecret()) })
	if err != nil {
		return nil, err
	}
	s.log.Info("authentication is on")
	return &pb.AuthEnableResponse{Header: s.header(0)}, nil
}

// AuthDisable switches authentication off.
func (s *authServer) AuthDisable(ctx context.Context, _ *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	if err := s.changeAuth(ctx, (*auth.State).Disable); err != nil {
		return nil, err
	}
	s.log.Info("authentication is off")
	return &pb.AuthDisableResponse{Header: s.header(0)}, nil
}

// Authenticate gives a token to who knows the password. To compare it takes long on
// purpose; if users or roles were changed meanwhile, it is done again.
func (s *authServer) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	for {
		st, err := s.auth.now(ctx)
		if err != nil {
			return nil, toGRPC(err)
		}
		hash, err := st.Credentials(r.Name)
		if err == nil && bcrypt.CompareHashAndPassword(hash, []byte(r.Password)) != nil {
			err = auth.ErrAuthFailed
		}
		if err != nil {
			if st.Enabled() {
				s.log.Warn("somebody could not be authenticated", slog.String("user", r.Name), slog.Any("err", err))
			}
			return nil, toGRPC(err)
		}
		if st.NeedsSecret() {
			// The state comes from a snapshot. Who loses the race looks again.
			secret := records(st.GiveSecret(newSecret()))
			_, err := s.store.WriteRecords(ctx, authTable, st.Version(), secret)
			if err != nil && !errors.Is(err, evaluate.ErrRecordsChanged) {
				return nil, toGRPC(err)
			}
			continue
		}
		token, err := s.auth.tokens.Issue(st, r.Name)
		if err != nil {
			return nil, toGRPC(err)
		}
		if after, err := s.auth.now(ctx); err != nil || after.Revision() == st.Revision() {
			if err != nil {
				return nil, toGRPC(err)
			}
			return &pb.AuthenticateResponse{Header: s.header(0), Token: token}, nil
		}
	}
}

// UserAdd adds a user.
func (s *authServer) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	noPassword := r.Options.GetNoPassword()
	var hash []byte
	if !noPassword {
		var err error
		if hash, err = s.hashFor(ctx, r.Password); err != nil {
			return nil, err
		}
	}
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) { return st.AddUser(r.Name, hash, noPassword) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserAddResponse{Header: s.header(0)}, nil
}

// hashFor takes the hash of a password for somebody who may set it: nobody else
// shall keep a processor busy.
func (s *authServer) hashFor(ctx context.Context, password string) ([]byte, error) {
	if len(password) > maxPassword {
		return nil, toGRPC(bcrypt.ErrPasswordTooLong)
	}
	if err := s.permitted(ctx, admin); err != nil {
		return nil, err
	}
	hash, err := s.auth.hash(password)
	return hash, toGRPC(err)
}

// UserGet shows a user's roles, to root and to the user.
func (s *authServer) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	by, err := s.auth.again(ctx)
	if err == nil {
		err = by.CheckUser(by.who, r.Name)
	}
	var u *auth.User
	if err == nil {
		u, err = by.User(r.Name)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.AuthUserGetResponse{Header: s.header(0), Roles: u.Roles}, nil
}

// UserList lists the users.
func (s *authServer) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	by, err := s.auth.again(ctx)
	if err == nil {
		err = admin(by)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.AuthUserListResponse{Header: s.header(0), Users: by.Users()}, nil
}

// UserDelete deletes a user.
func (s *authServer) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) { return st.DeleteUser(r.Name) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserDeleteResponse{Header: s.header(0)}, nil
}

// UserChangePassword gives a user another password, and ends the tokens.
func (s *authServer) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	var hash []byte
	var bad error // told only if the user has a password, and who asks may
	if r.Password == "" {
		hash, bad = hashedBefore(r.HashedPassword)
	} else {
		var err error
		if hash, err = s.hashFor(ctx, r.Password); err != nil {
			return nil, err
		}
	}
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) {
		if u, err := st.User(r.Name); err == nil && !u.NoPassword && bad != nil {
			return nil, bad
		}
		return st.ChangePassword(r.Name, hash)
	})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserChangePasswordResponse{Header: s.header(0)}, nil
}

// UserGrantRole gives a user a role.
func (s *authServer) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) { return st.GrantRole(r.User, r.Role) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGrantRoleResponse{Header: s.header(0)}, nil
}

// UserRevokeRole takes a role from a user.
func (s *authServer) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) { return st.RevokeRole(r.Name, r.Role) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserRevokeRoleResponse{Header: s.header(0)}, nil
}

// RoleAdd adds a role.
func (s *authServer) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) { return st.AddRole(r.Name) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleAddResponse{Header: s.header(0)}, nil
}

// RoleGet shows a role's permissions, to root and to who has it.
func (s *authServer) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	by, err := s.auth.again(ctx)
	if err == nil {
		err = by.CheckRole(by.who, r.Role)
	}
	var role *auth.Role
	if err == nil {
		role, err = by.Role(r.Role)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	resp := &pb.AuthRoleGetResponse{Header: s.header(0)}
	for _, p := range role.Permissions {
		resp.Perm = append(resp.Perm, &authpb.Permission{
			PermType: authpb.Permission_Type(p.Type), Key: p.Key, RangeEnd: p.End,
		})
	}
	return resp, nil
}

// RoleList lists the roles.
func (s *authServer) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	by, err := s.auth.again(ctx)
	if err == nil {
		err = admin(by)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	return &pb.AuthRoleListResponse{Header: s.header(0), Roles: by.Roles()}, nil
}

// RoleDelete deletes a role.
func (s *authServer) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) { return st.DeleteRole(r.Role) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleDeleteResponse{Header: s.header(0)}, nil
}

// RoleGrantPermission gives a role a permission.
func (s *authServer) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	var p *auth.Permission
	if r.Perm != nil {
		p = &auth.Permission{Type: auth.PermissionType(r.Perm.PermType), Key: r.Perm.Key, End: r.Perm.RangeEnd}
	}
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) { return st.GrantPermission(r.Name, p) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleGrantPermissionResponse{Header: s.header(0)}, nil
}

// RoleRevokePermission takes a permission from a role.
func (s *authServer) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	err := s.changeAuth(ctx, func(st *auth.State) ([]auth.Write, error) {
		return st.RevokePermission(r.Role, r.Key, r.RangeEnd)
	})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleRevokePermissionResponse{Header: s.header(0)}, nil
}
