package group

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
)

// TestConfChange adds a learner that is never heard of. The configuration is
// kept with the state, with which the entry that made it is applied.
func TestConfChange(t *testing.T) {
	fs := engine.NewMem()
	r := startReplica(t, fs)
	before := r.AppliedIndex()
	r.inLoop(t, func() {
		require.NoError(t, r.rn.ProposeConfChange(&raftpb.ConfChange{
			Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(2),
		}))
	})
	r.do(t, put("a", 1))
	require.Equal(t, before+2, r.AppliedIndex())
	require.True(t, r.Sole(), "a learner has no vote")
	check := func() {
		row, err := r.store.ConfState()
		require.NoError(t, err)
		conf := &raftpb.ConfState{}
		require.NoError(t, proto.Unmarshal(row, conf))
		require.Equal(t, []uint64{1}, conf.GetVoters())
		require.Equal(t, []uint64{2}, conf.GetLearners())
	}
	check()
	require.NoError(t, r.files.state.Flush())
	r.stop(t)
	r = startReplica(t, fs)
	check()
	r.do(t, put("a", 2))

	// A second voter that is never heard of: nothing can be confirmed any more.
	r.inLoop(t, func() {
		require.NoError(t, r.rn.ProposeConfChange(&raftpb.ConfChange{
			Type: raftpb.ConfChangeAddNode.Enum(), NodeId: proto.Uint64(3),
		}))
	})
	for r.Sole() {
		r.inLoop(t, func() {})
	}
	answered := make(chan error, 1)
	go func() { answered <- r.ReadIndex(t.Context()) }()
	for r.inbox.reading.Load() == 0 {
		r.inLoop(t, func() {})
	}
	r.stop(t)
	require.ErrorIs(t, <-answered, ErrStopped)
}

// TestStopDuringConfChange stops a replica whose applier waits for its loop: that
// is no failure.
func TestStopDuringConfChange(t *testing.T) {
	r := startReplica(t, engine.NewMem())
	before := r.store.Applied()
	release := r.block(t)
	data, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(2)})
	require.NoError(t, err)
	r.applier.submit(&raftpb.Message{
		Entries: []*raftpb.Entry{{
			Index: proto.Uint64(before.Index + 1), Term: proto.Uint64(2), Type: raftpb.EntryConfChange.Enum(), Data: data,
		}},
		Responses: []*raftpb.Message{{}},
	})
	// The applier has asked the loop, which never looks: it is told to stop.
	<-r.inbox.wake
	r.once.Do(func() { close(r.Group.stop) })
	release()
	r.stop(t) // which requires that nothing was fatal
	require.Equal(t, before, r.store.Applied())
}
