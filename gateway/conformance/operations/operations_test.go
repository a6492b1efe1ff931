package operations

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

const (
	pages = "../../../manifests/operations"
	// pagePatience bounds a page.
	pagePatience = 2 * time.Minute
)

// TestPages runs every page there is.
func TestPages(t *testing.T) {
	if testing.Short() {
		t.Skip("starts clusters")
	}
	binary, err := server.Resolve(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, binary.Close()) })
	if binary.Target == server.Etcd {
		t.Skip("the pages are about Pebbledash; TestRollingRestartOfEtcd is the one for etcd")
	}
	files, err := filepath.Glob(filepath.Join(pages, "*.md"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range append(files, filepath.Join(systemd, "README.md")) {
		name := strings.TrimSuffix(filepath.Base(file), ".md")
		if name == "README" && filepath.Dir(file) == pages {
			continue // begins the others
		}
		if name == "README" {
			name = "systemd"
		}
		// A member that is stopped, and not killed, leaves no write open.
		t.Run(name, func(t *testing.T) { runPage(t, binary.Path, file, name == "rolling-restart") })
	}
}

// TestRollingRestartOfEtcd runs that page with etcd, which may leave the outcome of a few
// writes open.
func TestRollingRestartOfEtcd(t *testing.T) {
	if testing.Short() {
		t.Skip("starts clusters")
	}
	etcd, err := server.ResolvePeer(t.Context(), "etcd")
	require.NoError(t, err)
	runPage(t, etcd.Path, filepath.Join(pages, "rolling-restart.md"), false)
}

// runPage runs a page on machines of its own. program is what the units start there. Its
// writers must know what became of all writes if known is set.
func runPage(t *testing.T, program, file string, known bool) {
	t.Helper()
	// The page about systemd makes its certificates.
	m := newMachines(t, program, filepath.Dir(file) != systemd)
	m.allKnown = known
	blocks := readPage(t, file)
	if filepath.Dir(file) != systemd {
		blocks = append(readPage(t, filepath.Join(pages, "README.md")), blocks...)
	}
	for _, name := range []string{"etcd", "etcdctl", "etcdutl"} {
		peer, err := server.ResolvePeer(t.Context(), name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(peer.Path, filepath.Join(m.root, "bin", name)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), pagePatience)
	defer cancel()
	out, err := m.run(ctx, m.here(script(blocks)), filepath.Join(m.root, "usr/local/bin"))
	t.Logf("%s", out)
	require.NoError(t, err, "%s does not work", file)
}

// TestPagesFail breaks a command of a page in several ways.
func TestPagesFail(t *testing.T) {
	_, err := exec.LookPath("bash")
	require.NoError(t, err)
	m := newMachines(t, "/bin/false", false)
	for name, text := range map[string]string{
		"a flag that is not there": "ls --no-such-flag",
		"inside of a pipe":         "ls --no-such-flag | cat",
		"a program that fails":     "systemctl start pebbledash@m1",
		"a unit that is not there": "systemctl start etcd@m1",
		"on another machine":       "ssh m1 ls --no-such-flag",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := m.run(t.Context(), script([]block{{7, "true\n"}, {17, text + "\n"}, {27, "echo goes on\n"}}))
			require.Error(t, err)
			require.Contains(t, out, "the block at line 17 fails at: ")
			require.NotContains(t, out, "goes on")
		})
	}
}
