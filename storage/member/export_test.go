package member

// GroupLeaders returns who leads each group, as far as is known here.
func (m *Member) GroupLeaders() (ids []uint64) {
	for _, p := range m.parts {
		ids = append(ids, p.Status().Leader)
	}
	return ids
}
