package app

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pebbledash/pebbledash/storage/inspect"
)

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
