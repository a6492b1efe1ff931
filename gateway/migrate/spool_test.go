package migrate

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestFragments: what a response has is not mirrored before its last fragment is there, for
// one revision may lie in two.
func TestFragments(t *testing.T) {
	s, err := newSpool(t.TempDir())
	require.NoError(t, err)
	defer s.close()
	put := func(id int64, fragment bool) {
		t.Helper()
		require.NoError(t, s.put(&pb.WatchResponse{WatchId: id, Fragment: fragment}, time.Unix(id, 0)))
	}
	take := func(want int64) {
		t.Helper()
		r, came, err := s.take()
		require.NoError(t, err)
		if want == 0 {
			require.Nil(t, r)
			return
		}
		require.Equal(t, want, r.GetWatchId())
		require.Equal(t, time.Unix(want, 0), came)
	}
	put(1, false)
	put(2, true)
	take(1)
	take(0)
	put(3, true)
	take(0)
	put(4, false)
	put(5, true)
	take(2)
	take(3)
	take(4)
	take(0)
	put(6, false)
	take(5)
	take(6)
	take(0)
	put(7, true)
	broken := errors.New("broken")
	s.end(broken)
	_, _, err = s.take()
	require.ErrorIs(t, err, broken)
}
