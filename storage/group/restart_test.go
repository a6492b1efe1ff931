package group

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

func logSnapshot(index, term uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{1}},
	}}
}

// snapshotMessage makes the message by which raft has a snapshot restored.
func snapshotMessage(index, term uint64, entries ...*raftpb.Entry) *raftpb.Message {
	m := appendMessage(term, 0, index, entries...)
	m.Snapshot = logSnapshot(index, term)
	return m
}

func TestLogRestartsBehindASnapshot(t *testing.T) {
	for _, c := range []struct {
		name, want string
		messages   []*raftpb.Message
	}{
		{"beyond the log", "(20.4]", []*raftpb.Message{snapshotMessage(20, 4)}},
		{"in the log", "(4.4]", []*raftpb.Message{snapshotMessage(4, 4)}},
		{"at its end", "(6.4]", []*raftpb.Message{snapshotMessage(6, 4)}},
		{"entries behind it", "(4.4 5.4 6.5]", []*raftpb.Message{
			snapshotMessage(4, 4), appendMessage(5, 0, 4, logEntry(5, 4, 0), logEntry(6, 5, 0)),
		}},
		{"entries of its message", "(20.4 21.4 22.5]", []*raftpb.Message{snapshotMessage(20, 4, logEntry(21, 4, 0), logEntry(22, 5, 0))}},
		{"entries before it and behind it", "(9.4 10.4 11.5]", []*raftpb.Message{
			appendMessage(3, 0, 1, logEntry(7, 3, 0), logEntry(8, 3, 0), logEntry(9, 3, 0), logEntry(10, 3, 0), logEntry(11, 3, 0), logEntry(12, 3, 0)),
			snapshotMessage(9, 4),
			appendMessage(4, 0, 9, logEntry(10, 4, 0)),
			appendMessage(5, 0, 9, logEntry(11, 5, 0)),
		}},
		{"two of them", "(30.6 31.7]", []*raftpb.Message{
			snapshotMessage(20, 4, logEntry(21, 4, 0)), snapshotMessage(30, 6), appendMessage(7, 0, 30, logEntry(31, 7, 0)),
		}},
	} {
		for _, oneBatch := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/one batch=%t", c.name, oneBatch), func(t *testing.T) {
				l := openLogs(t, engine.NewCrashableMem())
				require.NoError(t, l.log.Bootstrap(1, 1))
				l.write(appendMessage(2, 1, 1, logEntry(2, 2, 0), logEntry(3, 2, 0), logEntry(4, 2, 0), logEntry(5, 2, 0), logEntry(6, 2, 0)))
				require.NoError(t, l.log.Truncate(2))
				if oneBatch {
					l.write(c.messages...)
				} else {
					for _, m := range c.messages {
						l.write(m)
					}
				}
				require.Equal(t, c.want, render(t, l.log))
				last := c.messages[len(c.messages)-1]
				for _, fs := range []*engine.MemFS{l.fs.CrashClone(engine.CrashCloneCfg{}), l.fs} {
					require.NoError(t, l.db.Close())
					l = openLogs(t, fs)
					require.Equal(t, c.want, render(t, l.log))
					hard, _, err := l.log.InitialState()
					require.NoError(t, err)
					require.Equal(t, []uint64{last.GetTerm(), last.GetCommit()}, []uint64{hard.GetTerm(), hard.GetCommit()})
					require.Equal(t, c.want, render(t, l.log))
				}
				// Nothing is left of the entries before, and it goes on.
				first, err := l.log.FirstIndex()
				require.NoError(t, err)
				it, err := l.db.NewIter(&engine.IterOptions{LowerBound: l.log.entryKey(nil, 0), UpperBound: l.log.entryKey(nil, first)})
				require.NoError(t, err)
				require.False(t, it.First())
				require.NoError(t, it.Close())
				end, err := l.log.LastIndex()
				require.NoError(t, err)
				l.write(appendMessage(9, 0, end, logEntry(end+1, 9, 10)))
				require.NoError(t, l.log.Truncate(end))
				require.Contains(t, render(t, l.log), fmt.Sprintf(" %d.9]", end+1))
				require.NoError(t, l.db.Close())
			})
		}
	}
}

// TestTruncateBesideARestart: a truncation does not move the beginning of a log
// that is being restarted, and is not surprised by a state that is ahead.
func TestTruncateBesideARestart(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	require.NoError(t, l.log.Bootstrap(1, 1))
	l.write(appendMessage(2, 1, 1, logEntry(2, 2, 0), logEntry(3, 2, 0), logEntry(4, 2, 0)))
	// The state is at 20 already.
	require.NoError(t, l.log.Truncate(20))
	require.Equal(t, "(1.1 2.2 3.2 4.2]", render(t, l.log))
	// The log's new beginning is being written.
	m := snapshotMessage(20, 4)
	batch := l.db.NewBatch()
	l.log.encode(batch, m)
	require.NoError(t, l.log.Truncate(3))
	require.Equal(t, "(1.1 2.2 3.2 4.2]", render(t, l.log))
	require.NoError(t, batch.Commit(engine.Sync))
	require.NoError(t, batch.Close())
	require.NoError(t, l.log.Truncate(3))
	require.NoError(t, l.log.Truncate(20))
	l.log.stable(m)
	require.Equal(t, "(20.4]", render(t, l.log))
	l.write(appendMessage(4, 1, 20, logEntry(21, 4, 0), logEntry(22, 4, 0)))
	require.NoError(t, l.log.Truncate(21))
	require.Equal(t, "(21.4 22.4]", render(t, l.log))
	l = l.reopen(t)
	require.Equal(t, "(21.4 22.4]", render(t, l.log))
	require.NoError(t, l.db.Close())
}

// TestTruncationsRaceRestarts has both at once, many times over.
func TestTruncationsRaceRestarts(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	require.NoError(t, l.log.Bootstrap(1, 1))
	at := uint64(1)
	for term := uint64(2); term < 2000; term++ {
		if term%50 == 0 {
			// Deleted ranges that lie over each other are slow in a memtable.
			require.NoError(t, l.db.Flush())
		}
		l.write(appendMessage(term, 0, at, logEntry(at+1, term, 0), logEntry(at+2, term, 0), logEntry(at+3, term, 0)))
		upTo := at + 2
		begin := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			<-begin
			if err := l.log.Truncate(upTo); err != nil {
				t.Error(err)
			}
		})
		at += 10
		close(begin)
		for range term % 100 {
			runtime.Gosched()
		}
		l.write(snapshotMessage(at, term))
		wg.Wait()
		row, err := l.log.get(tableTruncated)
		require.NoError(t, err)
		require.Equal(t, truncatedRow(at, term), row)
		require.Equal(t, fmt.Sprintf("(%d.%d]", at, term), render(t, l.log))
	}
	require.NoError(t, l.db.Close())
}

// TestBeginEmpty: a log before its first entry is what raft expects of one.
func TestBeginEmpty(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	require.False(t, l.log.Bootstrapped())
	require.NoError(t, l.log.BeginEmpty())
	for range 2 {
		require.True(t, l.log.Bootstrapped())
		require.Equal(t, "(0.0]", render(t, l.log))
		first, err := l.log.FirstIndex()
		require.NoError(t, err)
		require.EqualValues(t, 1, first)
		_, err = l.log.Entries(1, 2, 1)
		require.ErrorIs(t, err, raft.ErrUnavailable)
		_, err = l.log.Term(1)
		require.ErrorIs(t, err, raft.ErrUnavailable)
		_, err = l.log.Snapshot()
		require.ErrorIs(t, err, raft.ErrSnapshotTemporarilyUnavailable)
		require.NoError(t, l.log.BeginEmpty(), "again")
		require.NoError(t, l.log.Truncate(0))
		require.NoError(t, l.log.start(0, &raftpb.ConfState{}))
		hard, _, err := l.log.InitialState()
		require.NoError(t, err)
		require.True(t, raft.IsEmptyHardState(hard))
		l = l.reopen(t)
	}
	// One that has begun elsewhere stays there.
	l.write(appendMessage(2, 1, 0, logEntry(1, 2, 0)))
	require.NoError(t, l.log.BeginEmpty())
	require.Equal(t, "(0.0 1.2]", render(t, l.log))
	require.NoError(t, l.db.Close())

	// A state that has entries is not that of such a log.
	l = openLogs(t, engine.NewMem())
	require.NoError(t, l.log.BeginEmpty())
	require.ErrorContains(t, l.log.start(1, &raftpb.ConfState{}), "the state is applied up to entry 1, the log has (0, 0]")
	require.NoError(t, l.db.Close())
}

func TestSnapshotSource(t *testing.T) {
	l := openLogs(t, engine.NewMem())
	require.NoError(t, l.log.Bootstrap(1, 1))
	l.write(appendMessage(2, 1, 1, logEntry(2, 2, 0), logEntry(3, 2, 0), logEntry(4, 2, 0)))
	index, conf := uint64(3), &raftpb.ConfState{Voters: []uint64{7}}
	_, err := l.log.Snapshot()
	require.ErrorIs(t, err, raft.ErrSnapshotTemporarilyUnavailable, "no source")
	l.log.setSnapshotSource(func() (uint64, uint64, *raftpb.ConfState) { return index, 2, conf })
	for _, upTo := range []uint64{1, 2, 3} {
		require.NoError(t, l.log.Truncate(upTo))
		s, err := l.log.Snapshot()
		require.NoError(t, err)
		require.EqualValues(t, 3, s.GetMetadata().GetIndex())
		require.EqualValues(t, 2, s.GetMetadata().GetTerm())
		require.True(t, proto.Equal(conf, s.GetMetadata().GetConfState()))
		require.Empty(t, s.GetData())
		require.False(t, raft.IsEmptySnap(s))
	}
	require.NoError(t, l.log.Truncate(4))
	_, err = l.log.Snapshot()
	require.ErrorIs(t, err, raft.ErrSnapshotTemporarilyUnavailable, "it ends before the log begins")
	index, conf = 4, nil
	_, err = l.log.Snapshot()
	require.ErrorIs(t, err, raft.ErrSnapshotTemporarilyUnavailable, "no configuration")
	require.NoError(t, l.db.Close())
}

// restoredState returns a store that was given rows up to an entry, and then
// applied those up to another.
func restoredState(t *testing.T, index, term, upTo uint64) (*mvcc.Store, func()) {
	t.Helper()
	fs := engine.NewMem()
	from := openDB(t, fs, "from", func(err error) { t.Error(err) })
	source, err := mvcc.Open(from, mvcc.CoreGroup)
	require.NoError(t, err)
	applyEmpty(t, source, index, term)
	to := openDB(t, fs, "to", func(err error) { t.Error(err) })
	store, err := mvcc.Open(to, mvcc.CoreGroup)
	require.NoError(t, err)
	transfer(t, source, store, to, fs)
	if upTo > index {
		applyEmpty(t, store, upTo, term)
	}
	return store, func() {
		require.NoError(t, from.Close())
		require.NoError(t, to.Close())
	}
}

func applyEmpty(t *testing.T, s *mvcc.Store, index, term uint64) {
	t.Helper()
	b := s.NewBatch()
	require.NoError(t, b.Add(index, term, nil))
	_, err := b.Commit()
	require.NoError(t, err)
}

// transfer puts the rows of source in place of those of store.
func transfer(t *testing.T, source, store *mvcc.Store, db *engine.DB, fs engine.FS) {
	t.Helper()
	e, err := source.Export(1000)
	require.NoError(t, err)
	in, err := mvcc.NewIngest(db, fs, "ingest", mvcc.CoreGroup)
	require.NoError(t, err)
	for {
		chunk, err := e.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.NoError(t, in.Add(chunk))
	}
	require.NoError(t, e.Close())
	require.NoError(t, in.Commit(context.Background(), store))
	in.Drop()
}

// TestFinishRestore opens logs that a crash has left behind a state that was
// ingested, and others: only those that must be are restarted.
func TestFinishRestore(t *testing.T) {
	begin := appendMessage(2, 1, 1, logEntry(2, 2, 0), logEntry(3, 2, 0), logEntry(4, 2, 0), logEntry(5, 2, 0), logEntry(6, 2, 0))
	for _, c := range []struct {
		name string
		// index and term are where the state was ingested, upTo is how far it was
		// applied then.
		index, term, upTo uint64
		log               func(*testing.T, *logs)
		want, wantHard    string
		damaged           string
	}{
		{name: "behind", index: 20, term: 4, want: "(20.4]", wantHard: "4 0 20"},
		{name: "behind, its term is known", index: 20, term: 2, want: "(20.2]", wantHard: "2 1 20"},
		{name: "behind, a later term is known", index: 20, term: 4, want: "(20.4]", wantHard: "9 3 20", log: func(_ *testing.T, l *logs) {
			l.write(appendMessage(9, 3, 1))
		}},
		{name: "empty", index: 20, term: 4, want: "(20.4]", wantHard: "4 0 20", log: func(t *testing.T, l *logs) {
			t.Helper()
			*l = *openLogs(t, engine.NewCrashableMem())
			require.NoError(t, l.log.BeginEmpty())
		}},
		{name: "another leader's", index: 4, term: 3, want: "(4.3]", wantHard: "3 0 4"},
		{name: "another leader's, to its end", index: 6, term: 3, want: "(6.3]", wantHard: "3 0 6"},
		{name: "one that has it", index: 4, term: 2, want: "(1.1 2.2 3.2 4.2 5.2 6.2]", wantHard: "2 1 4"},
		{name: "one that ends there", index: 6, term: 2, want: "(1.1 2.2 3.2 4.2 5.2 6.2]", wantHard: "2 1 6"},
		{name: "restarted", index: 20, term: 4, want: "(20.4 21.4]", wantHard: "5 1 20", log: func(_ *testing.T, l *logs) {
			l.write(snapshotMessage(20, 4), appendMessage(5, 1, 20, logEntry(21, 4, 0)))
		}},
		{name: "restarted, and applied since", index: 20, term: 4, upTo: 21, want: "(20.4 21.4]", wantHard: "5 1 21", log: func(_ *testing.T, l *logs) {
			l.write(snapshotMessage(20, 4), appendMessage(5, 1, 20, logEntry(21, 4, 0)))
		}},
		{name: "behind, and the state was applied since", index: 20, term: 4, upTo: 21, damaged: "the state is applied up to entry 21, the log has (1, 6]"},
		{name: "lost", index: 20, term: 4, damaged: "the state is applied up to entry 20, the log has (0, 0]", log: func(t *testing.T, l *logs) {
			t.Helper()
			*l = *openLogs(t, engine.NewCrashableMem())
		}},
		{name: "truncated too far", index: 4, term: 2, damaged: "the state is applied up to entry 4, the log has (5, 6]", log: func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.log.Truncate(5))
		}},
		{name: "truncated there, in another term", index: 4, term: 3, damaged: "entry 4 is of term 3 in the state, of term 2 in the log", log: func(t *testing.T, l *logs) {
			t.Helper()
			require.NoError(t, l.log.Truncate(4))
		}},
		{name: "behind, and nothing was ingested", damaged: "the state is applied up to entry 20, the log has (1, 6]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := openLogs(t, engine.NewCrashableMem())
			require.NoError(t, l.log.Bootstrap(1, 1))
			l.write(begin)
			if c.log != nil {
				c.log(t, l)
			}
			store, closeState := restoredState(t, max(c.index, 1), max(c.term, 1), c.upTo)
			defer closeState()
			if c.index == 0 {
				// As any state comes to be.
				db := openDB(t, engine.NewMem(), "state", func(err error) { t.Error(err) })
				defer func() { require.NoError(t, db.Close()) }()
				var err error
				store, err = mvcc.Open(db, mvcc.CoreGroup)
				require.NoError(t, err)
				applyEmpty(t, store, 20, 4)
			}
			conf := &raftpb.ConfState{Voters: []uint64{1}}
			err := l.log.finishRestore(store)
			if err == nil {
				err = l.log.start(store.Applied().Index, conf)
			}
			if c.damaged != "" {
				require.ErrorContains(t, err, "the data directory is damaged: "+c.damaged)
				require.NoError(t, l.db.Close())
				return
			}
			require.NoError(t, err)
			for range 3 {
				require.Equal(t, c.want, render(t, l.log))
				hard, _, err := l.log.InitialState()
				require.NoError(t, err)
				require.Equal(t, c.wantHard, fmt.Sprint(hard.GetTerm(), hard.GetVote(), hard.GetCommit()))
				// It is durable, and nothing is left to be done.
				fs := l.fs.CrashClone(engine.CrashCloneCfg{})
				require.NoError(t, l.db.Close())
				l = openLogs(t, fs)
				require.Equal(t, c.want, render(t, l.log))
				require.NoError(t, l.log.finishRestore(store))
				require.NoError(t, l.log.start(store.Applied().Index, conf))
			}
			last, err := l.log.LastIndex()
			require.NoError(t, err)
			l.write(appendMessage(9, 0, last, logEntry(last+1, 9, 0)))
			require.Contains(t, render(t, l.log), fmt.Sprintf(" %d.9]", last+1))
			require.NoError(t, l.db.Close())
		})
	}
}

// raftReplica is a replica of which only raft, the log and the state are there.
type raftReplica struct {
	t     *testing.T
	id    uint64
	fs    *engine.MemFS
	state *engine.DB
	store *mvcc.Store
	*logs
	rn *raft.RawNode
	// sent are the messages to the other.
	sent []*raftpb.Message
	// source is whose rows a snapshot has.
	source *raftReplica
	// dieBeforeLog has it lose its power when the rows of a snapshot are in the
	// state; dead says that it has, and left what is left.
	dieBeforeLog, dead bool
	left               *engine.MemFS
	// appends are what raft has asked the log for.
	appends []*raftpb.Message
}

func openReplica(t *testing.T, id uint64, fs *engine.MemFS, prepare func(*raftReplica)) *raftReplica {
	t.Helper()
	r := &raftReplica{t: t, id: id, fs: fs, logs: openLogs(t, fs)}
	r.state = openDB(t, fs, "state", func(err error) { t.Error(err) })
	var err error
	r.store, err = mvcc.Open(r.state, mvcc.CoreGroup)
	require.NoError(t, err)
	if prepare != nil {
		prepare(r)
	}
	row, err := r.store.ConfState()
	require.NoError(t, err)
	conf := &raftpb.ConfState{}
	require.NoError(t, proto.Unmarshal(row, conf))
	require.NoError(t, r.log.finishRestore(r.store))
	require.NoError(t, r.log.start(r.store.Applied().Index, conf))
	r.log.setSnapshotSource(func() (uint64, uint64, *raftpb.ConfState) {
		a := r.store.Applied()
		return a.Index, a.Term, conf
	})
	r.rn, err = raft.NewRawNode(&raft.Config{
		ID: id, ElectionTick: 10, HeartbeatTick: 1, Storage: r.log, Applied: r.store.Applied().Index,
		AsyncStorageWrites: true, MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 10, CheckQuorum: true, PreVote: true,
		Logger: raftLogger{slog.New(slog.DiscardHandler)},
	})
	require.NoError(t, err)
	return r
}

func (r *raftReplica) close() {
	require.NoError(r.t, r.state.Close())
	require.NoError(r.t, r.db.Close())
}

// work does what raft asks for, until it asks for nothing.
func (r *raftReplica) work() {
	for !r.dead && r.rn.HasReady() {
		for _, m := range r.rn.Ready().Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				r.append(m)
			case raft.LocalApplyThread:
				b := r.store.NewBatch()
				for _, e := range m.GetEntries() {
					effects := mvcc.NewEffects(nil)
					if len(e.GetData()) > 0 {
						effects.Revision(int64(e.GetIndex()) + 1)
						effects.Put(0, fmt.Appendf(nil, "key%d", e.GetIndex()), mvcc.Head{Mod: int64(e.GetIndex()) + 1}, 0, e.GetData())
					}
					require.NoError(r.t, b.Add(e.GetIndex(), e.GetTerm(), effects.Bytes()))
				}
				_, err := b.Commit()
				require.NoError(r.t, err)
				r.log.setApplied(r.store.Applied().Index)
				r.respond(m)
			default:
				r.sent = append(r.sent, m)
			}
		}
	}
}

func (r *raftReplica) append(m *raftpb.Message) {
	r.appends = append(r.appends, m)
	if m.Snapshot != nil {
		transfer(r.t, r.source.store, r.store, r.state, r.fs)
		require.Equal(r.t, m.GetSnapshot().GetMetadata().GetIndex(), r.store.Applied().Index)
		require.Equal(r.t, m.GetSnapshot().GetMetadata().GetTerm(), r.store.Applied().Term)
		if r.dieBeforeLog {
			r.dead, r.left = true, r.fs.CrashClone(engine.CrashCloneCfg{})
			return
		}
	}
	r.write(m)
	r.respond(m)
}

func (r *raftReplica) respond(m *raftpb.Message) {
	for _, resp := range m.GetResponses() {
		if resp.GetTo() == r.id {
			require.NoError(r.t, r.rn.Step(resp))
		} else {
			r.sent = append(r.sent, resp)
		}
	}
}

// exchange has both work, and take each other's messages, until none says
// anything.
func exchange(a, b *raftReplica) {
	for {
		a.work()
		b.work()
		ab, ba := a.sent, b.sent
		a.sent, b.sent = nil, nil
		if len(ab)+len(ba) == 0 {
			return
		}
		for _, m := range ab {
			if !b.dead {
				_ = b.rn.Step(m)
			}
		}
		for _, m := range ba {
			_ = a.rn.Step(m)
		}
	}
}

// span reads where a log begins and ends.
func span(t *testing.T, l *Log) string {
	t.Helper()
	first, err := l.FirstIndex()
	require.NoError(t, err)
	before, err := l.Term(first - 1)
	require.NoError(t, err)
	last, err := l.LastIndex()
	require.NoError(t, err)
	term, err := l.Term(last)
	require.NoError(t, err)
	return fmt.Sprintf("(%d.%d %d.%d]", first-1, before, last, term)
}

// newLeader has a log that begins behind entry 6, and a learner that it has heard
// nothing of.
func newLeader(t *testing.T) *raftReplica {
	t.Helper()
	leader := openReplica(t, 1, engine.NewCrashableMem(), func(r *raftReplica) {
		row, err := proto.Marshal(&raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}})
		require.NoError(t, err)
		b := r.store.NewBatch()
		require.NoError(t, b.Add(1, 1, nil))
		require.NoError(t, b.SetConfState(row))
		_, err = b.Commit()
		require.NoError(t, err)
		require.NoError(t, r.log.Bootstrap(1, 1))
	})
	require.NoError(t, leader.rn.Campaign())
	leader.work()
	for i := range 8 {
		require.NoError(t, leader.rn.Propose(fmt.Append(nil, "value", i)))
		leader.work()
	}
	require.NoError(t, leader.log.Truncate(6))
	leader.sent = nil
	return leader
}

func newLearner(t *testing.T, fs *engine.MemFS) *raftReplica {
	t.Helper()
	return openReplica(t, 2, fs, func(r *raftReplica) { require.NoError(t, r.log.BeginEmpty()) })
}

// meet has the leader send to the learner until both are alike.
func meet(t *testing.T, leader, learner *raftReplica) {
	t.Helper()
	learner.source = leader
	// Raft sends no snapshot to one that it has not heard of.
	for range 5 {
		leader.rn.Tick()
		exchange(leader, learner)
	}
	require.Equal(t, leader.store.Applied(), learner.store.Applied())
	require.NoError(t, leader.rn.Propose([]byte("behind")))
	exchange(leader, learner)
	leader.rn.Tick()
	exchange(leader, learner)
	require.Equal(t, leader.store.Applied(), learner.store.Applied())
	for i := range leader.store.Applied().Index {
		key := fmt.Appendf(nil, "key%d", i+1)
		want, err := leader.store.Latest(key)
		require.NoError(t, err)
		got, err := learner.store.Latest(key)
		require.NoError(t, err)
		require.True(t, proto.Equal(want, got))
	}
}

// TestRaftRestores has raft itself give an empty replica a snapshot, and one that
// is behind, and goes on.
func TestRaftRestores(t *testing.T) {
	leader := newLeader(t)
	learner := newLearner(t, engine.NewCrashableMem())
	meet(t, leader, learner)
	require.Equal(t, "(10.2 11.2]", span(t, learner.log))

	// It is away, and the leader's log is truncated beyond it.
	for range 5 {
		require.NoError(t, leader.rn.Propose([]byte("while it is away")))
		leader.work()
	}
	require.NoError(t, leader.log.Truncate(leader.store.Applied().Index))
	leader.sent = nil
	meet(t, leader, learner)
	require.Equal(t, "(16.2 17.2]", span(t, learner.log))
	learner.close()

	// It restarts.
	learner = openReplica(t, 2, learner.fs, nil)
	meet(t, leader, learner)
	require.Equal(t, "(16.2 18.2]", span(t, learner.log))
	learner.close()
	leader.close()
}

// TestPowerLostWhileRaftRestores loses power when the rows are in the state, and
// the log knows nothing of it: it goes on from the rows, and asks for nothing
// again.
func TestPowerLostWhileRaftRestores(t *testing.T) {
	leader := newLeader(t)
	learner := newLearner(t, engine.NewCrashableMem())
	learner.source, learner.dieBeforeLog = leader, true
	for range 5 {
		leader.rn.Tick()
		exchange(leader, learner)
	}
	require.True(t, learner.dead)
	learner.close()

	learner = openReplica(t, 2, learner.left, nil)
	require.Equal(t, "(10.2 10.2]", span(t, learner.log))
	// Raft waits until it is told what has become of the snapshot.
	leader.rn.ReportSnapshot(2, raft.SnapshotFinish)
	meet(t, leader, learner)
	for _, m := range learner.appends {
		require.Nil(t, m.Snapshot, "it has it")
	}
	require.Equal(t, "(10.2 11.2]", span(t, learner.log))
	learner.close()
	leader.close()
}

// TestRaftAsksForBoth shows that one message to the log may have a snapshot and
// the entries behind it, and responses to both.
func TestRaftAsksForBoth(t *testing.T) {
	leader := newLeader(t)
	learner := newLearner(t, engine.NewCrashableMem())
	learner.source = leader
	index, term := leader.store.Applied().Index, leader.store.Applied().Term
	snapshot, err := leader.log.Snapshot()
	require.NoError(t, err)
	one := uint64(1)
	two := uint64(2)
	require.NoError(t, learner.rn.Step(&raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: &one, To: &two, Term: &term, Snapshot: snapshot,
	}))
	require.NoError(t, learner.rn.Step(&raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: &one, To: &two, Term: &term, Index: &index, LogTerm: &term, Commit: &index,
		Entries: []*raftpb.Entry{logEntry(index+1, term, 0)},
	}))
	learner.work()
	require.Len(t, learner.appends, 1)
	require.NotNil(t, learner.appends[0].Snapshot)
	require.Len(t, learner.appends[0].GetEntries(), 1)
	require.Equal(t, "(10.2 11.2]", span(t, learner.log))
	require.False(t, learner.rn.HasReady())
	require.EqualValues(t, 10, learner.rn.BasicStatus().Applied)
	learner.close()
	learner = openReplica(t, 2, learner.fs, nil)
	require.Equal(t, "(10.2 11.2]", span(t, learner.log))
	learner.close()
	leader.close()
}
