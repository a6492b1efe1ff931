package group

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// wires carry messages between replicas that run, at once and in order.
type wires struct{ to map[uint64]*Group }

// Send implements Transport.
func (w *wires) Send(_ mvcc.GroupID, ms []*raftpb.Message) {
	for _, m := range ms {
		if g := w.to[m.GetTo()]; g != nil {
			g.Step(proto.Clone(m).(*raftpb.Message))
		}
	}
}

// SendSnapshot implements Transport.
func (w *wires) SendSnapshot(mvcc.GroupID, *raftpb.Message) { panic("nobody lags") }

// TestRunningReplicas runs three replicas with all their goroutines, hands the
// lead over, and compares them. No time passes: nothing has to be asked twice.
func TestRunningReplicas(t *testing.T) {
	all := map[uint64]*replica{}
	w := &wires{to: map[uint64]*Group{}}
	for id := uint64(1); id <= 3; id++ {
		fs := engine.NewMem()
		r := makeReplica(t, fs, fs, id, []uint64{1, 2, 3}, w)
		all[id] = r
	}
	for id, r := range all {
		w.to[id] = r.Group
	}
	for _, r := range all {
		r.Start()
	}

	written := 0
	for _, leader := range []uint64{1, 3, 2} {
		r := all[leader]
		if written == 0 {
			r.inLoop(t, func() { require.NoError(t, r.rn.Campaign()) })
		} else {
			for _, other := range all {
				other.inLoop(t, func() { other.rn.TransferLeader(leader) })
			}
		}
		for r.line.Epoch() == 0 {
			runtime.Gosched()
		}
		require.Equal(t, leader, r.Status().Leader)
		require.False(t, r.Sole())
		var acknowledged atomic.Int64
		var clients sync.WaitGroup
		for i := range 4 {
			clients.Go(func() {
				for n := range 50 {
					res := r.do(t, put(fmt.Sprintf("k%d", i), n))
					acknowledged.Store(max(acknowledged.Load(), res.Revision))
				}
			})
			clients.Go(func() {
				for range 50 {
					low := acknowledged.Load()
					got := r.line.Present()
					if err := r.confirm(); err != nil {
						t.Error(err)
					}
					if got < low {
						t.Errorf("a read at %d after %d was acknowledged", got, low)
					}
					// Nobody else can confirm anything.
					if err := all[leader%3+1].confirm(); !errors.Is(err, ErrNotSequencer) {
						t.Errorf("another replica confirms: %v", err)
					}
					if res := r.do(t, unchanged("k0")); res.Revision < low {
						t.Errorf("an answer at %d after %d was acknowledged", res.Revision, low)
					}
				}
			})
		}
		clients.Wait()
		written += 200
		require.EqualValues(t, 1+written, r.store.Revision())
		for _, other := range all {
			for other.AppliedIndex() < r.AppliedIndex() {
				runtime.Gosched()
			}
		}
	}
	want := ""
	for id := uint64(1); id <= 3; id++ {
		hash, rev, _, err := all[id].store.HashKV(t.Context(), 0)
		require.NoError(t, err)
		got := fmt.Sprint(hash, rev, contents(t, all[id].store))
		if id == 1 {
			want = got
		}
		require.Equal(t, want, got)
		require.Len(t, all[id].seen.events, written)
	}
	for _, r := range all {
		r.stop(t)
	}
}
