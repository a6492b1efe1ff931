package member_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
)

// A member whose disk goes away says so once and ends, rather than to try for
// ever.
func TestDiskGoesAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	failed := make(chan error, 1)
	m, err := member.Open(t.Context(), member.Config{
		Dir: dir, Name: "a", InitialCluster: "a=http://127.0.0.1:2380",
		Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { failed <- err },
	})
	require.NoError(t, err)
	<-m.Ready()
	do(t, m, &evaluate.Put{Key: []byte("k"), Value: []byte("v")})
	require.NoError(t, os.RemoveAll(dir))
	require.Error(t, m.Close())
	require.Error(t, <-failed)
}
