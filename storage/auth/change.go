package auth

import (
	"bytes"
	"encoding/json"
	"slices"
)

// Write writes one row of the table, or deletes it if Value is nil.
type Write struct {
	Key   string
	Value []byte
}

// The changes. Each returns what to write, nothing if there is nothing to change,
// or why it is refused.

// Enable switches authentication on. secret is random, and nobody's yet.
func (st *State) Enable(secret []byte) ([]Write, error) {
	if st.enabled {
		return nil, nil
	}
	root := st.users[Root]
	switch {
	case root == nil:
		return nil, ErrRootUserNotExist
	case !root.IsRoot():
		return nil, ErrRootRoleNotExist
	}
	return []Write{row(metaKey, metaRow{Enabled: true, Revision: st.revision}), {secretKey, secret}}, nil
}

// Disable switches authentication off.
func (st *State) Disable() ([]Write, error) {
	if !st.enabled {
		return nil, nil
	}
	return []Write{row(metaKey, metaRow{Revision: st.revision + 1}), {Key: secretKey}}, nil
}

// AddUser adds a user with a password, of which it takes the hash, or without one.
func (st *State) AddUser(name string, hash []byte, noPassword bool) ([]Write, error) {
	switch {
	case name == "":
		return nil, ErrUserEmpty
	case st.users[name] != nil:
		return nil, ErrUserAlreadyExist
	}
	u := User{Name: name, NoPassword: noPassword, Since: st.revision + 1}
	if !noPassword {
		u.Password = hash
	}
	return st.counted(userRow(&u)), nil
}

// DeleteUser deletes a user.
func (st *State) DeleteUser(name string) ([]Write, error) {
	if st.enabled && name == Root {
		return nil, ErrInvalidAuthMgmt
	}
	if _, err := st.User(name); err != nil {
		return nil, err
	}
	return st.counted(Write{Key: userPrefix + name}), nil
}

// ChangePassword gives a user another password. Of one without a password it ends
// no more than the tokens.
func (st *State) ChangePassword(name string, hash []byte) ([]Write, error) {
	old, err := st.User(name)
	if err != nil {
		return nil, err
	}
	u := *old
	u.Password, u.Since = nil, st.revision+1
	if !u.NoPassword {
		u.Password = hash
	}
	return st.counted(userRow(&u)), nil
}

// GrantRole gives a user a role.
func (st *State) GrantRole(name, role string) ([]Write, error) {
	old, err := st.User(name)
	switch {
	case err != nil:
		return nil, err
	case role != Root && st.roles[role] == nil:
		return nil, ErrRoleNotFound
	case old.HasRole(role):
		return nil, nil
	}
	u := *old
	u.Roles = append(slices.Clone(u.Roles), role)
	slices.Sort(u.Roles)
	return st.counted(userRow(&u)), nil
}

// RevokeRole takes a role from a user.
func (st *State) RevokeRole(name, role string) ([]Write, error) {
	if st.enabled && name == Root && role == Root {
		return nil, ErrInvalidAuthMgmt
	}
	u, err := st.User(name)
	if err != nil {
		return nil, err
	}
	if !u.HasRole(role) {
		return nil, ErrRoleNotGranted
	}
	return st.counted(userRow(u.without(role))), nil
}

// AddRole adds a role.
func (st *State) AddRole(name string) ([]Write, error) {
	switch {
	case name == "":
		return nil, ErrRoleEmpty
	case st.roles[name] != nil:
		return nil, ErrRoleAlreadyExist
	}
	return st.counted(roleRow(&Role{Name: name})), nil
}

// DeleteRole deletes a role, which nobody has any more then.
func (st *State) DeleteRole(name string) ([]Write, error) {
	if st.enabled && name == Root {
		return nil, ErrInvalidAuthMgmt
	}
	if st.roles[name] == nil {
		return nil, ErrRoleNotFound
	}
	writes := []Write{{Key: rolePrefix + name}}
	for _, user := range st.Users() {
		if u := &st.users[user].User; u.HasRole(name) {
			writes = append(writes, userRow(u.without(name)))
		}
	}
	return st.counted(writes...), nil
}

// GrantPermission gives a role a permission, or changes the type of one that it
// has. nil is none.
func (st *State) GrantPermission(role string, p *Permission) ([]Write, error) {
	switch {
	case p == nil:
		return nil, ErrPermissionNotGiven
	case !p.isValid():
		return nil, ErrInvalidAuthMgmt
	}
	old := st.roles[role]
	if old == nil {
		return nil, ErrRoleNotFound
	}
	return st.counted(roleRow(&Role{Name: role, Permissions: grant(old.Permissions, *p)})), nil
}

// RevokePermission takes the permissions for exactly this range from a role.
func (st *State) RevokePermission(role string, key, end []byte) ([]Write, error) {
	old := st.roles[role]
	if old == nil {
		return nil, ErrRoleNotFound
	}
	left := slices.DeleteFunc(slices.Clone(old.Permissions), func(p Permission) bool {
		return bytes.Equal(p.Key, key) && bytes.Equal(p.End, end)
	})
	if len(left) == len(old.Permissions) {
		return nil, ErrPermissionNotGranted
	}
	return st.counted(roleRow(&Role{Name: role, Permissions: left})), nil
}

// counted adds that the revision is greater by one.
func (st *State) counted(writes ...Write) []Write {
	return append(writes, row(metaKey, metaRow{Enabled: st.enabled, Revision: st.revision + 1}))
}

// without is u without a role.
func (u *User) without(role string) *User {
	v := *u
	v.Roles = slices.DeleteFunc(slices.Clone(u.Roles), func(r string) bool { return r == role })
	return &v
}

func userRow(u *User) Write { return row(userPrefix+u.Name, u) }
func roleRow(r *Role) Write { return row(rolePrefix+r.Name, r) }

func row(key string, of any) Write {
	value, err := json.Marshal(of)
	if err != nil {
		panic(err) // strings, bytes and numbers
	}
	return Write{key, value}
}
