package options

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

const (
	logOutputDefault = "default"
	logOutputStderr  = "stderr"
	logOutputStdout  = "stdout"
)

// LogOutputJournal is the output to systemd's journal, in Outputs too.
const LogOutputJournal = "systemd/journal"

const defaultRotation = `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`

// LoggingOptions are about the log.
type LoggingOptions struct {
	Logger  string
	Level   string
	Format  string
	Outputs string
	// Rotate says that a file is rotated as Rotation, which is JSON, has it.
	Rotate   bool
	Rotation string
}

func newLoggingOptions() *LoggingOptions {
	return &LoggingOptions{Logger: "zap", Level: "info", Format: "json", Outputs: logOutputDefault, Rotation: defaultRotation}
}

// AddFlags adds the section's flags to fs.
func (o *LoggingOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Level, "log-level", o.Level, "Least level that is logged: debug, info, warn, error; panic and fatal mean error.")
	fs.StringVar(&o.Format, "log-format", o.Format, "\"json\" for machines, with etcd's keys, or \"console\" (or \"text\") for people.")
	fs.StringVar(&o.Outputs, "log-outputs", o.Outputs,
		"Where to log, comma-separated: stderr (or default), stdout, or paths of files to append to; or systemd/journal alone.")
	fs.BoolVar(&o.Rotate, "enable-log-rotation", o.Rotate, "Rotate the file of --log-outputs, of which there must be one.")
	fs.StringVar(&o.Rotation, "log-rotation-config-json", o.Rotation,
		"When, and what is kept: maxsize (MB), maxage (days), maxbackups (files; 0 is all), localtime, compress.")
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
	files := 0
	for output := range strings.SplitSeq(o.Outputs, ",") {
		switch output {
		case "":
			errs = append(errs, fmt.Errorf("--log-outputs %q names an output that is empty", o.Outputs))
		case LogOutputJournal:
			if o.Outputs != LogOutputJournal {
				errs = append(errs, fmt.Errorf("--log-outputs %q: systemd/journal can't be together with others", o.Outputs))
			}
		case logOutputDefault, logOutputStderr, logOutputStdout:
		default:
			files++
		}
	}
	if _, err := o.rotation(); o.Rotate && err != nil {
		errs = append(errs, fmt.Errorf("--log-rotation-config-json: %w", err))
	}
	if o.Rotate && files != 1 {
		errs = append(errs, fmt.Errorf("--enable-log-rotation needs one file in --log-outputs, which names %d", files))
	}
	return errs
}

func (o *LoggingOptions) rotation() (*LogRotation, error) {
	r := &LogRotation{}
	err := json.Unmarshal([]byte(o.Rotation), r)
	if err == nil && min(r.MaxMegabytes, r.MaxDays, r.MaxBackups) < 0 {
		err = errors.New("nothing may be negative")
	}
	return r, err
}

func (o *LoggingOptions) applyTo(c *CompletedConfig) {
	c.Log.Level, _ = logLevel(o.Level)
	c.Log.JSON = o.Format == "json"
	if o.Rotate {
		c.Log.Rotation, _ = o.rotation()
	}
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
