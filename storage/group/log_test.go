package group

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// entry makes a log entry whose data names it.
func logEntry(index, term uint64, size int) *raftpb.Entry {
	data := append(fmt.Appendf(nil, "%d.%d ", index, term), bytes.Repeat([]byte{'x'}, size)...)
	return &raftpb.Entry{Index: &index, Term: &term, Type: raftpb.EntryNormal.Enum(), Data: data}
}

// appendMessage makes the message by which raft has entries and a hard state
// written; a term of 0 leaves the hard state alone.
func appendMessage(term, vote, commit uint64, entries ...*raftpb.Entry) *raftpb.Message {
	m := &raftpb.Message{Type: raftpb.MsgStorageAppend.Enum(), Entries: entries}
	if term > 0 {
		m.Term, m.Vote, m.Commit = &term, &vote, &commit
	}
	return m
}

// logs is a database with one log in it, written without a writer's goroutine.
type logs struct {
	fs     *engine.MemFS
	db     *engine.DB
	writer *LogWriter
	log    *Log
}

func openLogs(t *testing.T, fs *engine.MemFS) *logs {
	t.Helper()
	l := &logs{fs: fs, db: openDB(t, fs, "log", func(err error) { t.Error(err) })}
	l.writer = idleWriter(l.db)
	var err error
	l.log, err = OpenLog(l.db, mvcc.CoreGroup)
	require.NoError(t, err)
	return l
}

// write has messages written in one batch.
func (l *logs) write(ms ...*raftpb.Message) {
	var work []appendRequest
	for _, m := range ms {
		work = append(work, appendRequest{log: l.log, msg: m, done: func(*raftpb.Message) {}})
	}
	l.writer.write(work)
}

func (l *logs) reopen(t *testing.T) *logs {
	t.Helper()
	require.NoError(t, l.db.Close())
	return openLogs(t, l.fs)
}

// render reads a log through raft's interface.
func render(t *testing.T, l *Log) string {
	t.Helper()
	first, err := l.FirstIndex()
	require.NoError(t, err)
	last, err := l.LastIndex()
	require.NoError(t, err)
	term, err := l.Term(first - 1)
	require.NoError(t, err)
	out := fmt.Sprintf("(%d.%d", first-1, term)
	if last >= first {
		entries, err := l.Entries(first, last+1, 1<<62)
		require.NoError(t, err)
		for i, e := range entries {
			require.Equal(t, first+uint64(i), e.GetIndex())
			term, err := l.Term(e.GetIndex())
			require.NoError(t, err)
			require.Equal(t, e.GetTerm(), term)
			require.True(t, bytes.HasPrefix(e.GetData(), fmt.Appendf(nil, "%d.%d ", e.GetIndex(), e.GetTerm())))
			out += fmt.Sprintf(" %d.%d", e.GetIndex(), e.GetTerm())
		}
		require.Len(t, entries, int(last-first+1))
	}
	return out + "]"
}

func TestLogBegins(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	require.False(t, l.log.Bootstrapped())
	require.NoError(t, l.log.Bootstrap(1, 1))
	require.True(t, l.log.Bootstrapped())
	require.Equal(t, "(1.1]", render(t, l.log))
	l = l.reopen(t)
	require.True(t, l.log.Bootstrapped())
	require.Equal(t, "(1.1]", render(t, l.log))
	_, err := l.log.Snapshot()
	require.ErrorIs(t, err, raft.ErrSnapshotTemporarilyUnavailable)
	require.NoError(t, l.db.Close())
}

// TestLogOverwritten has a new leader's entries replace those of the one before,
// whether they were written before or are written in the same batch.
func TestLogOverwritten(t *testing.T) {
	for _, oneBatch := range []bool{false, true} {
		t.Run(fmt.Sprintf("one batch=%t", oneBatch), func(t *testing.T) {
			l := openLogs(t, engine.NewMem())
			require.NoError(t, l.log.Bootstrap(1, 1))
			ms := []*raftpb.Message{
				appendMessage(2, 1, 1, logEntry(2, 2, 0), logEntry(3, 2, 0), logEntry(4, 2, 0), logEntry(5, 2, 0), logEntry(6, 2, 0)),
				appendMessage(3, 2, 2, logEntry(4, 3, 0)),
				appendMessage(4, 3, 2, logEntry(5, 4, 0), logEntry(6, 4, 0), logEntry(7, 4, 0)),
				appendMessage(5, 1, 3, logEntry(6, 5, 0)),
			}
			if oneBatch {
				l.write(ms...)
			} else {
				for _, m := range ms {
					l.write(m)
				}
			}
			require.Equal(t, "(1.1 2.2 3.2 4.3 5.4 6.5]", render(t, l.log))
			l = l.reopen(t)
			require.Equal(t, "(1.1 2.2 3.2 4.3 5.4 6.5]", render(t, l.log))
			hard, _, err := l.log.InitialState()
			require.NoError(t, err)
			require.Equal(t, "5 1 3", fmt.Sprint(hard.GetTerm(), hard.GetVote(), hard.GetCommit()))

			// The log that a file of it begins goes on.
			l.write(appendMessage(6, 1, 6, logEntry(7, 6, 0)))
			require.Equal(t, "(1.1 2.2 3.2 4.3 5.4 6.5 7.6]", render(t, l.log))
			require.NoError(t, l.db.Close())
		})
	}
}

func TestLogTruncated(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	require.NoError(t, l.log.Bootstrap(1, 1))
	l.write(appendMessage(2, 1, 1, logEntry(2, 2, 0), logEntry(3, 2, 0), logEntry(4, 3, 0), logEntry(5, 3, 0)))
	require.NoError(t, l.log.Truncate(1))
	require.Equal(t, "(1.1 2.2 3.2 4.3 5.3]", render(t, l.log))
	require.NoError(t, l.log.Truncate(3))
	require.Equal(t, "(3.2 4.3 5.3]", render(t, l.log))
	require.NoError(t, l.log.Truncate(2)) // done already
	require.Equal(t, "(3.2 4.3 5.3]", render(t, l.log))
	require.NoError(t, l.log.Truncate(6)) // more than there is
	require.Equal(t, "(3.2 4.3 5.3]", render(t, l.log))

	// What is gone is refused, and what is not there yet.
	_, err := l.log.Entries(3, 5, 1<<62)
	require.ErrorIs(t, err, raft.ErrCompacted)
	_, err = l.log.Entries(4, 7, 1<<62)
	require.ErrorIs(t, err, raft.ErrUnavailable)
	_, err = l.log.Term(2)
	require.ErrorIs(t, err, raft.ErrCompacted)
	_, err = l.log.Term(6)
	require.ErrorIs(t, err, raft.ErrUnavailable)

	require.NoError(t, l.log.Truncate(5))
	require.Equal(t, "(5.3]", render(t, l.log))
	l.write(appendMessage(3, 1, 5, logEntry(6, 3, 0)))
	require.Equal(t, "(5.3 6.3]", render(t, l.log))
	l = l.reopen(t)
	require.Equal(t, "(5.3 6.3]", render(t, l.log))

	// Of what is truncated nothing is left.
	it, err := l.db.NewIter(&engine.IterOptions{LowerBound: l.log.entryKey(nil, 0), UpperBound: l.log.entryKey(nil, 6)})
	require.NoError(t, err)
	require.False(t, it.First())
	require.NoError(t, it.Close())
	require.NoError(t, l.db.Close())
}

// TestLogStarts compares the log with what the state says.
func TestLogStarts(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	require.NoError(t, l.log.Bootstrap(1, 1))
	l.write(appendMessage(2, 1, 1, logEntry(2, 2, 0), logEntry(3, 2, 0), logEntry(4, 2, 0)))
	require.NoError(t, l.log.Truncate(2))
	conf := &raftpb.ConfState{Voters: []uint64{1}}
	require.ErrorContains(t, l.log.start(1, conf), "the state is applied up to entry 1, the log has (2, 4]")
	require.ErrorContains(t, l.log.start(5, conf), "the state is applied up to entry 5, the log has (2, 4]")
	require.NoError(t, l.log.start(3, conf))
	hard, gotConf, err := l.log.InitialState()
	require.NoError(t, err)
	require.EqualValues(t, 3, hard.GetCommit(), "what is applied is committed")
	require.Equal(t, conf, gotConf)
	require.NoError(t, l.db.Close())
}

// TestDamagedLog opens logs in which something is not as it was written.
func TestDamagedLog(t *testing.T) {
	for _, c := range []struct {
		name, want string
		damage     func(*testing.T, *logs)
	}{
		{"an entry is missing", "group: the log is damaged: entry 4 follows 2", func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.db.Delete(l.log.entryKey(nil, 3), engine.Sync))
		}},
		{"the first entry is missing", "group: the log is damaged: entry 3 follows 1", func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.db.Delete(l.log.entryKey(nil, 2), engine.Sync))
		}},
		{"an entry is cut short", "group: the log is damaged at row 000165", func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.db.Set(l.log.entryKey(nil, 3), []byte{2}, engine.Sync))
		}},
		{"an entry is empty", "group: the log is damaged at row 000165", func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.db.Set(l.log.entryKey(nil, 3), nil, engine.Sync))
		}},
		{"a term goes back", "group: the log is damaged: entry 4 is of term 1, after one of term 2", func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.db.Set(l.log.entryKey(nil, 4), []byte{1, 0}, engine.Sync))
		}},
		{"a key is cut short", "group: the log is damaged at row 000165", func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.db.Set([]byte{0, 1, 'e', 9, 0}, []byte{2, 0}, engine.Sync))
		}},
		{"the truncated index", "group: bad row of the truncated index: 05", func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.db.Set(l.log.key(tableTruncated), []byte{5}, engine.Sync))
		}},
		{"the hard state", "group: bad hard state", func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.db.Set(l.log.key(tableHardState), []byte{0xff}, engine.Sync))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := openLogs(t, engine.NewMem())
			require.NoError(t, l.log.Bootstrap(1, 1))
			l.write(appendMessage(2, 1, 1, logEntry(2, 2, 0), logEntry(3, 2, 0), logEntry(4, 2, 0)))
			c.damage(t, l)
			_, err := OpenLog(l.db, mvcc.CoreGroup)
			require.ErrorContains(t, err, c.want)
			require.NoError(t, l.db.Close())
		})
	}
}

// TestLogDamagedWhileOpen misses entries that it had when it was opened.
func TestLogDamagedWhileOpen(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	require.NoError(t, l.log.Bootstrap(1, 1))
	l.write(appendMessage(2, 1, 1, logEntry(2, 2, 0), logEntry(3, 2, 0), logEntry(4, 2, 0)))
	l = l.reopen(t)
	require.NoError(t, l.db.Delete(l.log.entryKey(nil, 3), engine.Sync))
	_, err := l.log.Entries(2, 5, 1<<62)
	require.ErrorContains(t, err, "group: the log is damaged: entry 4 instead of 3")
	require.NoError(t, l.db.Delete(l.log.entryKey(nil, 4), engine.Sync))
	_, err = l.log.Entries(2, 5, 1<<62)
	require.ErrorContains(t, err, "group: the log is damaged: entry 3 is missing")
	require.NoError(t, l.db.Close())
}

// TestLogsShareADatabase: groups do not see each other's entries.
func TestLogsShareADatabase(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	all := map[mvcc.GroupID]*Log{}
	for _, id := range []mvcc.GroupID{1, 2, 0x0101, 0xffff} {
		log, err := OpenLog(l.db, id)
		require.NoError(t, err)
		require.False(t, log.Bootstrapped())
		require.NoError(t, log.Bootstrap(uint64(id), 1))
		all[id] = log
	}
	for id, log := range all {
		l.writer.write([]appendRequest{{
			log: log, msg: appendMessage(2, 1, 1, logEntry(uint64(id)+1, 2, 0), logEntry(uint64(id)+2, 2, 0)), done: func(*raftpb.Message) {},
		}})
	}
	require.NoError(t, all[1].Truncate(2))
	for id := range all {
		log, err := OpenLog(l.db, id)
		require.NoError(t, err)
		want := fmt.Sprintf("(%d.1 %d.2 %d.2]", id, int(id)+1, int(id)+2)
		if id == 1 {
			want = "(2.2 3.2]"
		}
		require.Equal(t, want, render(t, log))
	}
	require.NoError(t, l.db.Close())
}

// TestWritesShareASync holds the disk up during one sync: everything that is
// asked for meanwhile goes with the next.
func TestWritesShareASync(t *testing.T) {
	var counting atomic.Bool
	var syncs atomic.Int32
	entered, release := make(chan struct{}), make(chan struct{})
	fs := engine.WrapFaulty(engine.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if counting.Load() && sync && filepath.Ext(op.Path) == ".log" {
			if syncs.Add(1) == 1 {
				close(entered)
				<-release
			}
		}
		return nil
	}))
	db := openDB(t, fs, "log", func(err error) { t.Error(err) })
	log, err := OpenLog(db, mvcc.CoreGroup)
	require.NoError(t, err)
	require.NoError(t, log.Bootstrap(1, 1))
	writer := NewLogWriter(db, nil, nil)
	done := make(chan uint64, 100)
	submit := func(index uint64) {
		writer.submit(appendRequest{log: log, msg: appendMessage(0, 0, 0, logEntry(index, 2, 10)), done: func(m *raftpb.Message) {
			done <- m.GetEntries()[0].GetIndex()
		}})
	}
	counting.Store(true)
	submit(2)
	<-entered
	for i := uint64(3); i <= 50; i++ {
		submit(i)
	}
	select {
	case i := <-done:
		t.Fatalf("entry %d is said to be stable before it is synced", i)
	default:
	}
	close(release)
	for i := uint64(2); i <= 50; i++ {
		require.Equal(t, i, <-done, "in the order they were asked for")
	}
	require.EqualValues(t, 2, syncs.Load())
	counting.Store(false)
	writer.Close()
	require.NoError(t, db.Close())
}

// TestLogAtRandom appends, overwrites, truncates, reopens and crashes, and
// compares the log with a slice. Entries are so big that the tail which is kept
// in memory is short.
func TestLogAtRandom(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			h := newLogHistory(t, seed)
			for range 80 {
				h.step()
				h.compare()
			}
			require.NoError(t, h.db.Close())
		})
	}
}

type logHistory struct {
	t   *testing.T
	rng *rand.Rand
	*logs
	// entries are those of (truncated, last].
	entries         []*raftpb.Entry
	truncated       uint64
	truncatedTerm   uint64
	applied, commit uint64
	term, vote      uint64
}

func newLogHistory(t *testing.T, seed uint64) *logHistory {
	t.Helper()
	h := &logHistory{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), logs: openLogs(t, engine.NewCrashableMem()),
		truncated: 1, truncatedTerm: 1, applied: 1, commit: 1, term: 1,
	}
	require.NoError(t, h.log.Bootstrap(1, 1))
	return h
}

func (h *logHistory) last() uint64 { return h.truncated + uint64(len(h.entries)) }

func (h *logHistory) step() {
	switch n := h.rng.IntN(20); {
	case n < 11:
		// Several messages of raft may be written in one batch.
		var ms []*raftpb.Message
		for range 1 + h.rng.IntN(3) {
			ms = append(ms, h.message())
		}
		h.write(ms...)
	case n < 14:
		h.applied += uint64(h.rng.IntN(int(h.commit - h.applied + 1)))
		h.log.setApplied(h.applied)
	case n < 16:
		h.truncate()
	case n < 17:
		// A truncation is not synced, and may be lost.
		h.fs = h.fs.CrashClone(engine.CrashCloneCfg{UnsyncedDataPercent: 25 * h.rng.IntN(5), RNG: h.rng})
		require.NoError(h.t, h.db.Close())
		h.logs = openLogs(h.t, h.fs)
		h.restarted()
	case n < 18:
		h.logs = h.reopen(h.t)
		h.restarted()
	}
}

// message is the next that raft could ask for: more entries, or other ones
// instead of those that are not committed.
func (h *logHistory) message() *raftpb.Message {
	from := h.last() + 1
	if h.rng.IntN(4) == 0 {
		from = h.commit + 1 + h.rng.Uint64N(h.last()-h.commit+1)
		h.term++
	}
	h.vote = h.rng.Uint64N(4)
	h.entries = h.entries[:from-h.truncated-1]
	var entries []*raftpb.Entry
	for i := range h.rng.Uint64N(5) {
		entries = append(entries, logEntry(from+i, h.term, h.rng.IntN(300<<10)))
	}
	if len(entries) == 0 {
		// Raft does not take entries away without others in their place.
		entries = append(entries, logEntry(from, h.term, 0))
	}
	h.entries = append(h.entries, entries...)
	h.commit += h.rng.Uint64N(h.last() - h.commit + 1)
	return appendMessage(h.term, h.vote, h.commit, entries...)
}

func (h *logHistory) truncate() {
	index := h.truncated + h.rng.Uint64N(h.applied-h.truncated+1)
	require.NoError(h.t, h.log.Truncate(index))
	h.forget(index)
}

func (h *logHistory) forget(index uint64) {
	if index > h.truncated {
		h.truncatedTerm = h.entries[index-h.truncated-1].GetTerm()
		h.entries = h.entries[index-h.truncated:]
		h.truncated = index
	}
}

// restarted takes over where the log begins, if it was truncated less far than
// was asked for.
func (h *logHistory) restarted() {
	first, err := h.log.FirstIndex()
	require.NoError(h.t, err)
	require.LessOrEqual(h.t, first-1, h.truncated)
	if first-1 < h.truncated {
		require.NoError(h.t, h.log.Truncate(h.truncated))
	}
	conf := &raftpb.ConfState{Voters: []uint64{1}}
	require.NoError(h.t, h.log.start(h.applied, conf))
	hard, got, err := h.log.InitialState()
	require.NoError(h.t, err)
	require.True(h.t, proto.Equal(conf, got))
	if h.term > 1 {
		require.Equal(h.t, h.term, hard.GetTerm())
		require.Equal(h.t, h.vote, hard.GetVote())
		require.Equal(h.t, h.commit, hard.GetCommit())
	}
}

func (h *logHistory) compare() {
	t := h.t
	first, err := h.log.FirstIndex()
	require.NoError(t, err)
	require.Equal(t, h.truncated+1, first)
	last, err := h.log.LastIndex()
	require.NoError(t, err)
	require.Equal(t, h.last(), last)
	term, err := h.log.Term(h.truncated)
	require.NoError(t, err)
	require.Equal(t, h.truncatedTerm, term)
	for i, e := range h.entries {
		term, err := h.log.Term(h.truncated + 1 + uint64(i))
		require.NoError(t, err)
		require.Equal(t, e.GetTerm(), term)
	}
	_, err = h.log.Term(h.last() + 1)
	require.ErrorIs(t, err, raft.ErrUnavailable)
	if len(h.entries) == 0 {
		return
	}
	lo := h.rng.IntN(len(h.entries))
	hi := lo + 1 + h.rng.IntN(len(h.entries)-lo)
	maxSize := h.rng.Uint64N(4 << 20)
	want := h.entries[lo:hi]
	size := uint64(0)
	for i, e := range want {
		if size += uint64(len(e.GetData())) + 24; size > maxSize && i > 0 {
			want = want[:i]
			break
		}
	}
	got, err := h.log.Entries(h.truncated+1+uint64(lo), h.truncated+1+uint64(hi), maxSize)
	require.NoError(t, err)
	require.Len(t, got, len(want))
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "entry %d", want[i].GetIndex())
	}
	// What is applied leaves memory.
	if unapplied := h.last() - h.applied; unapplied == 0 {
		require.LessOrEqual(t, h.log.Bytes(), tailBytes+4*5*300<<10)
	}
}

// TestTailIsBounded: what is applied does not pile up in memory.
func TestTailIsBounded(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	require.NoError(t, l.log.Bootstrap(1, 1))
	for i := uint64(2); i < 40; i++ {
		l.write(appendMessage(2, 1, i, logEntry(i, 2, 1<<20)))
		if i < 20 {
			continue // nothing is applied: all of it is kept
		}
		l.log.setApplied(i)
		if i > 20 {
			require.LessOrEqual(t, l.log.Bytes(), tailBytes+(1<<20)+100)
		}
	}
	entries, err := l.log.Entries(2, 40, 1<<62)
	require.NoError(t, err)
	require.Len(t, entries, 38)
	require.NoError(t, l.db.Close())
}

func TestLogRowsAreAsWritten(t *testing.T) {
	// Part of the file format: these rows can't change.
	l := openLogs(t, engine.NewMem())
	require.NoError(t, l.log.Bootstrap(7, 3))
	l.write(appendMessage(4, 2, 7, &raftpb.Entry{
		Index: proto.Uint64(8), Term: proto.Uint64(300), Type: raftpb.EntryConfChangeV2.Enum(), Data: []byte("data"),
	}))
	get := func(key []byte) []byte {
		value, closer, err := l.db.Get(key)
		require.NoError(t, err)
		defer func() { require.NoError(t, closer.Close()) }()
		return bytes.Clone(value)
	}
	truncated := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 7), 3)
	require.Equal(t, truncated, get([]byte{0, 1, 't', 0}))
	require.Equal(t, []byte("\xac\x02\x02data"), get([]byte{0, 1, 'e', 0, 0, 0, 0, 0, 0, 0, 8, 0}))
	hard := &raftpb.HardState{}
	require.NoError(t, proto.Unmarshal(get([]byte{0, 1, 'h', 0}), hard))
	require.Equal(t, "4 2 7", fmt.Sprint(hard.GetTerm(), hard.GetVote(), hard.GetCommit()))
	require.NoError(t, l.db.Close())
}
