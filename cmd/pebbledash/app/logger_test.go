package app

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
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

// TestJournal sends lines to a journal, and to stderr when that fails.
func TestJournal(t *testing.T) {
	type entry struct {
		message  string
		priority journal.Priority
		vars     map[string]string
	}
	var got []entry
	var broken error
	var stderr bytes.Buffer
	logger := slog.New(journalTo(options.LogConfig{Level: slog.LevelInfo}, func(message string, p journal.Priority, vars map[string]string) error {
		if broken == nil {
			got = append(got, entry{message, p, vars})
		}
		return broken
	}, &stderr))
	logger.Debug("not this")
	logger.Info("started")
	logger.With("name", "a").Warn("slow", "n", 1)
	logger.Error("failed")
	want := []struct {
		line string
		p    journal.Priority
	}{{"INFO  started", journal.PriInfo}, {"WARN  slow  name=a n=1", journal.PriWarning}, {"ERROR failed", journal.PriErr}}
	require.Len(t, got, len(want))
	for i, w := range want {
		require.Equal(t, w.line, withoutTime(t, got[i].message))
		require.Equal(t, w.p, got[i].priority)
		require.Equal(t, map[string]string{"SYSLOG_IDENTIFIER": filepath.Base(os.Args[0]), "PACKAGE": "app"}, got[i].vars)
	}
	require.Empty(t, stderr.String())
	broken = errors.New("no journal")
	logger.Info("still")
	require.Equal(t, "INFO  still\n", withoutTime(t, stderr.String()))

	if !journal.Enabled() {
		_, _, err := newLogger(options.LogConfig{Outputs: []string{options.LogOutputJournal}}, io.Discard, io.Discard)
		require.ErrorContains(t, err, "no journal")
	}
}

// TestRotation continues a log that has become too long in a new file.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	require.NoError(t, os.WriteFile(path, []byte("of before\n"), 0o600))
	logger, log, err := newLogger(options.LogConfig{
		Outputs: []string{path}, Rotation: &options.LogRotation{MaxMegabytes: 1, MaxBackups: 5},
	}, io.Discard, io.Discard)
	require.NoError(t, err)
	long := strings.Repeat("x", 300<<10)
	for range 5 {
		logger.Info("a long line", "text", long)
	}
	require.NoError(t, log.Close())
	files, err := filepath.Glob(filepath.Join(dir, "log*"))
	require.NoError(t, err)
	require.Len(t, files, 2)
	total := 0
	for _, name := range files {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		require.LessOrEqual(t, len(content), 1<<20)
		total += bytes.Count(content, []byte("\n"))
	}
	require.Equal(t, 1+5, total, "nothing is lost")

	_, _, err = newLogger(options.LogConfig{
		Outputs: []string{filepath.Join(dir, "nowhere", "log")}, Rotation: &options.LogRotation{},
	}, io.Discard, io.Discard)
	require.ErrorContains(t, err, "cannot open log")
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
