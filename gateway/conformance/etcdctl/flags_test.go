package etcdctl

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// TestFlagsOfEtcd holds the list of etcd's flags, which Pebbledash's are held to, to
// what etcd says itself.
func TestFlagsOfEtcd(t *testing.T) {
	if testing.Short() {
		t.Skip("builds etcd where it is not cached")
	}
	etcd, err := server.ResolvePeer(t.Context(), "etcd")
	require.NoError(t, err)
	help, err := exec.CommandContext(t.Context(), etcd.Path, "--help").CombinedOutput()
	require.NoError(t, err)
	var flags []string
	for _, m := range regexp.MustCompile(`(?m)^  --([a-z0-9-]+)(?: '?([^'\n]*)'?)?`).FindAllStringSubmatch(string(help), -1) {
		flags = append(flags, strings.TrimSpace(m[1]+" "+m[2]))
	}
	slices.Sort(flags)
	have, err := os.ReadFile("../../../cmd/pebbledash/app/options/etcdfiles/flags.txt")
	require.NoError(t, err)
	want := strings.Split(strings.TrimSpace(string(have)), "\n")
	slices.Sort(want)
	require.Equal(t, want, flags)
}
