package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pebbledash/pebbledash/gateway/migrate"
	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/member"
)

// sideFlags are those of the source, or of the destination.
type sideFlags struct {
	side                      string
	urls                      []string
	caFile, certFile, keyFile string
	user                      string
	insecureSkipVerify        bool
}

func (f *sideFlags) add(fs *pflag.FlagSet, side, what, fallback string) {
	f.side = side
	var urls []string
	if fallback != "" {
		urls = []string{fallback}
	}
	fs.StringSliceVar(&f.urls, side, urls, "Client URLs of "+what+"; of several, the next is used when one fails.")
	fs.StringVar(&f.caFile, side+"-cacert", "", "CA bundle to verify the server of --"+side+" with; the system's if empty.")
	fs.StringVar(&f.certFile, side+"-cert", "", "Client certificate for --"+side+".")
	fs.StringVar(&f.keyFile, side+"-key", "", "Key of --"+side+"-cert.")
	fs.BoolVar(&f.insecureSkipVerify, side+"-insecure-skip-tls-verify", false, "Do not verify the server of --"+side+".")
	fs.StringVar(&f.user, side+"-user", "", "User of --"+side+" where authentication is on, as name:password; an administrator.")
}

func (f *sideFlags) endpoint() (migrate.Endpoint, error) {
	e := migrate.Endpoint{URLs: f.urls, TLS: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.insecureSkipVerify}}
	if len(f.urls) == 0 {
		return e, usageError{fmt.Errorf("--%s is required", f.side)}
	}
	var colon bool
	if e.User, e.Password, colon = strings.Cut(f.user, ":"); f.user != "" && !colon {
		return e, usageError{fmt.Errorf("--%s-user is name:password", f.side)}
	}
	if f.caFile != "" {
		data, err := os.ReadFile(f.caFile)
		if err != nil {
			return e, fmt.Errorf("--%s-cacert: %w", f.side, err)
		}
		e.TLS.RootCAs = x509.NewCertPool()
		if !e.TLS.RootCAs.AppendCertsFromPEM(data) {
			return e, fmt.Errorf("--%s-cacert: there is no certificate in %s", f.side, f.caFile)
		}
	}
	if f.certFile != "" || f.keyFile != "" {
		pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
		if err != nil {
			return e, fmt.Errorf("--%s-cert: %w", f.side, err)
		}
		e.TLS.Certificates = []tls.Certificate{pair}
	}
	return e, nil
}

// migrateFlags are those of "migrate" and of what is below it.
type migrateFlags struct {
	from, to sideFlags
	workDir  string
	force    bool
}

func (f *migrateFlags) add(fs *pflag.FlagSet) {
	f.from.add(fs, "from", "the cluster to migrate", "")
	f.to.add(fs, "to", "the Pebbledash to migrate to", "http://127.0.0.1:2379")
	fs.StringVar(&f.workDir, "work-dir", ".", "Directory for the snapshot of the source, and what comes meanwhile; it is removed at the end.")
}

func (f *migrateFlags) config(cmd *cobra.Command) (cfg migrate.Config, show *migrateProgress, err error) {
	show = &migrateProgress{line: newLiveLine(cmd.ErrOrStderr()), clock: clock.Real{}}
	cfg = migrate.Config{WorkDir: f.workDir, Clock: clock.Real{}, Report: show.report, Retrying: show.retrying}
	if cfg.From, err = f.from.endpoint(); err != nil {
		return cfg, show, err
	}
	if cfg.To, err = f.to.endpoint(); err != nil {
		return cfg, show, err
	}
	return cfg, show, os.MkdirAll(f.workDir, 0o700)
}

// newMigrateCommand returns the command "migrate".
func newMigrateCommand() *cobra.Command {
	cmd := newOffline("migrate", "Moves a running etcd, or Pebbledash, into a running Pebbledash without a pause")
	cmd.Long = `Has an empty, running Pebbledash mirror a live cluster: every key with its
revisions, the history since the last compaction, leases and, at the end, users.
It goes on until it is stopped. Run it again to go on where it was.

When it is in step, stop what writes to the old cluster, run "pebbledash migrate
finish" with the same flags, and have the clients use the new one.`
	cmd.Args = noArguments
	var f migrateFlags
	f.add(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, show, err := f.config(cmd)
		if err != nil {
			return err
		}
		show.hint = "stop what writes to the old cluster, then run pebbledash migrate finish with the same flags"
		err = migrate.Run(cmd.Context(), cfg)
		show.end()
		if cmd.Context().Err() != nil {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "stopped; the migration is on still: run the same again to go on with it")
		}
		if errors.Is(err, migrate.ErrFinished) && show.wasInStep {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), err)
		}
		return err
	}
	cmd.AddCommand(newMigrateFinish(), newMigrateStatus(), newMigrateAbort())
	return cmd
}

func newMigrateFinish() *cobra.Command {
	cmd := newOffline("finish", "Compares the two clusters and ends the migration")
	cmd.Long = `Waits until the new cluster has what the old one has now, compares all their
versions of keys and leases, brings the users over, and ends the migration: the
new cluster takes writes then. It refuses while the old one is written to.`
	cmd.Args = noArguments
	var f migrateFlags
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&f.force, "force", false, "Finish even if the source is written to meanwhile: what comes after the revision that was compared is lost.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, show, err := f.config(cmd)
		if err != nil {
			return err
		}
		done, err := migrate.Finish(cmd.Context(), cfg, f.force)
		show.end()
		if err != nil {
			return err
		}
		users := "there are no users"
		if done.Users {
			users = "users and roles came over"
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(),
			"finished: both clusters are at revision %d, compacted at %d, with hash %x and %d leases; %s\nhave the clients use %s now (kube-apiserver: --etcd-servers), and do not let them go back\n",
			done.Revision, done.Compacted, done.Hash, done.Leases, users, strings.Join(f.to.urls, ","))
		if done.Lost > 0 {
			return errors.Join(err, fmt.Errorf("the old cluster was written to after that: %d revisions are lost", done.Lost))
		}
		return err
	}
	return cmd
}

// askTimeout bounds the questions that are answered at once.
const askTimeout = 10 * time.Second

// newMigrateAsk returns a command that asks the new cluster one thing, by answer.
func newMigrateAsk(use, short string, answer func(context.Context, migrate.Endpoint) (string, error)) *cobra.Command {
	cmd := newOffline(use, short)
	cmd.Args = noArguments
	var to sideFlags
	to.add(cmd.Flags(), "to", "the Pebbledash to ask", "http://127.0.0.1:2379")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		e, err := to.endpoint()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
		defer cancel()
		text, err := answer(ctx, e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
		return err
	}
	return cmd
}

func newMigrateStatus() *cobra.Command {
	return newMigrateAsk("status", "Tells how far a migration is", func(ctx context.Context, to migrate.Endpoint) (string, error) {
		st, err := migrate.Status(ctx, to)
		if err != nil {
			return "", err
		}
		from := fmt.Sprintf("%s (cluster %s)", st.GetSource().GetName(), member.FormatID(st.GetSource().GetClusterId()))
		switch {
		case st.On:
			return fmt.Sprintf("a migration from %s is on; at revision %d, compacted at %d", from, st.Header.Revision, st.CompactRevision), nil
		case st.FinishedRevision > 0:
			return fmt.Sprintf("the migration from %s was finished at revision %d", from, st.FinishedRevision), nil
		}
		return "no migration is on", nil
	})
}

func newMigrateAbort() *cobra.Command {
	return newMigrateAsk("abort", "Gives a migration up; what has come to the new cluster stays there", func(ctx context.Context, to migrate.Endpoint) (string, error) {
		return "the migration was given up; empty the new cluster to begin another", migrate.Abort(ctx, to)
	})
}

// migrateProgress shows how far a migration is.
type migrateProgress struct {
	line  *liveLine
	clock clock.Clock
	// hint is what to do when both are in step.
	hint string
	// wasInStep says that they were once.
	wasInStep bool
	// phase and revision are those that were shown last.
	phase    migrate.Phase
	revision int64
}

func (p *migrateProgress) report(now migrate.Progress) {
	p.wasInStep = p.wasInStep || now.Phase == migrate.InStep
	at := p.clock.Now()
	if now.Phase == p.phase && !p.line.due(at) {
		return
	}
	var rate float64
	if now.Phase == p.phase {
		rate = float64(now.Revision-p.revision) / at.Sub(p.line.shown).Seconds()
	}
	p.phase, p.revision = now.Phase, now.Revision
	text := string(now.Phase)
	done, of := now.Revision, now.Source
	switch now.Phase {
	case migrate.Fetching:
		done, of = now.Bytes, now.Of
		text += fmt.Sprintf(": %s of %s", humanBytes(now.Bytes), humanBytes(now.Of))
	case migrate.InStep:
		of = 0
		text += fmt.Sprintf(" at revision %d, lag 0 revisions / %d ms", now.Revision, now.Lag.Milliseconds())
		if p.hint != "" {
			text += "; " + p.hint
		}
	case migrate.Replaying, migrate.CatchUp:
		text += fmt.Sprintf(": revision %d of %d, %d behind, %.0f/s", now.Revision, now.Source, now.Source-now.Revision, rate)
	}
	share := -1.0
	if of > 0 {
		share = float64(done) / float64(of)
	}
	p.line.show(at, share, text)
}

func (p *migrateProgress) retrying(err error) {
	p.end()
	_, _ = fmt.Fprintf(p.line.out, "trying again: %v\n", err)
}

// end ends the line that changes.
func (p *migrateProgress) end() {
	p.line.end()
	p.phase = ""
}
