package member_test

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
)

// damage changes the last byte of every version of a key in the state of a member
// that is closed, as a bug, or a disk that lies, would.
func (n *node) damage(key string) {
	n.c.t.Helper()
	db, err := engine.Open(engine.Config{
		FS: n.fs, Dir: "data/state", CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
		Clock: clock.Real{}, Logger: slog.New(slog.DiscardHandler),
		Fatal: func(err error) { panic(err) },
	})
	require.NoError(n.c.t, err)
	it, err := db.NewIter(&engine.IterOptions{})
	require.NoError(n.c.t, err)
	damaged := 0
	for ok := it.First(); ok; ok = it.Next() {
		prefix, _, _, err := engine.SplitVersion(it.Key())
		if err != nil || len(prefix) < 3 || prefix[2] != 'k' || string(prefix[3:]) != key {
			continue
		}
		v, err := it.ValueAndErr()
		require.NoError(n.c.t, err)
		v = append([]byte{}, v...)
		v[len(v)-1] ^= 1
		require.NoError(n.c.t, db.Set(append([]byte{}, it.Key()...), v, engine.NoSync))
		damaged++
	}
	require.NoError(n.c.t, it.Close())
	require.Positive(n.c.t, damaged)
	require.NoError(n.c.t, db.Flush())
	require.NoError(n.c.t, db.Close())
}

// TestCompare finds out which member differs.
func TestCompare(t *testing.T) {
	c := newCluster(t, 3, nil)
	for i := range 40 {
		c.nodes[i%3].put(fmt.Sprintf("%s/%d", groupKeys[i%4], i), "value")
	}
	for _, n := range c.nodes {
		got, err := n.Compare(t.Context())
		require.NoError(t, err)
		require.Len(t, got.Compared, 3)
		require.Empty(t, got.Missing)
		require.Empty(t, got.Different)
		require.Equal(t, c.nodes[0].Revision(), got.Revision)
	}

	bad := c.nodes[1]
	id := bad.id()
	bad.close()
	got, err := c.nodes[0].Compare(t.Context())
	require.NoError(t, err)
	require.Len(t, got.Compared, 2)
	require.Equal(t, []uint64{id}, got.Missing)
	require.Empty(t, got.Different)

	bad.damage(fmt.Sprintf("%s/%d", groupKeys[2], 2))
	c.open(bad)
	for _, n := range c.nodes {
		c.eventually(func() bool {
			got, err = n.Compare(t.Context())
			require.NoError(t, err)
			return len(got.Missing) == 0
		}, "a member that is back is not compared")
		require.Equal(t, []uint64{id}, got.Different)
	}

	// Of two nobody knows who is right.
	c.nodes[2].close()
	got, err = c.nodes[0].Compare(t.Context())
	require.NoError(t, err)
	require.Equal(t, got.Compared, got.Different)
}
