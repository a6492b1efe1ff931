package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// The rows of a group's log. A key is the group (2 bytes), the table (1 byte)
// and, for an entry, its index (8 bytes). Part of the file format, and should
// not be changed.
//
//	'e' index   term and type as varints, then the entry's data
//	'h'         raft's HardState, as protobuf
//	't'         index and term of the last truncated entry, 8 bytes each
const (
	tableEntry     = 'e'
	tableHardState = 'h'
	tableTruncated = 't'
)

// tailBytes bounds the entries that a log keeps in memory beside those that
// are not applied.
const tailBytes = 4 << 20

// Log is one group's raft log on this member, a raft.Storage. Its entries are
// in Pebble, the newest in memory too. Methods may be called concurrently.
type Log struct {
	db    *engine.DB
	group mvcc.GroupID
	// written is the last entry that was given to Pebble, stable or not yet. It
	// belongs to the log writer.
	written uint64
	// appended counts the bytes of the entries that were given to Pebble.
	appended atomic.Int64
	// truncating is held while the log is truncated, and when its restart behind a
	// snapshot is begun. mu may be taken after it.
	truncating sync.Mutex

	mu sync.Mutex // guards the fields below; nothing is taken after it
	// hard is as it was last written.
	hard *raftpb.HardState
	conf *raftpb.ConfState
	// truncated and last bound the entries that are stored: (truncated, last].
	truncated, last uint64
	// terms are the runs of equal terms over [truncated, last].
	terms []termRun
	// tail are the newest entries, up to last.
	tail     []*raftpb.Entry
	tailSize int
	// applied bounds what may leave the tail.
	applied uint64
	// known is up to where raft knows the entries to be applied, if it reads the log:
	// it may ask for those behind, so that they are not truncated.
	known  uint64
	isRead bool
	// begun says that the log has been written, if only its beginning.
	begun bool
	// restarting says that the log is being restarted behind a snapshot.
	restarting bool
	// source says what snapshot could be sent now; nil if none could.
	source func() (index, term uint64, conf *raftpb.ConfState)
}

// termRun says that the entries from index on, up to the next run, are of term.
type termRun struct{ index, term uint64 }

func (l *Log) key(table byte) []byte {
	return []byte{byte(l.group >> 8), byte(l.group), table, 0}
}

func (l *Log) entryKey(dst []byte, index uint64) []byte {
	dst = append(dst, byte(l.group>>8), byte(l.group), tableEntry)
	return engine.AppendPrefix(binary.BigEndian.AppendUint64(dst, index))
}

// OpenLog opens the log of a group. Without rows it is empty and Bootstrapped
// says so.
func OpenLog(db *engine.DB, group mvcc.GroupID) (*Log, error) {
	l := &Log{db: db, group: group, hard: &raftpb.HardState{}, conf: &raftpb.ConfState{}}
	row, err := l.get(tableTruncated)
	if err != nil || row == nil {
		return l, err
	}
	if len(row) != 16 {
		return nil, fmt.Errorf("group: bad row of the truncated index: %x", row)
	}
	l.begun = true
	l.truncated = binary.BigEndian.Uint64(row)
	l.last = l.truncated
	l.terms = []termRun{{l.truncated, binary.BigEndian.Uint64(row[8:])}}
	if row, err = l.get(tableHardState); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(row, l.hard); err != nil {
		return nil, fmt.Errorf("group: bad hard state: %w", err)
	}
	return l, l.load()
}

// load walks the entries to learn their terms, and checks that none is missing.
func (l *Log) load() error {
	it, err := l.db.NewIter(&engine.IterOptions{
		LowerBound: l.entryKey(nil, l.truncated+1), UpperBound: l.key(tableEntry + 1),
	})
	if err != nil {
		return fmt.Errorf("group: read log: %w", err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; ok = it.Next() {
		e, err := l.decode(it)
		if err != nil {
			return err
		}
		if e.GetIndex() != l.last+1 {
			return fmt.Errorf("group: the log is damaged: entry %d follows %d", e.GetIndex(), l.last)
		}
		if before := l.terms[len(l.terms)-1].term; e.GetTerm() < before {
			return fmt.Errorf("group: the log is damaged: entry %d is of term %d, after one of term %d", e.GetIndex(), e.GetTerm(), before)
		}
		l.last = e.GetIndex()
		l.noteTerm(e.GetIndex(), e.GetTerm())
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("group: read log: %w", err)
	}
	l.written = l.last
	return nil
}

func (l *Log) get(table byte) ([]byte, error) {
	row, closer, err := l.db.Get(l.key(table))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("group: read log: %w", err)
	}
	out := append([]byte{}, row...)
	return out, closer.Close()
}

// Bootstrapped says whether the log has ever been written.
func (l *Log) Bootstrapped() bool { return l.begun }

// Bootstrap gives an empty log its beginning: everything up to index, which is
// of term, is taken as applied.
func (l *Log) Bootstrap(index, term uint64) error {
	if err := l.db.Set(l.key(tableTruncated), truncatedRow(index, term), engine.Sync); err != nil {
		return fmt.Errorf("group: bootstrap log: %w", err)
	}
	l.begun = true
	l.truncated, l.last, l.written = index, index, index
	l.terms = []termRun{{index, term}}
	l.hard.Term = &term
	return nil
}

func truncatedRow(index, term uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, index), term)
}

// start tells what the state holds, before raft reads the log.
func (l *Log) start(applied uint64, conf *raftpb.ConfState) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if applied < l.truncated || applied > l.last {
		return fmt.Errorf("group: the data directory is damaged: the state is applied up to entry %d, the log has (%d, %d]",
			applied, l.truncated, l.last)
	}
	l.applied, l.conf = applied, conf
	if l.hard.GetCommit() < applied {
		l.hard.Commit = &applied
	}
	return nil
}

// encode adds a message's writes to batch. For the log writer.
func (l *Log) encode(batch *engine.Batch, m *raftpb.Message) {
	must := func(err error) {
		if err != nil {
			panic(err) // a batch in memory can't fail
		}
	}
	if m.Term != nil {
		hs := &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		row, err := proto.Marshal(hs)
		must(err)
		must(batch.Set(l.key(tableHardState), row, nil))
	}
	// NB: a message may have a snapshot and entries, which come behind it.
	if meta := m.GetSnapshot().GetMetadata(); meta.GetIndex() > 0 {
		l.beginRestart()
		must(l.encodeRestart(batch, meta.GetIndex(), meta.GetTerm()))
	}
	entries := m.GetEntries()
	if len(entries) == 0 {
		return
	}
	// A new leader's entries end those of the one before, some of which may be
	// in this very batch.
	last := entries[len(entries)-1].GetIndex()
	if last < l.written {
		must(batch.DeleteRange(l.entryKey(nil, last+1), l.entryKey(nil, l.written+1), nil))
	}
	l.written = last
	var key, row []byte
	bytes := 0
	for _, e := range entries {
		bytes += len(e.GetData())
		key = l.entryKey(key[:0], e.GetIndex())
		row = binary.AppendUvarint(row[:0], e.GetTerm())
		row = binary.AppendUvarint(row, uint64(e.GetType()))
		op := batch.SetDeferred(len(key), len(row)+len(e.GetData()))
		copy(op.Key, key)
		copy(op.Value[copy(op.Value, row):], e.GetData())
		must(op.Finish())
	}
	l.appended.Add(int64(bytes))
}

func (l *Log) decode(it *engine.Iterator) (*raftpb.Entry, error) {
	key := it.Key()
	row, err := it.ValueAndErr()
	if err != nil {
		return nil, fmt.Errorf("group: read log: %w", err)
	}
	term, n := binary.Uvarint(row)
	kind, m := binary.Uvarint(row[max(n, 0):])
	if len(key) != 12 || n <= 0 || m <= 0 {
		return nil, fmt.Errorf("group: the log is damaged at row %x", key)
	}
	index := binary.BigEndian.Uint64(key[3:])
	return &raftpb.Entry{
		Index: &index, Term: &term,
		Type: raftpb.EntryType(kind).Enum(),
		Data: append([]byte(nil), row[n+m:]...),
	}, nil
}

// stable notes that a message's writes are durable.
func (l *Log) stable(m *raftpb.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Term != nil {
		l.hard = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	if meta := m.GetSnapshot().GetMetadata(); meta.GetIndex() > 0 {
		l.restartLocked(meta.GetIndex(), meta.GetTerm())
	}
	for _, e := range m.GetEntries() {
		l.put(e)
	}
	for l.tailSize > tailBytes && l.tail[0].GetIndex() <= l.applied {
		l.tailSize -= len(l.tail[0].GetData())
		l.tail[0] = nil
		l.tail = l.tail[1:]
	}
}

func (l *Log) put(e *raftpb.Entry) {
	if e.GetIndex() <= l.last {
		l.cut(e.GetIndex())
	}
	l.last = e.GetIndex()
	l.noteTerm(e.GetIndex(), e.GetTerm())
	l.tail = append(l.tail, e)
	l.tailSize += len(e.GetData())
}

// cut forgets the entries from index on: a new leader has replaced them.
func (l *Log) cut(index uint64) {
	for n := len(l.tail); n > 0 && l.tail[n-1].GetIndex() >= index; n-- {
		l.tailSize -= len(l.tail[n-1].GetData())
		l.tail = l.tail[:n-1]
	}
	for n := len(l.terms); n > 1 && l.terms[n-1].index >= index; n-- {
		l.terms = l.terms[:n-1]
	}
	l.last = index - 1
}

func (l *Log) noteTerm(index, term uint64) {
	if l.terms[len(l.terms)-1].term != term {
		l.terms = append(l.terms, termRun{index, term})
	}
}

// setApplied tells how far the state has been applied: the tail need not hold
// more.
func (l *Log) setApplied(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.applied = index
}

// setKnown tells up to where raft knows the entries to be applied.
func (l *Log) setKnown(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isRead, l.known = true, max(l.known, index)
}

// Truncate drops the entries up to index, or fewer: raft may not know yet that all
// of them are applied. It does nothing if the log does not reach that far: then the
// state was ingested, and the log is about to be restarted behind it.
// REQUIRES: the state, as it would survive a crash now, holds them.
func (l *Log) Truncate(index uint64) error {
	l.truncating.Lock()
	defer l.truncating.Unlock()
	l.mu.Lock()
	from := l.truncated
	if l.isRead && index <= l.last {
		index = min(index, l.known)
	}
	done := index <= from || index > l.last || l.restarting
	term, err := l.termLocked(index)
	l.mu.Unlock()
	if done {
		return nil
	}
	if err != nil {
		return fmt.Errorf("group: truncate to %d: %w", index, err)
	}
	batch := l.db.NewBatch()
	defer func() { _ = batch.Close() }()
	if err := batch.Set(l.key(tableTruncated), truncatedRow(index, term), nil); err != nil {
		return fmt.Errorf("group: truncate: %w", err)
	}
	if err := batch.DeleteRange(l.entryKey(nil, from+1), l.entryKey(nil, index+1), nil); err != nil {
		return fmt.Errorf("group: truncate: %w", err)
	}
	// Raft must not be asked for entries that are going: memory first.
	l.mu.Lock()
	l.truncated = index
	for len(l.tail) > 0 && l.tail[0].GetIndex() <= index {
		l.tailSize -= len(l.tail[0].GetData())
		l.tail[0] = nil
		l.tail = l.tail[1:]
	}
	for len(l.terms) > 1 && l.terms[1].index <= index {
		l.terms = l.terms[1:]
	}
	l.terms[0].index = index
	l.mu.Unlock()
	// Losing this in a crash only leaves rows that the next truncation drops.
	if err := batch.Commit(engine.NoSync); err != nil {
		return fmt.Errorf("group: truncate: %w", err)
	}
	return nil
}

// InitialState implements raft.Storage.
func (l *Log) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hard, l.conf, nil
}

// Entries implements raft.Storage.
func (l *Log) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lo <= l.truncated {
		return nil, raft.ErrCompacted
	}
	if hi > l.last+1 {
		return nil, raft.ErrUnavailable
	}
	var out []*raftpb.Entry
	var size uint64
	full := func(e *raftpb.Entry) bool {
		size += uint64(len(e.GetData())) + 24
		if len(out) > 0 && size > maxSize {
			return true
		}
		out = append(out, e)
		return false
	}
	if len(l.tail) == 0 || lo < l.tail[0].GetIndex() {
		upTo := hi
		if len(l.tail) > 0 {
			upTo = min(hi, l.tail[0].GetIndex())
		}
		done, err := l.readEntries(lo, upTo, full)
		if done || err != nil {
			return out, err
		}
		lo = upTo
	}
	for ; lo < hi; lo++ {
		if full(l.tail[lo-l.tail[0].GetIndex()]) {
			break
		}
	}
	return out, nil
}

func (l *Log) readEntries(lo, hi uint64, full func(*raftpb.Entry) bool) (done bool, err error) {
	it, err := l.db.NewIter(&engine.IterOptions{LowerBound: l.entryKey(nil, lo), UpperBound: l.entryKey(nil, hi)})
	if err != nil {
		return false, fmt.Errorf("group: read log: %w", err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; ok = it.Next() {
		e, err := l.decode(it)
		if err != nil {
			return false, err
		}
		if e.GetIndex() != lo {
			return false, fmt.Errorf("group: the log is damaged: entry %d instead of %d", e.GetIndex(), lo)
		}
		if full(e) {
			return true, nil
		}
		lo++
	}
	if err := it.Error(); err != nil {
		return false, fmt.Errorf("group: read log: %w", err)
	}
	if lo != hi {
		return false, fmt.Errorf("group: the log is damaged: entry %d is missing", lo)
	}
	return false, nil
}

// Term implements raft.Storage.
func (l *Log) Term(i uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.termLocked(i)
}

func (l *Log) termLocked(i uint64) (uint64, error) {
	if i < l.truncated {
		return 0, raft.ErrCompacted
	}
	if i > l.last {
		return 0, raft.ErrUnavailable
	}
	for n := len(l.terms) - 1; n > 0; n-- {
		if l.terms[n].index <= i {
			return l.terms[n].term, nil
		}
	}
	return l.terms[0].term, nil
}

// LastIndex implements raft.Storage.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, nil
}

// FirstIndex implements raft.Storage.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.truncated + 1, nil
}

// Bytes returns how many bytes of entries are in memory.
func (l *Log) Bytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tailSize
}
