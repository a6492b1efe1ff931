//go:build linux

package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// credentials are the files that the cluster's processes are started with, all
// made for one run.
type credentials struct {
	dir    string
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	serial int64
	tokens []string // lines of the token file
}

func newCredentials(t *testing.T, dir string) *credentials {
	t.Helper()
	c := &credentials{dir: dir}
	key := c.newKey(t)
	c.ca, c.caKey = c.sign(t, "ca", key, &x509.Certificate{
		Subject:               pkix.Name{CommonName: "kube test CA"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}), key
	// One certificate serves kube-apiserver and, with TLS, the store; it is also
	// the client certificate that kube-apiserver shows to the store.
	c.sign(t, "server", c.newKey(t), &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
	})
	c.writeKey(t, "service-account.key", c.newKey(t))
	return c
}

func (c *credentials) path(name string) string { return filepath.Join(c.dir, name) }

func (c *credentials) newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign writes name.crt and name.key. Without a CA yet, the certificate signs
// itself.
func (c *credentials) sign(t *testing.T, name string, key *ecdsa.PrivateKey, cert *x509.Certificate) *x509.Certificate {
	t.Helper()
	c.serial++
	cert.SerialNumber = big.NewInt(c.serial)
	cert.NotBefore, cert.NotAfter = now().Add(-time.Hour), now().Add(24*time.Hour)
	parent, parentKey := c.ca, c.caKey
	if parent == nil {
		parent, parentKey = cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	c.writeKey(t, name+".key", key)
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (c *credentials) writeKey(t *testing.T, name string, key *ecdsa.PrivateKey) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, name, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func (c *credentials) write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(c.path(name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// addUser makes a token for a user. Tokens count only from the next
// writeTokens on, which has to be before kube-apiserver starts.
func (c *credentials) addUser(t *testing.T, user string, groups ...string) (token string) {
	t.Helper()
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	token = hex.EncodeToString(secret)
	c.tokens = append(c.tokens, fmt.Sprintf("%s,%s,%s,%q", token, user, user, strings.Join(groups, ",")))
	return token
}

func (c *credentials) writeTokens(t *testing.T) {
	t.Helper()
	c.write(t, "tokens.csv", []byte(strings.Join(c.tokens, "\n")+"\n"))
}

// kubeconfig writes a kubeconfig for one user and returns its path.
func (c *credentials) kubeconfig(t *testing.T, name, server, token string) string {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ca.Raw})
	c.write(t, name+".kubeconfig", fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: user
  user: {token: %s}
contexts:
- name: test
  context: {cluster: test, user: user}
current-context: test
`, server, base64.StdEncoding.EncodeToString(ca), token))
	return c.path(name + ".kubeconfig")
}
