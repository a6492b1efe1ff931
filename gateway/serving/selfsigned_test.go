package serving

import (
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

func TestSelfSigned(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "fixtures", "client"), clock.Real{}.Now()
	cert, key, made, err := SelfSigned(dir, []string{"127.0.0.1", "a.example"}, 2, now)
	require.NoError(t, err)
	require.True(t, made)
	pair, err := tls.LoadX509KeyPair(cert, key)
	require.NoError(t, err)
	require.NoError(t, pair.Leaf.VerifyHostname("127.0.0.1"))
	require.NoError(t, pair.Leaf.VerifyHostname("a.example"))
	require.WithinDuration(t, now.AddDate(2, 0, 0), pair.Leaf.NotAfter, time.Second)
	for _, file := range []string{cert, key} {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode())
	}
	again := func(now time.Time) bool {
		_, _, made, err := SelfSigned(dir, nil, 1, now)
		require.NoError(t, err)
		return made
	}
	require.False(t, again(now.AddDate(1, 11, 0)), "it is kept")
	require.True(t, again(now.AddDate(2, 0, 1)), "it has expired")
	require.NoError(t, os.Remove(key))
	require.True(t, again(now))
	require.NoError(t, os.WriteFile(cert, nil, 0o600))
	require.True(t, again(now))
	require.False(t, again(now))
	_, _, _, err = SelfSigned(filepath.Join(cert, "below"), nil, 1, now)
	require.ErrorContains(t, err, "cannot make a certificate")
}

// Two members that have made their own certificates know nothing of each other.
func TestSelfSignedMembers(t *testing.T) {
	member := func() *TLS {
		cert, key, _, err := SelfSigned(t.TempDir(), nil, 1, clock.Real{}.Now())
		require.NoError(t, err)
		m, err := NewTLS(TLSConfig{CertFile: cert, KeyFile: key, SelfSigned: true, CheckAddress: true},
			slog.New(slog.DiscardHandler), clock.Real{})
		require.NoError(t, err)
		return m
	}
	_, _, err := greet(t, listen(t, member().Server()), member().Dial())
	require.NoError(t, err)
}
