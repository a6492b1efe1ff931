package serving

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

func TestExpiration(t *testing.T) {
	logger, now := slog.New(slog.DiscardHandler), time.Unix(1_000_000_000, 0)
	none, err := NewTLS(TLSConfig{}, logger, clock.NewManual(now))
	require.NoError(t, err)
	_, shown := none.Expiration()
	require.False(t, shown)

	for _, c := range []struct{ serving, dialing, first int }{{1, 0, 1}, {1, 2, 1}, {2, 1, 1}} {
		var cfg TLSConfig
		cfg.CertFile, cfg.KeyFile, _, err = SelfSigned(t.TempDir(), []string{"h"}, c.serving, now)
		require.NoError(t, err)
		if c.dialing > 0 {
			cfg.DialCertFile, cfg.DialKeyFile, _, err = SelfSigned(t.TempDir(), []string{"h"}, c.dialing, now)
			require.NoError(t, err)
		}
		both, err := NewTLS(cfg, logger, clock.NewManual(now))
		require.NoError(t, err)
		first, shown := both.Expiration()
		require.True(t, shown)
		require.WithinDuration(t, now.AddDate(c.first, 0, 0), first, 48*time.Hour, "%+v", c)
	}
}
