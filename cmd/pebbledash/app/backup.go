package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pebbledash/pebbledash/gateway/backupclient"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/repository"
	"github.com/pebbledash/pebbledash/storage/route"
)

// newBackupCommand returns the command "backup", of backups in repositories.
func newBackupCommand(environ []string) *cobra.Command {
	cmd := newOffline("backup", "Takes fast, incremental backups of a running member into a repository, and restores them")
	cmd.Long = `Takes backups of a running member into a repository: a directory in which each file is
stored once, by its checksum. Since the tables of the store never change, a backup adds
only what is new since the one before, whatever the store's size. "pebbledash snapshot"
is for etcd's own format.`
	cmd.AddCommand(newBackupCreate(environ), newBackupList(), newBackupVerify(), newBackupRestore(), newBackupPrune())
	return cmd
}

// repositoryFlag adds --repository.
func repositoryFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("repository", "", "Directory of the repository. Required.")
}

// backupID has a command take the name of one backup.
func backupID(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("pebbledash backup %s takes the ID of one backup, or %s; there are %d arguments", cmd.Name(), repository.Latest, len(args))}
	}
	return nil
}

// writeOut adds --write-out, of which the first format is the default. It is checked
// before run is called.
func writeOut(cmd *cobra.Command, formats []string, run func(cmd *cobra.Command, args []string, format string) error) {
	format := cmd.Flags().StringP("write-out", "w", formats[0], "Format of the output: "+strings.Join(formats, ", ")+".")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains(formats, *format) {
			return usageError{fmt.Errorf("--write-out: there is no format %q for %s, only %s", *format, cmd.Name(), strings.Join(formats, ", "))}
		}
		return run(cmd, args, *format)
	}
}

// backupReport is what is said of a backup. Its JSON is for programs, and should only be
// added to.
type backupReport struct {
	ID         string    `json:"id"`
	Time       time.Time `json:"time"`
	ClusterID  string    `json:"cluster_id"`
	MemberID   string    `json:"member_id"`
	Member     string    `json:"member"`
	Version    string    `json:"version"`
	Revision   int64     `json:"revision"`
	Compacted  int64     `json:"compacted"`
	Files      int       `json:"files"`
	TotalBytes int64     `json:"total_bytes"`
	NewBytes   int64     `json:"new_bytes"`
	BasedOn    string    `json:"based_on"`
	Alarms     []string  `json:"alarms"`
	// Damage says why nothing else is known.
	Damage string `json:"damage,omitempty"`
}

func reportOf(m *repository.Manifest) backupReport {
	return backupReport{
		ID: m.ID, Time: m.Time, ClusterID: m.ClusterID, MemberID: m.MemberID, Member: m.Member, Version: m.Version,
		Revision: m.Revision, Compacted: m.Compacted, Files: len(m.Files), TotalBytes: m.Bytes(), NewBytes: m.NewBytes,
		BasedOn: m.BasedOn, Alarms: append([]string{}, m.Alarms...),
	}
}

func newBackupCreate(environ []string) *cobra.Command {
	cmd := newOffline("create", "Adds a backup of a running member to a repository")
	cmd.Long = `Adds a backup of a running member to a repository, which is made if it is not there. The
backup is what all groups have at one revision, which covers everything that was
acknowledged before; writes go on meanwhile. Name always the same member: what it shares
with its last backup is not sent again, and members do not share files.`
	cmd.Args = noArguments
	dir := repositoryFlag(cmd)
	var f clientFlags
	f.add(cmd.Flags())
	writeOut(cmd, []string{formatSimple, formatJSON}, func(cmd *cobra.Command, _ []string, format string) (err error) {
		if err := f.fromEnv(cmd.Flags(), environ); err != nil {
			return err
		}
		cfg, err := f.config(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		to, err := repository.Create(repository.Config{Dir: *dir})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, to.Close()) }()
		began := time.Now()
		bar := newProgress(cmd.ErrOrStderr(), "backup", 0)
		m, came, err := backupclient.Run(cmd.Context(), cfg, to, func(p backupclient.Progress) {
			bar.set(p.Bytes, p.Total, humanBytes(p.New)+" new")
		}, time.Now)
		bar.end()
		if err != nil {
			return err
		}
		if format == formatJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(reportOf(m))
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(),
			"backup %s of member %s at revision %d: %s in %d files, of which %s in %d files are new and %s are reused, in %.1f s\n",
			m.ID, m.Member, m.Revision, humanBytes(came.Total), came.Files, humanBytes(came.New), came.NewFiles,
			humanBytes(came.Total-came.New), time.Since(began).Seconds())
		if len(m.Alarms) > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: alarms were raised: %s\n", strings.Join(m.Alarms, ", "))
		}
		return err
	})
	return cmd
}

// onRepository calls fn with a repository open to read.
func onRepository(dir string, fn func(*repository.Repository) error) error {
	r, err := repository.Open(repository.Config{Dir: dir})
	if err != nil {
		return err
	}
	return errors.Join(fn(r), r.Close())
}

func newBackupList() *cobra.Command {
	cmd := newOffline("list", "Lists the backups in a repository, the oldest first")
	cmd.Args = noArguments
	dir := repositoryFlag(cmd)
	writeOut(cmd, []string{formatTable, formatSimple, formatJSON}, func(cmd *cobra.Command, _ []string, format string) error {
		all := []backupReport{}
		err := onRepository(*dir, func(r *repository.Repository) error {
			ids, err := r.IDs()
			for _, id := range ids {
				if m, err := r.Manifest(id); err != nil {
					all = append(all, backupReport{ID: id, Damage: err.Error()})
				} else {
					all = append(all, reportOf(m))
				}
			}
			return err
		})
		if err != nil {
			return err
		}
		return writeBackups(cmd.OutOrStdout(), format, all)
	})
	return cmd
}

var backupHeader = []string{"ID", "CLUSTER", "MEMBER", "REVISION", "COMPACTED", "FILES", "TOTAL SIZE", "NEW"}

func (r *backupReport) row() []string {
	if r.Damage != "" {
		return []string{r.ID, "damaged", "", "", "", "", "", ""}
	}
	return []string{
		r.ID, r.ClusterID, r.Member, fmt.Sprint(r.Revision), fmt.Sprint(r.Compacted), fmt.Sprint(r.Files),
		humanBytes(r.TotalBytes), humanBytes(r.NewBytes),
	}
}

func writeBackups(out io.Writer, format string, all []backupReport) error {
	if format == formatJSON {
		return json.NewEncoder(out).Encode(all)
	}
	var rows [][]string
	for _, b := range all {
		rows = append(rows, b.row())
	}
	if format == formatTable {
		return writeTable(out, backupHeader, rows)
	}
	for _, row := range rows {
		if _, err := fmt.Fprintln(out, strings.Join(row, ", ")); err != nil {
			return err
		}
	}
	return nil
}

func newBackupVerify() *cobra.Command {
	cmd := newOffline("verify [ID...]", "Reads backups again, all of a repository if none is named, and says whether they are sound")
	cmd.Long = `Reads backups again: the checksums of manifests and files, and all rows of the stores that
they hold, which are compared with each other as by "pebbledash verify". Nothing is
changed. The exit code is 1 if anything is damaged.`
	dir := repositoryFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return onRepository(*dir, func(r *repository.Repository) error { return verifyBackups(cmd, r, args) })
	}
	return cmd
}

func verifyBackups(cmd *cobra.Command, r *repository.Repository, ids []string) (err error) {
	if len(ids) == 0 {
		if ids, err = r.IDs(); err != nil {
			return err
		}
	}
	total := map[repository.Sum]int64{}
	for i := range ids {
		if ids[i], err = r.Find(ids[i]); err != nil {
			return err
		}
		if m, err := r.Manifest(ids[i]); err == nil { // else Verify tells
			for _, f := range m.Files {
				total[f.SHA] = f.Size
			}
		}
	}
	bytes := int64(0)
	for _, n := range total {
		bytes += n
	}
	bar := newProgress(cmd.ErrOrStderr(), "verify", bytes)
	var bad []string
	var written error
	err = r.Verify(cmd.Context(), ids, bar.add, func(v repository.Verified) {
		bar.end()
		for _, d := range v.Damage {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "damaged: backup %s: %s\n", v.ID, d)
			written = errors.Join(written, err)
		}
		if len(v.Damage) > 0 {
			bad = append(bad, v.ID)
			return
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "backup %s at revision %d: %d keys, %d versions, %d leases: ok\n",
			v.ID, v.Revision, v.Rows.Keys, v.Rows.Versions, v.Rows.Leases)
		written = errors.Join(written, err)
	})
	if err = errors.Join(err, written); err != nil {
		return err
	}
	if len(bad) > 0 {
		return fmt.Errorf("%d of %d backups are damaged (see above): %s; take a new one: files that are missing, or have another size, come anew with the next \"pebbledash backup create\", and files that are damaged otherwise do once they are removed",
			len(bad), len(ids), strings.Join(bad, ", "))
	}
	return nil
}

func newBackupRestore() *cobra.Command {
	cmd := newOffline("restore <ID>|latest", "Makes the data directory of a member of a new cluster from a backup")
	cmd.Long = `Makes the data directory of a member of a new cluster from a backup. Keys come over with
their revisions and histories, and leases, users and roles. For a cluster of several
members restore each from the same backup, by its ID, with the same --initial-cluster
and --initial-cluster-token. The routes are those of the backup.`
	cmd.Args = backupID
	dir := repositoryFlag(cmd)
	var f restoreFlags
	f.add(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := f.config()
		if err != nil {
			return err
		}
		return onRepository(*dir, func(r *repository.Repository) error { return restoreBackup(cmd, r, cfg, args[0]) })
	}
	return cmd
}

func restoreBackup(cmd *cobra.Command, r *repository.Repository, cfg member.RestoreConfig, id string) error {
	id, err := r.Find(id)
	if err != nil {
		return err
	}
	m, err := r.Manifest(id)
	if err != nil {
		return err
	}
	if cfg.Routes, err = route.Decode(m.Routes); err != nil {
		return err
	}
	bar := newProgress(cmd.ErrOrStderr(), "restore", m.Bytes())
	cfg.Files = &member.BackupFiles{Repository: r, Manifest: m, Progress: bar.add}
	res, err := member.Restore(cmd.Context(), cfg)
	bar.end()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(),
		"restored backup %s to %s: member %s of cluster %s, revision %d, compacted at %d, %s in %d files\n",
		m.ID, cfg.Dir, member.FormatID(res.MemberID), member.FormatID(res.ClusterID), res.Revision, res.Compacted,
		humanBytes(m.Bytes()), len(m.Files))
	return err
}

func newBackupPrune() *cobra.Command {
	cmd := newOffline("prune", "Removes all but the newest backups from a repository, and what none of them needs")
	cmd.Args = noArguments
	dir := repositoryFlag(cmd)
	keep := cmd.Flags().Int("keep", 0, "How many backups to keep. Required.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed("keep") {
			return usageError{errors.New("--keep is required: how many of the newest backups are kept")}
		}
		p, err := repository.Prune(repository.Config{Dir: *dir}, *keep)
		if err != nil {
			return err
		}
		for _, id := range p.Removed {
			fmt.Fprintf(cmd.OutOrStdout(), "removed backup %s\n", id)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "removed %d backups, and %d files of %s that no other needs\n", len(p.Removed), p.Files, humanBytes(p.Bytes))
		return err
	}
	return cmd
}
