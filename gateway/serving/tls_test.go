package serving

import (
	"bytes"
	"context"
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
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// folder is a directory of certificates.
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

// write replaces a file at once, as those who renew certificates do.
func (f folder) write(t *testing.T, name string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(f.path(name+".new"), content, 0o600))
	require.NoError(t, os.Rename(f.path(name+".new"), f.path(name)))
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	return a
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue makes a certificate for hosts, which may be none.
func (a *authority) issue(t *testing.T, name string, hosts ...string) tls.Certificate {
	t.Helper()
	a.last++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(100 + a.last), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// revoke returns the authority's list of revoked certificates in DER.
func (a *authority) revoke(t *testing.T, certs ...tls.Certificate) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(0, 0), NextUpdate: time.Unix(1<<33, 0)}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Unix(0, 0)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	require.NoError(t, err)
	return der
}

// put writes name.crt and name.key.
func (f folder) put(t *testing.T, name string, c tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(t, err)
	f.write(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	f.write(t, name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), part)
}

// side is a listener that greets, with what it is made of.
type side struct {
	*TLS
	folder folder
	ca     *authority
	own    tls.Certificate
	addr   string
	log    *lines
}

// newSide listens with a certificate for 127.0.0.1, and asks clients for one.
func newSide(t *testing.T, change func(folder, *TLSConfig)) *side {
	t.Helper()
	s := &side{folder: folder(t.TempDir()), ca: newAuthority(t, "first"), log: &lines{}}
	s.own = s.ca.issue(t, "server", "127.0.0.1")
	s.folder.put(t, "server", s.own)
	s.folder.write(t, "ca.crt", s.ca.pem())
	cfg := TLSConfig{
		CertFile: s.folder.path("server.crt"), KeyFile: s.folder.path("server.key"), TrustedCAFile: s.folder.path("ca.crt"),
	}
	if change != nil {
		change(s.folder, &cfg)
	}
	var err error
	s.TLS, err = NewTLS(cfg, slog.New(slog.NewTextHandler(s.log, nil)), clock.Real{})
	require.NoError(t, err)
	s.addr = listen(t, s.Server())
	return s
}

func (s *side) follow(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func listen(t *testing.T, config *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, "hello")
			}()
		}
	}()
	return l.Addr().String()
}

// greet connects, and returns the certificate that was shown.
func greet(t *testing.T, addr string, config *tls.Config) (*x509.Certificate, bool, error) {
	t.Helper()
	d := tls.Dialer{Config: config}
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return nil, false, err
	}
	defer conn.Close()
	if greeting, err := io.ReadAll(conn); err != nil || string(greeting) != "hello" {
		return nil, false, err
	}
	state := conn.(*tls.Conn).ConnectionState()
	return state.PeerCertificates[0], state.DidResume, nil
}

func (s *side) greet(t *testing.T, client tls.Certificate) error {
	t.Helper()
	_, _, err := greet(t, s.addr, &tls.Config{
		RootCAs: s.ca.pool(),
		// Shown also to a server that does not know who has signed it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &client, nil },
	})
	return err
}

const soon, often = 20 * time.Second, 5 * time.Millisecond

// A certificate and its key, and then the authority, are replaced while connections
// come and go.
func TestFilesAreFollowed(t *testing.T) {
	s := newSide(t, nil)
	s.follow(t)
	alice := s.ca.issue(t, "alice")
	require.NoError(t, s.greet(t, alice))

	renewed := s.ca.issue(t, "renewed", "127.0.0.1")
	s.folder.put(t, "server", renewed)
	require.Eventually(t, func() bool {
		shown, _, err := greet(t, s.addr, &tls.Config{RootCAs: s.ca.pool(), Certificates: []tls.Certificate{alice}})
		require.NoError(t, err, "the old one serves until the new one does")
		return shown.Subject.CommonName == "renewed"
	}, soon, often)

	next := newAuthority(t, "next")
	bob := next.issue(t, "bob")
	require.ErrorContains(t, s.greet(t, bob), "unknown certificate authority")
	s.folder.write(t, "ca.crt", append(s.ca.pem(), next.pem()...))
	require.Eventually(t, func() bool { return s.greet(t, bob) == nil }, soon, often)
	require.NoError(t, s.greet(t, alice), "both are known")
	s.folder.write(t, "ca.crt", next.pem())
	require.Eventually(t, func() bool { return s.greet(t, alice) != nil }, soon, often)
	require.ErrorContains(t, s.greet(t, alice), "unknown certificate authority")
	require.NoError(t, s.greet(t, bob))
	require.Positive(t, s.log.count("loaded certificates that have changed"))
}

// What connects follows the files too.
func TestDialFollows(t *testing.T) {
	s := newSide(t, nil)
	s.follow(t)
	dial := func() error {
		_, _, err := greet(t, s.addr, s.Dial())
		return err
	}
	require.NoError(t, dial())
	next := newAuthority(t, "next")
	s.folder.write(t, "ca.crt", append(s.ca.pem(), next.pem()...))
	s.folder.put(t, "server", next.issue(t, "server", "127.0.0.1"))
	s.folder.write(t, "ca.crt", next.pem())
	require.Eventually(t, func() bool {
		shown, _, err := greet(t, s.addr, s.Dial())
		return err == nil && shown.Issuer.CommonName == "next"
	}, soon, often)
	s.folder.put(t, "server", next.issue(t, "server", "127.0.0.2"))
	require.Eventually(t, func() bool { return dial() != nil }, soon, often)
	require.ErrorContains(t, dial(), "not 127.0.0.1")
}

// The file of a certificate is broken: the old one serves, and that is said once for
// each way in which it is.
func TestBrokenFiles(t *testing.T) {
	s := newSide(t, func(f folder, c *TLSConfig) {
		c.CRLFile = f.path("revoked.crl")
		f.write(t, "revoked.crl", newAuthority(t, "any").revoke(t))
	})
	alice := s.ca.issue(t, "alice")
	const complaint = "the old ones stay in use"
	for i, broken := range []struct{ name, content string }{
		{"server.crt", "nonsense"}, {"ca.crt", "nonsense"}, {"revoked.crl", "nonsense"}, {"ca.crt", ""},
	} {
		s.folder.write(t, broken.name, []byte(broken.content))
		s.check(t.Context())
		s.check(t.Context())
		require.NoError(t, s.greet(t, alice))
		require.Equal(t, i+1, s.log.count(complaint), s.log.b.String())
		require.Positive(t, s.log.count(broken.name))
	}
	require.Zero(t, s.log.count("loaded certificates"))
	require.NoError(t, os.Remove(s.folder.path("server.key")))
	s.check(t.Context())
	require.NoError(t, s.greet(t, alice))
	require.Equal(t, 5, s.log.count(complaint))
}

// A session that is resumed would not be asked for a certificate that the newest
// files allow.
func TestNoSessionIsResumed(t *testing.T) {
	s := newSide(t, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := &tls.Config{
			RootCAs: s.ca.pool(), Certificates: []tls.Certificate{s.ca.issue(t, "alice")},
			ClientSessionCache: tls.NewLRUClientSessionCache(1), MaxVersion: version,
		}
		for range 3 {
			_, resumed, err := greet(t, s.addr, config)
			require.NoError(t, err)
			require.False(t, resumed)
		}
	}
}

func TestWhoMayComeIn(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*TLSConfig)
		hosts  []string
		refuse string
	}{
		{"anybody", func(*TLSConfig) {}, nil, ""},
		{"the name", func(c *TLSConfig) { c.AllowedNames = []string{"bob", "alice"} }, nil, ""},
		{"another name", func(c *TLSConfig) { c.AllowedNames = []string{"bob"} }, nil, `"alice" is not one of those`},
		{"the host", func(c *TLSConfig) { c.AllowedHosts = []string{"h", "a.example"} }, []string{"*.example"}, ""},
		{"another host", func(c *TLSConfig) { c.AllowedHosts = []string{"h"} }, []string{"a.example"}, "for none of the hosts"},
		{"from its address", func(c *TLSConfig) { c.CheckAddress = true }, []string{"192.0.2.1", "127.0.0.1"}, ""},
		{"from a name's address", func(c *TLSConfig) { c.CheckAddress = true }, []string{"192.0.2.1", "localhost"}, ""},
		{"from another address", func(c *TLSConfig) { c.CheckAddress = true }, []string{"192.0.2.1"}, "was shown by 127.0.0.1"},
		{"from anywhere", func(c *TLSConfig) { c.CheckAddress = true }, nil, ""},
		{"address not checked", func(*TLSConfig) {}, []string{"192.0.2.1"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSide(t, func(_ folder, cfg *TLSConfig) { c.change(cfg) })
			var refusal error
			config := s.Server()
			inner := config.GetConfigForClient
			config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				c, err := inner(hello)
				verify := c.VerifyConnection
				c.VerifyConnection = func(s tls.ConnectionState) error {
					refusal = verify(s)
					return refusal
				}
				return c, err
			}
			s.addr = listen(t, config)
			err := s.greet(t, s.ca.issue(t, "alice", c.hosts...))
			if c.refuse == "" {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			require.ErrorContains(t, refusal, c.refuse)
		})
	}
}

func TestClientsNeedACertificate(t *testing.T) {
	s := newSide(t, nil)
	_, _, err := greet(t, s.addr, &tls.Config{RootCAs: s.ca.pool()})
	require.ErrorContains(t, err, "certificate required")
	s = newSide(t, func(_ folder, c *TLSConfig) { c.TrustedCAFile = "" })
	_, _, err = greet(t, s.addr, &tls.Config{RootCAs: s.ca.pool()})
	require.NoError(t, err)
}

// A revocation counts at once, in either format, and is not forgotten when the file
// is broken.
func TestRevoked(t *testing.T) {
	s := newSide(t, func(f folder, c *TLSConfig) {
		c.CRLFile = f.path("revoked.crl")
		f.write(t, "revoked.crl", newAuthority(t, "any").revoke(t))
	})
	alice, bob := s.ca.issue(t, "alice"), s.ca.issue(t, "bob")
	require.NoError(t, s.greet(t, alice))
	s.folder.write(t, "revoked.crl", s.ca.revoke(t, alice))
	require.Error(t, s.greet(t, alice))
	require.NoError(t, s.greet(t, bob))
	s.folder.write(t, "revoked.crl", nil)
	require.Error(t, s.greet(t, alice))
	list := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: s.ca.revoke(t, bob)})
	s.folder.write(t, "revoked.crl", append(list, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: s.ca.revoke(t)})...))
	require.NoError(t, s.greet(t, alice))
	require.Error(t, s.greet(t, bob))
	require.Equal(t, 2, s.log.count("loaded certificates that have changed"))
	require.ErrorContains(t, s.admit([]*x509.Certificate{bob.Leaf}), `"bob" with serial number 67 was revoked`)
	require.ErrorContains(t, s.admit(nil), "no certificate")
}

func TestVersionsAndSuites(t *testing.T) {
	s := newSide(t, func(_ folder, c *TLSConfig) {
		c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}
	})
	client := &tls.Config{RootCAs: s.ca.pool(), Certificates: []tls.Certificate{s.ca.issue(t, "alice")}}
	conn, err := tls.Dial("tcp", s.addr, client)
	require.NoError(t, err)
	defer conn.Close()
	require.EqualValues(t, tls.VersionTLS12, conn.ConnectionState().Version)
	require.Equal(t, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, conn.ConnectionState().CipherSuite)
	s = newSide(t, func(_ folder, c *TLSConfig) { c.MinVersion = tls.VersionTLS13 })
	client.RootCAs, client.MaxVersion = s.ca.pool(), tls.VersionTLS12
	_, err = tls.Dial("tcp", s.addr, client)
	require.ErrorContains(t, err, "protocol version")
	require.EqualValues(t, tls.VersionTLS13, s.Dial().MinVersion)
}

func TestFilesThatCannotBeLoaded(t *testing.T) {
	f, ca := folder(t.TempDir()), newAuthority(t, "ca")
	f.put(t, "server", ca.issue(t, "server"))
	f.put(t, "other", ca.issue(t, "other"))
	f.write(t, "empty", nil)
	good := TLSConfig{CertFile: f.path("server.crt"), KeyFile: f.path("server.key")}
	for want, change := range map[string]func(*TLSConfig){
		"cannot load certificate":          func(c *TLSConfig) { c.CertFile = f.path("empty") },
		"private key does not match":       func(c *TLSConfig) { c.KeyFile = f.path("other.key") },
		"none.crt":                         func(c *TLSConfig) { c.CertFile = f.path("none.crt") },
		"cannot load trusted CA":           func(c *TLSConfig) { c.TrustedCAFile = f.path("empty") },
		"none.ca":                          func(c *TLSConfig) { c.TrustedCAFile = f.path("none.ca") },
		"cannot load revoked certificates": func(c *TLSConfig) { c.CRLFile = f.path("empty") },
		"none.key":                         func(c *TLSConfig) { c.DialCertFile, c.DialKeyFile = f.path("other.crt"), f.path("none.key") },
	} {
		cfg := good
		change(&cfg)
		_, err := NewTLS(cfg, slog.New(slog.DiscardHandler), clock.Real{})
		require.ErrorContains(t, err, want)
	}
}

// A member without a certificate serves in plain text, and connects by the system's
// authorities. One with another certificate for connecting shows that.
func TestDial(t *testing.T) {
	none, err := NewTLS(TLSConfig{}, slog.New(slog.DiscardHandler), clock.Real{})
	require.NoError(t, err)
	require.Nil(t, none.Server())
	c := none.Dial()
	require.Nil(t, c.RootCAs)
	require.Nil(t, c.GetClientCertificate)
	require.False(t, c.InsecureSkipVerify)

	s := newSide(t, func(f folder, c *TLSConfig) {
		c.DialCertFile, c.DialKeyFile = f.path("dial.crt"), f.path("dial.key")
		f.put(t, "dial", newAuthority(t, "other").issue(t, "dial"))
	})
	shown, err := s.Dial().GetClientCertificate(nil)
	require.NoError(t, err)
	require.Equal(t, "dial", shown.Leaf.Subject.CommonName)
}
