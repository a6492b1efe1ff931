//go:build linux

package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Where things listen (the store: see store_test.go). The namespace is the test's
// own, so ports are fixed.
const (
	apiURL = "https://127.0.0.1:6443"

	// eventTTL is kube-apiserver's --event-ttl.
	eventTTL = 10 * time.Second
	// compactionInterval is kube-apiserver's --etcd-compaction-interval; it
	// compacts what is one to two intervals old. A paged list has to end within.
	compactionInterval = 20 * time.Second
	// slow is how long anything may take that takes a second on a machine that
	// has nothing else to do.
	slow = 90 * time.Second
)

// nodeNames are addresses: that is how a kubelet without a default route knows
// its own.
var nodeNames = []string{"192.0.2.11", "192.0.2.12"}

// cluster is the store with a whole control plane above it.
type cluster struct {
	t      *testing.T // the whole session's, which processes live as long as
	layout layout
	dir    string // logs, keys and data of this run
	bin    binaries
	api    *api

	creds      *credentials
	kubeconfig string // the administrator's

	store     []*storeMember
	apiserver *process
	others    []*process // controllers, scheduler, nodes

	report *report

	// firstPage is what testPaging's first page said of itself.
	firstPage metadata
	// outages are the pieces of kube-apiserver's log in which the store was
	// away, or its absence was still felt; logged is where its stop begins.
	outages []span
	logged  int64
}

// startCluster starts everything and waits until the nodes are ready.
func startCluster(t *testing.T, l layout, dir string, b binaries, r *report) *cluster {
	t.Helper()
	c := &cluster{t: t, layout: l, dir: dir, bin: b, creds: newCredentials(t, dir), report: r}
	t.Cleanup(func() { c.explain(t) })
	admin := c.creds.addUser(t, "admin", "system:masters")
	controllers := c.creds.addUser(t, "system:kube-controller-manager")
	scheduler := c.creds.addUser(t, "system:kube-scheduler")
	var kubelets []string
	for _, node := range nodeNames {
		kubelets = append(kubelets, c.creds.addUser(t, "system:node:"+node, "system:nodes"))
	}
	c.creds.writeTokens(t)
	c.kubeconfig = c.creds.kubeconfig(t, "admin", apiURL, admin)
	c.api = newAPI(apiURL, admin, c.creds.ca)

	c.makeStore()
	r.measure("store: start to ready", c.startStore(t, c.store...))

	began := now()
	c.apiserver = startProcess(t, dir, "kube-apiserver", b.apiserver, c.apiserverArgs()...)
	c.waitReady(t, slow)
	r.measure("kube-apiserver: start to ready", now().Sub(began))

	c.others = append(c.others, startProcess(t, dir, "kube-controller-manager", b.controllers,
		"--kubeconfig="+c.creds.kubeconfig(t, "controllers", apiURL, controllers),
		"--bind-address=127.0.0.1",
		"--use-service-account-credentials",
		"--service-account-private-key-file="+c.creds.path("service-account.key"),
		"--root-ca-file="+c.creds.path("ca.crt"),
		"--kube-api-qps=200", "--kube-api-burst=400",
		// It shall outlive the store's absence.
		"--leader-elect-lease-duration=60s", "--leader-elect-renew-deadline=45s",
	), startProcess(t, dir, "kube-scheduler", b.scheduler,
		"--kubeconfig="+c.creds.kubeconfig(t, "scheduler", apiURL, scheduler),
		"--bind-address=127.0.0.1",
		"--leader-elect-lease-duration=60s", "--leader-elect-renew-deadline=45s",
	))
	// Cleanups run last in, first out: this one after the nodes' ends.
	t.Cleanup(func() { c.tidyNodes(t) })
	for i, node := range nodeNames {
		c.others = append(c.others, startProcess(t, dir, "node-"+node, b.hollowNode,
			"--morph=kubelet", "--name="+node,
			"--kubeconfig="+c.creds.kubeconfig(t, "node-"+node, apiURL, kubelets[i]),
			"--use-host-image-service=false",
			"--kubelet-read-only-port=0", fmt.Sprintf("--kubelet-port=%d", 10300+i)))
	}
	for _, node := range nodeNames {
		c.kubectl(t, "wait", "--for=create", "node/"+node, "--timeout=90s")
	}
	c.kubectl(t, "wait", "--for=condition=Ready", "node", "--all", "--timeout=90s")
	r.measure("nodes: kube-apiserver's start to ready", now().Sub(began))
	return c
}

func (c *cluster) apiserverArgs() []string {
	return append(c.storeFlags(),
		"--bind-address=127.0.0.1", "--secure-port=6443",
		"--advertise-address=192.0.2.1", // a loopback address is refused
		"--tls-cert-file="+c.creds.path("server.crt"),
		"--tls-private-key-file="+c.creds.path("server.key"),
		"--client-ca-file="+c.creds.path("ca.crt"),
		"--token-auth-file="+c.creds.path("tokens.csv"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.creds.path("service-account.key"),
		"--service-account-signing-key-file="+c.creds.path("service-account.key"),
		"--service-cluster-ip-range=10.96.0.0/16",
		"--allow-privileged",
		"--event-ttl="+eventTTL.String(),
		// What happens every few minutes by default shall happen in this run.
		"--etcd-compaction-interval="+compactionInterval.String(),
		"--etcd-count-metric-poll-period=10s",
		"--etcd-db-metric-poll-interval=10s")
}

// waitReady waits until kube-apiserver's readyz says ok.
func (c *cluster) waitReady(t *testing.T, within time.Duration) {
	t.Helper()
	poll(t, within, "kube-apiserver's readyz", func(ctx context.Context) bool {
		c.apiserver.check(t)
		return c.api.status(ctx, "/readyz") == http.StatusOK
	})
}

// check fails the test if any process has ended by itself.
func (c *cluster) check(t *testing.T) {
	t.Helper()
	for _, m := range c.store {
		m.process.check(t)
	}
	for _, p := range append([]*process{c.apiserver}, c.others...) {
		p.check(t)
	}
}

// stop ends everything in the order that leaves nobody without its server.
func (c *cluster) stop(t *testing.T) {
	t.Helper()
	for i := len(c.others) - 1; i >= 0; i-- {
		c.others[i].stop(t, 10*time.Second)
	}
	// A graceful kube-apiserver waits for its watchers; nobody is served here.
	c.apiserver.kill(t)
	for _, m := range c.store {
		m.process.stop(t, 10*time.Second)
	}
}

// kubectl runs kubectl as the administrator and returns its output; an exit
// code other than 0 fails the test.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return c.kubectlIn(t, "", args...)
}

// kubectlIn is kubectl with something on its standard input.
func (c *cluster) kubectlIn(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := c.tryKubectl(t, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// tryKubectl returns what kubectl says on standard error within the error.
func (c *cluster) tryKubectl(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := c.kubectlCommand(t.Context(), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		c.check(t)
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (c *cluster) kubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.bin.kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig, "HOME="+c.dir)
	return cmd
}

// refuseKubectl wants kubectl to fail and to say text.
func (c *cluster) refuseKubectl(t *testing.T, text, stdin string, args ...string) {
	t.Helper()
	out, err := c.tryKubectl(t, stdin, args...)
	if err == nil {
		t.Fatalf("kubectl %s succeeded: %s", strings.Join(args, " "), out)
	}
	if !strings.Contains(err.Error(), text) {
		t.Fatalf("kubectl %s: %v; want it to say %q", strings.Join(args, " "), err, text)
	}
}

var hollowNodeFolder = regexp.MustCompile(`Using (\S+) as root dir for hollow-kubelet`)

// tidyNodes removes what hollow nodes leave in /tmp, wherever TMPDIR points: their
// folders, which their logs name, and their runtimes' sockets. Nothing names
// those, but nobody listens behind them any more.
func (c *cluster) tidyNodes(t *testing.T) {
	t.Helper()
	for _, p := range c.others {
		log, err := os.ReadFile(p.log)
		if err != nil {
			t.Error(err)
			continue
		}
		if m := hollowNodeFolder.FindSubmatch(log); m != nil {
			if err := os.RemoveAll(string(m[1])); err != nil {
				t.Log(err)
			}
		}
	}
	sockets, err := filepath.Glob("/tmp/kubelet_remote_*.sock")
	if err != nil {
		t.Error(err)
	}
	for _, path := range sockets {
		conn, err := net.Dial("unix", path)
		if err == nil {
			_ = conn.Close()
			continue
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			continue
		}
		if err := os.Remove(path); err != nil {
			t.Log(err)
		}
	}
}
