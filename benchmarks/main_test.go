//go:build linux

package main

import (
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/benchmarks/overload"
	"github.com/pebbledash/pebbledash/benchmarks/workload"
)

func TestParse(t *testing.T) {
	p, mode, err := parse([]string{
		"full", "-server=a=/x/a --flag=1", "-server", "b=/x/b", "-loads=put1k", "-shapes=2/3", "-turns=7",
	})
	require.NoError(t, err)
	require.Equal(t, "full", mode)
	require.Equal(t, []peer{{"a", "/x/a", []string{"--flag=1"}}, {"b", "/x/b", []string{}}}, p.peers)
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
	require.Equal(t, overloadMode, mode)
	require.Equal(t, []string{overload.Lists}, p.around)

	for _, bad := range []string{
		"overload -server=a=b -around=x", "", "slow", "quick", "-server=a", "-server=a=", "-server=a=b x", "-server=a=b -turns=0", "-server=a=b -loads=x",
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

func TestVersions(t *testing.T) {
	require.Equal(t, "etcd Version: 3.7.3, Pebbledash Version: v1",
		versions("etcd Version: 3.7.3\nGit SHA: 1\nGo Version: go1\nPebbledash Version: v1\n"))
}

func TestTable(t *testing.T) {
	r := newResults(&plan{
		peers: []peer{{name: "mine"}, {name: "theirs"}},
		loads: workload.Loads[:1], shapes: []workload.Shape{{Conns: 1, Clients: 2}},
	})
	// The machine is half as fast in the second turn; the ratio stays.
	for _, slow := range []float64{1, 2} {
		r.add(0, 0, 0, sample{serverCPU: 10 * slow})
		r.add(0, 0, 1, sample{serverCPU: 40 * slow})
	}
	var text strings.Builder
	require.NoError(t, r.write(&text))
	require.Contains(t, text.String(), "put, 256 B")
	require.Regexp(t, `1/2 +mine +15.0 \(10.0-20.0\)`, text.String())
	require.Regexp(t, `theirs +60.0 \(40.0-80.0\)`, text.String())
	require.Regexp(t, `mine : theirs +0.25 `, text.String())
}

func TestOverloadTables(t *testing.T) {
	o := newOverloads(&plan{peers: []peer{{name: "mine"}, {name: "theirs"}}})
	o.samples[0] = []sample{{quiet99: 2, loaded99: 4, ratio99: 2}}
	o.samples[1] = []sample{{quiet99: 2, loaded99: 20, ratio99: 10}}
	var text strings.Builder
	require.NoError(t, o.write(&text))
	require.Contains(t, text.String(), "mine : theirs")
	require.Contains(t, text.String(), "p99 ratio")
}
