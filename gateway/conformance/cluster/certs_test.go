package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// authority is a folder with a CA and one certificate for all members, for
// serving and for connecting.
type authority struct{ folder string }

// newAuthority makes the files ca.crt, member.crt and member.key.
func newAuthority(t *testing.T, within string) *authority {
	t.Helper()
	folder, err := os.MkdirTemp(within, "certs-") //nolint:usetesting // below within, which several share
	require.NoError(t, err)
	a := &authority{folder}
	valid := clock.Real{}.Now()
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: valid.Add(-time.Hour), NotAfter: valid.Add(24 * time.Hour),
			BasicConstraintsValid: true,
		}
	}
	ca, key := template(1, "CA of "+filepath.Base(folder)), newKey(t)
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	a.write(t, "ca.crt", "CERTIFICATE", signed(t, ca, ca, key, key))

	member, memberKey := template(2, "member"), newKey(t)
	member.KeyUsage = x509.KeyUsageDigitalSignature
	member.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	member.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	a.write(t, "member.crt", "CERTIFICATE", signed(t, member, ca, memberKey, key))
	der, err := x509.MarshalECPrivateKey(memberKey)
	require.NoError(t, err)
	a.write(t, "member.key", "EC PRIVATE KEY", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func signed(t *testing.T, cert, by *x509.Certificate, key, byKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, by, key.Public(), byKey)
	require.NoError(t, err)
	return der
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	require.NoError(t, os.WriteFile(filepath.Join(a.folder, name), data, 0o600))
}

// flags are those of a member that trusts and is trusted.
func (a *authority) flags() []string {
	return []string{
		"--peer-client-cert-auth",
		"--peer-cert-file=" + filepath.Join(a.folder, "member.crt"),
		"--peer-key-file=" + filepath.Join(a.folder, "member.key"),
		"--peer-trusted-ca-file=" + filepath.Join(a.folder, "ca.crt"),
	}
}
