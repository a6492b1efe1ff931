//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/about"
)

// plan is what was asked for.
type plan struct {
	binaries binaries
	stores   []string

	nodes, pods, members, turns, watchers int

	rate   float64
	steady time.Duration
	during string // an operation

	name, dir    string // the run's folder is dir/name
	save, commit string
	keep         bool
}

func parse(args []string) (*plan, error) {
	p := &plan{binaries: binaries{}}
	f := flag.NewFlagSet("kubemark", flag.ContinueOnError)
	f.Func("bin", "name=path of a binary; once for each", func(s string) error {
		name, path, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want name=path")
		}
		p.binaries[name] = path
		return nil
	})
	store := f.String("store", "both", "pebbledash, etcd or both in turn")
	f.IntVar(&p.nodes, "nodes", 100, "hollow nodes")
	f.IntVar(&p.pods, "pods", 1000, "pods to begin with; at most 100 a node")
	f.IntVar(&p.members, "members", 1, "members of the store")
	f.IntVar(&p.turns, "turns", 1, "turns of each store")
	f.IntVar(&p.watchers, "watchers", 50, "watchers of objects that carry the time")
	f.Float64Var(&p.rate, "rate", 0, "pods created a second; 0 is a fiftieth of them, and 2 to 10")
	f.DurationVar(&p.steady, "for", 0, "how long everything is done after all pods run; 0 is a second for 5 pods, and 15 to 60")
	f.StringVar(&p.during, "during", "", "what is done with the store during everything: "+strings.Join(slices.Sorted(maps.Keys(operations)), ", "))
	f.StringVar(&p.name, "name", "kubemark", "name of this run, and of its folder in -dir")
	f.StringVar(&p.dir, "dir", "data/kubemark", "folder of folders of runs, on a disk")
	f.StringVar(&p.save, "save", "", "folder to keep the results in")
	f.StringVar(&p.commit, "commit", "unknown", "commit of what is measured")
	f.BoolVar(&p.keep, "keep", false, "keep logs and data")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	p.stores = []string{*store}
	if *store == "both" {
		p.stores = []string{"pebbledash", "etcd"}
	}
	if p.rate == 0 {
		p.rate = min(max(float64(p.pods)/50, 2), 10)
	}
	if p.steady == 0 {
		p.steady = min(max(time.Duration(p.pods)*time.Second/5, 15*time.Second), time.Minute)
	}
	return p, p.check(f)
}

// podsPerNode is below a hollow kubelet's 110, with room for rollouts.
const podsPerNode = 100

func (p *plan) check(f *flag.FlagSet) error {
	names := append([]string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", hollowNodes}, p.stores...)
	if p.during != "" {
		names = append(names, "etcdctl", "etcdutl")
	}
	for _, name := range names {
		if p.binaries[name] == "" {
			return fmt.Errorf("no -bin %s=...; run.sh gives them all", name)
		}
	}
	op := operations[p.during]
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("what is %q?", f.Arg(0))
	case p.nodes < 1 || p.nodes > 1000 || p.pods < 1 || p.turns < 1 || p.rate <= 0:
		return errors.New("nodes, pods, turns and rate are positive, and nodes at most 1000")
	case p.pods > p.nodes*podsPerNode:
		return fmt.Errorf("%d pods are more than %d a node", p.pods, podsPerNode)
	case p.members != 1 && p.members != 3:
		return errors.New("a store has one or three members here")
	case p.during != "" && op.members == 0:
		return fmt.Errorf("-during=%s is not known; see -help", p.during)
	case p.during != "" && op.members != p.members:
		return fmt.Errorf("-during=%s wants -members=%d", p.during, op.members)
	}
	dir, err := filepath.Abs(filepath.Join(p.dir, p.name))
	if err != nil {
		return err
	}
	p.dir = dir
	return nil
}

func main() {
	p, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	code := 0
	switch {
	case err != nil:
	case os.Getenv(envInside) == "":
		code, err = runInside()
	default:
		err = run(p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubemark:", err)
		code = 1
	}
	os.Exit(code)
}

// run is the program inside of its namespace.
func run(p *plan) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := os.MkdirAll(filepath.Dir(p.dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return fmt.Errorf("a run of this name is under way, or was kept: %w", err)
	}
	defer func() {
		if p.keep {
			fmt.Fprintln(os.Stderr, "logs and data are kept in", p.dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(p.dir))
	}()
	if err := raiseLoopback(); err != nil {
		return fmt.Errorf("raise the loopback interface: %w", err)
	}
	a, err := describe(ctx, p, os.Args[1:])
	if err != nil {
		return err
	}
	progress := newProgress()
	results := map[string][]*result{}
	for n := range p.turns {
		for _, store := range p.stores {
			dir := filepath.Join(p.dir, fmt.Sprintf("%s-%d", store, n+1))
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			r, err := runTurn(ctx, p, store, dir, func(text string) {
				progress.say(fmt.Sprintf("%s, turn %d of %d: %s", store, n+1, p.turns, text))
			})
			progress.done()
			if err != nil {
				return fmt.Errorf("%s, turn %d: %w", store, n+1, err)
			}
			results[store] = append(results[store], r)
			if !p.keep {
				if err := os.RemoveAll(dir); err != nil {
					return err
				}
			}
		}
	}
	a.Finish()
	return publish(p, a, results)
}

// publish prints the report, and keeps it and its page if that is asked for.
func publish(p *plan, a *about.About, results map[string][]*result) error {
	r := &report{plan: p, about: a, results: results}
	var text bytes.Buffer
	if err := r.write(&text); err != nil {
		return err
	}
	if _, err := os.Stdout.Write(text.Bytes()); err != nil || p.save == "" {
		return err
	}
	base := filepath.Join(p.save, a.Began.Format(time.DateOnly)+"-"+p.name)
	var page bytes.Buffer
	if err := r.page(&page, text.String()); err != nil {
		return err
	}
	for ending, content := range map[string][]byte{".txt": text.Bytes(), ".html": page.Bytes()} {
		if err := os.WriteFile(base+ending, content, 0o600); err != nil {
			return err
		}
		fmt.Fprintln(os.Stderr, "kept:", base+ending)
	}
	return nil
}
