package member_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
)

// TestForceNewCluster: the one member that is left goes on with all that it has, after a
// loss of power too, alone and as the first of a new cluster.
func TestForceNewCluster(t *testing.T) {
	for _, learner := range []bool{false, true} {
		t.Run(fmt.Sprintf("learner=%v", learner), func(t *testing.T) {
			force := ""
			c := newCluster(t, 2, func(cfg *member.Config) { cfg.ForceNewCluster = cfg.Name == force })
			left := c.add(true)
			left.fs = engine.NewCrashableMem()
			_, _, err := c.nodes[0].MemberAdd(t.Context(), []string{left.url}, true)
			require.NoError(t, err)
			c.open(left)
			if !learner {
				c.eventually(func() bool {
					_, err := c.nodes[0].MemberPromote(t.Context(), left.id())
					return err == nil
				}, "the learner is not ready")
			}
			left.do(&evaluate.LeaseGrant{ID: 7, TTL: 600})
			left.do(&evaluate.Put{Key: []byte("leased"), Lease: 7})
			for i := range 20 {
				c.nodes[i%3].put(fmt.Sprintf("%s/%d", groupKeys[i%4], i), fmt.Sprint(i))
			}
			last := left.put("last", "of three")
			crashed := left.fs.CrashClone(engine.CrashCloneCfg{})
			for _, n := range c.nodes {
				n.close()
			}
			others := c.nodes[:2]
			left.fs, force = crashed, left.name
			c.open(left)
			require.Len(t, left.Members(), 1)
			require.False(t, left.IsLearner())
			for i := range 20 {
				require.Equal(t, fmt.Sprint(i), left.get(fmt.Sprintf("%s/%d", groupKeys[i%4], i)))
			}
			require.Equal(t, last+1, left.put(groupKeys[2], "of one"))
			leases, err := left.Leases(t.Context())
			require.NoError(t, err)
			require.Equal(t, []int64{7}, leases)
			left.do(&evaluate.LeaseRevoke{ID: 7})
			require.Empty(t, left.get("leased"))
			id := left.id()

			// Once more, which has nothing to do, and without.
			for _, force = range []string{left.name, ""} {
				left.close()
				c.open(left)
				require.Len(t, left.Members(), 1)
				require.Equal(t, id, left.id())
			}

			// The others are let in no more, and new ones are.
			for _, n := range others {
				require.NoError(t, n.open())
				c.stopped(n)
			}
			c.nodes = c.nodes[2:]
			added := c.add(true)
			added.name = "new"
			_, _, err = left.MemberAdd(t.Context(), []string{added.url}, false)
			require.NoError(t, err)
			c.open(added)
			require.Equal(t, "of one", added.get(groupKeys[2]))
			added.put("last", "of two")
			c.same()
		})
	}
}

// A member that was removed, or was never given a replica, does not go on alone.
func TestForceNewClusterIsRefused(t *testing.T) {
	force := ""
	c := newCluster(t, 2, func(cfg *member.Config) { cfg.ForceNewCluster = cfg.Name == force })
	gone := c.nodes[1]
	_, err := c.nodes[0].MemberRemove(t.Context(), gone.id())
	require.NoError(t, err)
	c.stopped(gone)
	force = gone.name
	gone.refused("--force-new-cluster: this member was removed, was being removed, or was never quite added")
}

// Without data there is nothing to go on with, and nobody to keep from serving nothing.
func TestForceNewClusterNeedsData(t *testing.T) {
	c := &cluster{t: t, configure: func(cfg *member.Config) { cfg.ForceNewCluster = true }}
	for range 3 {
		c.add(false)
	}
	c.nodes[0].refused("data holds no member: correct --data-dir")
	for _, n := range c.nodes[1:] {
		require.NoError(t, n.listener.Close())
	}
}
