package member

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pebbledash/pebbledash/storage/group"
)

// instead is what to do where a member can't go on alone.
const instead = "start another one so, or go by a snapshot (pebbledash snapshot restore)"

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
		return fmt.Errorf("--force-new-cluster: %w: %s", ErrRemoved, instead)
	}
	alone := true
	for i := range m.parts {
		p := m.parts[len(m.parts)-1-i]
		others, err := p.log.MakeSole(m.id.MemberID, p.store)
		switch {
		case errors.Is(err, group.ErrNoReplica):
			return fmt.Errorf("--force-new-cluster: this member has no replica of the group %s, or was to be removed: %s", p.name, instead)
		case err != nil:
			return err
		}
		alone = alone && len(others) == 0
	}
	if alone {
		m.cfg.Logger.Warn("--force-new-cluster has nothing to do: this member is the only one; start it without")
		return nil
	}
	m.cfg.Logger.Warn("this member is the only one of its cluster now: never start the others again, but delete their data directories and add them anew; from now on start this one without --force-new-cluster")
	return nil
}
