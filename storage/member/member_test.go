package member_test

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// start opens a member of one on fs.
func start(t *testing.T, fs engine.FS) *member.Member {
	t.Helper()
	m, err := member.Open(t.Context(), member.Config{
		Dir: "data", FS: fs, Name: "a", InitialCluster: "a=http://127.0.0.1:2380",
		PeerURLs: []string{"http://127.0.0.1:2380"},
		Logger:   slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	require.NoError(t, err)
	<-m.Ready()
	return m
}

func do(t *testing.T, m *member.Member, op evaluate.Op) evaluate.Result {
	t.Helper()
	res, err := m.Do(t.Context(), op)
	require.NoError(t, err)
	return res
}

func TestRestartKeepsEverything(t *testing.T) {
	fs := engine.NewMem()
	m := start(t, fs)
	require.EqualValues(t, 1, m.Revision())
	for i := range 100 {
		res := do(t, m, &evaluate.Put{Key: fmt.Appendf(nil, "k%02d", i%10), Value: fmt.Append(nil, i)})
		require.EqualValues(t, i+2, res.Revision)
	}
	res := do(t, m, &evaluate.DeleteRange{Key: []byte("k03"), End: []byte("k06")})
	require.EqualValues(t, 3, res.Deleted)
	require.EqualValues(t, 102, res.Revision)
	do(t, m, &evaluate.LeaseGrant{ID: 7, TTL: 60})
	do(t, m, &evaluate.Put{Key: []byte("leased"), Value: []byte("x"), Lease: 7})
	do(t, m, &evaluate.Compact{Revision: 50})
	hash, err := m.HashKV(t.Context(), 0)
	require.NoError(t, err)
	require.NoError(t, m.Close())

	m = start(t, fs)
	require.EqualValues(t, 103, m.Revision())
	require.EqualValues(t, 50, m.Compacted())
	again, err := m.HashKV(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, hash, again)
	got, err := m.Read(t.Context(), &evaluate.Range{Key: []byte("k"), End: []byte("l")}, false)
	require.NoError(t, err)
	require.Len(t, got.KVs, 7)
	require.EqualValues(t, 7, got.Count)
	info, err := m.LeaseTimeToLive(t.Context(), 7, true)
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("leased")}, info.Keys)
	_, err = m.Read(t.Context(), &evaluate.Range{Key: []byte("k"), Revision: 49}, false)
	require.ErrorIs(t, err, mvcc.ErrCompacted)

	// The lease's end deletes its key at one revision.
	require.EqualValues(t, 104, do(t, m, &evaluate.LeaseRevoke{ID: 7}).Revision)
	var types []mvccpb.Event_EventType
	require.NoError(t, m.Changes(t.Context(), []byte("leased"), nil, 50, m.Revision(), func(e *mvccpb.Event) error {
		types = append(types, e.Type)
		return nil
	}))
	require.Equal(t, []mvccpb.Event_EventType{mvccpb.Event_PUT, mvccpb.Event_DELETE}, types)
	require.NoError(t, m.Close())
}
