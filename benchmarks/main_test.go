//go:build linux

package main

import (
	"errors"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/benchmarks/mix"
	"github.com/pebbledash/pebbledash/benchmarks/overload"
	"github.com/pebbledash/pebbledash/benchmarks/record"
	"github.com/pebbledash/pebbledash/benchmarks/report"
	"github.com/pebbledash/pebbledash/benchmarks/workload"
)

func TestParse(t *testing.T) {
	p, mode, err := parse([]string{
		"full", "-server=a=/x/a --flag=1", "-server", "b=/x/b", "-loads=put1k", "-shapes=2/3", "-turns=7",
	})
	require.NoError(t, err)
	require.Equal(t, "full", mode)
	require.Equal(t, []peer{{name: "a", binary: "/x/a", args: []string{"--flag=1"}}, {name: "b", binary: "/x/b", args: []string{}}}, p.peers)
	require.Equal(t, "put1k", workload.Names(p.loads))
	require.Equal(t, []workload.Shape{{Conns: 2, Clients: 3}}, p.shapes)
	require.Equal(t, 7, p.turns)
	require.Equal(t, modes["full"].measure, p.measure)

	p, mode, err = parse([]string{"-server=a=/x/a"})
	require.NoError(t, err)
	require.Equal(t, "quick", mode)
	require.Len(t, p.shapes, 3)
	require.Equal(t, 1, p.members)
	require.Equal(t, workload.Loads, p.loads)

	p, mode, err = parse([]string{"cluster", "-server=a=/x/a", "-members=5"})
	require.NoError(t, err)
	require.Equal(t, "cluster", mode)
	require.Equal(t, 5, p.members)
	require.Len(t, p.shapes, 6)
	require.False(t, workload.Reads(p.loads))

	p, mode, err = parse([]string{"overload", "-server=a=/x/a", "-around=lists"})
	require.NoError(t, err)
	require.Equal(t, "overload", mode)
	require.Equal(t, []string{overload.Lists}, p.around)

	for _, bad := range []string{
		"overload -server=a=b -around=x", "quick -server=a=b -keys=5", "large -server=a=b -keys=0", "mix -server=a=b -nodes=1,x", "quick -server=a=b -fill=5", "backup -server=a=b -value=0", "snapshot -server=a=b -fill=5 -value=6", "large -server=a=b -scatter", "", "slow", "quick", "-server=a", "-server=a=", "-server=a=b x", "-server=a=b -turns=0", "-server=a=b -loads=x",
	} {
		_, _, err := parse(strings.Fields(bad))
		require.Error(t, err, bad)
		require.NotErrorIs(t, err, flag.ErrHelp)
	}
}

// A quick run is over before one loses patience.
func TestQuickIsQuick(t *testing.T) {
	const peers, shapes, startsAndSettles = 2, 3, 5 * time.Second
	quick := modes["quick"]
	turn := time.Duration(len(workload.Loads)*shapes)*(quick.warmup+quick.measure) + startsAndSettles
	require.Less(t, time.Duration(peers*quick.turns)*turn, 5*time.Minute)
}

func TestCommand(t *testing.T) {
	require.Equal(t, "benchmarks/run.sh full -turns 3 -loads=put1k",
		command([]string{"full", "-commit=1", "-server=a=/home/me/a", "-server", "b=/b", "-turns", "3", "-save=/home/me/results", "-loads=put1k"}))
}

func TestBook(t *testing.T) {
	b := newBook(&plan{peers: []peer{{name: "mine"}, {name: "third"}, {name: "theirs"}}})
	load := sheet{"put", "put, 256 B", "conns/clients", []*metric{serverCPU, rate}}
	// The machine is half as fast in the second turn; the ratio stays.
	for _, slow := range []float64{1, 2} {
		b.add(load, "1/2", 0, sample{serverCPU: 10 * slow, rate: 5})
		b.add(load, "1/2", 2, sample{serverCPU: 40 * slow})
	}
	b.add(load, "8/64", 1, sample{serverCPU: 3})
	b.add(load, "8/64", 1, sample{})
	var text strings.Builder
	require.NoError(t, b.write(&text))
	require.Contains(t, text.String(), "put, 256 B")
	require.Regexp(t, `1/2 +mine +15.0 \(10.0-20.0\)`, text.String())
	require.Regexp(t, `theirs +60.0 \(40.0-80.0\)`, text.String())
	require.Regexp(t, `mine : theirs +0.25 `, text.String())
	require.NotContains(t, text.String(), "third : theirs", "it took no part in what theirs did")
	require.Regexp(t, `8/64 +third +3.00 +-`, text.String(), "what was not measured is no zero")

	rows := b.records()
	require.Len(t, rows, 3)
	require.Equal(t, record.Row{
		Sheet: "put", Title: "put, 256 B", First: "conns/clients", Row: "1/2", Peer: "mine",
		Values: record.Values{"CPU µs/op": {10, 20}, "ops/s": {5, 5}},
	}, rows[0])
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{20: "20", 1000: "1k", 1500: "1.5k", 1234: "1234", 100_000: "100k", 1_000_000: "1M", 10_000_000: "10M"} {
		require.Equal(t, want, count(n))
	}
}

func TestResourceGroups(t *testing.T) {
	require.Empty(t, resourceGroups(1, 4))
	require.Equal(t, "resource01#group01;resource03#group01", resourceGroups(2, 4))
	require.Equal(t, 3, strings.Count(resourceGroups(4, 4), "#"), "the fourth group is that of the rest")
}

func TestWithOverrides(t *testing.T) {
	var names []string
	for _, p := range withOverrides([]peer{{name: "a"}, {name: "b"}}) {
		names = append(names, p.name)
		require.Equal(t, strings.HasSuffix(p.name, "-overrides"), p.overrides)
	}
	require.Equal(t, []string{"a", "a-overrides", "b-overrides", "b"}, names)
}

// Keys of the store are in all families, whichever part of them is put, and no two alike.
func TestStoreKey(t *testing.T) {
	const keys = 20_000
	for _, scatter := range []bool{false, true} {
		for _, every := range []int{1, backupEvery} {
			seen, prefixes := map[string]bool{}, map[string]bool{}
			for i := range keys {
				key := string(storeKey(i*every, scatter))
				seen[key] = true
				prefixes[key[:strings.LastIndex(key, "/")]] = true
			}
			require.Len(t, seen, keys, "%v %d", scatter, every)
			require.Len(t, prefixes, 100, "%v %d: families and namespaces", scatter, every)
		}
	}
	require.Equal(t, "/registry/events/namespace-1/00000000000000000101", string(storeKey(101, false)))
}

func TestListSets(t *testing.T) {
	require.Len(t, listSets(100_000), 5)
	require.Len(t, listSets(1000), 2)
	require.Equal(t, "10k × 15 KiB", listSet{10_000, 15 << 10}.name())
}

func TestLargest(t *testing.T) {
	for limit, want := range map[int]int{50: 0, 100: 100, 150: 150, 1000: 1000, 999: 950} {
		asked := 0
		got, err := largest(100, 100_000, 4, func(n int) (bool, error) {
			asked++
			return n <= limit, nil
		})
		require.NoError(t, err)
		require.Equal(t, want, got, "%d is the most", limit)
		require.Less(t, asked, 12)
	}
	got, err := largest(100, 1000, 4, func(int) (bool, error) { return true, nil })
	require.NoError(t, err)
	require.Equal(t, 800, got, "no more than was asked for")
	_, err = largest(1, 2, 3, func(int) (bool, error) { return false, errors.New("x") })
	require.Error(t, err)
}

func TestInTime(t *testing.T) {
	report := func(renew, get time.Duration) *mix.Report {
		return &mix.Report{Kinds: []mix.KindReport{
			{Kind: mix.Renew, Latencies: []time.Duration{renew}},
			{Kind: mix.Get, Latencies: []time.Duration{get}},
			{Kind: mix.List, Latencies: []time.Duration{time.Minute}},
		}}
	}
	require.True(t, inTime(report(mixLimit, mixLimit)))
	require.False(t, inTime(report(mixLimit+1, 1)))
	require.False(t, inTime(report(1, mixLimit+1)))
	lost := report(1, 1)
	lost.Missing = 1
	require.False(t, inTime(lost))
}

// What is drawn, and what goals are about, is what the tables have.
func TestReportKnowsTheTables(t *testing.T) {
	one, three := &plan{members: 1}, &plan{members: 3}
	sheets := []sheet{
		wholeSheet(one), wholeSheet(three), overloadSheet, aroundSheet, fanoutSheet, snapshotSheet(one), backupSheet(one), listSheet,
		grantSheet, aliveSheet, largeSheet, compactionSheet, steadySheet, failoverSheet, mixSheet, mixKindSheet, mixMostSheet,
	}
	for _, of := range []string{"keys", "watchers", "groups", "bytes"} {
		sheets = append(sheets, growthSheet(of, ""))
	}
	for _, l := range workload.All() {
		sheets = append(sheets, loadSheet(one, l))
	}
	columns := map[string][]string{}
	for _, s := range sheets {
		for _, m := range s.columns {
			columns[s.name] = append(columns[s.name], m.title)
		}
		require.NotEmpty(t, report.Metrics(s.name), s.name)
	}
	for name, own := range columns {
		for _, m := range report.Metrics(name) {
			if !strings.HasPrefix(name, "overload") && !strings.HasPrefix(name, "lease-") { // These two share a section.
				require.Contains(t, own, m, name)
			}
		}
	}
	for _, g := range report.Goals {
		require.Contains(t, columns[g.Sheet], g.Metric, g.What)
	}
}

// What run.sh runs as "all" is understood, and gives all that goals are about.
func TestAll(t *testing.T) {
	script, err := os.ReadFile("run.sh")
	require.NoError(t, err)
	_, list, ok := strings.Cut(string(script), "for run in ")
	require.True(t, ok)
	list, _, ok = strings.Cut(list, "; do")
	require.True(t, ok)
	var ran []string
	for _, run := range regexp.MustCompile(`'[^']*'|[a-z]+`).FindAllString(list, -1) {
		words := append(strings.Fields(strings.Trim(run, "'")), "-server=a=b")
		_, mode, err := parse(words)
		require.NoError(t, err, run)
		ran = append(ran, mode)
	}
	for name := range modes {
		require.True(t, name == quickMode || slices.Contains(ran, name), name)
	}
	for _, g := range report.Goals {
		require.Contains(t, ran, g.Modes[0], g.What)
	}
}
