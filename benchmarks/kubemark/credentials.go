//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// credentials are the files that the cluster's processes are started with, made for one
// run: who serves, who signs service accounts' tokens, and a token for each user.
type credentials struct {
	dir    string
	ca     *x509.Certificate
	tokens []string // lines of the token file
}

func newCredentials(dir string) (*credentials, error) {
	c := &credentials{dir: dir}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{
		Subject: pkix.Name{CommonName: "kubemark CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if c.ca, err = c.sign("ca", root, root, caKey, caKey); err != nil {
		return nil, err
	}
	server := &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
	}
	if _, err := c.sign("server", server, c.ca, key, caKey); err != nil {
		return nil, err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return c, c.writeKey("service-account", accounts)
}

func (c *credentials) path(name string) string { return filepath.Join(c.dir, name) }

// sign writes name.crt and name.key.
func (c *credentials) sign(name string, cert, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	cert.SerialNumber = big.NewInt(time.Now().UnixNano())
	cert.NotBefore, cert.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.path(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	if err := c.writeKey(name, key); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (c *credentials) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(c.path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// addUser makes a token for a user; it counts from the next writeTokens on.
func (c *credentials) addUser(user string, groups ...string) (token string) {
	token = strings.ToLower(rand.Text())
	c.tokens = append(c.tokens, fmt.Sprintf("%s,%s,%s,%q", token, user, user, strings.Join(groups, ",")))
	return token
}

func (c *credentials) writeTokens() error {
	return os.WriteFile(c.path("tokens.csv"), []byte(strings.Join(c.tokens, "\n")+"\n"), 0o600)
}

// kubeconfig writes one for a user, and returns its path.
func (c *credentials) kubeconfig(name, token string) (string, error) {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ca.Raw})
	text := fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: kubemark
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: user
  user: {token: %s}
contexts:
- name: kubemark
  context: {cluster: kubemark, user: user}
current-context: kubemark
`, apiURL, base64.StdEncoding.EncodeToString(ca), token)
	file := c.path(name + ".kubeconfig")
	return file, os.WriteFile(file, text, 0o600)
}
