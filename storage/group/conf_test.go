package group

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// members returns the rows of the members that core has.
func (r *replica) members(t *testing.T) map[uint64]string {
	t.Helper()
	rows := map[uint64]string{}
	require.NoError(t, r.store.Members(func(id uint64, row []byte) { rows[id] = string(row) }))
	return rows
}

// conf returns the configuration that is stored.
func (r *replica) conf(t *testing.T) Replicas {
	t.Helper()
	row, err := r.store.ConfState()
	require.NoError(t, err)
	conf := &raftpb.ConfState{}
	require.NoError(t, proto.Unmarshal(row, conf))
	return Replicas{conf.GetVoters(), conf.GetLearners()}
}

// change proposes a step and waits until everything proposed is applied.
func (r *replica) change(t *testing.T, from Replicas, change ConfChange, member uint64, row string) {
	t.Helper()
	before := r.AppliedIndex()
	r.ProposeConfChange(from, change, member, []byte(row))
	for r.AppliedIndex() == before {
		runtime.Gosched()
	}
	r.inLoop(t, func() {})
}

// TestConfChange adds a learner that is never heard of. The configuration and the
// member's row are kept with the state, with which the entry that made them is
// applied.
func TestConfChange(t *testing.T) {
	fs := engine.NewMem()
	r := startReplica(t, fs)
	alone := Replicas{Voters: []uint64{1}}
	require.True(t, alone.Equal(r.Replicas()))
	r.change(t, alone, AddLearner, 2, "two")
	require.True(t, r.Sole(), "a learner has no vote")
	require.False(t, r.Learns())
	check := func() {
		require.Equal(t, Replicas{[]uint64{1}, []uint64{2}}, r.conf(t))
		require.Equal(t, r.conf(t), r.Replicas())
		require.Equal(t, map[uint64]string{2: "two"}, r.members(t))
	}
	check()
	r.do(t, put("a", 1))
	require.NoError(t, r.files.state.Flush())
	r.stop(t)
	r = startReplica(t, fs)
	check()
	r.do(t, put("a", 2))

	r.change(t, r.Replicas(), UpdateMember, 1, "one")
	require.Equal(t, map[uint64]string{1: "one", 2: "two"}, r.members(t))
	require.Equal(t, Replicas{[]uint64{1}, []uint64{2}}, r.conf(t))
	// A member that was removed keeps an empty row, whatever the proposal says.
	r.change(t, r.Replicas(), RemoveReplica, 2, "gone")
	require.Equal(t, map[uint64]string{1: "one", 2: ""}, r.members(t))
	require.True(t, alone.Equal(r.Replicas()))

	// A second voter that is never heard of: nothing can be confirmed any more.
	r.change(t, r.Replicas(), AddVoter, 3, "three")
	require.False(t, r.Sole())
	answered := make(chan error, 1)
	go func() { answered <- r.confirm() }()
	for r.inbox.reading.Load() == 0 {
		r.inLoop(t, func() {})
	}
	unanswered := make(chan error, 1)
	go func() {
		_, err := r.Do(t.Context(), unchanged("a"), 10)
		unanswered <- err
	}()
	for r.inbox.reading.Load() < 2 {
		r.inLoop(t, func() {})
	}
	r.stop(t)
	require.ErrorIs(t, <-answered, ErrStopped)
	require.ErrorIs(t, <-unanswered, ErrStopped)
}

// TestConfChangeOutOfPlace: a change that was proposed in another epoch, or for
// another configuration, has no effect, neither on who is in it nor on the rows.
func TestConfChangeOutOfPlace(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	defer r.stop(t)
	alone := r.Replicas()
	r.change(t, alone, AddLearner, 2, "two")
	now := Replicas{[]uint64{1}, []uint64{2}}
	epoch := r.store.Applied().Epoch

	unmoved := func() {
		t.Helper()
		require.Equal(t, now, r.conf(t))
		require.Equal(t, now, r.Replicas())
		require.Equal(t, map[uint64]string{2: "two"}, r.members(t))
	}
	for _, from := range []Replicas{
		alone,
		{},
		{Voters: []uint64{1, 2}},
		{Learners: []uint64{1, 2}},
		{Voters: []uint64{2}, Learners: []uint64{1}},
		{Voters: []uint64{1}, Learners: []uint64{2, 3}},
	} {
		r.change(t, from, AddLearner, 3, "three")
		unmoved()
		r.change(t, from, RemoveReplica, 2, "")
		unmoved()
		r.change(t, from, UpdateMember, 2, "other")
		unmoved()
	}
	for _, wrong := range []uint64{0, epoch - 1, epoch + 1} {
		before := r.AppliedIndex()
		r.inLoop(t, func() {
			guard := confGuard{wrong, now.digest()}
			require.NoError(t, r.rn.ProposeConfChange(&raftpb.ConfChange{
				Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(3), Context: guard.append([]byte("three")),
			}))
		})
		for r.AppliedIndex() == before {
			runtime.Gosched()
		}
		unmoved()
	}
	// What is in place still has one.
	r.change(t, now, RemoveReplica, 2, "")
	require.True(t, alone.Equal(r.Replicas()))

	// Who does not reign proposes none.
	r.End()
	r.ProposeConfChange(alone, AddLearner, 4, []byte("four"))
	r.inLoop(t, func() {})
	require.True(t, alone.Equal(r.Replicas()))
	last, err := r.log.LastIndex()
	require.NoError(t, err)
	require.Equal(t, r.AppliedIndex(), last)
}

// TestUnreadableConfChange commits changes that this version does not make.
func TestUnreadableConfChange(t *testing.T) {
	for name, c := range map[string]struct {
		change raftpb.ConfChangeI
		want   string
	}{
		"no guard": {&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(2)}, "cut short"},
		"a half guard": {&raftpb.ConfChange{
			Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(2), Context: make([]byte, 15),
		}, "cut short"},
		"a joint change": {&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{
			Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(2),
		}}}, "written by a newer version?"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startReplica(t, engine.NewMem())
			index := r.AppliedIndex()
			r.inLoop(t, func() { require.NoError(t, r.rn.ProposeConfChange(c.change)) })
			require.ErrorContains(t, <-r.fatal, c.want)
			require.Equal(t, index, r.store.Applied().Index)
			r.Stop()
			r.writer.Close()
			r.files.close(t)
		})
	}
}

// TestConfGuardIsAsWritten: part of the log's format.
func TestConfGuardIsAsWritten(t *testing.T) {
	guard := confGuard{0x0102, Replicas{[]uint64{1, 2}, []uint64{3}}.digest()}
	data := guard.append([]byte("row"))
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x01\x02\x56\x04\x9a\x04\x98\xe1\x4b\x05row", string(data))
	got, row, err := splitGuard(data)
	require.NoError(t, err)
	require.Equal(t, guard, got)
	require.Equal(t, "row", string(row))
	require.NotEqual(t, guard.from, Replicas{[]uint64{1}, []uint64{2, 3}}.digest())
	require.NotEqual(t, guard.from, Replicas{Voters: []uint64{1, 2, 3}}.digest())
}

func TestReplicasSet(t *testing.T) {
	r := Replicas{[]uint64{1, 2}, []uint64{3}}
	require.Equal(t, Replicas{[]uint64{1}, []uint64{3}}, r.Without(2))
	require.Equal(t, Replicas{[]uint64{1, 2}, []uint64{}}, r.Without(3))
	require.True(t, r.Equal(r.Without(4)))
	require.Equal(t, []bool{true, true, false}, []bool{r.Has(1), r.Has(3), r.Has(4)})
	require.False(t, r.Equal(r.Without(3)))
}

// TestStopDuringConfChange stops a replica whose applier waits for its loop: that
// is no failure.
func TestStopDuringConfChange(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	before := r.store.Applied()
	release := r.block(t)
	guard := confGuard{before.Epoch, r.Replicas().digest()}
	data, err := proto.Marshal(&raftpb.ConfChange{
		Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(2), Context: guard.append(nil),
	})
	require.NoError(t, err)
	r.applier.submit(task{m: &raftpb.Message{
		Entries: []*raftpb.Entry{{
			Index: proto.Uint64(before.Index + 1), Term: proto.Uint64(2), Type: raftpb.EntryConfChange.Enum(), Data: data,
		}},
		Responses: []*raftpb.Message{{}},
	}})
	// The applier has asked the loop, which never looks: it is told to stop.
	<-r.inbox.wake
	r.once.Do(func() { close(r.Group.stop) })
	release()
	r.stop(t) // which requires that nothing was fatal
	require.Equal(t, before, r.store.Applied())
}
