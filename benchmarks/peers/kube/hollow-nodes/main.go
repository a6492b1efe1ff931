//go:build ignore

// Command hollow-nodes runs many of kubemark's hollow kubelets in one process, where
// kubemark has a process for each: a hundred of them take 0.5 GiB instead of 8.
//
//	hollow-nodes -nodes FILE [-first-port N] [-stagger 50ms] [kubemark's flags...]
//
// A line of FILE is a node's name and the path of its kubeconfig. Each node is a
// `kubemark --morph=kubelet` of its own, upstream's code from its flags on; nodes listen
// on ports from -first-port on, of all addresses, so this belongs into a network
// namespace.
//
// NB: the build tag keeps this out of the module around it, which has nothing of
// Kubernetes. ../../build.sh builds the file in the wrapper module.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"
	_ "unsafe" // for linkname

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/component-base/metrics"
	_ "k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/version"
	"k8s.io/kubernetes/cmd/kubemark/app"
)

// defaultRegistry is where every kubelet registers collectors of its own under the same
// names, and panics if it is not the first. Kubernetes has no other way to replace it.
//
//go:linkname defaultRegistry k8s.io/component-base/metrics/legacyregistry.defaultRegistry
var defaultRegistry metrics.KubeRegistry

// firstOnly keeps the first of collectors with the same names: the metrics of hollow
// kubelets are nobody's concern.
type firstOnly struct{ metrics.KubeRegistry }

func (r firstOnly) CustomMustRegister(cs ...metrics.StableCollector) {
	for _, c := range cs {
		tolerate(r.CustomRegister(c))
	}
}

// firstRegisterer does the same for Prometheus' own default.
type firstRegisterer struct{ prometheus.Registerer }

func (r firstRegisterer) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		tolerate(r.Register(c))
	}
}

func tolerate(err error) {
	if again := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &again) {
		panic(err)
	}
}

type node struct{ name, kubeconfig string }

func readNodes(file string) ([]node, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var nodes []node
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, kubeconfig, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			return nil, fmt.Errorf("%s: %q is no name and file", file, lines.Text())
		}
		nodes = append(nodes, node{name, kubeconfig})
	}
	return nodes, lines.Err()
}

func main() {
	file := flag.String("nodes", "", "file of names and kubeconfigs")
	first := flag.Int("first-port", 20000, "port of the first node; the next has the next")
	stagger := flag.Duration("stagger", 50*time.Millisecond, "time between the starts of two nodes")
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("Kubernetes", version.Get())
		return
	}
	flag.Parse()
	nodes, err := readNodes(*file)
	if err != nil {
		log.Fatal(err)
	}
	defaultRegistry = firstOnly{defaultRegistry}
	prometheus.DefaultRegisterer = firstRegisterer{prometheus.DefaultRegisterer}

	failed := make(chan error)
	for i, n := range nodes {
		go func() {
			cmd := app.NewHollowNodeCommand()
			cmd.SetArgs(append([]string{
				"--morph=kubelet", "--name=" + n.name, "--kubeconfig=" + n.kubeconfig,
				"--use-host-image-service=false",
				"--kubelet-read-only-port=0", fmt.Sprintf("--kubelet-port=%d", *first+i),
			}, flag.Args()...))
			failed <- fmt.Errorf("node %s: %w", n.name, cmd.Execute())
		}()
		time.Sleep(*stagger)
	}
	log.Fatal(<-failed)
}
