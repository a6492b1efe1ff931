//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/overload"
	"github.com/pebbledash/pebbledash/benchmarks/workload"
)

// peer is a program to measure.
type peer struct {
	name, binary string
	args         []string
	// overrides says that events, leases and pods have addresses of their own, as
	// kube-apiserver's --etcd-servers-overrides wants them.
	overrides bool
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
	// fill is how many bytes of values a snapshot, or a backup, is of, value how many
	// each has; scatter says that keys are not put in about their order.
	fill, value int64
	scatter     bool
	// keys is how many keys a large store, the longest list, and growth go up to.
	keys int
	// leases is how many are kept alive.
	leases int
	// revisions is how many versions of keys are compacted, and puts how many there
	// are in the long run.
	revisions, puts int
	// kills is how often the leader is killed.
	kills int
	// nodes are the sizes of clusters in a mix, podsPerNode how many pods each node
	// has. find looks for the largest that is served in time, from the first on, and
	// overrides measures each server with addresses of their own for resources, too.
	nodes           []int
	podsPerNode     int
	find, overrides bool

	dir      string // where data directories are made
	profiles string // where CPU profiles go, "" for none
	save     string // where the results go, "" for nowhere
	commit   string
}

// mode is a kind of turn, and what it is of if no flag says otherwise.
type mode struct {
	run func(ctx context.Context, t *turn) error
	plan
}

const quickMode = "quick"

var modes = map[string]mode{
	quickMode: {runLoads, plan{
		turns: 3, warmup: 500 * time.Millisecond, measure: 2 * time.Second,
		members: 1, loads: workload.Loads, shapes: singleShapes,
	}},
	"full": {runLoads, plan{
		turns: 5, warmup: time.Second, measure: 4 * time.Second,
		members: 1, loads: slices.Concat(workload.Loads, workload.Large), shapes: singleShapes,
	}},
	"cluster": {runLoads, plan{
		turns: 5, warmup: 500 * time.Millisecond, measure: 2 * time.Second,
		members: 3, loads: []workload.Load{workload.Grouped[0], workload.Grouped[2]}, shapes: clusterShapes,
	}},
	"overload": {runOverload, plan{
		turns: 3, warmup: 3 * time.Second, measure: 20 * time.Second, members: 1,
		around: []string{overload.Storm, overload.Lists},
	}},
	"fanout":     {runFanouts, plan{turns: 3, warmup: 2 * time.Second, measure: 5 * time.Second, members: 1}},
	"snapshot":   {runSnapshot, plan{turns: 1, measure: time.Second, members: 1, fill: 5 << 30, value: 8 << 10}},
	"backup":     {runBackups, plan{turns: 1, measure: time.Second, members: 1, fill: 1 << 30, value: 1 << 10}},
	"lists":      {runLists, plan{turns: 3, measure: 3 * time.Second, members: 1, keys: 100_000}},
	"leases":     {runLeases, plan{turns: 3, warmup: time.Second, measure: 10 * time.Second, members: 1, leases: 10_000}},
	"large":      {runLarge, plan{turns: 1, measure: 1, members: 1, keys: 1_000_000}},
	"compaction": {runCompaction, plan{turns: 1, measure: 10 * time.Second, members: 1, revisions: 1_000_000, puts: 200_000}},
	"failover":   {runFailover, plan{turns: 1, measure: 1, members: 3, kills: 20}},
	"mix": {runMix, plan{
		turns: 3, warmup: 5 * time.Second, measure: 20 * time.Second, members: 1, nodes: []int{100, 1000, 5000}, podsPerNode: 3,
	}},
	"growth": {runGrowth, plan{turns: 1, warmup: 500 * time.Millisecond, measure: 2 * time.Second, members: 1, keys: 1_000_000}},
}

// modeNames are all modes.
func modeNames() string {
	return strings.Join(slices.Sorted(maps.Keys(modes)), ", ")
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

// parse reads [mode] [flags].
func parse(args []string) (p *plan, name string, err error) {
	name = quickMode
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	chosen, ok := modes[name]
	if !ok {
		return nil, "", fmt.Errorf("%q is none of %s", name, modeNames())
	}
	was := chosen.plan
	p = &chosen.plan
	flags := flag.NewFlagSet("benchmarks ["+strings.ReplaceAll(modeNames(), ", ", "|")+"]", flag.ContinueOnError)
	p.addFlags(flags)
	if err := flags.Parse(args); err != nil {
		return nil, "", err
	}
	switch {
	case flags.NArg() > 0:
		return nil, "", fmt.Errorf("%q is not understood", flags.Args())
	case len(p.peers) == 0:
		return nil, "", errors.New("no -server to measure")
	case p.members < 1 || p.turns < 1 || p.measure <= 0 || p.warmup < 0,
		was.fill > 0 != (p.fill > 0), was.value > 0 != (p.value > 0), p.fill < p.value, p.scatter && was.fill == 0,
		was.keys > 0 != (p.keys > 0), was.kills > 0 != (p.kills > 0), was.leases > 0 != (p.leases > 0),
		was.revisions > 0 != (p.revisions > 0), was.puts > 0 != (p.puts > 0):
		return nil, "", errors.New("nothing to measure, or a flag that says nothing to " + name)
	}
	if p.overrides {
		p.peers = withOverrides(p.peers)
	}
	return p, name, nil
}

func (p *plan) addFlags(flags *flag.FlagSet) {
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
	flags.Func("nodes", "`sizes` of clusters in mix, separated by commas", func(s string) error {
		p.nodes = nil
		for word := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(word)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is no number of nodes", word)
			}
			p.nodes = append(p.nodes, n)
		}
		return nil
	})
	flags.IntVar(&p.podsPerNode, "pods-per-node", p.podsPerNode, "how many pods a node has in mix")
	flags.BoolVar(&p.find, "find", p.find, "look for the most nodes that mix serves in time, from the first of -nodes on")
	flags.BoolVar(&p.overrides, "overrides", p.overrides,
		"measure mix with addresses of their own for events, leases and pods, too: one server's, or processes of etcd")
	flags.IntVar(&p.members, "members", p.members, "how many members each server is")
	flags.Int64Var(&p.fill, "fill", p.fill, "how many bytes of values a snapshot, or a backup, is of")
	flags.Int64Var(&p.value, "value", p.value, "how many bytes each of these has")
	flags.BoolVar(&p.scatter, "scatter", p.scatter, "put their keys in no order, instead of about as they sort")
	flags.IntVar(&p.keys, "keys", p.keys, "how many keys large, the longest of lists, and growth have")
	flags.IntVar(&p.leases, "leases", p.leases, "how many leases are kept alive in leases")
	flags.IntVar(&p.revisions, "revisions", p.revisions, "how many versions of keys compaction compacts")
	flags.IntVar(&p.puts, "puts", p.puts, "how many puts compaction measures what is written by")
	flags.IntVar(&p.kills, "kills", p.kills, "how often failover kills the leader")
	flags.IntVar(&p.turns, "turns", p.turns, "how often each server gets its turn")
	flags.DurationVar(&p.warmup, "warmup", p.warmup, "how long a load runs before it is measured")
	flags.DurationVar(&p.measure, "measure", p.measure, "how long it is measured")
	flags.StringVar(&p.dir, "dir", os.TempDir(), "where data directories are made; must be on a disk")
	flags.StringVar(&p.profiles, "profiles", "", "where to put a CPU profile of each measurement; the figures suffer")
	flags.StringVar(&p.save, "save", "", "where to keep the results, as a file of text and one for bench-report")
	flags.StringVar(&p.commit, "commit", "unknown", "what is measured, for the results")
}

func (p *plan) addPeer(text string) error {
	name, command, ok := strings.Cut(text, "=")
	words := strings.Fields(command)
	if !ok || name == "" || len(words) == 0 {
		return errors.New("want name=program")
	}
	p.peers = append(p.peers, peer{name: name, binary: words[0], args: words[1:]})
	return nil
}

// withOverrides adds each peer once more, so that the last stays the last.
func withOverrides(peers []peer) []peer {
	var all []peer
	for i, p := range peers {
		more := p
		more.name, more.overrides = p.name+"-overrides", true
		if i == len(peers)-1 {
			all = append(all, more, p)
		} else {
			all = append(all, p, more)
		}
	}
	return all
}
