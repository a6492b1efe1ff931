//go:build linux

package about

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersions(t *testing.T) {
	require.Equal(t, "etcd Version: 3.7.3, Pebbledash Version: v1",
		versions("etcd Version: 3.7.3\nGit SHA: 1\nGo Version: go1\nPebbledash Version: v1\n"))
	require.Equal(t, "kine version v0.17.5 (HEAD)", versions("kine version v0.17.5 (HEAD)\n"))
}

func TestCommand(t *testing.T) {
	instead := map[string]string{"dropped": "", "short": "-short"}
	require.Equal(t, "run.sh mode -n 3 -short -last=1", Command("run.sh",
		[]string{"mode", "-dropped=/a", "-n", "3", "-dropped", "/b", "--short=/c", "-last=1"}, instead))
}
