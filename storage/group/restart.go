package group

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// A replica is given a snapshot in two databases, in this order:
//
//  1. The rows replace the state, with the mark of mvcc.Store.Restored.
//  2. The log is restarted: one synced batch drops all entries, those behind the
//     snapshot too, and has the log begin behind it.
//
// Entries of before can't go on behind the snapshot: raft restores one only if
// the log does not have its last entry, so that what follows there is of another
// leader and was never committed. Raft hands out no entries to apply in between,
// so that a state which is still where the mark says that it was ingested may
// have a log that was not restarted; a crash has come between 1 and 2 then, and
// finishRestore does 2. Whatever else is behind the state is damage.

// BeginEmpty gives an empty log the beginning that is before the first entry, as
// the log of a replica has it that is to be given a snapshot. It does nothing if
// the log has begun.
func (l *Log) BeginEmpty() error {
	if l.begun {
		return nil
	}
	return l.Bootstrap(0, 0)
}

// finishRestore restarts the log behind a state that was ingested, if a crash has
// kept that from being done. To be called before start.
func (l *Log) finishRestore(store *mvcc.Store) error {
	index, term, err := store.Restored()
	if err != nil {
		return err
	}
	if applied := store.Applied(); index == 0 || applied.Index != index || applied.Term != term {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// A log that was never begun was lost, and with it whom this replica has voted
	// for. That of one that is given snapshots has begun (BeginEmpty).
	if !l.begun || index < l.truncated {
		return nil // start says that it is damage
	}
	got, err := l.termLocked(index)
	switch {
	case err == nil && got == term:
		return nil
	case err != nil && !errors.Is(err, raft.ErrUnavailable):
		return fmt.Errorf("group: finish restore: %w", err)
	case index == l.truncated:
		return fmt.Errorf("group: the data directory is damaged: entry %d is of term %d in the state, of term %d in the log", index, term, got)
	}
	// The term may have been learned with the snapshot. A replica that has not
	// voted in it yet does nobody harm by having come to it.
	hard := &raftpb.HardState{Term: l.hard.Term, Vote: l.hard.Vote, Commit: &index}
	if hard.GetTerm() < term {
		hard.Term, hard.Vote = &term, nil
	}
	row, err := proto.Marshal(hard)
	if err != nil {
		return fmt.Errorf("group: finish restore: %w", err)
	}
	batch := l.db.NewBatch()
	defer func() { _ = batch.Close() }()
	err = errors.Join(batch.Set(l.key(tableHardState), row, nil), l.encodeRestart(batch, index, term))
	if err == nil {
		err = batch.Commit(engine.Sync)
	}
	if err != nil {
		return fmt.Errorf("group: finish restore: %w", err)
	}
	l.hard = hard
	l.restartLocked(index, term)
	return nil
}

// beginRestart keeps the log from being truncated until it is restarted: the
// truncation would move its beginning back if it was written after the restart.
func (l *Log) beginRestart() {
	l.truncating.Lock()
	defer l.truncating.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restarting = true
}

// encodeRestart drops all entries and has the log begin behind index, which is of
// term. For the log writer.
func (l *Log) encodeRestart(batch *engine.Batch, index, term uint64) error {
	l.written = index
	return errors.Join(
		batch.DeleteRange(l.entryKey(nil, 0), l.key(tableEntry+1), nil),
		batch.Set(l.key(tableTruncated), truncatedRow(index, term), nil),
	)
}

// restartLocked does in memory what encodeRestart has written.
func (l *Log) restartLocked(index, term uint64) {
	l.truncated, l.last = index, index
	l.terms = []termRun{{index, term}}
	l.tail, l.tailSize = nil, 0
	// Raft asks for nothing before the snapshot, of which it will be told.
	l.applied, l.known = max(l.applied, index), max(l.known, index)
	l.restarting = false
}

// setSnapshotSource has Snapshot say what source does: up to which entry a
// snapshot that is sent now has the state, and the configuration there. Raft's
// loop calls it, so that it must not block; nobody changes what it returns. To be
// called before raft reads the log.
func (l *Log) setSnapshotSource(source func() (index, term uint64, conf *raftpb.ConfState)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.source = source
}

// Snapshot implements raft.Storage. It says what could be sent, which has no
// data: the rows are sent beside raft, and may be newer.
func (l *Log) Snapshot() (*raftpb.Snapshot, error) {
	l.mu.Lock()
	source := l.source
	l.mu.Unlock()
	if source == nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	index, term, conf := source()
	l.mu.Lock()
	defer l.mu.Unlock()
	// One that ends before the log begins leads nowhere.
	if index == 0 || index < l.truncated || conf == nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{ConfState: conf, Index: &index, Term: &term}}, nil
}
