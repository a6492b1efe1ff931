package etcdctl

import (
	"bufio"
	"context"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// TestSession runs testdata/session.txt. The commands of the script:
//
//	etcdctl   each line of the input is a command line for etcdctl; a line
//	          that begins with "< " is a line of its standard input
//	watch     lines=n: the input is a command line that does not end by
//	          itself; it is ended after n lines of output
//
// What differs from run to run (ids, sizes, addresses, times) is printed as its
// kind in angle brackets.
func TestSession(t *testing.T) {
	if testing.Short() {
		t.Skip("builds etcdctl where it is not cached")
	}
	binary, err := server.Resolve(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, binary.Close()) }()
	ctl, err := server.ResolvePeer(t.Context(), "etcdctl")
	require.NoError(t, err)
	s := server.Run(t, server.Config{Binary: binary.Path})
	run := func(t *testing.T, line, stdin string) string {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		args := append([]string{"--endpoints=" + s.Endpoint()}, strings.Fields(line)...)
		cmd := exec.CommandContext(ctx, ctl.Path, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			out = append(out, []byte(err.Error()+"\n")...)
		}
		return mask(string(out), s.Endpoint(), s.PeerURL())
	}
	watch := func(t *testing.T, line string, lines int) string {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		args := append([]string{"--endpoints=" + s.Endpoint()}, strings.Fields(line)...)
		cmd := exec.CommandContext(ctx, ctl.Path, args...)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		var out strings.Builder
		for in := bufio.NewScanner(stdout); lines > 0 && in.Scan(); lines-- {
			out.WriteString(in.Text() + "\n")
		}
		cancel()
		_ = cmd.Wait() // It was killed.
		return mask(out.String(), s.Endpoint(), s.PeerURL())
	}
	datadriven.RunTest(t, "testdata/session.txt", func(t *testing.T, d *datadriven.TestData) string {
		t.Helper()
		if d.Cmd == "watch" {
			var lines int
			d.ScanArgs(t, "lines", &lines)
			return watch(t, d.Input, lines)
		}
		var out strings.Builder
		var line string
		var stdin strings.Builder
		flush := func() {
			if line != "" {
				out.WriteString(run(t, line, stdin.String()))
			}
			stdin.Reset()
		}
		for l := range strings.Lines(d.Input) {
			l = strings.TrimSuffix(l, "\n")
			if in, ok := strings.CutPrefix(l, "<"); ok {
				stdin.WriteString(strings.TrimPrefix(in, " ") + "\n")
				continue
			}
			flush()
			line = l
		}
		flush()
		return out.String()
	})
}

// masks are tried in order.
var masks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?m)^\{"level":"warn".*\n`), ""}, // the client's own log
	{regexp.MustCompile(`took = [^ \n]*`), "took = <time>"},
	{regexp.MustCompile(`\b[0-9a-f]{15,16}\b`), "<id>"},
	{regexp.MustCompile(`"(raft_term|cluster_id|member_id)":\d+`), `"$1":<number>`},
	{regexp.MustCompile(`"(ClusterID|MemberID|Leader|DBSize|DBSizeInUse|RaftTerm|RaftIndex|RaftAppliedIndex)" : \d+`), `"$1" : <number>`},
	{regexp.MustCompile(`took \d\S*`), "took <time>"},
}

func mask(out, endpoint, peer string) string {
	host := strings.TrimPrefix(endpoint, "http://")
	out = strings.NewReplacer(endpoint, "<client>", peer, "<peer>", host, "<client>").Replace(out)
	for _, m := range masks {
		out = m.what.ReplaceAllString(out, m.with)
	}
	return out
}
