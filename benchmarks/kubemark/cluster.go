//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	apiURL = "https://127.0.0.1:6443"

	// startTimeout bounds a start, of kube-apiserver and until all nodes are ready, on a
	// machine that does other work.
	startTimeout = 5 * time.Minute

	// hollowNodes is a binary's and its process's name.
	hollowNodes = "hollow-nodes"
)

// binaries are what a cluster is made of, by name.
type binaries map[string]string

// cluster is a store with a control plane and hollow nodes above it.
type cluster struct {
	dir       string
	store     *store
	apiserver *child
	others    []*child // controllers, scheduler, nodes
	creds     *credentials
	token     string // the administrator's
}

// startCluster starts everything, and returns when all nodes are ready. Whatever it
// returns is to be stopped.
func startCluster(ctx context.Context, dir string, b binaries, storeName string, members, nodes int, say func(string)) (*cluster, error) {
	creds, err := newCredentials(dir)
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, creds: creds, token: creds.addUser("admin", "system:masters")}
	controllers, err := creds.kubeconfig("controllers", creds.addUser("system:kube-controller-manager"))
	if err != nil {
		return nil, err
	}
	scheduler, err := creds.kubeconfig("scheduler", creds.addUser("system:kube-scheduler"))
	if err != nil {
		return nil, err
	}
	list, err := c.writeNodes(nodes)
	if err != nil {
		return nil, err
	}
	if err := creds.writeTokens(); err != nil {
		return nil, err
	}

	say("store")
	c.store = newStore(dir, storeName, b, members)
	if err := c.store.start(ctx); err != nil {
		return c, err
	}
	say("kube-apiserver")
	c.apiserver = &child{name: "kube-apiserver", binary: b["kube-apiserver"], dir: dir, args: c.apiserverArgs()}
	if err := c.apiserver.start(); err != nil {
		return c, err
	}
	if err := c.waitAPI(ctx); err != nil {
		return c, err
	}
	say("controllers, scheduler, nodes")
	for _, p := range []*child{
		{name: "kube-controller-manager", args: []string{
			"--kubeconfig=" + controllers, "--bind-address=127.0.0.1", "--use-service-account-credentials",
			"--service-account-private-key-file=" + creds.path("service-account.key"),
			"--root-ca-file=" + creds.path("ca.crt"), "--kube-api-qps=200", "--kube-api-burst=400",
			// On a machine that does other work nobody is to lose what it leads, or a node.
			"--leader-elect=false", "--node-monitor-grace-period=2m",
		}},
		{name: "kube-scheduler", args: []string{"--kubeconfig=" + scheduler, "--bind-address=127.0.0.1", "--leader-elect=false"}},
		// The protocol's own limits are kubemark's 10 and 20 calls a second a node.
		{name: hollowNodes, args: []string{"-nodes=" + list, "--", "--kube-api-qps=50", "--kube-api-burst=100"}},
	} {
		p.binary, p.dir = b[p.name], dir
		if err := p.start(); err != nil {
			return c, err
		}
		c.others = append(c.others, p)
	}
	return c, c.waitNodes(ctx, nodes, func(ready int) { say(fmt.Sprintf("%d of %d nodes are ready", ready, nodes)) })
}

// writeNodes makes users and kubeconfigs of nodes, and returns the file that lists them.
// Nodes are named by addresses: that is how a kubelet without a default route knows its
// own.
func (c *cluster) writeNodes(n int) (string, error) {
	var list strings.Builder
	for i := range n {
		name := fmt.Sprintf("198.18.%d.%d", i/250, 1+i%250)
		config, err := c.creds.kubeconfig("node-"+name, c.creds.addUser("system:node:"+name, "system:nodes"))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(&list, name, config)
	}
	file := filepath.Join(c.dir, "nodes")
	return file, os.WriteFile(file, []byte(list.String()), 0o600)
}

func (c *cluster) apiserverArgs() []string {
	return []string{
		"--etcd-servers=" + strings.Join(c.store.urls[:len(c.store.members)], ","),
		"--bind-address=127.0.0.1", "--secure-port=6443",
		"--advertise-address=192.0.2.1", // a loopback address is refused
		"--tls-cert-file=" + c.creds.path("server.crt"),
		"--tls-private-key-file=" + c.creds.path("server.key"),
		"--client-ca-file=" + c.creds.path("ca.crt"),
		"--token-auth-file=" + c.creds.path("tokens.csv"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.creds.path("service-account.key"),
		"--service-account-signing-key-file=" + c.creds.path("service-account.key"),
		"--service-cluster-ip-range=10.96.0.0/16",
		"--allow-privileged",
	}
}

// alive is an error if any process has ended by itself.
func (c *cluster) alive() error {
	for _, p := range append([]*child{c.apiserver}, c.others...) {
		if err := p.alive(); err != nil {
			return err
		}
	}
	return nil
}

// stop ends everything, in the order that leaves nobody without its server.
func (c *cluster) stop() error {
	var errs []error
	for i := len(c.others) - 1; i >= 0; i-- {
		// Hollow nodes know no end but this one, and the others' takes long.
		errs = append(errs, c.others[i].kill())
	}
	if c.apiserver != nil {
		// A graceful kube-apiserver waits for its watchers; nobody is served here.
		errs = append(errs, c.apiserver.kill())
	}
	if c.store != nil {
		for _, m := range c.store.members {
			errs = append(errs, m.stop())
		}
	}
	return errors.Join(append(errs, c.tidyNodes())...)
}
