package app

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/inspect"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

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

// shorten keeps a value to what fits into a line.
func shorten(b []byte) string {
	const most = 60
	s := printable(b[:min(len(b), 4*most)])
	if n := utf8.RuneCountInString(s); n > most || len(b) > 4*most {
		return string([]rune(s)[:min(n, most)]) + "…"
	}
	return s
}
