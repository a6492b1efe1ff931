//go:build linux

package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// layout is what the store is made of, and where kube-apiserver looks for it.
type layout struct {
	name    string
	members int
	// overrides gives the resources of overridden sockets of their own.
	overrides bool
	// flags are further ones of the members; etcd has them not.
	flags []string
	// brief says that it is run with -short as well, without what the layout does
	// not matter for.
	brief bool
}

var layouts = []layout{
	{name: "one member", members: 1},
	{name: "three members", members: 3},
	{name: "overrides to one member", members: 1, overrides: true},
	{name: "overrides to three members", members: 3, overrides: true, brief: true},
	// Everything has to wait at times: slower, never wrong.
	{name: "few seats", members: 1, flags: []string{"--max-requests-inflight=20", "--max-mutating-requests-inflight=10"}},
}

// overridden are resources as kube-apiserver's --etcd-servers-overrides has them,
// with the group of the store that has them.
var overridden = []struct{ resource, group string }{
	{"/events", "events"},
	{"coordination.k8s.io/leases", "leases"},
	{"/pods", "pods"},
}

// The ports of the store's first member; another's are portStep above.
const (
	clientPort = 2379
	peerPort   = 2380
	groupPort  = 2479 // and those after it
	portStep   = 10000
)

// storeMember is one member of the store.
type storeMember struct {
	name    string
	args    []string
	process *process // the latest
}

// address is where member i listens.
func address(port, i int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+i*portStep))
}

func scheme() string {
	if os.Getenv(envTLS) == "1" {
		return "https://"
	}
	return "http://"
}

// endpoints are the URLs of a port of all members.
func (c *cluster) endpoints(port int) []string {
	var urls []string
	for i := range c.layout.members {
		urls = append(urls, scheme()+address(port, i))
	}
	return urls
}

// storeFlags are kube-apiserver's flags about its store.
func (c *cluster) storeFlags() []string {
	flags := []string{"--etcd-servers=" + strings.Join(c.endpoints(clientPort), ",")}
	if c.layout.overrides {
		var all []string
		for i, o := range overridden {
			all = append(all, o.resource+"#"+strings.Join(c.endpoints(groupPort+i), ";"))
		}
		flags = append(flags, "--etcd-servers-overrides="+strings.Join(all, ","))
	}
	if os.Getenv(envTLS) == "1" {
		flags = append(flags,
			"--etcd-cafile="+c.creds.path("ca.crt"),
			"--etcd-certfile="+c.creds.path("server.crt"),
			"--etcd-keyfile="+c.creds.path("server.key"))
	}
	return flags
}

// makeStore prepares the members.
func (c *cluster) makeStore() {
	var initial []string
	for i, peer := range c.endpoints(peerPort) {
		initial = append(initial, fmt.Sprintf("m%d=%s", i+1, peer))
	}
	for i := range c.layout.members {
		m := &storeMember{name: fmt.Sprintf("m%d", i+1)}
		client, peer := scheme()+address(clientPort, i), scheme()+address(peerPort, i)
		listen := client
		if c.layout.overrides {
			// etcd has nothing but more URLs.
			for j, o := range overridden {
				url := scheme() + address(groupPort+j, i)
				if targetIsEtcd() {
					listen += "," + url
				} else {
					m.args = append(m.args, "--group-listen-client-urls="+o.group+"="+url)
				}
			}
		}
		m.args = append(m.args,
			"--name="+m.name,
			"--data-dir="+filepath.Join(c.dir, m.name+".data"),
			"--listen-client-urls="+listen,
			"--advertise-client-urls="+client,
			"--listen-peer-urls="+peer,
			"--initial-advertise-peer-urls="+peer,
			"--initial-cluster="+strings.Join(initial, ","),
			"--watch-progress-notify-interval=5s")
		if os.Getenv(envTLS) == "1" {
			for _, of := range []string{"", "peer-"} {
				m.args = append(m.args,
					"--"+of+"cert-file="+c.creds.path("server.crt"),
					"--"+of+"key-file="+c.creds.path("server.key"),
					"--"+of+"trusted-ca-file="+c.creds.path("ca.crt"),
					"--"+of+"client-cert-auth=true")
			}
		}
		if !targetIsEtcd() {
			m.args = append(m.args, c.layout.flags...)
		}
		c.store = append(c.store, m)
	}
}

// startStore starts members, for the first time or on the data of the last one,
// and returns how long they took to say that they are ready.
func (c *cluster) startStore(t *testing.T, members ...*storeMember) time.Duration {
	t.Helper()
	began := now()
	from := make([]int64, len(members))
	for i, m := range members {
		if m.process != nil {
			from[i] = m.process.logSize(t)
		}
		m.process = startProcess(c.t, c.dir, "store-"+m.name, c.bin.store, m.args...)
	}
	for i, m := range members {
		m.process.waitLog(t, from[i], "ready to serve client requests", slow)
	}
	return now().Sub(began)
}

// leader is the member that leads: the one to kill.
func (c *cluster) leader(t *testing.T) *storeMember {
	t.Helper()
	if len(c.store) == 1 {
		return c.store[0]
	}
	cfg := clientv3.Config{Endpoints: c.endpoints(clientPort), Logger: zap.NewNop()}
	if os.Getenv(envTLS) == "1" {
		pair, err := tls.LoadX509KeyPair(c.creds.path("server.crt"), c.creds.path("server.key"))
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(c.creds.ca)
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	var led *storeMember
	poll(t, slow, "the store's leader", func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		for i, url := range c.endpoints(clientPort) {
			if r, err := client.Status(ctx, url); err == nil && r.Leader == r.Header.MemberId {
				led = c.store[i]
			}
		}
		return led != nil
	})
	return led
}
