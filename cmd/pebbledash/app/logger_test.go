package app

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
)

// withoutTime cuts the timestamp off a line.
func withoutTime(t *testing.T, line string) string {
	t.Helper()
	require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z `, line)
	return line[len("2026-01-02T15:04:05.678Z "):]
}

func TestPersonHandler(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(newPersonHandler(&out, slog.LevelInfo))
	for _, c := range []struct {
		log  func()
		want string
	}{
		{func() { logger.Info("started") }, "INFO  started\n"},
		{func() { logger.Debug("details") }, ""},
		{
			func() { logger.Error("cannot read", "error", errors.New("two words"), "n", 3) },
			"ERROR cannot read  error=\"two words\" n=3\n",
		},
		{
			func() { logger.With("name", "a").WithGroup("log").Warn("slow", "index", 7) },
			"WARN  slow  name=a log.index=7\n",
		},
		// What a line begins with does not hide an attribute of that name.
		{
			func() { logger.Info("compacted", "level", 6, "msg", "m", "time", "t") },
			"INFO  compacted  level=6 msg=m time=t\n",
		},
		// A value cannot start a line of its own.
		{func() { logger.Info("key", "key", "a\nINFO  forged") }, "INFO  key  key=\"a\\nINFO  forged\"\n"},
	} {
		out.Reset()
		c.log()
		if c.want == "" {
			require.Empty(t, out.String())
			continue
		}
		require.Equal(t, c.want, withoutTime(t, out.String()))
	}
}

func TestNewLogger(t *testing.T) {
	var stdout, stderr bytes.Buffer
	path := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(path, []byte("before\n"), 0o600))
	cfg := options.LogConfig{Level: slog.LevelWarn, JSON: true, Outputs: []string{"stdout", "stderr", path}}
	logger, log, err := newLogger(cfg, &stdout, &stderr)
	require.NoError(t, err)
	logger.Info("no")
	logger.Warn("yes")
	require.NoError(t, log.Close())
	require.Contains(t, stdout.String(), `"level":"warn","caller":"app/logger_test.go:`)
	require.Contains(t, stdout.String(), `"msg":"yes"}`)
	require.NotContains(t, stdout.String(), "no")
	require.Equal(t, stdout.String(), stderr.String())
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "before\n"+stdout.String(), string(file))
}
