package auth

// Identity is who asks: a user, as of a revision. The zero Identity is nobody.
type Identity struct {
	User     string
	Revision uint64
}

// CheckRange says whether somebody may read the keys from key to end, or the one
// key if end is empty.
func (st *State) CheckRange(who Identity, key, end []byte) error {
	return st.check(who, key, end, false)
}

// CheckPut says whether somebody may write a key.
func (st *State) CheckPut(who Identity, key []byte) error { return st.check(who, key, nil, true) }

// CheckDelete says whether somebody may delete the keys from key to end, or the one
// key if end is empty.
func (st *State) CheckDelete(who Identity, key, end []byte) error {
	return st.check(who, key, end, true)
}

func (st *State) check(who Identity, key, end []byte, write bool) error {
	switch {
	case !st.enabled:
		return nil
	case who.Revision == 0:
		return ErrUserEmpty
	case who.Revision < st.revision:
		return ErrAuthOldRevision
	}
	a := st.users[who.User]
	switch {
	case a == nil:
		return ErrPermissionDenied
	case a.IsRoot():
		return nil
	}
	read, written := st.permitted(a)
	if write {
		read = written
	}
	if !read.contain(key, end) {
		return ErrPermissionDenied
	}
	return nil
}

// CheckAdmin says whether somebody may administer. As in etcd it is no matter how
// old the identity is.
func (st *State) CheckAdmin(who Identity) error {
	if !st.enabled {
		return nil
	}
	if who.User == "" {
		return ErrUserEmpty
	}
	u, err := st.User(who.User)
	if err != nil {
		return err
	}
	if !u.IsRoot() {
		return ErrPermissionDenied
	}
	return nil
}

// CheckUser says whether somebody may see a user: an administrator, or the user.
func (st *State) CheckUser(who Identity, name string) error {
	err := st.CheckAdmin(who)
	if name == who.User {
		return nil
	}
	return err
}

// CheckRole says whether somebody may see a role: an administrator, or who has it.
func (st *State) CheckRole(who Identity, role string) error {
	err := st.CheckAdmin(who)
	if u := st.users[who.User]; u != nil && u.HasRole(role) {
		return nil
	}
	return err
}

// Credentials returns the hash of a user's password. To compare it takes long, and
// so is the caller's. The error is ErrAuthNotEnabled, ErrAuthFailed if there is no such
// user, or ErrNoPasswordUser.
func (st *State) Credentials(name string) ([]byte, error) {
	if !st.enabled {
		return nil, ErrAuthNotEnabled
	}
	u, err := st.User(name)
	switch {
	case err != nil:
		return nil, ErrAuthFailed
	case u.NoPassword:
		return nil, ErrNoPasswordUser
	}
	return u.Password, nil
}
