package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
)

// journalHandler sends lines to systemd's journal, with the fields that etcd's have:
// PRIORITY, PACKAGE and SYSLOG_IDENTIFIER.
type journalHandler struct {
	// lines writes a line to shared.line.
	lines  slog.Handler
	shared *journalWriter
}

type journalWriter struct {
	send func(message string, p journal.Priority, vars map[string]string) error
	// fallback takes what the journal does not.
	fallback io.Writer
	name     string

	// mu guards line, and keeps lines in order. Nothing is taken after it.
	mu   sync.Mutex
	line bytes.Buffer
}

// newJournalHandler returns a handler to the journal, which must be there; when it
// fails later, lines go to fallback.
func newJournalHandler(cfg options.LogConfig, fallback io.Writer) (*journalHandler, error) {
	if !journal.Enabled() {
		return nil, errors.New("cannot open log: --log-outputs=systemd/journal: there is no journal here")
	}
	return journalTo(cfg, journal.Send, fallback), nil
}

func journalTo(
	cfg options.LogConfig, send func(string, journal.Priority, map[string]string) error, fallback io.Writer,
) *journalHandler {
	shared := &journalWriter{send: send, fallback: fallback, name: filepath.Base(os.Args[0])}
	return &journalHandler{lines: newHandler(cfg, &shared.line), shared: shared}
}

// Enabled implements slog.Handler.
func (h *journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.lines.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	w := h.shared
	w.mu.Lock()
	defer w.mu.Unlock()
	w.line.Reset()
	if err := h.lines.Handle(ctx, r); err != nil {
		return err
	}
	vars := map[string]string{"SYSLOG_IDENTIFIER": w.name}
	if frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next(); frame.File != "" {
		vars["PACKAGE"] = filepath.Base(filepath.Dir(frame.File))
	}
	if w.send(string(bytes.TrimSuffix(w.line.Bytes(), []byte{'\n'})), priority(r.Level), vars) == nil {
		return nil
	}
	_, err := w.fallback.Write(w.line.Bytes())
	return err
}

func priority(level slog.Level) journal.Priority {
	switch {
	case level < slog.LevelInfo:
		return journal.PriDebug
	case level < slog.LevelWarn:
		return journal.PriInfo
	case level < slog.LevelError:
		return journal.PriWarning
	default:
		return journal.PriErr
	}
}

// WithAttrs implements slog.Handler.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{lines: h.lines.WithAttrs(attrs), shared: h.shared}
}

// WithGroup implements slog.Handler.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{lines: h.lines.WithGroup(name), shared: h.shared}
}
