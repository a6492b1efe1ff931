//go:build linux

// Command benchmarks measures servers that speak etcd's protocol beside each
// other: the same load, from the same generator, on the same machine, in turn.
// run.sh builds what it needs and calls it; README.md says what the columns
// mean.
//
//	main.go      flags, and the order of things
//	turn.go      one server, from start to stop, under all loads
//	table.go     medians, spreads, ratios
//	machine.go   what the figures were measured on
//	profile.go   CPU profiles, if asked for
//	overload.go  the overload, which is another kind of turn
//	fanout.go    the fan-out of events, which is one, too
//	snapshot.go  taking a snapshot of a large store, which is one, too
//	backup.go    our own backups of one, whole and incremental, and a restore
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
	"strings"
	"syscall"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/overload"
	"github.com/pebbledash/pebbledash/benchmarks/workload"
)

// peer is a program to measure.
type peer struct {
	name, binary string
	args         []string
}

// plan is what to measure, and how often.
type plan struct {
	peers  []peer
	loads  []workload.Load
	shapes []workload.Shape
	// members is how many processes each peer is.
	members int

	turns           int
	warmup, measure time.Duration

	// around are the clients that are in the way in the overload.
	around []string
	// fill is how many bytes of values a snapshot, or a backup, is of, value how many each has;
	// scatter says that keys are not put in about their order.
	fill, value int64
	scatter     bool

	dir      string // where data directories are made
	profiles string // where CPU profiles go, "" for none
	save     string // where the results go, "" for nowhere
	commit   string
	progress io.Writer
}

// The modes fill what no flag says.
var modes = map[string]plan{
	"quick": {
		turns: 3, warmup: 500 * time.Millisecond, measure: 2 * time.Second,
		members: 1, loads: workload.Loads, shapes: singleShapes,
	},
	"full": {
		turns: 5, warmup: time.Second, measure: 4 * time.Second,
		members: 1, loads: workload.Loads, shapes: singleShapes,
	},
	"cluster": {
		turns: 5, warmup: 500 * time.Millisecond, measure: 2 * time.Second,
		members: 3, loads: []workload.Load{workload.Grouped[0], workload.Grouped[2]}, shapes: clusterShapes,
	},
	overloadMode: {
		turns: 3, warmup: 3 * time.Second, measure: 20 * time.Second, members: 1,
		around: []string{overload.Storm, overload.Lists},
	},
	fanoutMode:   {turns: 3, warmup: 2 * time.Second, measure: 5 * time.Second, members: 1},
	snapshotMode: {turns: 1, measure: time.Second, members: 1, fill: 5 << 30, value: 8 << 10},
	backupMode:   {turns: 1, measure: time.Second, members: 1, fill: 1 << 30, value: 1 << 10},
}

var (
	singleShapes = []workload.Shape{{Conns: 1, Clients: 1}, {Conns: 8, Clients: 64}, {Conns: 32, Clients: 512}}
	// Numbers of connections that three members share evenly.
	clusterShapes = []workload.Shape{
		{Conns: 1, Clients: 1},
		{Conns: 9, Clients: 64},
		{Conns: 33, Clients: 512},
		{Conns: 1, Clients: 1, Leader: true},
		{Conns: 9, Clients: 64, Leader: true},
		{Conns: 33, Clients: 512, Leader: true},
	}
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := func() error { return run(ctx, os.Args[1:], os.Stdout, os.Stderr) }
	if len(os.Args) > 1 && os.Args[1] == overloadClient {
		do = func() error { return overload.Main(ctx, os.Args[2:], os.Stdout) }
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
	p.progress = progress
	dir, err := os.MkdirTemp(p.dir, "benchmarks-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	about, err := describe(ctx, p, dir, args)
	if err != nil {
		return err
	}
	began := time.Now()
	var runOne turnFunc
	var results tables
	switch mode {
	case overloadMode:
		o := newOverloads(p)
		runOne, results = o.runTurn, o
	case fanoutMode:
		f := newFanouts(p)
		runOne, results = f.runTurn, f
	case snapshotMode:
		s := newSnapshots(p)
		runOne, results = s.runTurn, s
	case backupMode:
		b := newBackups(p)
		runOne, results = b.runTurn, b
	default:
		r := newResults(p)
		runOne, results = r.runTurn, r
	}
	for turn := range p.turns {
		for i, peer := range p.peers {
			fmt.Fprintf(progress, "turn %d of %d: %s\n", turn+1, p.turns, peer.name)
			if err := runOne(ctx, turn, i, filepath.Join(dir, fmt.Sprintf("%d-%d", turn, i))); err != nil {
				return fmt.Errorf("%s: %w", peer.name, err)
			}
		}
	}
	about.finish(time.Since(began))
	if err := errors.Join(about.write(out), results.write(out)); err != nil || p.save == "" {
		return err
	}
	return save(p, mode, about, results, progress)
}

// turnFunc is one server's turn; who is its number, and dir is for its data.
type turnFunc func(ctx context.Context, turn, who int, dir string) error

// tables are results that can be printed.
type tables interface{ write(w io.Writer) error }

// save keeps the results as they were printed.
func save(p *plan, mode string, about *about, results tables, progress io.Writer) error {
	if err := os.MkdirAll(p.save, 0o755); err != nil {
		return err
	}
	name := fmt.Sprintf("%s-%s-%s.txt", about.began.Format("2006-01-02-1504"), p.commit, mode)
	file, err := os.Create(filepath.Join(p.save, name))
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "kept in %s\n", file.Name())
	return errors.Join(about.write(file), results.write(file), file.Close())
}

// parse reads [quick|full|cluster|overload|fanout|snapshot|backup] [flags].
func parse(args []string) (p *plan, mode string, err error) {
	mode = "quick"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		mode, args = args[0], args[1:]
	}
	defaults, ok := modes[mode]
	if !ok {
		return nil, "", fmt.Errorf("%q is none of quick, full, cluster, overload, fanout, snapshot and backup", mode)
	}
	p = &defaults
	flags := flag.NewFlagSet("benchmarks [quick|full|cluster|overload|fanout|snapshot|backup]", flag.ContinueOnError)
	flags.Func("server", "`name=program args...` to measure; repeat it, the last is what others are compared with", p.addPeer)
	flags.Func("loads", "`names` of loads, of "+workload.Names(workload.All()), func(s string) (err error) {
		p.loads, err = workload.ParseLoads(s)
		return err
	})
	flags.Func("shapes", "`connections/clients`,..., with @leader behind it where all are to the leader", func(s string) (err error) {
		p.shapes, err = workload.ParseShapes(s)
		return err
	})
	flags.Func("around", "who is in the way in overload: storm, lists, or storm,lists", func(s string) error {
		p.around = strings.Split(s, ",")
		for _, kind := range p.around {
			if kind != overload.Storm && kind != overload.Lists {
				return fmt.Errorf("there is no %q", kind)
			}
		}
		return nil
	})
	flags.IntVar(&p.members, "members", p.members, "how many members each server is")
	flags.Int64Var(&p.fill, "fill", p.fill, "how many bytes of values a snapshot, or a backup, is of")
	flags.Int64Var(&p.value, "value", p.value, "how many bytes each of these has")
	flags.BoolVar(&p.scatter, "scatter", p.scatter, "put their keys in no order, instead of about as they sort")
	flags.IntVar(&p.turns, "turns", p.turns, "how often each server gets its turn")
	flags.DurationVar(&p.warmup, "warmup", p.warmup, "how long a load runs before it is measured")
	flags.DurationVar(&p.measure, "measure", p.measure, "how long it is measured")
	flags.StringVar(&p.dir, "dir", os.TempDir(), "where data directories are made; must be on a disk")
	flags.StringVar(&p.profiles, "profiles", "", "where to put a CPU profile of each measurement; the figures suffer")
	flags.StringVar(&p.save, "save", "", "where to keep the results, as a file of text")
	flags.StringVar(&p.commit, "commit", "unknown", "what is measured, for the results")
	if err := flags.Parse(args); err != nil {
		return nil, "", err
	}
	switch {
	case flags.NArg() > 0:
		return nil, "", fmt.Errorf("%q is not understood", flags.Args())
	case len(p.peers) == 0:
		return nil, "", errors.New("no -server to measure")
	case p.members < 1 || p.turns < 1 || p.measure <= 0 || p.warmup < 0 ||
		(mode == snapshotMode || mode == backupMode) && (p.value < 1 || p.fill < p.value):
		return nil, "", errors.New("nothing to measure")
	}
	return p, mode, nil
}

func (p *plan) addPeer(text string) error {
	name, command, ok := strings.Cut(text, "=")
	words := strings.Fields(command)
	if !ok || name == "" || len(words) == 0 {
		return errors.New("want name=program")
	}
	p.peers = append(p.peers, peer{name, words[0], words[1:]})
	return nil
}
