package sim

// Skip makes the change that follows revision the next, unless the model is
// further: a failure of a member may leave a gap in the revisions.
func (m *Model) Skip(revision int64) { m.revision = max(m.revision, revision) }
