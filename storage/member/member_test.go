package member_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

// start opens a member of one on fs, as more says.
func start(t *testing.T, fs engine.FS, routes *route.Table, more ...func(*member.Config)) *member.Member {
	t.Helper()
	cfg := member.Config{
		Dir: "data", FS: fs, Name: "a", InitialCluster: "a=http://127.0.0.1:2380", Routes: routes,
		PeerURLs:   []string{"http://127.0.0.1:2380"},
		CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, change := range more {
		change(&cfg)
	}
	m, err := member.Open(t.Context(), cfg)
	require.NoError(t, err)
	<-m.Ready()
	return m
}

// bothRoutes runs a test over core alone and over the default groups.
func bothRoutes(t *testing.T, test func(t *testing.T, routes *route.Table)) {
	t.Helper()
	t.Run("core", func(t *testing.T) { test(t, nil) })
	t.Run("groups", func(t *testing.T) {
		routes, err := route.Parse(route.DefaultResourceGroups, "/registry")
		require.NoError(t, err)
		require.Len(t, routes.Groups(), 4)
		test(t, routes)
	})
}

func do(t *testing.T, m *member.Member, op evaluate.Op) evaluate.Result {
	t.Helper()
	res, err := m.Do(t.Context(), op)
	require.NoError(t, err)
	return res
}

func TestRestartKeepsEverything(t *testing.T) { bothRoutes(t, testRestartKeepsEverything) }

func testRestartKeepsEverything(t *testing.T, routes *route.Table) {
	t.Helper()
	fs := engine.NewMem()
	m := start(t, fs, routes)
	require.EqualValues(t, 1, m.Revision())
	// On both sides of the borders between groups.
	prefixes := []string{"/registry/events/", "/registry/leases/", "/registry/pods/", "k", "/registry/pods0"}
	for i := range 100 {
		res := do(t, m, &evaluate.Put{Key: fmt.Appendf(nil, "%s%02d", prefixes[i%5], i%10), Value: fmt.Append(nil, i)})
		require.EqualValues(t, i+2, res.Revision)
	}
	res := do(t, m, &evaluate.DeleteRange{Key: []byte("/registry/leases/06"), End: []byte("/registry/pods/03")})
	require.EqualValues(t, 2, res.Deleted)
	require.EqualValues(t, 102, res.Revision)
	do(t, m, &evaluate.LeaseGrant{ID: 7, TTL: 60})
	do(t, m, &evaluate.Put{Key: []byte("/registry/events/leased"), Value: []byte("x"), Lease: 7})
	do(t, m, &evaluate.Compact{Revision: 50})
	hash, err := m.HashKV(t.Context(), 0)
	require.NoError(t, err)
	require.NoError(t, m.Close())

	m = start(t, fs, routes)
	require.EqualValues(t, 103, m.Revision())
	require.EqualValues(t, 50, m.Compacted())
	again, err := m.HashKV(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, hash, again)
	got, err := m.Read(t.Context(), &evaluate.Range{Key: []byte("/registry/"), End: []byte("l")}, false)
	require.NoError(t, err)
	require.Len(t, got.KVs, 9)
	require.EqualValues(t, 9, got.Count)
	info, err := m.LeaseTimeToLive(t.Context(), 7, true)
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("/registry/events/leased")}, info.Keys)
	_, err = m.Read(t.Context(), &evaluate.Range{Key: []byte("k"), Revision: 49}, false)
	require.ErrorIs(t, err, mvcc.ErrCompacted)

	// The lease's end deletes its key at one revision.
	require.EqualValues(t, 104, do(t, m, &evaluate.LeaseRevoke{ID: 7}).Revision)
	var types []mvccpb.Event_EventType
	require.NoError(t, m.Changes(t.Context(), []byte("/registry/events/leased"), nil, 50, m.Revision(), func(e *mvccpb.Event) error {
		types = append(types, e.Type)
		return nil
	}))
	require.Equal(t, []mvccpb.Event_EventType{mvccpb.Event_PUT, mvccpb.Event_DELETE}, types)
	require.NoError(t, m.Close())
}

// TestPowerLostInTheFirstStart loses power at every write of the first start: when
// the directory is made and the logs have not begun, or some of them have. The next
// start goes on from there.
func TestPowerLostInTheFirstStart(t *testing.T) {
	bothRoutes(t, func(t *testing.T, routes *route.Table) {
		t.Helper()
		for at := int64(1); ; at += 3 {
			mem := engine.NewCrashableMem()
			rng := rand.New(rand.NewPCG(uint64(at), 0))
			var writes atomic.Int64
			var left *engine.MemFS
			fs := engine.WrapFaulty(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && writes.Add(1) == at {
					left = mem.CrashClone(engine.CrashCloneCfg{UnsyncedDataPercent: 50 * int(at%3), RNG: rng})
				}
				return nil
			}))
			m := start(t, fs, routes)
			id := m.Status().MemberID
			count := writes.Load()
			require.NoError(t, m.Close())
			if count < at {
				require.Greater(t, at, int64(30))
				return
			}
			m = start(t, left, routes)
			require.Equal(t, id, m.Status().MemberID, "write %d", at)
			require.EqualValues(t, 1, m.Revision())
			require.Len(t, m.Members(), 1)
			for i, key := range groupKeys {
				require.EqualValues(t, i+2, do(t, m, &evaluate.Put{Key: []byte(key)}).Revision)
			}
			require.NoError(t, m.Close())
		}
	})
}
