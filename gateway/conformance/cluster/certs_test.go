package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/gateway/conformance/certs"
)

// authority is a CA with one certificate for all members, for serving and for
// connecting.
type authority struct{ *certs.Authority }

// newAuthority makes the files ca.crt, member.crt and member.key.
func newAuthority(t *testing.T, within string) *authority {
	t.Helper()
	folder, err := os.MkdirTemp(within, "certs-") //nolint:usetesting // below within, which several share
	require.NoError(t, err)
	ca, err := certs.New(folder, "CA of "+filepath.Base(folder))
	require.NoError(t, err)
	require.NoError(t, ca.Issue("member", "member", "127.0.0.1"))
	return &authority{ca}
}

// flags are those of a member that trusts and is trusted.
func (a *authority) flags() []string {
	return []string{
		"--peer-client-cert-auth",
		"--peer-cert-file=" + a.Path("member.crt"),
		"--peer-key-file=" + a.Path("member.key"),
		"--peer-trusted-ca-file=" + a.Path("ca.crt"),
	}
}
