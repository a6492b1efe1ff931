package serving

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/grpclog"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// target is the program under test. It is set once, before any test runs.
var target *server.Binary

func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	var err error
	if target, err = server.Resolve(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := target.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

// Each page, on a listener of metrics and on a client's port: what it answers, as the
// README has it.
func TestPages(t *testing.T) {
	urls, err := server.FreeURLs(1)
	require.NoError(t, err)
	s := server.Run(t, server.Config{Binary: target.Path, Args: []string{
		"--listen-metrics-urls=" + urls[0], "--enable-pprof", "--initial-cluster-token=hush",
	}})
	const (
		both, opsOnly = true, false
		etcds         = `\[\+\]data_corruption ok\n\[\+\]serializable_read ok\n\[\+\]linearizable_read ok\n\[\+\]non_learner ok\n`
		ours          = `\[\+\]group_core ok\n\[\+\]group_events ok\n\[\+\]group_leases ok\n\[\+\]group_pods ok\n\[\+\]closed_revision ok\n\[\+\]disk ok\n`
	)
	for _, c := range []struct {
		path    string
		clients bool
		body    string
	}{
		{"/health", both, `^{"health":"true","reason":""}$`},
		{"/health?serializable=true", both, `^{"health":"true","reason":""}$`},
		{"/livez", both, `^ok\n$`},
		{"/livez?verbose", both, `^\[\+\]serializable_read ok\nok\n$`},
		{"/readyz", both, `^ok\n$`},
		{"/readyz/linearizable_read", both, `^ok\n$`},
		{"/version", both, `^{"etcdserver":"3\.7\.3",`},
		{"/metrics", both, `\netcd_server_has_leader 1\n`},
		{"/debug/vars", both, `(?s)"memstats": .*"raft\.status": {"id":"[0-9a-f]+",.*"commit":[1-9]`},
		{"/debug/pprof/", both, `goroutine`},
		{"/debug/pprof/goroutine?debug=1", both, `^goroutine profile: total`},
		{"/readyz?verbose", opsOnly, `^` + etcds + ours + `ok\n$`},
		{
			"/readyz?verbose&exclude=disk&exclude=group_pods&exclude=group_leases", opsOnly,
			`^` + etcds + `\[\+\]group_core ok\n\[\+\]group_events ok\n\[\+\]closed_revision ok\nok\n$`,
		},
		{"/readyz/group_events", opsOnly, `^ok\n$`},
		{"/readyz/disk?verbose", opsOnly, `^\[\+\]disk ok\nok\n$`},
		{"/healthz", opsOnly, `^ok\n$`},
		{"/flagz", opsOnly, `(?s)^\npebbledash flagz\n.*\nenable-pprof[:= ]+true\n.*\ninitial-cluster-token[:= ]+CLASSIFIED\n`},
		{"/statusz", opsOnly, `(?s)^\npebbledash statusz\n.*Emulation version[:= ]+3\.7\n.*Paths[:= ]+.*/readyz`},
		{"/debug/flowcontrol/", opsOnly, `PriorityLevel`},
	} {
		t.Run(c.path, func(t *testing.T) {
			code, body := get(t, urls[0]+c.path)
			require.Equal(t, http.StatusOK, code, body)
			require.Regexp(t, c.body, body)
			require.NotContains(t, body, "hush")
			switch code, body := get(t, s.Endpoint()+c.path); {
			case c.clients:
				require.Equal(t, http.StatusOK, code)
				require.Regexp(t, c.body, body)
			case code == http.StatusOK: // etcd's page of that name
				require.NotContains(t, body, "group_")
			default:
				require.Equal(t, http.StatusNotFound, code)
			}
		})
	}
	for _, path := range []string{"/nonsense", "/readyz/nonsense", "/readyz/group_nonsense"} {
		code, _ := get(t, urls[0]+path)
		require.Equal(t, http.StatusNotFound, code, path)
	}
	code, body := get(t, s.Endpoint()+"/readyz?verbose")
	require.Equal(t, http.StatusOK, code)
	require.Regexp(t, `^`+etcds+`ok\n$`, body, "on a client's port as etcd has it")
}

// Profiles are served if they are asked for.
func TestNoProfiles(t *testing.T) {
	urls, err := server.FreeURLs(1)
	require.NoError(t, err)
	server.Run(t, server.Config{Binary: target.Path, Args: []string{"--listen-metrics-urls=" + urls[0]}})
	code, _ := get(t, urls[0]+"/debug/pprof/")
	require.Equal(t, http.StatusNotFound, code)
}
