package server

import (
	"os"
	"path/filepath"
	"testing"
)

// Run starts a member for a test, on a fresh data directory unless cfg names
// one, and kills it when the test ends. If the test has failed by then, the end
// of the member's log is shown; `go test -artifacts` keeps the whole.
func Run(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	if cfg.DataDir == "" {
		cfg.DataDir = filepath.Join(tb.TempDir(), "data")
	}
	if cfg.LogPath == "" {
		f, err := os.CreateTemp(tb.ArtifactDir(), "server-*.log") // A test may run several.
		if err != nil {
			tb.Fatal(err)
		}
		cfg.LogPath = f.Name()
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	s, err := Start(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Kill(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("the log of %s ends:\n%s", cfg.Binary, s.LogTail())
		}
	})
	return s
}
