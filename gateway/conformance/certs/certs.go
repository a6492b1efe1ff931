// Package certs makes certificates for tests that start members: an authority and
// what it has signed, as files of a folder.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// Authority signs certificates. Its own is Folder/ca.crt.
type Authority struct {
	Folder string

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// last is the serial number that was given last.
	last int64
}

// New makes an authority of a name and writes ca.crt.
func New(folder, name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &Authority{Folder: folder, key: key}
	template := a.template(name)
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, a.write("ca.crt", "CERTIFICATE", der)
}

// Issue writes file.crt, good for serving on addresses and for connecting as
// commonName, and file.key.
func (a *Authority) Issue(file, commonName string, addresses ...string) error {
	der, key, err := a.sign(commonName, addresses...)
	if err != nil {
		return err
	}
	if err := a.write(file+".crt", "CERTIFICATE", der); err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return a.write(file+".key", "EC PRIVATE KEY", private)
}

// Client is how to connect as commonName to who has a certificate of the authority.
func (a *Authority) Client(commonName string) (*tls.Config, error) {
	der, key, err := a.sign(commonName)
	if err != nil {
		return nil, err
	}
	cfg := a.Anonymous()
	cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	return cfg, nil
}

// Anonymous is how to connect without a certificate.
func (a *Authority) Anonymous() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
}

func (a *Authority) sign(commonName string, addresses ...string) (der []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	cert := a.template(commonName)
	cert.KeyUsage = x509.KeyUsageDigitalSignature
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, addr := range addresses {
		if ip := net.ParseIP(addr); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, addr)
		}
	}
	der, err = x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), a.key)
	return der, key, err
}

func (a *Authority) template(name string) *x509.Certificate {
	a.last++
	now := clock.Real{}.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.last), Subject: pkix.Name{CommonName: name, Organization: []string{"test"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), BasicConstraintsValid: true,
	}
}

// Path returns the path of a file of the folder.
func (a *Authority) Path(name string) string { return filepath.Join(a.Folder, name) }

func (a *Authority) write(name, kind string, der []byte) error {
	return os.WriteFile(a.Path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
