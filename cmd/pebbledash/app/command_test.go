package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
)

// runMain is Main for arguments that do not get as far as running a server.
func runMain(t *testing.T, environ []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = Main(t.Context(), args, environ, &out, &errs)
	return code, out.String(), errs.String()
}

func TestVersion(t *testing.T) {
	// Programs read these lines; etcd prints the same four.
	code, stdout, stderr := runMain(t, []string{"ETCD_MAX_TXN_OPS=wrong"}, "--version")
	require.Zero(t, code)
	require.Empty(t, stderr)
	lines := strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
	require.Len(t, lines, 5)
	require.Equal(t, "etcd Version: 3.7.3", lines[0])
	require.Regexp(t, `^Git SHA: .+$`, lines[1])
	require.Equal(t, "Go Version: "+runtime.Version(), lines[2])
	require.Equal(t, "Go OS/Arch: "+runtime.GOOS+"/"+runtime.GOARCH, lines[3])
	require.Regexp(t, `^Pebbledash Version: .+$`, lines[4])
}

func TestHelp(t *testing.T) {
	code, stdout, stderr := runMain(t, nil, "--help")
	require.Zero(t, code)
	require.Empty(t, stderr)
	require.Contains(t, stdout, "Pebbledash is a storage gateway")
	require.Contains(t, stdout, "\nClient traffic flags:\n")
	require.Contains(t, stdout, "--listen-client-urls")
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		environ []string
		args    []string
		code    int
		stderr  string
	}{
		{
			name: "unknown flag", args: []string{"--nonsense"}, code: exitUsage,
			stderr: "error: unknown flag: --nonsense\nsee pebbledash --help\n",
		},
		{
			name: "no flag at all", args: []string{"start"}, code: exitUsage,
			stderr: "error: \"start\" is not a flag\nsee pebbledash --help\n",
		},
		{
			name: "a flag of etcd that can't be left out", args: []string{"-discovery-srv=example.org"}, code: exitFailed,
			stderr: "error: --discovery-srv=\"example.org\" is not possible: the members are named by --initial-cluster; " +
				"there is no discovery service\n",
		},
		{
			name: "a configuration file that is not there", args: []string{"-config-file=/nowhere/etcd.yml"}, code: exitFailed,
			stderr: "error: --config-file: open /nowhere/etcd.yml: no such file or directory\n",
		},
		{
			name: "everything that is wrong", args: []string{"--max-txn-ops=0", "--log-level=loud"}, code: exitFailed,
			stderr: "error: --max-txn-ops must be between 1 and 2147483647, not 0\n" +
				"error: --log-level must be debug, info, warn, error, panic or fatal, not \"loud\"\n",
		},
		{
			name: "environment", environ: []string{"ETCD_FORCE_NEW_CLUSTER=maybe"}, code: exitFailed,
			stderr: "error: ETCD_FORCE_NEW_CLUSTER: invalid argument \"maybe\" for \"--force-new-cluster\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := runMain(t, c.environ, c.args...)
			require.Equal(t, c.code, code)
			require.Empty(t, stdout)
			require.Equal(t, c.stderr, stderr)
		})
	}
}

// A configuration file stands for everything else that is given.
func TestCommandReadsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etcd.yml")
	require.NoError(t, os.WriteFile(path, []byte("name: of-file\nlisten-client-urls: [http://127.0.0.1:1, http://127.0.0.1:2]\n"+
		"advertise-client-urls: http://127.0.0.1:1\n"), 0o600))
	for _, how := range []struct {
		args, environ []string
	}{
		{[]string{"--config-file", path, "--name=of-flag", "--max-txn-ops=7"}, []string{"ETCD_DATA_DIR=/of/environ"}},
		{nil, []string{"ETCD_CONFIG_FILE=" + path, "ETCD_DATA_DIR=/of/environ"}},
	} {
		var got *options.CompletedConfig
		run := func(_ context.Context, cfg *options.CompletedConfig) error {
			got = cfg
			return nil
		}
		require.NoError(t, execute(t.Context(), run, how.args, how.environ, t.Output(), t.Output()))
		require.Equal(t, "of-file", got.Name)
		require.Equal(t, "of-file.etcd", got.DataDir)
		require.Equal(t, 128, got.MaxTxnOps)
		require.Len(t, got.ListenClientURLs, 2)
		require.Len(t, got.Warnings, 1)
		require.Contains(t, got.Warnings[0], "the configuration is that of "+path)
		name := got.Flags.FlagSets["member"].Lookup("name")
		require.Equal(t, "of-file", name.Value.String(), "/flagz shows the file's values")
	}
}

// What was given arrives, and what run returns comes back.
func TestCommandRuns(t *testing.T) {
	var got *options.CompletedConfig
	failure := errors.New("no luck")
	run := func(_ context.Context, cfg *options.CompletedConfig) error {
		got = cfg
		return failure
	}
	args := []string{"-name", "a", "--max-wals=1"}
	environ := []string{"ETCD_DATA_DIR=/data", "ETCD_NAME=b", "ETCD_X=1", "HOME=/home/a"}
	err := execute(t.Context(), run, args, environ, t.Output(), t.Output())
	require.ErrorIs(t, err, failure)
	require.Equal(t, "a", got.Name)
	require.Equal(t, "/data", got.DataDir)
	require.Equal(t, []string{
		"environment variable ETCD_NAME is shadowed by flag --name",
		"unrecognized environment variable ETCD_X",
		"--max-wals has no effect: the log is truncated by what the state has made durable (--snapshot-count)",
	}, got.Warnings)
}
