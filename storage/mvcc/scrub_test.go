package mvcc_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// A store that was scrubbed in part, and has its rows read by another process
// before the compaction is effective there, is as if it had been compacted at
// the revision that Scrub has come to: a deletion there is delivered.
func TestPartScrubKeepsTombstone(t *testing.T) {
	for steps := 1; steps <= 6; steps++ {
		t.Run(fmt.Sprint(steps), func(t *testing.T) {
			s := newScript(t)
			s.apply([]string{"put a 1", "del a", "put b 1", "del b", "put c 1", "put c 2", "compact 7"})
			s.scrub(1, steps)
			store, err := mvcc.Open(s.db, mvcc.CoreGroup)
			require.NoError(t, err)
			store.DeferCompactions()
			var revs []int64
			require.NoError(t, store.Changes(t.Context(), mvcc.Span{}, store.Compacted(), 7, func(e *mvccpb.Event) error {
				revs = append(revs, e.Kv.ModRevision)
				return nil
			}))
			// All after it, and it if it is a deletion or its key's newest.
			for rev := max(2, store.Compacted()); rev <= 7; rev++ {
				if rev != 2 && rev != 4 && rev != 6 || rev > store.Compacted() {
					require.Contains(t, revs, rev, "compacted at %d", store.Compacted())
				}
			}
		})
	}
}
