//go:build linux

// Command benchmarks measures servers that speak etcd's protocol beside each
// other: the same load, from the same generator, on the same machine, in turn.
// run.sh builds what it needs and calls it; README.md says what the columns
// mean.
//
//	main.go        the order of things
//	plan.go        modes and flags
//	turn.go        one server's turn
//	book.go        tables: medians, spreads, ratios
//	machine.go     what the figures were measured on
//	profile.go     CPU profiles, if asked for
//	report.go      goals met or not, and the page of plots
//
//	loads.go       puts, transactions and gets
//	overload.go    too many of them
//	fanout.go      one event to many watchers
//	store.go       a store filled for a snapshot or backups
//	snapshot.go    a snapshot of it
//	backup.go      our own backups of it, whole and incremental, and a restore
//	lists.go       lists, whole, in pages, and as streams
//	leases.go      leases granted and kept alive
//	large.go       a large store: load, memory, disk, restart
//	compaction.go  writers beside a compaction, and what is written in the long run
//	failover.go    the next write after the leader's end
//	mix.go         what kube-apiserver sends, for so many nodes
//	growth.go      how cost grows with keys, watchers, groups and sizes
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/pebbledash/pebbledash/benchmarks/about"
	"github.com/pebbledash/pebbledash/benchmarks/overload"
	"github.com/pebbledash/pebbledash/benchmarks/record"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := func() error { return run(ctx, os.Args[1:], os.Stdout, os.Stderr) }
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case overloadClient:
			do = func() error { return overload.Main(ctx, os.Args[2:], os.Stdout) }
		case goalsCommand:
			do = func() error { return goals(os.Args[2:], os.Stdout) }
		case pageCommand:
			do = func() error { return drawPage(os.Args[2:], os.Stderr) }
		}
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	p, mode, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(p.dir, "benchmarks-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	a, err := describe(ctx, p, dir, args)
	if err != nil {
		return err
	}
	results := newBook(p)
	for number := range p.turns {
		for who, peer := range p.peers {
			fmt.Fprintf(progress, "turn %d of %d: %s\n", number+1, p.turns, peer.name)
			t := &turn{plan: p, book: results, number: number, who: who, progress: progress}
			t.dir = filepath.Join(dir, fmt.Sprintf("%d-%d", number, who))
			if err := modes[mode].run(ctx, t); err != nil {
				return fmt.Errorf("%s: %w", peer.name, err)
			}
		}
	}
	a.Finish()
	if err := errors.Join(a.Write(out), results.write(out)); err != nil || p.save == "" {
		return err
	}
	return save(p, mode, a, results, progress)
}

// save keeps the results as they were printed, and beside them for programs.
func save(p *plan, mode string, a *about.About, results *book, progress io.Writer) error {
	if err := os.MkdirAll(p.save, 0o755); err != nil {
		return err
	}
	name := fmt.Sprintf("%s-%s-%s", a.Began.Format("2006-01-02-1504"), p.commit, mode)
	text, err := os.Create(filepath.Join(p.save, name+".txt"))
	if err != nil {
		return err
	}
	lines, err := os.Create(filepath.Join(p.save, name+record.Suffix))
	if err != nil {
		return errors.Join(err, text.Close())
	}
	fmt.Fprintf(progress, "kept in %s\n", text.Name())
	kept := record.File{Mode: mode, Last: p.peers[len(p.peers)-1].name, About: a.Rows, Rows: results.records()}
	return errors.Join(a.Write(text), results.write(text), text.Close(), kept.Write(lines), lines.Close())
}
