package member

// MirrorTable are the records that say which cluster this one mirrors. While there is
// the row MirrorOn, evaluation takes nothing but evaluate.Mirror, and no lease runs out.
const (
	MirrorTable = "mirror"
	MirrorOn    = "on"
)

// lookAtMirror follows MirrorTable as core has it applied here. Entries are applied in
// the order of the log and evaluated behind it, so the sequencer evaluates nothing of
// before once whoever has written the row is answered: but for what was in flight
// then, behind which a Mirror waits.
func (m *Member) lookAtMirror() error {
	_, rows, err := m.Records(MirrorTable)
	if err != nil {
		return err
	}
	_, on := rows[MirrorOn]
	m.mirroring.Store(on)
	// Who has taken the place of the source keeps nobody to renewals that went there.
	m.leases.Pause(on, m.cfg.electionTimeout())
	return nil
}
