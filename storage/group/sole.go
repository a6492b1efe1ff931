package group

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// ErrNoReplica says that a member has no replica of a group, or none any more.
var ErrNoReplica = errors.New("group: no replica")

// forcedGuard is the guard of a change that was not proposed to anybody, and is true
// wherever it is in the log.
var forcedGuard = confGuard{epoch: ^uint64(0)}

// Others returns who may have a replica of the group besides member: by the configuration
// of its state, which is in store, or by the log behind that. The error is ErrNoReplica if
// member has none itself. To be called before the group is opened.
func (l *Log) Others(member uint64, store *mvcc.Store) ([]uint64, error) {
	if err := l.finishRestore(store); err != nil {
		return nil, err
	}
	replicas, err := l.possibleReplicas(store, member)
	if err != nil {
		return nil, err
	}
	if !replicas[member] {
		return nil, ErrNoReplica
	}
	delete(replicas, member)
	return slices.Sorted(maps.Keys(replicas)), nil
}

// MakeSole makes member the only replica of the group, without the others (Others), as of
// the log's last entry. Everything that the log has counts as committed: who has lost the
// others can't tell what was. It is durable when it returns.
//
// The others must never run again. To be called before the group is opened.
func (l *Log) MakeSole(member uint64, others []uint64) error {
	l.mu.Lock()
	last, term := l.last, l.hard.GetTerm()+1
	l.mu.Unlock()
	// A learner has to vote before the last of the others goes.
	changes := []*raftpb.ConfChange{{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &member}}
	for _, id := range others {
		changes = append(changes, &raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: &id})
	}
	m := &raftpb.Message{Term: &term, Vote: &member}
	for i, cc := range changes {
		cc.Context = forcedGuard.append(nil)
		data, err := proto.Marshal(cc)
		if err != nil {
			return fmt.Errorf("group: make sole: %w", err)
		}
		m.Entries = append(m.Entries, &raftpb.Entry{
			Index: proto.Uint64(last + uint64(i) + 1), Term: &term, Type: raftpb.EntryConfChange.Enum(), Data: data,
		})
	}
	m.Commit = proto.Uint64(last + uint64(len(changes)))
	batch := l.db.NewBatch()
	defer func() { _ = batch.Close() }()
	l.encode(batch, m)
	if err := batch.Commit(engine.Sync); err != nil {
		return fmt.Errorf("group: make sole: %w", err)
	}
	l.stable(m)
	return nil
}

// possibleReplicas returns who may have a replica: by the state's configuration, or by a
// change of it in the log behind the state, whether or not that takes effect. It is
// ErrNoReplica if the log has that member goes.
func (l *Log) possibleReplicas(store *mvcc.Store, member uint64) (map[uint64]bool, error) {
	row, err := store.ConfState()
	if err != nil {
		return nil, err
	}
	now, err := DecodeReplicas(row)
	if err != nil {
		return nil, err
	}
	all := map[uint64]bool{}
	for _, id := range slices.Concat(now.Voters, now.Learners) {
		all[id] = true
	}
	l.mu.Lock()
	lower, upper := max(l.truncated, store.Applied().Index)+1, l.last+1
	l.mu.Unlock()
	var bad error
	_, err = l.readEntries(lower, upper, func(e *raftpb.Entry) (done bool) {
		if e.GetType() != raftpb.EntryConfChange {
			return false
		}
		cc, guard, _, err := decodeConf(e)
		if err != nil {
			bad = fmt.Errorf("group: %w", err)
			return true
		}
		switch removes := cc.GetType() == raftpb.ConfChangeRemoveNode; {
		case removes && cc.GetNodeId() == member:
			bad = ErrNoReplica
		case removes && guard == forcedGuard:
			delete(all, cc.GetNodeId())
		case !removes:
			all[cc.GetNodeId()] = true
		}
		return bad != nil
	})
	return all, errors.Join(err, bad)
}
