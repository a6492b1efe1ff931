package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pebbledash/pebbledash/storage/backup"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/route"
)

// newSnapshotCommand returns the command "snapshot": etcdutl's of that name, with the
// same flags.
func newSnapshotCommand() *cobra.Command {
	cmd := newOffline("snapshot", "Restores snapshots of etcd or Pebbledash, and tells what is in them")
	cmd.AddCommand(newSnapshotRestore(), newSnapshotStatus())
	return cmd
}

// newOffline returns a command beside the server, which would show the server's flags
// as its help otherwise.
func newOffline(use, short string) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, SilenceErrors: true, SilenceUsage: true}
	plain := &cobra.Command{}
	cmd.SetHelpFunc(plain.HelpFunc())
	cmd.SetUsageFunc(plain.UsageFunc())
	return cmd
}

// oneFile has a command take the name of one file.
func oneFile(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("the name of one file is required, there are %d", len(args))}
	}
	return nil
}

func newSnapshotStatus() *cobra.Command {
	cmd := newOffline("status <filename>", "Tells hash, revision, number of keys, size and version of a snapshot")
	cmd.Args = oneFile
	format := cmd.Flags().StringP("write-out", "w", "simple", "Format of the output: fields, json, simple or table.")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		write, ok := statusFormats[*format]
		if !ok {
			return usageError{fmt.Errorf("--write-out: there is no format %q", *format)}
		}
		status, err := backup.ReadStatus(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return write(cmd.OutOrStdout(), status)
	}
	return cmd
}

var statusHeader = []string{"HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"}

func statusRow(s backup.Status) []string {
	return []string{
		fmt.Sprintf("%x", s.Hash), fmt.Sprint(s.Revision), fmt.Sprint(s.TotalKey), humanBytes(s.TotalSize), s.Version,
	}
}

// statusFormats write what etcdutl writes.
var statusFormats = map[string]func(io.Writer, backup.Status) error{
	"simple": func(w io.Writer, s backup.Status) error {
		_, err := fmt.Fprintln(w, strings.Join(statusRow(s), ", "))
		return err
	},
	"json": func(w io.Writer, s backup.Status) error { return json.NewEncoder(w).Encode(s) },
	"fields": func(w io.Writer, s backup.Status) error {
		_, err := fmt.Fprintf(w, "\"Hash\" : %d\n\"Revision\" : %d\n\"Keys\" : %d\n\"Size\" : %d\n\"Version\" : %s\n",
			s.Hash, s.Revision, s.TotalKey, s.TotalSize, s.Version)
		return err
	},
	"table": func(w io.Writer, s backup.Status) error { return writeTable(w, statusHeader, [][]string{statusRow(s)}) },
}

// writeTable draws a table: the header in the middle, all else to the right.
func writeTable(w io.Writer, header []string, rows [][]string) error {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	rule := func(left, middle, right string) {
		b.WriteString(left)
		for i, width := range widths {
			if i > 0 {
				b.WriteString(middle)
			}
			b.WriteString(strings.Repeat("─", width+2))
		}
		b.WriteString(right + "\n")
	}
	line := func(row []string, before func(room int) int) {
		for i, cell := range row {
			room := widths[i] - utf8.RuneCountInString(cell)
			left := before(room)
			b.WriteString("│ " + strings.Repeat(" ", left) + cell + strings.Repeat(" ", room-left) + " ")
		}
		b.WriteString("│\n")
	}
	rule("┌", "┬", "┐")
	line(header, func(room int) int { return room / 2 })
	rule("├", "┼", "┤")
	for _, row := range rows {
		line(row, func(room int) int { return room })
	}
	rule("└", "┴", "┘")
	_, err := io.WriteString(w, b.String())
	return err
}

// humanBytes writes a size as etcdutl does.
func humanBytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	if n < 10 {
		return fmt.Sprintf("%d B", n)
	}
	e := math.Floor(math.Log(float64(n)) / math.Log(1000))
	v := math.Floor(float64(n)/math.Pow(1000, e)*10+0.5) / 10
	if v < 10 {
		return fmt.Sprintf("%.1f %s", v, units[int(e)])
	}
	return fmt.Sprintf("%.0f %s", v, units[int(e)])
}

// restoreFlags are those of "snapshot restore" and "backup restore": whose the data
// directory is to be.
type restoreFlags struct {
	dataDir, walDir, cluster, token, peerURLs, name string
	resourceGroups, etcdPrefix                      string
	markCompacted                                   bool
	bump                                            uint64
}

func (f *restoreFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.dataDir, "data-dir", "", "Data directory to make; not there, or empty. (default ${name}.etcd)")
	fs.StringVar(&f.walDir, "wal-dir", "", "Must be below --data-dir, where the log always is.")
	fs.StringVar(&f.cluster, "initial-cluster", "default=http://localhost:2380", "Members of the new cluster, as name=url,name=url.")
	fs.StringVar(&f.token, "initial-cluster-token", "etcd-cluster", "Tells clusters apart that were started with the same URLs.")
	fs.StringVar(&f.peerURLs, "initial-advertise-peer-urls", "http://localhost:2380", "This member's URLs for other members.")
	fs.StringVar(&f.name, "name", "default", "Name of this member.")
	fs.Uint64Var(&f.bump, "bump-revision", 0, "How much to add to the revision of the snapshot, so that clients do not see it go back.")
	fs.BoolVar(&f.markCompacted, "mark-compacted", false, "Compact at the revision after that; required if --bump-revision > 0, else not allowed.")
}

// config is what the flags say, but for what is to be restored.
func (f *restoreFlags) config() (member.RestoreConfig, error) {
	if (f.bump > 0) != f.markCompacted {
		return member.RestoreConfig{}, usageError{errors.New("--bump-revision and --mark-compacted are given together, or neither")}
	}
	if f.bump > math.MaxInt64/2 {
		return member.RestoreConfig{}, usageError{errors.New("--bump-revision is too great")}
	}
	if f.dataDir == "" {
		f.dataDir = f.name + ".etcd"
	}
	if f.walDir != "" {
		if below, err := filepath.Rel(f.dataDir, f.walDir); err != nil || below == ".." || strings.HasPrefix(below, "../") {
			return member.RestoreConfig{}, usageError{fmt.Errorf("--wal-dir=%s is not supported: the log is in --data-dir", f.walDir)}
		}
	}
	ver, _ := Version()
	return member.RestoreConfig{
		Dir: f.dataDir, Name: f.name, PeerURLs: strings.Split(f.peerURLs, ","),
		InitialCluster: f.cluster, ClusterToken: f.token, BumpRevision: int64(f.bump), Version: ver,
	}, nil
}

func newSnapshotRestore() *cobra.Command {
	cmd := newOffline("restore <filename>", "Makes the data directory of a member of a new cluster from a snapshot")
	cmd.Long = `Makes the data directory of a member of a new cluster from a snapshot, which
"etcdctl snapshot save" has taken of etcd or of Pebbledash. Keys come over with
their revisions, and leases. For a cluster of several members restore each from
the same file, with the same --initial-cluster and --initial-cluster-token.`
	cmd.Args = oneFile
	var f restoreFlags
	var skipHash bool
	fs := cmd.Flags()
	f.add(fs)
	fs.BoolVar(&skipHash, "skip-hash-check", false, "Do without the hash at the end of the file; required if it was copied from a data directory of etcd.")
	fs.Uint64("initial-memory-map-size", 0, "Of no effect.")
	fs.StringVar(&f.resourceGroups, "resource-groups", route.DefaultResourceGroups, "As of the server; for good.")
	fs.StringVar(&f.etcdPrefix, "etcd-prefix", route.DefaultEtcdPrefix, "As of the server; for good.")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return restore(cmd, &f, skipHash, args[0]) }
	return cmd
}

func restore(cmd *cobra.Command, f *restoreFlags, skipHash bool, path string) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	if cfg.Routes, err = route.Parse(f.resourceGroups, f.etcdPrefix); err != nil {
		return err
	}
	if cfg.File, err = backup.Open(cmd.Context(), path, skipHash); err != nil {
		return err
	}
	res, err := member.Restore(cmd.Context(), cfg)
	if err != nil {
		return err // the process ends
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(),
		"restored %s to %s: member %s of cluster %s, revision %d, compacted at %d, %d versions of keys, %d leases\n",
		path, f.dataDir, member.FormatID(res.MemberID), member.FormatID(res.ClusterID),
		res.Revision, res.Compacted, res.Versions, res.Leases)
	return errors.Join(err, cfg.File.Close())
}
