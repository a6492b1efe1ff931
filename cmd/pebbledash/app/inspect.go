package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/inspect"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// newInspectCommands returns the commands that look into the data directory of a
// member that does not run.
func newInspectCommands() []*cobra.Command {
	return []*cobra.Command{newVerify(), newDump(), newHistory(), newGroups()}
}

// formats of --write-out.
const (
	formatSimple = "simple"
	formatJSON   = "json"
	formatTable  = "table"
	formatYAML   = "yaml"
)

// newLook returns a command over a data directory, whose arguments are named by args;
// look is called with the directory open, and what it writes is buffered. The first of
// formats, if any, is the default of --write-out.
func newLook(
	name, short string, args, formats []string,
	look func(cmd *cobra.Command, dir *inspect.Dir, out io.Writer, format string, args []string) error,
) *cobra.Command {
	cmd := newOffline(name+" "+strings.Join(args, " "), short)
	cmd.Args = func(_ *cobra.Command, given []string) error {
		if len(given) != len(args) {
			return usageError{fmt.Errorf("pebbledash %s takes %s; there are %d arguments", name, strings.Join(args, " and "), len(given))}
		}
		return nil
	}
	format := new(string)
	if len(formats) > 0 {
		cmd.Flags().StringVarP(format, "write-out", "w", formats[0], "Format of the output: "+strings.Join(formats, ", ")+".")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(formats) > 0 && !slices.Contains(formats, *format) {
			return usageError{fmt.Errorf("--write-out: there is no format %q for %s, only %s", *format, name, strings.Join(formats, ", "))}
		}
		dir, err := inspect.Open(inspect.Config{Dir: args[0]})
		if err != nil {
			return err
		}
		out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
		err = look(cmd, dir, out, *format, args)
		if errors.Is(err, syscall.EPIPE) {
			err = nil // who read has seen enough
		}
		if flushed := out.Flush(); !errors.Is(flushed, syscall.EPIPE) {
			err = errors.Join(err, flushed)
		}
		return errors.Join(err, dir.Close())
	}
	return cmd
}

// maxDamage bounds the lines about one group.
const maxDamage = 20

func newVerify() *cobra.Command {
	cmd := newLook("verify", "Reads all of a stopped member's data directory, and says whether it is sound", []string{"DATA_DIR"}, nil,
		func(cmd *cobra.Command, dir *inspect.Dir, out io.Writer, _ string, args []string) error {
			return verify(cmd.Context(), dir, out, args[0])
		})
	cmd.Long = `Reads all of a stopped member's data directory and compares it with itself: the
checksums of all tables, each version of a key with the index of revisions, each key
with those before it and with its lease, what is counted with what is there, and the
logs with the state. Nothing is changed. The exit code is 1 if anything is damaged.`
	return cmd
}

func verify(ctx context.Context, dir *inspect.Dir, out io.Writer, path string) error {
	damaged := 0
	of := map[string]int{}
	var failed error
	line := func(format string, args ...any) {
		if failed == nil {
			_, failed = fmt.Fprintf(out, format+"\n", args...)
		}
	}
	err := dir.Verify(ctx, func(d inspect.Damage) {
		damaged++
		if of[d.Group]++; of[d.Group] > maxDamage {
			return
		}
		if d.Group != "" {
			line("damaged: group %s: %s", d.Group, d.What)
		} else {
			line("damaged: %s", d.What)
		}
	}, func(v inspect.Verified) {
		if more := of[v.Name] - maxDamage; more > 0 {
			line("damaged: group %s: and %d more", v.Name, more)
		}
		state := "ok"
		if v.Damaged > 0 {
			state = "damaged"
		}
		line("group %s: %d keys, %d versions, %d bytes at revision %d; entries %d to %d of the log, %d not applied: %s",
			v.Name, v.Rows.Keys, v.Rows.Versions, v.Rows.Bytes, v.Revision, v.First, v.Last, v.Unapplied(), state)
	})
	if err != nil {
		return err
	}
	if damaged > 0 {
		return fmt.Errorf("data directory %s is damaged (see above): %s", path, inspect.Advice())
	}
	line("ok")
	return failed
}

func newDump() *cobra.Command {
	var prefix string
	var revision int64
	var keysOnly bool
	cmd := newLook("dump", "Writes the keys of a stopped member's data directory, as they were at a revision",
		[]string{"DATA_DIR"}, []string{formatSimple, formatJSON, formatTable, formatYAML},
		func(cmd *cobra.Command, dir *inspect.Dir, out io.Writer, format string, _ []string) error {
			if revision < 0 {
				return usageError{errors.New("--revision is less than 0")}
			}
			if err := noteUnapplied(cmd.ErrOrStderr(), dir); err != nil {
				return err
			}
			w := newKeyWriter(out, format, keysOnly)
			err := dir.Keys(cmd.Context(), []byte(prefix), revision, keysOnly, w.key)
			return errors.Join(err, w.flush())
		})
	cmd.Long = `Writes the keys of a stopped member's data directory in their order, as they were at
a revision. The formats:

  simple  a line with the key and one with the value
  json    an object for each key, as in the answers of "etcdctl get -w json"
  table   what is known of each key, without the value
  yaml    Kubernetes' objects as they are, also those that are stored as protobuf`
	fs := cmd.Flags()
	fs.StringVar(&prefix, "prefix", "", "Only keys that begin with it.")
	fs.Int64Var(&revision, "revision", 0, "As they were at it; 0 is the newest that is applied.")
	fs.BoolVar(&keysOnly, "keys-only", false, "Without the values.")
	return cmd
}

// noteUnapplied says that the state may be behind the log.
func noteUnapplied(w io.Writer, dir *inspect.Dir) error {
	groups, err := dir.Groups()
	if err != nil {
		return nil //nolint:nilerr // Damage to the log: what is there is shown. "verify" tells.
	}
	var behind []string
	for _, g := range groups {
		if n := g.Unapplied(); n > 0 {
			behind = append(behind, fmt.Sprintf("%s %d", g.Name, n))
		}
	}
	if len(behind) == 0 {
		return nil
	}
	_, err = fmt.Fprintf(w, "note: the member was not stopped in good order, and the state lacks the last entries of the logs (%s): start the member and stop it again to see those that are committed\n",
		strings.Join(behind, ", "))
	return err
}

func newHistory() *cobra.Command {
	return newLook("history", "Writes every version of a key that a stopped member's data directory has",
		[]string{"DATA_DIR", "KEY"}, []string{formatTable, formatSimple, formatJSON, formatYAML},
		func(cmd *cobra.Command, dir *inspect.Dir, out io.Writer, format string, args []string) error {
			if err := noteUnapplied(cmd.ErrOrStderr(), dir); err != nil {
				return err
			}
			w := newVersionWriter(out, format)
			found := false
			err := dir.History(cmd.Context(), []byte(args[1]), func(v *mvcc.Version) error {
				found = true
				return w.version(v)
			})
			if err == nil && !found {
				return fmt.Errorf("there is no version of key %q", args[1])
			}
			return errors.Join(err, w.flush())
		})
}

func newGroups() *cobra.Command {
	return newLook("groups", "Tells whose a stopped member's data directory is, and how far its groups are",
		[]string{"DATA_DIR"}, []string{formatTable, formatJSON},
		func(_ *cobra.Command, dir *inspect.Dir, out io.Writer, format string, _ []string) error {
			r, err := newGroupsReport(dir)
			if err != nil {
				return err
			}
			if format == formatJSON {
				enc := json.NewEncoder(out)
				enc.SetIndent("", "  ")
				return enc.Encode(r)
			}
			return r.table(out)
		})
}

// groupsReport is what "groups" says. Its JSON is for programs, and should only be
// added to.
type groupsReport struct {
	ClusterID string         `json:"cluster_id"`
	MemberID  string         `json:"member_id"`
	Name      string         `json:"name"`
	CreatedBy string         `json:"created_by"`
	Routes    string         `json:"routes"`
	Members   []memberReport `json:"members"`
	Removed   []string       `json:"removed"`
	Groups    []groupReport  `json:"groups"`
}

type memberReport struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
}

type groupReport struct {
	ID           uint16         `json:"id"`
	Name         string         `json:"name"`
	AppliedIndex uint64         `json:"applied_index"`
	AppliedTerm  uint64         `json:"applied_term"`
	Epoch        uint64         `json:"epoch"`
	FirstIndex   uint64         `json:"first_index"`
	LastIndex    uint64         `json:"last_index"`
	Term         uint64         `json:"term"`
	Commit       uint64         `json:"commit"`
	Revision     int64          `json:"revision"`
	Compacted    int64          `json:"compacted"`
	Bytes        int64          `json:"bytes"`
	DiskBytes    uint64         `json:"disk_bytes"`
	Voters       []string       `json:"voters"`
	Learners     []string       `json:"learners"`
	Records      []recordReport `json:"records"`
}

type recordReport struct {
	Table   string `json:"table"`
	Version int64  `json:"version"`
	Records int64  `json:"records"`
}

func newGroupsReport(dir *inspect.Dir) (*groupsReport, error) {
	id := dir.Identity()
	r := &groupsReport{
		ClusterID: member.FormatID(id.ClusterID), MemberID: member.FormatID(id.MemberID),
		Name: id.Name, CreatedBy: dir.CreatedBy(), Routes: id.Routes,
		Members: []memberReport{},
	}
	members, removed, err := dir.Members()
	if err != nil {
		return nil, err
	}
	r.Removed = formatIDs(removed)
	for _, m := range members {
		r.Members = append(r.Members, memberReport{member.FormatID(m.ID), m.Name, m.PeerURLs, m.ClientURLs})
	}
	groups, err := dir.Groups()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		row := groupReport{
			ID: uint16(g.ID), Name: g.Name, AppliedIndex: g.Applied.Index, AppliedTerm: g.Applied.Term,
			Epoch: g.Applied.Epoch, FirstIndex: g.First, LastIndex: g.Last, Term: g.Term, Commit: g.Commit,
			Revision: g.Revision, Compacted: g.Compacted, Bytes: g.Bytes, DiskBytes: g.Disk,
			Voters: formatIDs(g.Replicas.Voters), Learners: formatIDs(g.Replicas.Learners), Records: []recordReport{},
		}
		for _, t := range g.Records {
			row.Records = append(row.Records, recordReport{t.Name, t.Version, t.Records})
		}
		r.Groups = append(r.Groups, row)
	}
	return r, nil
}

func formatIDs(ids []uint64) []string {
	out := []string{}
	for _, id := range ids {
		out = append(out, member.FormatID(id))
	}
	return out
}

func (r *groupsReport) table(out io.Writer) error {
	w := newTabs(out)
	w.row("cluster", r.ClusterID)
	w.row("member", r.MemberID)
	w.row("name", r.Name)
	w.row("made by version", r.CreatedBy)
	for i, line := range strings.Split(strings.TrimSpace(r.Routes), "\n") {
		w.row([]string{"routes", ""}[min(i, 1)], line)
	}
	for _, m := range r.Members {
		w.row("member "+m.ID, m.Name, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","))
	}
	for _, id := range r.Removed {
		w.row("member "+id, "removed")
	}
	w.section()
	w.row("GROUP", "APPLIED", "TERM", "EPOCH", "LOG", "REVISION", "COMPACTED", "BYTES", "ON DISK", "VOTERS", "LEARNERS")
	for _, g := range r.Groups {
		w.row(g.Name, g.AppliedIndex, g.AppliedTerm, g.Epoch, fmt.Sprintf("%d-%d", g.FirstIndex, g.LastIndex), g.Revision,
			g.Compacted, humanBytes(g.Bytes), humanBytes(int64(g.DiskBytes)), orNone(g.Voters), orNone(g.Learners))
	}
	first := true
	for _, g := range r.Groups {
		for _, t := range g.Records {
			if first {
				w.section()
				w.row("GROUP", "RECORDS OF", "VERSION", "ROWS")
				first = false
			}
			w.row(g.Name, t.Table, t.Version, t.Records)
		}
	}
	return w.flush()
}

func orNone(ids []string) string {
	if len(ids) == 0 {
		return "-"
	}
	return strings.Join(ids, ",")
}

// tabs writes tables of which a bounded number of rows is in memory.
type tabs struct {
	*tabwriter.Writer
	out  io.Writer
	rows int
	err  error
}

// tabsRows is for how many rows the columns are aligned.
const tabsRows = 1000

func newTabs(out io.Writer) *tabs {
	return &tabs{Writer: tabwriter.NewWriter(out, 0, 8, 2, ' ', 0), out: out}
}

func (t *tabs) row(cells ...any) {
	if t.rows++; t.rows%tabsRows == 0 && t.err == nil {
		t.err = t.Flush()
	}
	for i, c := range cells {
		sep := "\t"
		if i == len(cells)-1 {
			sep = "\n"
		}
		if t.err == nil {
			_, t.err = fmt.Fprint(t.Writer, c, sep)
		}
	}
}

// section leaves a line free, behind which columns are new ones.
func (t *tabs) section() {
	if t.err == nil {
		t.err = t.Flush()
	}
	if t.err == nil {
		_, t.err = fmt.Fprintln(t.out)
	}
}

func (t *tabs) flush() error {
	if t.err != nil {
		return t.err
	}
	return t.Flush()
}

// printable returns text as it is if a terminal shows it in one line, else quoted.
func printable(b []byte) string {
	s := string(b)
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// shorten keeps a value to what fits into a line.
func shorten(b []byte) string {
	const most = 60
	s := printable(b[:min(len(b), 4*most)])
	if n := utf8.RuneCountInString(s); n > most || len(b) > 4*most {
		return string([]rune(s)[:min(n, most)]) + "…"
	}
	return s
}

// keyWriter writes the keys of "dump".
type keyWriter struct {
	out      io.Writer
	format   string
	keysOnly bool
	tabs     *tabs
}

func newKeyWriter(out io.Writer, format string, keysOnly bool) *keyWriter {
	w := &keyWriter{out: out, format: format, keysOnly: keysOnly}
	if format == formatTable {
		w.tabs = newTabs(out)
		if keysOnly {
			w.tabs.row("KEY")
		} else {
			w.tabs.row("KEY", "REVISION", "CREATED", "VERSION", "LEASE", "SIZE")
		}
	}
	return w
}

func (w *keyWriter) key(kv *mvccpb.KeyValue) (err error) {
	switch w.format {
	case formatJSON:
		return writeJSON(w.out, kv)
	case formatTable:
		if w.keysOnly {
			w.tabs.row(printable(kv.Key))
		} else {
			w.tabs.row(printable(kv.Key), kv.ModRevision, kv.CreateRevision, kv.Version, formatLease(kv.Lease), len(kv.Value))
		}
		return w.tabs.err
	case formatYAML:
		return writeYAML(w.out, kv, w.keysOnly)
	}
	if _, err = fmt.Fprintf(w.out, "%s\n", kv.Key); err == nil && !w.keysOnly {
		_, err = fmt.Fprintf(w.out, "%s\n", kv.Value)
	}
	return err
}

func (w *keyWriter) flush() error {
	if w.tabs != nil {
		return w.tabs.flush()
	}
	return nil
}

// keyJSON is as etcdctl writes a key; bytes are in base64.
type keyJSON struct {
	Key            []byte `json:"key"`
	CreateRevision int64  `json:"create_revision,omitempty"`
	ModRevision    int64  `json:"mod_revision"`
	Version        int64  `json:"version,omitempty"`
	Value          []byte `json:"value,omitempty"`
	Lease          int64  `json:"lease,omitempty"`
	// Deleted is not etcd's: the version is a tombstone.
	Deleted bool `json:"deleted,omitempty"`
}

func writeJSON(out io.Writer, kv *mvccpb.KeyValue) error {
	return json.NewEncoder(out).Encode(keyJSON{
		Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version,
		Value: kv.Value, Lease: kv.Lease, Deleted: kv.Version == 0,
	})
}

// formatLease writes an id as etcdctl does.
func formatLease(id int64) string {
	if id == 0 {
		return "-"
	}
	return strconv.FormatUint(uint64(id), 16)
}

// versionWriter writes the versions of "history".
type versionWriter struct {
	out    io.Writer
	format string
	tabs   *tabs
}

func newVersionWriter(out io.Writer, format string) *versionWriter {
	w := &versionWriter{out: out, format: format}
	if format == formatTable {
		w.tabs = newTabs(out)
		w.tabs.row("REVISION", "CREATED", "VERSION", "LEASE", "SIZE", "VALUE")
	}
	return w
}

func (w *versionWriter) version(v *mvcc.Version) (err error) {
	kv := &mvccpb.KeyValue{
		Key: v.Key, Value: v.Value, ModRevision: v.Rev.Main,
		CreateRevision: v.Head.Create, Version: v.Head.Version, Lease: v.Head.Lease,
	}
	switch {
	case w.format == formatJSON:
		return writeJSON(w.out, kv)
	case w.format == formatYAML:
		return writeYAML(w.out, kv, false)
	case w.format == formatTable && v.Tombstone:
		w.tabs.row(v.Rev.Main, "-", "-", "-", "-", "(deleted)")
		return w.tabs.err
	case w.format == formatTable:
		w.tabs.row(v.Rev.Main, v.Head.Create, v.Head.Version, formatLease(v.Head.Lease), len(v.Value), shorten(v.Value))
		return w.tabs.err
	case v.Tombstone:
		_, err = fmt.Fprintf(w.out, "revision %d: deleted\n", v.Rev.Main)
	default:
		_, err = fmt.Fprintf(w.out, "revision %d: created at %d, version %d, lease %s, %d bytes\n%s\n",
			v.Rev.Main, v.Head.Create, v.Head.Version, formatLease(v.Head.Lease), len(v.Value), v.Value)
	}
	return err
}

func (w *versionWriter) flush() error {
	if w.tabs != nil {
		return w.tabs.flush()
	}
	return nil
}
