package throttle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAllow(t *testing.T) {
	var th Throttle
	start := time.Unix(1, 0)
	for _, c := range []struct {
		at      time.Duration
		skipped int
		ok      bool
	}{
		{0, 0, true},
		{time.Millisecond, 0, false},
		{999 * time.Millisecond, 0, false},
		{time.Second, 2, true},
		{1500 * time.Millisecond, 0, false},
		{time.Hour, 1, true},
	} {
		skipped, ok := th.Allow(start.Add(c.at))
		require.Equal(t, c.ok, ok, c.at)
		require.Equal(t, c.skipped, skipped, c.at)
	}
}
