package auth

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// table is what a store has of users and roles.
type table struct {
	version int64
	rows    map[string][]byte
}

// change makes a change of a table, as the gateway does.
type change func(st *State) ([]Write, error)

func (tb *table) state(t *testing.T) *State {
	t.Helper()
	st, err := Load(tb.version, tb.rows)
	require.NoError(t, err)
	return st
}

func (tb *table) do(t *testing.T, changes ...change) *State {
	t.Helper()
	for _, c := range changes {
		writes, err := c(tb.state(t))
		require.NoError(t, err)
		tb.write(writes)
	}
	return tb.state(t)
}

func (tb *table) write(writes []Write) {
	if tb.rows == nil {
		tb.rows = map[string][]byte{}
	}
	for _, w := range writes {
		if w.Value == nil {
			delete(tb.rows, w.Key)
		} else {
			tb.rows[w.Key] = w.Value
		}
	}
	tb.version++
}

func addUser(name string) change {
	return func(st *State) ([]Write, error) { return st.AddUser(name, []byte("hash of "+name), false) }
}

func addNoPassword(name string) change {
	return func(st *State) ([]Write, error) { return st.AddUser(name, []byte("no hash"), true) }
}

func deleteUser(name string) change {
	return func(st *State) ([]Write, error) { return st.DeleteUser(name) }
}

func password(name, hash string) change {
	return func(st *State) ([]Write, error) { return st.ChangePassword(name, []byte(hash)) }
}

func grantRole(name, role string) change {
	return func(st *State) ([]Write, error) { return st.GrantRole(name, role) }
}

func revokeRole(name, role string) change {
	return func(st *State) ([]Write, error) { return st.RevokeRole(name, role) }
}

func addRole(name string) change {
	return func(st *State) ([]Write, error) { return st.AddRole(name) }
}

func deleteRole(name string) change {
	return func(st *State) ([]Write, error) { return st.DeleteRole(name) }
}

func permit(role string, kind PermissionType, key, end string) change {
	return func(st *State) ([]Write, error) {
		return st.GrantPermission(role, &Permission{Type: kind, Key: []byte(key), End: []byte(end)})
	}
}

func forbid(role, key, end string) change {
	return func(st *State) ([]Write, error) { return st.RevokePermission(role, []byte(key), []byte(end)) }
}

func enable(st *State) ([]Write, error)  { return st.Enable([]byte("secret")) }
func disable(st *State) ([]Write, error) { return st.Disable() }

// population is root, alice who may read a, and bob who has no role.
func population(t *testing.T) *table {
	t.Helper()
	tb := new(table)
	tb.do(
		t, addUser(Root), grantRole(Root, Root), addUser("alice"), addUser("bob"), addNoPassword("cert"),
		addRole("reader"), permit("reader", ReadOnly, "a", ""), grantRole("alice", "reader"),
	)
	return tb
}

func TestLoad(t *testing.T) {
	st, err := Load(0, nil)
	require.NoError(t, err)
	require.False(t, st.Enabled())
	require.Equal(t, uint64(1), st.Revision())
	require.Empty(t, st.Users())
	require.NoError(t, st.CheckPut(Identity{}, []byte("a")), "nobody is refused while authentication is off")

	tb := population(t)
	st = tb.do(t, enable)
	require.True(t, st.Enabled())
	require.Equal(t, tb.version, st.Version())
	require.Equal(t, uint64(9), st.Revision())
	require.Equal(t, []string{"alice", "bob", "cert", Root}, st.Users())
	require.Equal(t, []string{"reader"}, st.Roles())
	u, err := st.User("alice")
	require.NoError(t, err)
	require.Equal(t, &User{Name: "alice", Password: []byte("hash of alice"), Roles: []string{"reader"}, Since: 4}, u)
	_, err = st.User("carol")
	require.ErrorIs(t, err, ErrUserNotFound)
	r, err := st.Role("reader")
	require.NoError(t, err)
	require.Equal(t, &Role{Name: "reader", Permissions: []Permission{{ReadOnly, []byte("a"), nil}}}, r)
	_, err = st.Role(Root)
	require.ErrorIs(t, err, ErrRoleNotFound, "it was never added")
}

func TestLoadDamaged(t *testing.T) {
	for key, value := range map[string]string{
		metaKey:               `{"enabled":tr`,
		userPrefix + "alice":  `{"name":`,
		userPrefix + "bob":    `{"name":"bob","since":-1}`,
		userPrefix + "carol":  `[]`,
		userPrefix + "dave":   ``,
		rolePrefix + "reader": `{"permissions":[{"type":"all"}]}`,
		rolePrefix + "writer": "\x00",
	} {
		t.Run(key, func(t *testing.T) {
			tb := population(t)
			tb.rows[key] = []byte(value)
			_, err := Load(1, tb.rows)
			require.ErrorContains(t, err, "auth: bad row")
			require.ErrorContains(t, err, key)
		})
	}
	// A later version may have more rows.
	tb := population(t)
	tb.rows["quota/alice"] = []byte("?")
	_, err := Load(1, tb.rows)
	require.NoError(t, err)
}

func TestClosed(t *testing.T) {
	st := Closed(7)
	require.Equal(t, int64(7), st.Version())
	who := Identity{User: Root, Revision: 100}
	require.Error(t, st.CheckRange(who, []byte("a"), nil))
	require.Error(t, st.CheckPut(who, []byte("a")))
	require.Error(t, st.CheckAdmin(who))
	_, err := st.Credentials(Root)
	require.Error(t, err)
	_, err = newSimpleTokens(1, 0, nil).Issue(st, Root)
	require.Error(t, err)
}

// TestRefusedChanges has every reason for which a change is refused, off and on.
func TestRefusedChanges(t *testing.T) {
	on := population(t)
	on.do(t, enable)
	for name, c := range map[string]struct {
		change  change
		off, on error
	}{
		"a user without a name":          {addUser(""), ErrUserEmpty, ErrUserEmpty},
		"a user that exists":             {addUser("alice"), ErrUserAlreadyExist, ErrUserAlreadyExist},
		"to delete nobody":               {deleteUser("carol"), ErrUserNotFound, ErrUserNotFound},
		"to delete root":                 {deleteUser(Root), nil, ErrInvalidAuthMgmt},
		"nobody's password":              {password("carol", "x"), ErrUserNotFound, ErrUserNotFound},
		"a role for nobody":              {grantRole("carol", "reader"), ErrUserNotFound, ErrUserNotFound},
		"no role":                        {grantRole("bob", "writer"), ErrRoleNotFound, ErrRoleNotFound},
		"root's role, which is not made": {grantRole("bob", Root), nil, nil},
		"nobody's role":                  {revokeRole("carol", "reader"), ErrUserNotFound, ErrUserNotFound},
		"a role that bob has not":        {revokeRole("bob", "reader"), ErrRoleNotGranted, ErrRoleNotGranted},
		"root's role":                    {revokeRole(Root, Root), nil, ErrInvalidAuthMgmt},
		"a role without a name":          {addRole(""), ErrRoleEmpty, ErrRoleEmpty},
		"a role that exists":             {addRole("reader"), ErrRoleAlreadyExist, ErrRoleAlreadyExist},
		"to delete no role":              {deleteRole("writer"), ErrRoleNotFound, ErrRoleNotFound},
		"to delete root's role":          {deleteRole(Root), ErrRoleNotFound, ErrInvalidAuthMgmt},
		"a permission for no role":       {permit("writer", ReadOnly, "a", ""), ErrRoleNotFound, ErrRoleNotFound},
		"a permission without a key":     {permit("reader", ReadOnly, "", ""), ErrInvalidAuthMgmt, ErrInvalidAuthMgmt},
		"from no key on":                 {permit("reader", ReadOnly, "", "\x00"), ErrInvalidAuthMgmt, ErrInvalidAuthMgmt},
		"a reversed range":               {permit("reader", ReadOnly, "b", "a"), ErrInvalidAuthMgmt, ErrInvalidAuthMgmt},
		"an empty range":                 {permit("reader", ReadOnly, "b", "b"), ErrInvalidAuthMgmt, ErrInvalidAuthMgmt},
		"no permission": {
			func(st *State) ([]Write, error) { return st.GrantPermission("reader", nil) },
			ErrPermissionNotGiven, ErrPermissionNotGiven,
		},
		"to forbid no role":               {forbid("writer", "a", ""), ErrRoleNotFound, ErrRoleNotFound},
		"to forbid what is not permitted": {forbid("reader", "a", "b"), ErrPermissionNotGranted, ErrPermissionNotGranted},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.change(population(t).state(t))
			require.ErrorIs(t, err, c.off)
			_, err = c.change(on.state(t))
			require.ErrorIs(t, err, c.on)
		})
	}
}

func TestEnable(t *testing.T) {
	tb := new(table)
	_, err := enable(tb.state(t))
	require.ErrorIs(t, err, ErrRootUserNotExist)
	_, err = enable(tb.do(t, addUser(Root)))
	require.ErrorIs(t, err, ErrRootRoleNotExist)
	before := tb.do(t, grantRole(Root, Root)).Revision()
	st := tb.do(t, enable)
	require.True(t, st.Enabled())
	require.Equal(t, before, st.Revision(), "as in etcd it is no change")
	require.Equal(t, "secret", st.secret)
	writes, err := st.Enable([]byte("another"))
	require.NoError(t, err)
	require.Empty(t, writes, "it is on")
	st = tb.do(t, disable)
	require.False(t, st.Enabled())
	require.Equal(t, before+1, st.Revision())
	require.Empty(t, st.secret, "what tokens were signed with is gone")
	writes, err = st.Disable()
	require.NoError(t, err)
	require.Empty(t, writes, "it is off")
}

// TestChanges has what changes leave, each of which raises the revision by one.
func TestChanges(t *testing.T) {
	roles := func(user string, want ...string) func(*testing.T, *State) {
		return func(t *testing.T, st *State) {
			t.Helper()
			u, err := st.User(user)
			require.NoError(t, err)
			require.Equal(t, want, append([]string(nil), u.Roles...))
		}
	}
	permissions := func(role string, want ...Permission) func(*testing.T, *State) {
		return func(t *testing.T, st *State) {
			t.Helper()
			r, err := st.Role(role)
			require.NoError(t, err)
			require.Equal(t, want, append([]Permission(nil), r.Permissions...))
		}
	}
	for name, c := range map[string]struct {
		change change
		want   func(*testing.T, *State)
	}{
		"a user": {addUser("carol"), func(t *testing.T, st *State) {
			t.Helper()
			require.Contains(t, st.Users(), "carol")
			require.Equal(t, st.Revision(), st.users["carol"].Since)
		}},
		"a user without a password": {addNoPassword("carol"), func(t *testing.T, st *State) {
			t.Helper()
			require.Empty(t, st.users["carol"].Password)
		}},
		"a user goes": {deleteUser("alice"), func(t *testing.T, st *State) {
			t.Helper()
			require.NotContains(t, st.Users(), "alice")
		}},
		"a password": {password("alice", "new"), func(t *testing.T, st *State) {
			t.Helper()
			require.Equal(t, "new", string(st.users["alice"].Password))
			require.Equal(t, st.Revision(), st.users["alice"].Since)
			require.Equal(t, []string{"reader"}, st.users["alice"].Roles)
		}},
		"a password for who can have none": {password("cert", "new"), func(t *testing.T, st *State) {
			t.Helper()
			require.Empty(t, st.users["cert"].Password)
			require.True(t, st.users["cert"].NoPassword)
		}},
		"a role is granted":       {grantRole("bob", "reader"), roles("bob", "reader")},
		"another, in order":       {grantRole("alice", Root), roles("alice", "reader", Root)},
		"a role is revoked":       {revokeRole("alice", "reader"), roles("alice")},
		"a role goes":             {deleteRole("reader"), roles("alice")},
		"another permission":      {permit("reader", WriteOnly, "A", "\x00"), permissions("reader", Permission{WriteOnly, []byte("A"), []byte{0}}, Permission{ReadOnly, []byte("a"), nil})},
		"another type":            {permit("reader", ReadWrite, "a", ""), permissions("reader", Permission{ReadWrite, []byte("a"), nil})},
		"a permission is revoked": {forbid("reader", "a", ""), permissions("reader")},
	} {
		t.Run(name, func(t *testing.T) {
			tb := population(t)
			before := tb.state(t)
			st := tb.do(t, c.change)
			c.want(t, st)
			require.Equal(t, before.Revision()+1, st.Revision())
			require.Equal(t, population(t).rows, before.rowsOf(t), "a State never changes")
		})
	}
	tb := population(t)
	writes, err := tb.state(t).GrantRole("alice", "reader")
	require.NoError(t, err)
	require.Empty(t, writes, "alice has it")
}

// rowsOf is what a State was loaded from.
func (st *State) rowsOf(t *testing.T) map[string][]byte {
	t.Helper()
	tb := new(table)
	tb.write([]Write{row(metaKey, metaRow{Enabled: st.enabled, Revision: st.revision})})
	for _, a := range st.users {
		tb.write([]Write{userRow(&a.User)})
	}
	for _, r := range st.roles {
		tb.write([]Write{roleRow(r)})
	}
	return tb.rows
}
