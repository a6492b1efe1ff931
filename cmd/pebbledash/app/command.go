// Package app is the pebbledash command: it turns options into a
// configuration, opens the sockets and the log, runs the member and the
// gateway before it (wire.go), and stops them when it is told to.
//
// The way of a start is Main, NewCommand, Run. Nothing here keeps state in the
// package: a test may run several servers in one process.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
)

// Exit codes, as etcd has them.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is what is wrong with the arguments themselves.
type usageError struct{ error }

// Main runs the command and returns the process's exit code.
func Main(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	err := execute(ctx, Run, args, environ, stdout, stderr)
	if err == nil {
		return 0
	}
	var many utilerrors.Aggregate
	if errors.As(err, &many) {
		for _, e := range many.Errors() {
			fmt.Fprintf(stderr, "error: %v\n", e)
		}
	} else {
		fmt.Fprintf(stderr, "error: %v\n", err)
	}
	if errors.As(err, &usageError{}) {
		fmt.Fprintln(stderr, "see pebbledash --help")
		return exitUsage
	}
	return exitFailed
}

func execute(ctx context.Context, run runFunc, args, environ []string, stdout, stderr io.Writer) error {
	cmd := NewCommand(run, environ)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	cmd.SetArgs(options.DoubleDash(cmd.Flags(), args))
	return cmd.ExecuteContext(ctx)
}

// runFunc serves until ctx is done; it is Run but for tests.
type runFunc func(context.Context, *options.CompletedConfig) error

// NewCommand returns the server's command, which calls run with what the
// arguments and environ add up to.
func NewCommand(run runFunc, environ []string) *cobra.Command {
	o := options.New()
	var sections cliflag.NamedFlagSets
	cmd := &cobra.Command{
		Use: "pebbledash",
		Long: `Pebbledash is a storage gateway that speaks the etcd v3 protocol. Point
kube-apiserver's --etcd-servers at it.

The flags are etcd's. Each may also be given by the environment: --data-dir as
ETCD_DATA_DIR; a flag wins over its variable.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("%q is not a flag", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Global.Version {
				return printVersion(cmd.OutOrStdout())
			}
			flags := cmd.Flags()
			warnings, err := options.ApplyEnv(flags, environ)
			if err != nil {
				return err
			}
			if path := o.Global.ConfigFile; path != "" {
				o, flags = options.New(), pflag.NewFlagSet("", pflag.ContinueOnError)
				sections = addSections(flags, o)
				if err := readConfig(flags, path); err != nil {
					return err
				}
				warnings = []string{"the configuration is that of " + path + ": other flags and the environment do not count"}
			}
			completed := o.Complete(flags.Changed)
			if errs := completed.Validate(); len(errs) > 0 {
				return utilerrors.NewAggregate(errs)
			}
			cfg := completed.Config()
			cfg.Warnings = append(warnings, cfg.Warnings...)
			cfg.Flags = sections
			return run(cmd.Context(), cfg)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{err}
	})
	sections = addSections(cmd.Flags(), o)
	cliflag.SetUsageAndHelpFunc(cmd, sections, terminalWidth())
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(newSnapshotCommand(), newBackupCommand(environ), newMigrateCommand())
	cmd.AddCommand(newInspectCommands()...)
	return cmd
}

// addSections adds the flags of o, and returns them by section.
func addSections(flags *pflag.FlagSet, o *options.Options) cliflag.NamedFlagSets {
	sections := o.Flags()
	for _, name := range sections.Order {
		flags.AddFlagSet(sections.FlagSets[name])
	}
	return sections
}

// readConfig sets flags from a configuration file.
func readConfig(flags *pflag.FlagSet, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--%s: %w", options.ConfigFileFlag, err)
	}
	return options.ApplyFile(flags, data)
}

// terminalWidth returns 0 where standard output is no terminal: no wrapping.
func terminalWidth() int {
	width, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// noArguments has a command refuse arguments.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no arguments; there is %q", cmd.CommandPath(), args[0])}
	}
	return nil
}
