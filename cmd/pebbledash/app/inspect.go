package app

import (
	"bufio"
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
