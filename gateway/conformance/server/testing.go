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
	place(tb, &cfg)
	s, err := Start(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	attend(tb, s)
	return s
}

// RunCluster is Run for the n members of a cluster.
func RunCluster(tb testing.TB, cfg Config, n int) []*Server {
	tb.Helper()
	place(tb, &cfg)
	members, err := StartCluster(tb.Context(), cfg, n)
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range members {
		attend(tb, s)
	}
	return members
}

// place completes cfg with what the test has for data and logs.
func place(tb testing.TB, cfg *Config) {
	tb.Helper()
	if cfg.DataDir == "" {
		cfg.DataDir = filepath.Join(tb.TempDir(), "data")
	}
	if cfg.LogPath != "" {
		return
	}
	f, err := os.CreateTemp(tb.ArtifactDir(), "server-*.log") // A test may run several.
	if err != nil {
		tb.Fatal(err)
	}
	cfg.LogPath = f.Name()
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
}

// attend has the test end a member.
func attend(tb testing.TB, s *Server) {
	tb.Helper()
	tb.Cleanup(func() {
		if err := s.Kill(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("the log of %s ends:\n%s", s.cfg.Name, s.LogTail())
		}
	})
}
