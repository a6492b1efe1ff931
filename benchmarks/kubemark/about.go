//go:build linux

package main

import (
	"context"
	"strings"

	"github.com/pebbledash/pebbledash/benchmarks/about"
)

// describe says what the figures are measured on, and how.
func describe(ctx context.Context, p *plan, args []string) (*about.About, error) {
	a := about.New(p.commit, command(args))
	for _, store := range p.stores {
		told, err := about.Versions(ctx, p.binaries[store])
		if err != nil {
			return nil, err
		}
		a.Add(store, "%s", told)
	}
	a.Add("Kubernetes", "%s", kubeVersion(p.binaries["kube-apiserver"]))
	a.Machine()
	a.Load("before")
	a.Add("cluster", "%d hollow nodes, %d members of the store", p.nodes, p.members)
	a.Add("load", "%d pods at %.3g a second, then everything for %v, %d watchers", p.pods, p.rate, p.steady, p.watchers)
	if p.during != "" {
		a.Add("meanwhile", "%s, as manifests/operations/%s.md says", p.during, p.during)
	}
	a.Add("measured", "%d turns of each; median (least-greatest)", p.turns)
	return a, nil
}

// command is without what run.sh adds.
func command(args []string) string {
	return about.Command("benchmarks/kubemark/run.sh", args, map[string]string{"bin": "", "commit": "", "dir": "", "save": "-save"})
}

// kubeVersion is behind the last dash of a binary's name, as peers/build.sh names them.
func kubeVersion(binary string) string { return binary[strings.LastIndexByte(binary, '-')+1:] }
