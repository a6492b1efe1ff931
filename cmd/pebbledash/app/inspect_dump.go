package app

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/inspect"
)

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
