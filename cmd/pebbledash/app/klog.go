package app

import (
	"context"
	"io"
	"log/slog"

	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"
)

// routeKlog has Kubernetes' libraries log to logger, and gRPC's. A process has one klog
// and one log of gRPC's, so this is for the process, and not for a server.
func routeKlog(logger *slog.Logger) {
	klog.SetSlogLogger(slog.New(libraryHandler{logger.Handler()}))
	// Its errors are also clients' mistakes.
	errs := slog.NewLogLogger(libraryHandler{logger.Handler()}, slog.LevelInfo)
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, errs.Writer()))
}

// libraryHandler takes what a library says for less important than the library does:
// what it tells is for whoever debugs, and its errors are not the member's.
type libraryHandler struct{ slog.Handler }

// retried is how Kubernetes' libraries call an error after which they try again,
// soon and often. A file that stays broken is complained about by gateway/serving.
const retried = "Unhandled Error"

func libraryLevel(l slog.Level) slog.Level {
	if l >= slog.LevelError {
		return slog.LevelWarn
	}
	return min(l, slog.LevelDebug)
}

// Enabled implements slog.Handler.
func (h libraryHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.Handler.Enabled(ctx, libraryLevel(level))
}

// Handle implements slog.Handler.
func (h libraryHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Level = libraryLevel(r.Level)
	if r.Message == retried {
		if r.Level = slog.LevelDebug; !h.Handler.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h libraryHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraryHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h libraryHandler) WithGroup(name string) slog.Handler {
	return libraryHandler{h.Handler.WithGroup(name)}
}
