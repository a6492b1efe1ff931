package auth

import (
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
//	          that begins with "<" is a line of its standard input
//	kill      the server is killed and started again
func TestSession(t *testing.T) {
	if testing.Short() {
		t.Skip("builds etcdctl where it is not cached")
	}
	s := server.Run(t, server.Config{Binary: target(t), Args: []string{"--bcrypt-cost=4"}})
	ctl, err := server.ResolvePeer(t.Context(), "etcdctl")
	require.NoError(t, err)
	run := func(t *testing.T, line, stdin string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, ctl.Path, append([]string{"--endpoints=" + s.Endpoint()}, strings.Fields(line)...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			out = append(out, []byte(err.Error()+"\n")...)
		}
		text := strings.NewReplacer(s.Endpoint(), "<client>", s.PeerURL(), "<peer>").Replace(string(out))
		for _, m := range masks {
			text = m.what.ReplaceAllString(text, m.with)
		}
		return text
	}
	datadriven.RunTest(t, "testdata/session.txt", func(t *testing.T, d *datadriven.TestData) string {
		t.Helper()
		if d.Cmd == "kill" {
			require.NoError(t, s.Kill())
			require.NoError(t, s.Restart(t.Context()))
			return ""
		}
		require.Equal(t, "etcdctl", d.Cmd)
		var out strings.Builder
		var line, stdin string
		flush := func() {
			if line != "" {
				out.WriteString("$ " + line + "\n" + run(t, line, stdin))
			}
			stdin = ""
		}
		for l := range strings.Lines(d.Input) {
			l = strings.TrimSuffix(l, "\n")
			if in, ok := strings.CutPrefix(l, "<"); ok {
				stdin += strings.TrimPrefix(in, " ") + "\n"
				continue
			}
			flush()
			line = l
		}
		flush()
		return out.String()
	})
}

// masks are what differs from run to run.
var masks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?m)^\{"level":"warn".*\n`), ""}, // the client's own log
	{regexp.MustCompile(`\b[0-9a-f]{15,16}\b`), "<id>"},
	{regexp.MustCompile(`"(raft_term|cluster_id|member_id)":\d+`), `"$1":<number>`},
	{regexp.MustCompile(`(?m) +$`), ""},
}
