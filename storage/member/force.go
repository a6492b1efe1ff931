package member

import (
	"errors"
	"slices"

	"github.com/pebbledash/pebbledash/storage/group"
)

// forceNewCluster makes this member the only one, if that is asked for: in every group, as
// of the last entry that its log has, committed or not. The others are removed as if they
// had been asked to go. A sequencer begins then as after any failure, so that what a
// decision across groups has left half done is completed. Core is the last: until then no
// quorum can be reached without the others.
func (m *Member) forceNewCluster() error {
	if !m.cfg.ForceNewCluster {
		return nil
	}
	_, removed, err := StoredMembers(m.core.store)
	if err != nil {
		return err
	}
	if slices.Contains(removed, m.id.MemberID) {
		return errNotSole
	}
	others := make([][]uint64, len(m.parts))
	alone := true
	for i, p := range m.parts {
		others[i], err = p.log.Others(m.id.MemberID, p.store)
		if errors.Is(err, group.ErrNoReplica) {
			return errNotSole
		}
		if err != nil {
			return err
		}
		alone = alone && len(others[i]) == 0
	}
	if alone {
		m.cfg.Logger.Warn("--force-new-cluster has nothing to do: this member is the only one; start it without")
		return nil
	}
	for i, p := range slices.Backward(m.parts) {
		if len(others[i]) == 0 {
			continue
		}
		if err := p.log.MakeSole(m.id.MemberID, others[i]); err != nil {
			return err
		}
	}
	m.cfg.Logger.Warn("this member is the only one of its cluster now: never start the others again, but delete their data directories and add them anew; from now on start this one without --force-new-cluster")
	return nil
}

var errNotSole = errors.New("--force-new-cluster: this member was removed, was being removed, or was never quite added:" +
	" start another one so, or go by a snapshot (pebbledash snapshot restore)")
