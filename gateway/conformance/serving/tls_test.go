package serving

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

const (
	// patience bounds every wait and every request.
	patience = 30 * time.Second
	pause    = 10 * time.Millisecond
	loaders  = 4
)

// secure returns URLs for TLS, and the flags of a member that asks for certificates
// on all of them, and has them in f.
func secure(t *testing.T, f folder) (cfg server.Config, ops string) {
	t.Helper()
	urls, err := server.FreeURLs(3)
	require.NoError(t, err)
	for i, u := range urls {
		urls[i] = strings.Replace(u, "http:", "https:", 1)
	}
	return server.Config{
		Binary: target.Path, ClientURL: urls[0], PeerURL: urls[1],
		Args: []string{
			"--listen-metrics-urls=" + urls[2],
			"--client-cert-auth", "--trusted-ca-file=" + f.path("ca.crt"),
			"--cert-file=" + f.path("server.crt"), "--key-file=" + f.path("server.key"),
			"--peer-client-cert-auth", "--peer-trusted-ca-file=" + f.path("ca.crt"),
			"--peer-cert-file=" + f.path("server.crt"), "--peer-key-file=" + f.path("server.key"),
		},
	}, urls[2]
}

// connect returns a client on a connection of its own.
func connect(t *testing.T, endpoint string, config *tls.Config) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: config, Logger: zap.NewNop()})
	require.NoError(t, err)
	return c
}

// put connects, puts a key and goes.
func put(t *testing.T, endpoint string, config *tls.Config) error {
	t.Helper()
	c := connect(t, endpoint, config)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := c.Put(ctx, "k", "v")
	return err
}

// shown returns the name in the certificate that a server shows to who has config.
func shown(t *testing.T, endpoint string, config *tls.Config) (string, error) {
	t.Helper()
	u, err := url.Parse(endpoint)
	require.NoError(t, err)
	d := tls.Dialer{Config: config}
	conn, err := d.DialContext(t.Context(), "tcp", u.Host)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

// refusal returns what a server tells who connects and may not come in.
func refusal(t *testing.T, endpoint string, config *tls.Config) error {
	t.Helper()
	u, err := url.Parse(endpoint)
	require.NoError(t, err)
	d := tls.Dialer{Config: config}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_, err = conn.Read(make([]byte, 1)) // In TLS 1.3 the client is done before it is judged.
	return err
}

// load is requests of several clients that never stop, each on a connection that
// stays and on ever new ones, and a watch that must see all of them.
type load struct {
	t        *testing.T
	endpoint string
	config   func() *tls.Config
	stopping atomic.Bool
	puts     atomic.Int64
	all      sync.WaitGroup
}

func (l *load) start() {
	for i := range loaders {
		l.all.Go(func() { l.put(fmt.Sprintf("load/%d", i)) })
	}
}

// put puts a key again and again, and has a watch on the connection that stays see
// each version.
func (l *load) put(key string) {
	staying := connect(l.t, l.endpoint, l.config())
	defer staying.Close()
	ctx, cancel := context.WithCancel(l.t.Context())
	defer cancel()
	events := staying.Watch(ctx, key, clientv3.WithRev(1))
	for version := int64(1); !l.stopping.Load(); version += 2 {
		fresh := connect(l.t, l.endpoint, l.config())
		for _, c := range []*clientv3.Client{staying, fresh} {
			bounded, cancel := context.WithTimeout(ctx, patience)
			_, err := c.Put(bounded, key, "v")
			cancel()
			if err != nil {
				l.t.Errorf("put %d of %s: %v", version, key, err)
				l.stopping.Store(true)
			}
			l.puts.Add(1)
		}
		fresh.Close()
		for seen := version; seen <= version+1 && !l.stopping.Load(); {
			select {
			case resp, ok := <-events:
				if !ok || resp.Err() != nil {
					l.t.Errorf("watch of %s: %v", key, resp.Err())
					l.stopping.Store(true)
				}
				for _, e := range resp.Events {
					if e.Kv.Version != seen {
						l.t.Errorf("watch of %s: version %d, not %d", key, e.Kv.Version, seen)
					}
					seen++
				}
			case <-time.After(patience): //nolint:forbidigo // The bound of a test.
				l.t.Errorf("watch of %s: silent", key)
				l.stopping.Store(true)
			}
		}
	}
}

// during lets some requests come by before and after each change.
func (l *load) during(change func()) {
	l.t.Helper()
	for range 2 {
		before := l.puts.Load()
		require.Eventually(l.t, func() bool { return l.stopping.Load() || l.puts.Load() >= before+4*loaders }, patience, pause)
		if change != nil {
			change()
			change = nil
		}
	}
}

func (l *load) stop() {
	l.stopping.Store(true)
	l.all.Wait()
}

// Certificate, key and authorities are replaced, in the order in which it has to be
// done, while clients work. Not one request fails.
func TestRotationUnderLoad(t *testing.T) {
	f := folder(t.TempDir())
	first, second := newAuthority(t, "first CA"), newAuthority(t, "second CA")
	f.trust(t, "ca.crt", first)
	f.put(t, "server", first.issue(t, "one"))
	cfg, ops := secure(t, f)
	s := server.Run(t, cfg)

	old, renewed := first.issue(t, "old client"), second.issue(t, "new client")
	var mine atomic.Pointer[tls.Certificate]
	mine.Store(&old)
	as := func(c *tls.Certificate) *tls.Config {
		return &tls.Config{
			RootCAs:              pool(first, second),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil },
		}
	}
	await := func(endpoint, name string) {
		require.Eventually(t, func() bool {
			got, err := shown(t, endpoint, as(mine.Load()))
			return err == nil && got == name
		}, patience, pause, name)
	}
	l := &load{t: t, endpoint: s.Endpoint(), config: func() *tls.Config { return as(mine.Load()) }}
	l.start()
	defer l.stop()
	endpoints := []string{s.Endpoint(), s.PeerURL(), ops}
	for round := range 3 {
		name := fmt.Sprintf("renewed %d", round)
		l.during(func() { f.put(t, "server", first.issue(t, name)) })
		for _, e := range endpoints {
			await(e, name)
		}
	}
	// A file that is broken is as if it were not there.
	l.during(func() {
		f.write(t, "server.key")
		f.write(t, "ca.crt")
	})
	l.during(func() { f.trust(t, "ca.crt", first, second) })
	require.Eventually(t, func() bool { return put(t, s.Endpoint(), as(&renewed)) == nil }, patience, pause)
	l.during(func() { f.put(t, "server", second.issue(t, "two")) })
	for _, e := range endpoints {
		await(e, "two")
	}
	l.during(func() { mine.Store(&renewed) })
	f.trust(t, "ca.crt", second)
	require.Eventually(t, func() bool { return put(t, s.Endpoint(), as(&old)) != nil }, patience, pause)
	l.during(nil)
	l.stop()
	t.Logf("%d requests", l.puts.Load())

	// Whom only the old authority vouches for is refused everywhere, and told so.
	for _, e := range endpoints {
		require.ErrorContains(t, refusal(t, e, as(&old)), "tls: unknown certificate authority", e)
		require.ErrorContains(t, refusal(t, e, &tls.Config{RootCAs: pool(second)}), "tls: certificate required", e)
	}
	require.Error(t, put(t, s.Endpoint(), as(&old)))
	require.NoError(t, put(t, s.Endpoint(), as(&renewed)))
	log, err := os.ReadFile(s.LogPath())
	require.NoError(t, err)
	require.Contains(t, string(log), "a client's TLS handshake failed")
	require.Contains(t, string(log), "certificate signed by unknown authority")
}

// Members speak TLS with each other all the while their certificates and authorities
// are replaced, and take new connections by the new ones.
func TestRotationBetweenMembers(t *testing.T) {
	f := folder(t.TempDir())
	first, second := newAuthority(t, "first CA"), newAuthority(t, "second CA")
	f.trust(t, "ca.crt", first)
	f.put(t, "member", first.issue(t, "one"))
	members := startSecureCluster(t, f)
	writes := func() {
		t.Helper()
		for _, m := range members {
			require.NoError(t, put(t, m.Endpoint(), nil))
		}
	}
	writes()
	f.trust(t, "ca.crt", first, second)
	next := second.issue(t, "two")
	trusted := &tls.Config{RootCAs: pool(first, second), Certificates: []tls.Certificate{next}}
	reach := func(name string) {
		t.Helper()
		for _, m := range members {
			require.Eventually(t, func() bool {
				got, err := shown(t, m.PeerURL(), trusted)
				return err == nil && got == name
			}, patience, pause)
		}
	}
	reach("one")
	f.put(t, "member", next)
	reach("two")
	f.trust(t, "ca.crt", second)
	writes()
	// Each comes back, and meets the others by what is new.
	for _, m := range members {
		_, err := m.Stop()
		require.NoError(t, err)
		require.NoError(t, m.Restart(t.Context()))
		writes()
	}
}

func startSecureCluster(t *testing.T, f folder) []*server.Server {
	t.Helper()
	const n = 3
	urls, err := server.FreeURLs(n)
	require.NoError(t, err)
	for i, u := range urls {
		urls[i] = strings.Replace(u, "http:", "https:", 1)
	}
	members, errs := make([]*server.Server, n), make([]error, n)
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			members[i], errs[i] = server.Start(t.Context(), server.Config{
				Binary: target.Path, Name: server.MemberName(i), DataDir: fmt.Sprintf("%s/m%d", dir, i),
				PeerURL: urls[i], InitialCluster: server.InitialCluster(urls),
				Args: []string{
					"--peer-client-cert-auth", "--peer-trusted-ca-file=" + f.path("ca.crt"), "--peer-cert-allowed-cn=one,two",
					"--peer-cert-file=" + f.path("member.crt"), "--peer-key-file=" + f.path("member.key"),
				},
			})
		})
	}
	all.Wait()
	for i, m := range members {
		if m != nil {
			t.Cleanup(func() {
				if err := m.Kill(); err != nil || t.Failed() {
					t.Logf("%v\n%s", err, m.LogTail())
				}
			})
		}
		require.NoError(t, errs[i])
	}
	return members
}

// A member makes its certificates: for curl, for a client that has been given them as
// the authority, and the same ones after a restart.
func TestAutoTLS(t *testing.T) {
	cfg, ops := secure(t, folder(t.TempDir()))
	cfg.Args = []string{"--auto-tls", "--peer-auto-tls", "--listen-metrics-urls=" + ops}
	s := server.Run(t, cfg)
	for _, endpoint := range []string{s.Endpoint(), ops} {
		out, err := exec.CommandContext(t.Context(), "curl", "-sSk", "--max-time", "10", endpoint+"/health").CombinedOutput()
		require.NoError(t, err, string(out))
		require.JSONEq(t, `{"health":"true","reason":""}`, string(out))
	}
	require.NoError(t, put(t, s.Endpoint(), &tls.Config{InsecureSkipVerify: true}))
	pem, err := os.ReadFile(s.DataDir() + "/fixtures/client/cert.pem")
	require.NoError(t, err)
	trusting := &tls.Config{RootCAs: pool()}
	require.True(t, trusting.RootCAs.AppendCertsFromPEM(pem))
	require.NoError(t, put(t, s.Endpoint(), trusting))
	_, err = s.Stop()
	require.NoError(t, err)
	require.NoError(t, s.Restart(t.Context()))
	require.NoError(t, put(t, s.Endpoint(), trusting))
}
