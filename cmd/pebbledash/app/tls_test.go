package app

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// pki is a directory of certificates: each is its own authority.
type pki struct {
	dir string
	// writes numbers the files, to give each a time of its own.
	writes int
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) write(t *testing.T, name string, blocks ...*pem.Block) {
	t.Helper()
	var b bytes.Buffer
	for _, block := range blocks {
		require.NoError(t, pem.Encode(&b, block))
	}
	p.writes++
	require.NoError(t, os.WriteFile(p.path(name), b.Bytes(), 0o600))
	at := time.Unix(int64(p.writes), 0)
	require.NoError(t, os.Chtimes(p.path(name), at, at))
}

// issue writes name.crt and name.key for 127.0.0.1.
func (p *pki) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(int64(p.writes) + 1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	p.write(t, name+".crt", &pem.Block{Type: "CERTIFICATE", Bytes: der})
	p.write(t, name+".key", &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	cert, err := tls.LoadX509KeyPair(p.path(name+".crt"), p.path(name+".key"))
	require.NoError(t, err)
	return cert
}

// greet connects and returns the server's certificate.
func greet(t *testing.T, address string, client *tls.Config) (*x509.Certificate, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", address, client)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	greeting, err := io.ReadAll(conn)
	if err != nil {
		return nil, err
	}
	require.Equal(t, "hello", string(greeting))
	return conn.ConnectionState().PeerCertificates[0], nil
}

func trust(certs ...tls.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c.Leaf)
	}
	return pool
}

const soon, often = 20 * time.Second, 5 * time.Millisecond

func TestTLS(t *testing.T) {
	p := &pki{dir: t.TempDir()}
	old, alice := p.issue(t, "server"), p.issue(t, "alice")
	r := startServer(t, testConfig(t,
		"--listen-client-urls=https://127.0.0.1:0", "--listen-metrics-urls=https://127.0.0.1:0",
		"--cert-file="+p.path("server.crt"), "--key-file="+p.path("server.key"),
		"--client-cert-auth", "--trusted-ca-file="+p.path("alice.crt"),
	))
	address := r.server.env.ClientListeners[0].Addr().String()
	client := &tls.Config{RootCAs: trust(old), Certificates: []tls.Certificate{alice}, NextProtos: []string{"h2"}}

	_, err := greet(t, address, client)
	require.NoError(t, err)
	_, err = greet(t, address, &tls.Config{RootCAs: trust(old)})
	require.ErrorContains(t, err, "certificate required")

	// The certificate is renewed, and then the authority: those that only the old
	// one vouched for are refused.
	renewed := p.issue(t, "server")
	client.RootCAs = trust(old, renewed)
	require.Eventually(t, func() bool {
		got, err := greet(t, address, client)
		require.NoError(t, err)
		return got.SerialNumber.Cmp(renewed.Leaf.SerialNumber) == 0
	}, soon, often)
	bob := p.issue(t, "bob")
	p.write(t, "alice.crt", &pem.Block{Type: "CERTIFICATE", Bytes: bob.Certificate[0]})
	require.Eventually(t, func() bool { _, err := greet(t, address, client); return err != nil }, soon, often)
	client.Certificates = []tls.Certificate{bob}
	_, err = greet(t, address, client)
	require.NoError(t, err)
	require.Contains(t, r.log.String(), "loaded certificates that have changed")

	r.cancel()
	require.NoError(t, <-r.done)
}

// Two members of the same configuration talk to each other, and nobody else to
// them. Certificates and authorities are renewed without a restart on both sides.
func TestPeerTLS(t *testing.T) {
	p := &pki{dir: t.TempDir()}
	cert, mallory := p.issue(t, "member"), p.issue(t, "mallory")
	ca := func(certs ...tls.Certificate) {
		var blocks []*pem.Block
		for _, c := range certs {
			blocks = append(blocks, &pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
		}
		p.write(t, "ca.crt", blocks...)
	}
	ca(cert)
	r := startServer(t, testConfig(t,
		"--listen-peer-urls=https://127.0.0.1:0",
		"--peer-cert-file="+p.path("member.crt"), "--peer-key-file="+p.path("member.key"),
		"--peer-client-cert-auth", "--peer-trusted-ca-file="+p.path("ca.crt"),
	))
	address, dial := r.server.env.PeerListeners[0].Addr().String(), r.server.env.PeerDialTLS
	_, err := greet(t, address, dial())
	require.NoError(t, err)
	_, err = greet(t, address, &tls.Config{RootCAs: trust(cert)})
	require.Error(t, err, "a member without a certificate is refused")
	_, err = greet(t, address, &tls.Config{RootCAs: trust(cert), Certificates: []tls.Certificate{mallory}})
	require.Error(t, err, "one with another authority's is refused")

	// What dials checks whom it has reached.
	ls, err := listen([]url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}, &tls.Config{Certificates: []tls.Certificate{mallory}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = closeAll(ls) })
	go func() {
		if conn, err := ls[0].Accept(); err == nil {
			_ = conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	_, err = greet(t, ls[0].Addr().String(), dial())
	require.ErrorContains(t, err, "signed by unknown authority")

	// The authorities come first, as must be, and then the certificate; both sides
	// have them.
	renewed := p.issue(t, "renewed")
	ca(cert, renewed)
	for _, kind := range []string{".crt", ".key"} {
		content, err := os.ReadFile(p.path("renewed" + kind))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(p.path("member"+kind), content, 0o600))
	}
	require.Eventually(t, func() bool {
		got, err := greet(t, address, dial())
		return err == nil && got.Subject.CommonName == "renewed"
	}, soon, often)
	shown, err := dial().GetClientCertificate(nil)
	require.NoError(t, err)
	require.Equal(t, renewed.Certificate, shown.Certificate)

	r.cancel()
	require.NoError(t, <-r.done)
}

// Both HTTP/2 and HTTP/1.1 can be agreed on: the client port serves gRPC and
// health.
func TestTLSProtocols(t *testing.T) {
	p := &pki{dir: t.TempDir()}
	cert := p.issue(t, "server")
	ls, err := listen([]url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}, &tls.Config{Certificates: []tls.Certificate{cert}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = closeAll(ls) })
	for _, proto := range []string{"h2", "http/1.1"} {
		go func() {
			if conn, err := ls[0].Accept(); err == nil {
				_ = conn.(*tls.Conn).Handshake()
				conn.Close()
			}
		}()
		conn, err := tls.Dial("tcp", ls[0].Addr().String(), &tls.Config{RootCAs: trust(cert), NextProtos: []string{proto}})
		require.NoError(t, err)
		require.Equal(t, proto, conn.ConnectionState().NegotiatedProtocol)
		conn.Close()
	}
}

// Certificates that the member makes are for the hosts of its URLs, and stay when it
// starts again.
func TestAutoTLS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	shown := func() *x509.Certificate {
		r := startServer(t, testConfig(t, "--data-dir="+dir,
			"--auto-tls", "--listen-client-urls=https://127.0.0.1:0", "--advertise-client-urls=https://a.example:2379",
			"--peer-auto-tls", "--listen-peer-urls=https://127.0.0.1:0",
		))
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "fixtures/client/cert.pem"), filepath.Join(dir, "fixtures/client/key.pem"))
		require.NoError(t, err)
		for _, host := range []string{"127.0.0.1", "a.example"} {
			got, err := greet(t, r.server.env.ClientListeners[0].Addr().String(), &tls.Config{
				RootCAs: trust(pair), ServerName: host,
				Time: func() time.Time { return time.Unix(3600, 0) }, // The server's clock stands near 0.
			})
			require.NoError(t, err)
			require.True(t, got.Equal(pair.Leaf))
		}
		got, err := greet(t, r.server.env.PeerListeners[0].Addr().String(), r.server.env.PeerDialTLS())
		require.NoError(t, err)
		require.False(t, got.Equal(pair.Leaf), "members have another one")
		r.cancel()
		require.NoError(t, <-r.done)
		return got
	}
	require.True(t, shown().Equal(shown()))
}

func TestTLSErrors(t *testing.T) {
	p := &pki{dir: t.TempDir()}
	p.issue(t, "server")
	p.write(t, "empty.crt")
	for _, c := range []struct{ prefix, want string }{
		{"--", "cannot load certificate"}, {"--peer-", "members: cannot load certificate"},
	} {
		r := runner{
			open:  func(*Env) (server, error) { t.Error("opened"); return nil, nil },
			clock: clock.Real{}, stdout: io.Discard, stderr: io.Discard,
		}
		err := r.run(t.Context(), testConfig(t, c.prefix+"cert-file="+p.path("empty.crt"), c.prefix+"key-file="+p.path("server.key")))
		require.ErrorContains(t, err, c.want)
	}
}

// What Kubernetes' libraries log comes out as ours, and as less important.
func TestLibraryLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(libraryHandler{newPersonHandler(&out, slog.LevelInfo)}).With("from", "library")
	log.Info("starting controller")
	log.Error("Unhandled Error")
	log.WithGroup("g").Error("failed", "why", "broken")
	require.Regexp(t, `^\S+ WARN  failed  from=library g.why=broken\n$`, out.String())
}
