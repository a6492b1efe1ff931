package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
)

// newLogger opens the log. The caller closes it, after the last line.
func newLogger(cfg options.LogConfig, stdout, stderr io.Writer) (*slog.Logger, io.Closer, error) {
	if slices.Contains(cfg.Outputs, options.LogOutputJournal) {
		h, err := newJournalHandler(cfg, stderr)
		return slog.New(h), closers{}, err
	}
	var writers []io.Writer
	var files closers
	for _, output := range cfg.Outputs {
		switch output {
		case "stderr":
			writers = append(writers, stderr)
		case "stdout":
			writers = append(writers, stdout)
		default:
			f, err := os.OpenFile(output, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				return nil, nil, errors.Join(fmt.Errorf("cannot open log: %w", err), files.Close())
			}
			if cfg.Rotation != nil {
				// It opens the file by itself, at the first line.
				r := rotated(output, cfg.Rotation)
				files, writers = append(files, f, r), append(writers, r)
				break
			}
			files = append(files, f)
			writers = append(writers, f)
		}
	}
	w := writers[0]
	if len(writers) > 1 {
		w = io.MultiWriter(writers...)
	}
	return slog.New(newHandler(cfg, w)), files, nil
}

// newHandler writes each line to w by one call.
func newHandler(cfg options.LogConfig, w io.Writer) slog.Handler {
	if cfg.JSON {
		return newMachineHandler(w, cfg.Level)
	}
	return newPersonHandler(w, cfg.Level)
}

// rotated is a file that is continued by a new one from time to time, as etcd does it.
func rotated(path string, r *options.LogRotation) *lumberjack.Logger {
	return &lumberjack.Logger{
		Filename: path, MaxSize: r.MaxMegabytes, MaxAge: r.MaxDays, MaxBackups: r.MaxBackups,
		LocalTime: r.LocalTime, Compress: r.Compress,
	}
}

type closers []io.Closer

func (cs closers) Close() error {
	var errs []error
	for _, c := range cs {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// newMachineHandler writes lines as etcd does, with the same keys:
//
//	{"ts":"2026-01-02T15:04:05.678901Z","level":"info","caller":"member/member.go:42","msg":"..."}
func newMachineHandler(w io.Writer, level slog.Level) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: level, AddSource: true,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch v := a.Value.Any().(type) {
			case time.Time:
				if a.Key == slog.TimeKey {
					return slog.String("ts", v.UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
				}
			case slog.Level:
				if a.Key == slog.LevelKey {
					return slog.String(a.Key, strings.ToLower(v.String()))
				}
			case *slog.Source:
				if v == nil || v.File == "" {
					return slog.Attr{}
				}
				dir, file := filepath.Split(v.File)
				return slog.String("caller", filepath.Join(filepath.Base(dir), file)+":"+strconv.Itoa(v.Line))
			case error:
				return slog.String(a.Key, v.Error())
			case time.Duration:
				return slog.String(a.Key, v.String())
			}
			return a
		},
	})
}

// personHandler writes lines for people:
//
//	2026-01-02T15:04:05.678Z INFO  member started  name=default revision=42
//
// The attributes are slog.TextHandler's, which escapes what would break a line.
type personHandler struct {
	// attrs writes " key=value" pairs and a newline to shared.line.
	attrs  slog.Handler
	shared *personWriter
}

type personWriter struct {
	w io.Writer
	// mu guards line, and makes a line one write. Nothing is taken after it.
	mu   sync.Mutex
	line bytes.Buffer
}

func newPersonHandler(w io.Writer, level slog.Level) *personHandler {
	shared := &personWriter{w: w}
	return &personHandler{
		shared: shared,
		attrs: slog.NewTextHandler(&shared.line, &slog.HandlerOptions{
			Level: level,
			// What stands at the beginning of the line is left out of the pairs. The
			// record that Handle passes on has an empty message and no time, so an
			// attribute of the same name is still shown.
			ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
				_, isLevel := a.Value.Any().(slog.Level)
				isMessage := a.Key == slog.MessageKey && a.Value.Kind() == slog.KindString && a.Value.String() == ""
				if len(groups) == 0 && (a.Key == slog.LevelKey && isLevel || isMessage) {
					return slog.Attr{}
				}
				return a
			},
		}),
	}
}

// Enabled implements slog.Handler.
func (h *personHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.attrs.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *personHandler) Handle(ctx context.Context, r slog.Record) error {
	pairs := slog.Record{Level: r.Level}
	r.Attrs(func(a slog.Attr) bool {
		pairs.AddAttrs(a)
		return true
	})
	h.shared.mu.Lock()
	defer h.shared.mu.Unlock()
	line := &h.shared.line
	line.Reset()
	fmt.Fprintf(line, "%s %-5s %s  ", r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), r.Level, r.Message)
	if err := h.attrs.Handle(ctx, pairs); err != nil {
		return err
	}
	_, err := h.shared.w.Write(append(bytes.TrimRight(line.Bytes(), " \n"), '\n'))
	return err
}

// WithAttrs implements slog.Handler.
func (h *personHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &personHandler{attrs: h.attrs.WithAttrs(attrs), shared: h.shared}
}

// WithGroup implements slog.Handler.
func (h *personHandler) WithGroup(name string) slog.Handler {
	return &personHandler{attrs: h.attrs.WithGroup(name), shared: h.shared}
}
