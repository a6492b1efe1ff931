package auth

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"
)

// The buckets in which etcd keeps users and roles, for snapshots (storage/backup).
const (
	bucketAuth  = "auth"
	bucketUsers = "authUsers"
	bucketRoles = "authRoles"

	rowEnabled  = "authEnabled"
	rowRevision = "authRevision"
)

// Buckets returns the state as etcd keeps it, by bucket and key. What tokens are signed
// with is left out: who has a snapshot can not make one.
func (st *State) Buckets() (map[string]map[string][]byte, error) {
	enabled := byte(0)
	if st.enabled {
		enabled = 1
	}
	users, roles := map[string][]byte{}, map[string][]byte{}
	for name, u := range st.users {
		data, err := proto.Marshal(&authpb.User{
			Name: []byte(name), Password: u.Password, Roles: u.Roles,
			Options: &authpb.UserAddOptions{NoPassword: u.NoPassword},
		})
		if err != nil {
			return nil, fmt.Errorf("auth: user %q: %w", name, err)
		}
		users[name] = data
	}
	for name, r := range st.roles {
		role := &authpb.Role{Name: []byte(name)}
		for _, p := range r.Permissions {
			role.KeyPermission = append(role.KeyPermission, &authpb.Permission{
				PermType: authpb.Permission_Type(p.Type), Key: p.Key, RangeEnd: p.End,
			})
		}
		data, err := proto.Marshal(role)
		if err != nil {
			return nil, fmt.Errorf("auth: role %q: %w", name, err)
		}
		roles[name] = data
	}
	return map[string]map[string][]byte{
		bucketAuth: {
			rowEnabled:  {enabled},
			rowRevision: binary.BigEndian.AppendUint64(nil, st.revision),
		},
		bucketUsers: users, bucketRoles: roles,
	}, nil
}

// FromBuckets returns the rows of a table that has what etcd keeps, in their order;
// none if nobody ever was added. Tokens are not good there: there is no secret until the
// first user asks for one.
func FromBuckets(buckets map[string]map[string][]byte) ([]Write, error) {
	users, roles := buckets[bucketUsers], buckets[bucketRoles]
	m := metaRow{Revision: firstRevision}
	if row := buckets[bucketAuth][rowRevision]; len(row) == 8 {
		m.Revision = max(m.Revision, binary.BigEndian.Uint64(row))
	} else if len(row) > 0 {
		return nil, fmt.Errorf("auth: bad revision %x", row)
	}
	if row := buckets[bucketAuth][rowEnabled]; len(row) == 1 {
		m.Enabled = row[0] == 1
	} else if len(row) > 0 {
		return nil, fmt.Errorf("auth: bad row %s: %x", rowEnabled, row)
	}
	if len(users) == 0 && len(roles) == 0 && m == (metaRow{Revision: firstRevision}) {
		return nil, nil
	}
	writes := []Write{row(metaKey, m)}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		var from authpb.Role
		if err := proto.Unmarshal(roles[name], &from); err != nil {
			return nil, fmt.Errorf("auth: role %q: %w", name, err)
		}
		to := Role{Name: name}
		for _, p := range from.KeyPermission {
			to.Permissions = append(to.Permissions, Permission{PermissionType(p.PermType), p.Key, p.RangeEnd})
		}
		writes = append(writes, row(rolePrefix+name, to))
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		var from authpb.User
		if err := proto.Unmarshal(users[name], &from); err != nil {
			return nil, fmt.Errorf("auth: user %q: %w", name, err)
		}
		slices.Sort(from.Roles)
		writes = append(writes, row(userPrefix+name, User{
			Name: name, Password: from.Password, NoPassword: from.Options.GetNoPassword(),
			Roles: from.Roles, Since: m.Revision,
		}))
	}
	return writes, nil
}

// NeedsSecret says whether tokens can not be signed: as after a restore.
func (st *State) NeedsSecret() bool { return st.enabled && st.secret == "" }

// GiveSecret gives a state that needs one what tokens are signed with; secret is
// random, and nobody's yet.
func (st *State) GiveSecret(secret []byte) []Write { return []Write{{secretKey, secret}} }
