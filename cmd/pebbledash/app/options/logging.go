package options

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

const (
	logOutputDefault = "default"
	logOutputJournal = "systemd/journal"
	logOutputStderr  = "stderr"
)

// LoggingOptions are about the log.
type LoggingOptions struct {
	Logger  string
	Level   string
	Format  string
	Outputs string
}

func newLoggingOptions() *LoggingOptions {
	return &LoggingOptions{Logger: "zap", Level: "info", Format: "json", Outputs: logOutputDefault}
}

// AddFlags adds the section's flags to fs.
func (o *LoggingOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Level, "log-level", o.Level, "Least level that is logged: debug, info, warn, error; panic and fatal mean error.")
	fs.StringVar(&o.Format, "log-format", o.Format, "\"json\" for machines, with etcd's keys, or \"console\" (or \"text\") for people.")
	fs.StringVar(&o.Outputs, "log-outputs", o.Outputs,
		"Where to log, comma-separated: stderr (or default), stdout, or paths of files to append to.")
	fs.StringVar(&o.Logger, "logger", o.Logger, "Only \"zap\", as in etcd; it has no effect.")
}

// Validate returns everything that is wrong.
func (o *LoggingOptions) Validate() []error {
	var errs []error
	if _, ok := logLevel(o.Level); !ok {
		errs = append(errs, fmt.Errorf("--log-level must be debug, info, warn, error, panic or fatal, not %q", o.Level))
	}
	switch o.Format {
	case "text", "console", "json":
	default:
		errs = append(errs, fmt.Errorf("--log-format must be text, console or json, not %q", o.Format))
	}
	if o.Logger != "zap" {
		errs = append(errs, fmt.Errorf("--logger must be \"zap\", not %q", o.Logger))
	}
	for output := range strings.SplitSeq(o.Outputs, ",") {
		switch output {
		case "":
			errs = append(errs, fmt.Errorf("--log-outputs %q names an output that is empty", o.Outputs))
		case logOutputJournal:
			errs = append(errs, errors.New("--log-outputs=systemd/journal is not yet supported; log to stderr, which systemd keeps"))
		}
	}
	return errs
}

func (o *LoggingOptions) applyTo(c *CompletedConfig) {
	c.Log.Level, _ = logLevel(o.Level)
	c.Log.JSON = o.Format == "json"
	for output := range strings.SplitSeq(o.Outputs, ",") {
		if output == logOutputDefault {
			output = logOutputStderr
		}
		if !slices.Contains(c.Log.Outputs, output) {
			c.Log.Outputs = append(c.Log.Outputs, output)
		}
	}
}

func logLevel(s string) (slog.Level, bool) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, true
	case "info":
		return slog.LevelInfo, true
	case "warn":
		return slog.LevelWarn, true
	case "error", "dpanic", "panic", "fatal":
		return slog.LevelError, true
	}
	return 0, false
}
