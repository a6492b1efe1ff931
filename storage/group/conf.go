package group

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// Replicas are the members that have a replica of a group.
type Replicas struct {
	Voters, Learners []uint64
}

// Has says whether a member has a replica.
func (r Replicas) Has(id uint64) bool {
	return slices.Contains(r.Voters, id) || slices.Contains(r.Learners, id)
}

// Without returns the replicas but for a member's.
func (r Replicas) Without(id uint64) Replicas {
	not := func(ids []uint64) []uint64 {
		return slices.DeleteFunc(slices.Clone(ids), func(i uint64) bool { return i == id })
	}
	return Replicas{not(r.Voters), not(r.Learners)}
}

// Equal says whether two groups have the same replicas.
func (r Replicas) Equal(s Replicas) bool {
	return slices.Equal(r.Voters, s.Voters) && slices.Equal(r.Learners, s.Learners)
}

// Replicas returns the group's configuration as it is applied here.
func (g *Group) Replicas() Replicas {
	c := g.confState.Load()
	sorted := func(ids []uint64) []uint64 { return slices.Sorted(slices.Values(ids)) }
	return Replicas{sorted(c.GetVoters()), sorted(c.GetLearners())}
}

// ConfChange is one step of a change of the configuration.
type ConfChange int

// The steps.
const (
	AddVoter ConfChange = iota
	AddLearner
	RemoveReplica
	// UpdateMember changes the member's row only.
	UpdateMember
)

var confChangeTypes = map[ConfChange]raftpb.ConfChangeType{
	AddVoter: raftpb.ConfChangeAddNode, AddLearner: raftpb.ConfChangeAddLearnerNode,
	RemoveReplica: raftpb.ConfChangeRemoveNode, UpdateMember: raftpb.ConfChangeUpdateNode,
}

// ProposeConfChange proposes a step from one configuration on, once, in this
// member's reign: raft may drop it, and drops all but one at a time, so that who
// needs it looks at what has become of it (Observer.Configured) and proposes it
// again. It has no effect if it comes after the reign, or if the configuration is
// another by then. row is kept as the member's in core; other groups have none.
func (g *Group) ProposeConfChange(from Replicas, change ConfChange, member uint64, row []byte) {
	g.post(func() {
		if !g.reign.begun {
			return
		}
		guard := confGuard{g.reign.epoch, from.digest()}
		cc := &raftpb.ConfChange{Type: confChangeTypes[change].Enum(), NodeId: &member, Context: guard.append(row)}
		if err := g.rn.ProposeConfChange(cc); err != nil {
			g.cfg.Logger.Debug("raft did not take a change of the configuration", "error", err)
		}
	})
}

// confGuard is what a change of the configuration is true for: the epoch of the
// sequencer that proposed it, and the configuration that it changes. A change that
// comes late, or twice, has no effect. It begins the change's context in the log,
// 8 bytes each. Part of the log's format, and should not be changed.
type confGuard struct{ epoch, from uint64 }

func (c confGuard) append(row []byte) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16+len(row)), c.epoch)
	return append(binary.BigEndian.AppendUint64(b, c.from), row...)
}

func splitGuard(context []byte) (c confGuard, row []byte, err error) {
	if len(context) < 16 {
		return c, nil, errShortEntry
	}
	c.epoch, c.from = binary.BigEndian.Uint64(context), binary.BigEndian.Uint64(context[8:])
	return c, context[16:], nil
}

// decodeConf returns what a change of the configuration is, what it is true for, and the
// member's row.
func decodeConf(e *raftpb.Entry) (cc *raftpb.ConfChange, guard confGuard, row []byte, err error) {
	cc = &raftpb.ConfChange{}
	if err = proto.Unmarshal(e.GetData(), cc); err == nil {
		guard, row, err = splitGuard(cc.GetContext())
	}
	if err != nil {
		return nil, guard, nil, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
	}
	return cc, guard, row, nil
}

// digest tells one configuration from another: FNV-1a of its members. Part of the
// log's format.
func (r Replicas) digest() uint64 {
	h := fnv.New64a()
	for _, ids := range [...][]uint64{r.Voters, {0}, r.Learners} {
		for _, id := range ids {
			_, _ = h.Write(binary.BigEndian.AppendUint64(nil, id))
		}
	}
	return h.Sum64()
}

// conf has the loop apply a change of the configuration, which only it may.
func (a *applier) conf(batch *mvcc.Batch, e *raftpb.Entry) error {
	if e.GetType() != raftpb.EntryConfChange {
		return fmt.Errorf("entry %d: a change of the configuration of a kind that is not known: written by a newer version?", e.GetIndex())
	}
	cc, guard, row, err := decodeConf(e)
	if err != nil {
		return err
	}
	forced := guard == forcedGuard
	if epoch, _, _ := batch.Place(); !forced && (guard.epoch != epoch || guard.from != a.g.Replicas().digest()) {
		cc.NodeId = nil // raft's way to apply none
	}
	// One that is forced does not know the row of the member that stays.
	keepRow := forced && cc.GetType() != raftpb.ConfChangeRemoveNode
	if a.g.cfg.ID == mvcc.CoreGroup && cc.GetNodeId() != 0 && !keepRow {
		// NB: a member that was removed keeps a row, which is empty.
		if cc.GetType() == raftpb.ConfChangeRemoveNode {
			row = nil
		}
		if err := batch.SetMember(cc.GetNodeId(), row); err != nil {
			return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
	}
	done := make(chan []byte, 1)
	if err := a.g.inbox.call(func() { done <- a.g.applyConfChange(cc) }); err != nil {
		return err
	}
	select {
	case row := <-done:
		return batch.SetConfState(row)
	case <-a.g.stopped:
		return ErrStopped
	}
}

// applyConfChange applies a committed change of the configuration and returns
// the one after it, encoded. For the loop.
func (g *Group) applyConfChange(cc raftpb.ConfChangeI) []byte {
	cs := g.rn.ApplyConfChange(cc)
	g.setConf(cs)
	row, err := proto.Marshal(cs)
	if err != nil {
		panic(err)
	}
	return row
}
