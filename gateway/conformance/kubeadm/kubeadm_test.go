package kubeadm

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/pebbledash/pebbledash/gateway/conformance/certs"
	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	patience = 60 * time.Second
	pause    = 20 * time.Millisecond
	node     = "node-1"
)

// manifest is what kubeadm's source says of etcd's pod.
type manifest struct {
	// args are the flags in their order; a value that is not a literal in the source is
	// empty.
	args []argument
	// probes are the paths of the probes.
	probes []string
}

type argument struct{ name, value string }

// readManifest finds the arguments and the probes in kubeadm's source, of the version
// that the other tests with Kubernetes have.
func readManifest(t *testing.T) manifest {
	t.Helper()
	script, err := os.ReadFile("../../../benchmarks/peers/build.sh")
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^readonly kube_version=(\S+)$`).FindSubmatch(script)
	require.NotNil(t, version)
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "k8s.io/kubernetes@"+string(version[1])).Output()
	require.NoError(t, err)
	var module struct{ Dir string }
	require.NoError(t, json.Unmarshal(out, &module))
	file, err := parser.ParseFile(token.NewFileSet(),
		filepath.Join(module.Dir, "cmd/kubeadm/app/phases/etcd/local.go"), nil, parser.SkipObjectResolution)
	require.NoError(t, err)

	var m manifest
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			var arg argument
			for _, e := range n.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				switch key, _ := kv.Key.(*ast.Ident); {
				case key == nil:
				case key.Name == "Name":
					arg.name = literal(kv.Value)
				case key.Name == "Value":
					arg.value = literal(kv.Value)
					if arg.name != "" {
						m.args = append(m.args, arg)
					}
				}
			}
		case *ast.CallExpr:
			f, ok := n.Fun.(*ast.SelectorExpr)
			switch {
			case !ok:
			case strings.HasSuffix(f.Sel.Name, "Probe"):
				m.probes = append(m.probes, literal(n.Args[1]))
			case f.Sel.Name == "SetArgValues" && literal(n.Args[1]) == "initial-cluster-state":
				// For a member that joins.
			case f.Sel.Name == "SetArgValues" && len(m.args) > 0 && m.args[len(m.args)-1].name != literal(n.Args[1]):
				m.args = append(m.args, argument{name: literal(n.Args[1])})
			}
		}
		return true
	})
	require.Greater(t, len(m.args), 15, "kubeadm's source is not what it was")
	require.Equal(t, []string{"/livez", "/readyz", "/readyz"}, m.probes)
	return m
}

// TestManifest compares our static pod with what kubeadm writes: the flags, and their
// values where kubeadm's source has them.
func TestManifest(t *testing.T) {
	if testing.Short() {
		t.Skip("reads kubeadm's source")
	}
	content, err := os.ReadFile("../../../manifests/kubeadm/etcd.yaml")
	require.NoError(t, err)
	var ours []argument
	for _, flag := range regexp.MustCompile(`(?m)^ +- --([a-z-]+)=(.*)$`).FindAllStringSubmatch(string(content), -1) {
		ours = append(ours, argument{flag[1], flag[2]})
	}
	var theirs []argument
	for _, a := range readManifest(t).args {
		if a.value == "" {
			i := slices.IndexFunc(ours, func(o argument) bool { return o.name == a.name })
			require.GreaterOrEqual(t, i, 0, "there is no --%s", a.name)
			a.value = ours[i].value
		}
		theirs = append(theirs, a)
	}
	require.ElementsMatch(t, theirs, ours)
}

func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return s
}

// TestStaticPod runs what the kubelet would, but for addresses and paths.
func TestStaticPod(t *testing.T) {
	if testing.Short() {
		t.Skip("reads kubeadm's source")
	}
	m := readManifest(t)
	binary, err := server.Resolve(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, binary.Close()) }()

	folder := t.TempDir()
	ca, err := certs.New(folder, "etcd-ca")
	require.NoError(t, err)
	for file, name := range map[string]string{
		"server": node, "peer": node,
	} {
		require.NoError(t, ca.Issue(file, name, "localhost", node, "127.0.0.1", "::1"))
	}
	urls, err := server.FreeURLs(4)
	require.NoError(t, err)
	secure := func(i int) string { return strings.Replace(urls[i], "http:", "https:", 1) }
	metrics := urls[3]
	values := map[string]string{
		"name":                        node,
		"data-dir":                    filepath.Join(folder, "data"),
		"listen-client-urls":          secure(0) + "," + secure(1),
		"advertise-client-urls":       secure(1),
		"listen-peer-urls":            secure(2),
		"initial-advertise-peer-urls": secure(2),
		"initial-cluster":             node + "=" + secure(2),
		"listen-metrics-urls":         metrics,
		"cert-file":                   ca.Path("server.crt"), "key-file": ca.Path("server.key"),
		"trusted-ca-file": ca.Path("ca.crt"),
		"peer-cert-file":  ca.Path("peer.crt"), "peer-key-file": ca.Path("peer.key"),
		"peer-trusted-ca-file": ca.Path("ca.crt"),
	}
	var args []string
	for _, a := range m.args {
		value := a.value
		if value == "" {
			var known bool
			value, known = values[a.name]
			require.True(t, known, "kubeadm sets --%s, which this test does not know", a.name)
		}
		args = append(args, "--"+a.name+"="+value)
	}
	t.Log(strings.Join(args, "\n"))

	log, err := os.Create(filepath.Join(folder, "log"))
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), binary.Path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	require.NoError(t, cmd.Start())
	defer func() {
		_ = cmd.Cancel()
		require.NoError(t, cmd.Wait())
		require.NoError(t, log.Close())
	}()
	defer func() {
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("the log:\n%s", said)
		}
	}()

	// The startup probe comes first, again and again.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for probe(ctx, metrics+m.probes[2]) != nil {
		select {
		case <-clock.Real{}.After(pause):
		case <-ctx.Done():
			t.Fatal("the startup probe fails for ever")
		}
	}
	for _, path := range m.probes {
		require.NoError(t, probe(ctx, metrics+path), path)
	}

	put := func(how *tls.Config) error {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{secure(1)}, Logger: zap.NewNop(), TLS: how})
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err = c.Put(bounded, "/registry/health", "ok")
		return err
	}
	apiserver, err := ca.Client("kube-apiserver-etcd-client")
	require.NoError(t, err)
	require.NoError(t, put(apiserver))
	require.Error(t, put(ca.Anonymous()), "a client without a certificate is let in")
}

// probe does what the kubelet does: any answer from 200 to 399 is success.
func probe(ctx context.Context, target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("%s: %s", target, resp.Status)
	}
	return nil
}
