package peer

// Connected says whether there is a connection to a member.
func (t *Transport) Connected(id uint64) bool { return t.session(id) != nil }
