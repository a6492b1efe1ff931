package app

import (
	"context"
	"errors"
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
			name: "a flag that etcd has", args: []string{"-wal-dir", "/wal"}, code: exitUsage,
			stderr: "error: --wal-dir of etcd is not yet supported\nsee pebbledash --help\n",
		},
		{
			name: "everything that is wrong", args: []string{"--max-txn-ops=0", "--log-level=loud"}, code: exitFailed,
			stderr: "error: --max-txn-ops must be between 1 and 2147483647, not 0\n" +
				"error: --log-level must be debug, info, warn, error, panic or fatal, not \"loud\"\n",
		},
		{
			name: "environment", environ: []string{"ETCD_UNSAFE_NO_FSYNC=true"}, code: exitFailed,
			stderr: "error: ETCD_UNSAFE_NO_FSYNC: --unsafe-no-fsync of etcd is not yet supported\n",
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

// What was given arrives, and what run returns comes back.
func TestCommandRuns(t *testing.T) {
	var got *options.CompletedConfig
	failure := errors.New("no luck")
	run := func(_ context.Context, cfg *options.CompletedConfig) error {
		got = cfg
		return failure
	}
	args := []string{"-name", "a", "--quota-backend-bytes=1"}
	environ := []string{"ETCD_DATA_DIR=/data", "ETCD_NAME=b", "ETCD_X=1", "HOME=/root"}
	err := execute(t.Context(), run, args, environ, t.Output(), t.Output())
	require.ErrorIs(t, err, failure)
	require.Equal(t, "a", got.Name)
	require.Equal(t, "/data", got.DataDir)
	require.Equal(t, []string{
		"environment variable ETCD_NAME is shadowed by flag --name",
		"unrecognized environment variable ETCD_X",
		"--quota-backend-bytes is not yet enforced",
	}, got.Warnings)
}
