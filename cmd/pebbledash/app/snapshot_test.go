package app

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/member"
)

// snapshotOf36 is a file of etcd 3.6.
func snapshotOf36(t *testing.T) string {
	t.Helper()
	f, err := os.Open("../../../storage/member/testdata/etcd/etcd-v3.6.16.db.gz")
	require.NoError(t, err)
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	content, err := io.ReadAll(z)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	path := filepath.Join(t.TempDir(), "db")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// TestSnapshotStatus writes a status in all formats; what etcdutl writes is compared
// with by the conformance tests.
func TestSnapshotStatus(t *testing.T) {
	path := snapshotOf36(t)
	outputs := map[string]string{}
	for format := range statusFormats {
		code, stdout, stderr := runMain(t, nil, "snapshot", "status", path, "-w", format)
		require.Equal(t, 0, code, stderr)
		outputs[format] = stdout
	}
	fields := strings.Split(strings.TrimSpace(outputs["simple"]), ", ")
	require.Len(t, fields, 5)
	require.Equal(t, "69", fields[1])
	require.Contains(t, outputs["json"], `"revision":69,`)
	require.Contains(t, outputs["fields"], "\"Revision\" : 69\n")
	lines := strings.Split(strings.TrimSpace(outputs["table"]), "\n")
	require.Len(t, lines, 5)
	for _, f := range fields {
		require.Contains(t, lines[3], " "+f+" ")
	}
	width := len([]rune(lines[0]))
	for _, line := range lines {
		require.Len(t, []rune(line), width)
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 9: "9 B", 10: "10 B", 999: "999 B", 1000: "1.0 kB", 1049: "1.0 kB", 9_900: "9.9 kB", 10_000: "10 kB",
		999_000: "999 kB", 5_841_354_752: "5.8 GB",
	} {
		require.Equal(t, want, humanBytes(n), "%d", n)
	}
}

// TestSnapshotRestoreCommand restores a file, and refuses what it can't do before it
// makes anything.
func TestSnapshotRestoreCommand(t *testing.T) {
	path := snapshotOf36(t)
	damaged := filepath.Join(t.TempDir(), "damaged")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	content[5000] ^= 1
	require.NoError(t, os.WriteFile(damaged, content, 0o600))
	dir := filepath.Join(t.TempDir(), "data")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{path, "--bump-revision=5"}, exitUsage, "given together"},
		{[]string{path, "--mark-compacted"}, exitUsage, "given together"},
		{[]string{path, "--bump-revision=18446744073709551615", "--mark-compacted"}, exitUsage, "too great"},
		{[]string{path, "--wal-dir=/elsewhere"}, exitUsage, "the log is in --data-dir"},
		{[]string{path, path}, exitUsage, "there are 2"},
		{[]string{}, exitUsage, "there are 0"},
		{[]string{path, "--resource-groups=?"}, exitFailed, "resource-groups"},
		{[]string{path + "x"}, exitFailed, "no such file"},
		{[]string{damaged}, exitFailed, "damaged"},
	} {
		code, stdout, stderr := runMain(t, nil, append([]string{"snapshot", "restore", "--data-dir=" + dir}, c.args...)...)
		require.Equal(t, c.code, code, "%v: %s", c.args, stderr)
		require.Contains(t, stderr, c.want)
		require.Empty(t, stdout)
		require.NoDirExists(t, dir)
	}

	code, stdout, stderr := runMain(t, nil, "snapshot", "restore", path, "--data-dir="+dir, "--wal-dir="+dir+"/member/wal",
		"--bump-revision=1000", "--mark-compacted")
	require.Equal(t, 0, code, stderr)
	require.Contains(t, stdout, "revision 1069, compacted at 1069, ")
	require.Contains(t, stdout, " 1 leases\n")
	holds, err := member.HoldsMember(dir)
	require.NoError(t, err)
	require.True(t, holds)
	code, _, stderr = runMain(t, nil, "snapshot", "restore", path, "--data-dir="+dir)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "is not empty")
}
