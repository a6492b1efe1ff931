package auth

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Table is the name of the table of records that has users and roles. Part of the file
// format, and should not be changed.
const Table = "auth"

// Root is the user that must exist before authentication can be switched on, and
// the role that may do everything.
const Root = "root"

// The keys of the table's rows, part of the file format, and should not be changed:
//
//	meta          metaRow; the first change makes it
//	secret        what simple tokens are signed with, while authentication is on
//	user/<name>   User
//	role/<name>   Role
const (
	metaKey    = "meta"
	secretKey  = "secret"
	userPrefix = "user/"
	rolePrefix = "role/"
)

// firstRevision is the revision of a state that nobody has changed.
const firstRevision = 1

// metaRow, User and Role are rows. Their JSON is part of the file format, and
// should not be changed.
type metaRow struct {
	Enabled  bool   `json:"enabled"`
	Revision uint64 `json:"revision"`
}

// User is a user.
type User struct {
	Name string `json:"name"`
	// Password is a bcrypt hash; nobody's if it is empty.
	Password []byte `json:"password,omitempty"`
	// NoPassword says that the user can be recognised by a certificate only.
	NoPassword bool `json:"no_password,omitempty"`
	// Roles are sorted.
	Roles []string `json:"roles,omitempty"`
	// Since is the revision at which the user got this name and password.
	Since uint64 `json:"since"`
}

// IsRoot says whether the user may do everything.
func (u *User) IsRoot() bool { return u.HasRole(Root) }

// HasRole says whether the user has a role.
func (u *User) HasRole(role string) bool {
	_, has := slices.BinarySearch(u.Roles, role)
	return has
}

// Role is a set of permissions.
type Role struct {
	Name string `json:"name"`
	// Permissions are sorted by key.
	Permissions []Permission `json:"permissions,omitempty"`
}

// State is who may do what, as of one version of the table.
type State struct {
	version  int64
	enabled  bool
	revision uint64
	secret   string
	users    map[string]*account
	roles    map[string]*Role
}

// account is a user with what all roles together permit.
type account struct {
	User
	once        sync.Once
	read, write spans
}

// Load makes a State of the rows of a table at a version. It keeps none of them.
func Load(version int64, rows map[string][]byte) (*State, error) {
	st := &State{version: version, revision: firstRevision, users: map[string]*account{}, roles: map[string]*Role{}}
	for key, value := range rows {
		var err error
		name, isUser := strings.CutPrefix(key, userPrefix)
		role, isRole := strings.CutPrefix(key, rolePrefix)
		switch {
		case key == metaKey:
			var m metaRow
			err = json.Unmarshal(value, &m)
			st.enabled, st.revision = m.Enabled, m.Revision
		case key == secretKey:
			st.secret = string(value)
		case isUser:
			a := new(account)
			err = json.Unmarshal(value, &a.User)
			st.users[name] = a
		case isRole:
			r := new(Role)
			err = json.Unmarshal(value, r)
			st.roles[role] = r
		}
		if err != nil {
			return nil, fmt.Errorf("auth: bad row %q: %w", key, err)
		}
	}
	return st, nil
}

// Version is that of the table.
func (st *State) Version() int64 { return st.version }

// Enabled says whether authentication is on.
func (st *State) Enabled() bool { return st.enabled }

// Revision counts the changes.
func (st *State) Revision() uint64 { return st.revision }

// User returns a user, which is not to be changed, or ErrUserNotFound.
func (st *State) User(name string) (*User, error) {
	a := st.users[name]
	if a == nil {
		return nil, ErrUserNotFound
	}
	return &a.User, nil
}

// Users returns the users' names, sorted.
func (st *State) Users() []string { return slices.Sorted(maps.Keys(st.users)) }

// Role returns a role, which is not to be changed, or ErrRoleNotFound. What root
// permits is made up.
func (st *State) Role(name string) (*Role, error) {
	r := st.roles[name]
	switch {
	case r == nil:
		return nil, ErrRoleNotFound
	case name == Root:
		return &Role{Name: Root, Permissions: []Permission{{Type: ReadWrite, Key: []byte{}, End: fromKeyOn}}}, nil
	}
	return r, nil
}

// Roles returns the roles' names, sorted.
func (st *State) Roles() []string { return slices.Sorted(maps.Keys(st.roles)) }

// permitted returns what a user may read and write, which is found out once.
func (st *State) permitted(a *account) (read, write spans) {
	a.once.Do(func() {
		for _, name := range a.Roles {
			role := st.roles[name]
			if role == nil {
				continue
			}
			for _, p := range role.Permissions {
				s := spanOf(p)
				if p.Type == ReadOnly || p.Type == ReadWrite {
					a.read = append(a.read, s)
				}
				if p.Type == WriteOnly || p.Type == ReadWrite {
					a.write = append(a.write, s)
				}
			}
		}
		a.read, a.write = a.read.merge(), a.write.merge()
	})
	return a.read, a.write
}

// Closed is a State in which nobody may do anything.
func Closed(version int64) *State {
	return &State{version: version, enabled: true, revision: firstRevision}
}
