package lease

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// TestPause: no lease runs out while they stand still, whoever is primary, and then each
// has all its time.
func TestPause(t *testing.T) {
	clk := clock.NewManual(time.Unix(0, 0))
	le := New(Config{Clock: clk})
	le.Pause(true, 0)
	le.Promote(0)
	le.Granted(1, 5)
	le.Granted(2, 1000)
	clk.Advance(time.Hour)
	require.Empty(t, le.Expired(10))
	require.Empty(t, le.DueCheckpoints(10))
	_, planned := le.nextDeadline()
	require.False(t, planned)
	granted, left, err := le.TimeToLive(1)
	require.NoError(t, err)
	require.Equal(t, []int64{5, 5}, []int64{granted, left})

	le.Demote()
	le.Promote(0)
	clk.Advance(time.Hour)
	require.Empty(t, le.Expired(10))

	le.Pause(false, 2*time.Second)
	clk.Advance(6 * time.Second)
	require.Empty(t, le.Expired(10))
	le.Pause(false, 2*time.Second) // again, which changes nothing
	clk.Advance(time.Second)
	require.Equal(t, []int64{1}, le.Expired(10))
}
